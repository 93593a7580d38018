# SPDX-License-Identifier: Apache-2.0
"""N checks made are N checks counted, under their own cgroup, at any rate and under churn."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.model import OVERFLOW, CheckClass
from cap_exporter.sources.libbpf import LibbpfSource
from tests.kernel.conftest import Counting, go, run_in_cgroup, start_in_cgroup

pytestmark = pytest.mark.needs("clang", "setpriv")

SYS_PACCT = 20
MANY = int(os.environ.get("CAP_EXPORTER_TEST_CHECKS", "1000000"))
CHURN = 300


def pacct_of(counting: Counting, path: str) -> int:
    return sum(n for key, n in counting.under(path).items() if key.capability == SYS_PACCT)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("controller", ["", "pids", "memory"])
def test_a_million_checks_in_two_cgroups_and_300_short_ones_are_all_counted(
    counting: Counting,
    fresh_cgroup: Callable[..., tuple[Path, str]],
    checks: Path,
    controller: str,
) -> None:
    places = [fresh_cgroup(controller), fresh_cgroup(controller)]
    workers = [start_in_cgroup(directory, checks, "acct", str(MANY)) for directory, _ in places]
    parent = places[0][0].parent
    names = [f"cap-exporter-short-{os.getpid()}-{i}" for i in range(CHURN)]

    def churn() -> None:
        for name in names:
            directory = parent / name
            directory.mkdir()
            run_in_cgroup(directory, checks, "acct", "1")
            directory.rmdir()

    counting.drain()
    before = counting.last.slots_used
    for worker in workers:
        go(worker)
    churner = threading.Thread(target=churn)
    churner.start()
    while churner.is_alive() or any(worker.poll() is None for worker in workers):
        time.sleep(0.1)
        counting.drain(release=True)
    churner.join()
    counting.drain(release=True)

    assert [pacct_of(counting, path) for _, path in places] == [MANY, MANY]
    assert {name: pacct_of(counting, f"/{name}") for name in names} == dict.fromkeys(names, 1)
    assert counting.last.missed["recursion"] == 0
    assert counting.last.cgroup_events_lost == 0

    # The short ones' slots are free again, after the grace period: on a slow machine the first
    # ones long before the last one was made.
    for _ in range(3):
        time.sleep(0.6)
        counting.drain(release=True)
    assert counting.last.slots_used < before + CHURN


def test_when_the_table_is_full_checks_go_to_overflow_and_the_sum_stays_right(
    hierarchies: Hierarchies, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    source = LibbpfSource(hierarchies, slots=8)
    counting = Counting(hierarchies, source)
    try:
        for _ in range(40):
            directory, _ = fresh_cgroup("")
            run_in_cgroup(directory, checks, "acct", "5")
        counting.drain()
        pacct = {
            key: n
            for key, n in counting.counts.items()
            if key.capability == SYS_PACCT and key.verdict == "denied"
        }
        assert sum(pacct.values()) == 40 * 5
        assert any(key.cgroup == OVERFLOW for key in pacct)
        assert {key.check_class for key in pacct} == {CheckClass.MEANINGFUL}
    finally:
        source.close()


def test_a_check_of_a_process_in_a_v1_only_cgroup_is_its_containers(
    counting: Counting, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    container = f"kubepods/besteffort/pod{'1' * 32}/{'2' * 64}"
    directory, path = fresh_cgroup("pids", container)
    run_in_cgroup(directory, checks, "acct", "3")
    counting.drain()
    assert pacct_of(counting, path) == 3
