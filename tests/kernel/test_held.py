# SPDX-License-Identifier: Apache-2.0
"""What processes hold, read in the kernel: of every process, and of entrypoints as they begin."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cap_exporter.capabilities import number_of
from cap_exporter.model import Granted
from cap_exporter.sources import reading
from tests.kernel.conftest import Counting, start_in_cgroup
from tests.kernel.containers import Container


def mask(names: Iterable[str]) -> int:
    return sum(1 << number_of(name) for name in names)


def of(known: dict[str, Granted], container: Container) -> Granted:
    """What was read of the container's cgroup, in whichever hierarchy it was looked at."""
    found = [granted for path, granted in known.items() if path == container.cgroup]
    assert len(found) == 1, known
    return found[0]


@pytest.fixture
def read_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HELD_EVERY", 0.0)


def test_a_container_that_ended_at_once_has_told_what_it_was_given(
    counting: Counting, container: Callable[..., Container]
) -> None:
    one = container("NET_RAW", "CHOWN")
    assert one.run("true").returncode == 0
    counting.drain()
    granted = of(counting.entered, one)
    wanted = mask(("NET_RAW", "CHOWN"))
    assert (granted.bounding, granted.permitted, granted.effective) == (wanted, wanted, wanted)
    assert (granted.ambient, granted.uids, granted.processes) == (0, (0,), 1)
    assert granted.no_new_privs is True  # `runc spec` asks for it
    assert granted.user_namespace_is_host


def test_of_a_user_without_privileges_only_the_bounding_set_is_left(
    counting: Counting, container: Callable[..., Container]
) -> None:
    one = container("NET_RAW", uid=1234)
    assert one.run("true").returncode == 0
    counting.drain()
    granted = of(counting.entered, one)
    assert (granted.bounding, granted.permitted, granted.effective) == (mask(["NET_RAW"]), 0, 0)
    assert granted.uids == (1234,)


def test_what_all_processes_of_a_container_hold_is_read_together(
    counting: Counting, container: Callable[..., Container], read_always: None
) -> None:
    one = container("SETUID", "SETGID", "KILL")
    one.start("sh", "-c", "sleep 100 & sleep 100 & wait")
    assert one.exec("true").returncode == 0  # it runs
    counting.drain()
    granted = of(counting.held, one)
    assert granted.bounding == mask(("SETUID", "SETGID", "KILL"))
    assert granted.processes >= 2
    assert granted.uids == (0,)


def test_the_runtime_that_sets_a_container_up_does_not_count_as_the_container(
    counting: Counting, container: Callable[..., Container], read_always: None
) -> None:
    one = container("CHOWN")

    def read() -> None:
        counting.drain()

    # `runc create` leaves runc's own process, with all capabilities, waiting in the cgroup.
    one.create("sleep", "100")
    read()
    assert one.cgroup not in counting.held
    assert one.cgroup not in counting.entered
    one.begin()
    while one.cgroup not in counting.entered:
        read()
    assert of(counting.entered, one).bounding == mask(["CHOWN"])
    assert of(counting.held, one).bounding == mask(["CHOWN"])


def test_a_process_in_a_user_namespace_of_its_own_holds_nothing_over_the_host(
    counting: Counting,
    fresh_cgroup: Callable[..., tuple[Path, str]],
    read_always: None,
    checks: Path,
) -> None:
    directory, path = fresh_cgroup()
    process = start_in_cgroup(directory, "unshare", "-r", "sleep", "100")
    try:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        _until_named(process, "sleep")
        counting.drain()
        granted = counting.held[path]
        assert not granted.user_namespace_is_host
        assert granted.effective.bit_count() >= 38
    finally:
        process.kill()
        process.wait()


def _until_named(process: subprocess.Popen[bytes], name: str) -> None:
    while Path(f"/proc/{process.pid}/comm").read_text().strip() != name:
        assert process.poll() is None
