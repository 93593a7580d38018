# SPDX-License-Identifier: Apache-2.0
"""The clock of a machine of its own is set by an hour, forwards and backwards, under a running
exporter."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.conftest import checks, fresh_cgroup, run_in_cgroup

__all__ = ["checks", "fresh_cgroup"]

pytestmark = [pytest.mark.kernel, pytest.mark.needs("setpriv")]

HOUR = 3600.0
CHECKS = "capability_checks_total"
PACCT = {"capability": "CAP_SYS_PACCT", "verdict": "denied"}

Made = Callable[..., tuple[Path, str]]


@pytest.fixture
def set_clock() -> Callable[[float], None]:
    """Only in a virtual machine of these tests: another's clock is not ours to set."""
    assert Path("/run/vm").is_dir(), "run it by python -m tests.vm.run"

    def by(seconds: float) -> None:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)

    return by


@pytest.mark.timeout(300)
@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_nothing_ends_early_and_no_time_is_wrong_after_the_clock_was_set(
    tmp_path: Path,
    fresh_cgroup: Made,
    checks: Path,
    set_clock: Callable[[float], None],
    by: float,
) -> None:
    stays, goes, later = (
        fresh_cgroup("", f"docker/{letter * 3}{os.getpid():09x}{'0' * 52}")[0] for letter in "abc"
    )
    with RunningExporter(tmp_path, "--retention=1m") as exporter:

        def check(directory: Path, count: int, total: int) -> None:
            run_in_cgroup(directory, checks, "acct", str(count))
            exporter.eventually(CHECKS, total, container=directory.name[:12], **PACCT)

        check(stays, 3, 3)
        check(goes, 5, 5)
        goes.rmdir()
        time.sleep(2)
        drains = exporter.total("cap_exporter_drain_duration_seconds_count")
        set_clock(by)
        time.sleep(20)  # what is old is looked for every 15 s
        assert "the wall clock was set by" in exporter.log.read_text()
        assert exporter.total("cap_exporter_drain_duration_seconds_count") - drains > 20
        assert exporter.total(CHECKS, container=goes.name[:12], **PACCT) == 5
        check(stays, 3, 6)
        check(later, 7, 7)
        assert exporter.get("/healthz") == "ok\n"
        url = f"--url=http://127.0.0.1:{exporter.page_port}"
        profiles = json.loads(
            subprocess.run(
                [COMMAND, "profile", "-o", "json", url], capture_output=True, check=True
            ).stdout
        )["containers"]
        now = time.time()
        assert len(profiles) >= 2
        for profile in profiles:
            first, last = (moment(profile[name]) for name in ("first_seen", "last_seen"))
            assert now - 300 < first <= last <= now + 1
        with subprocess.Popen(
            [COMMAND, "events", url, "--recent", "-o", "json", "--container", later.name[:12]],
            stdout=subprocess.PIPE,
        ) as events:
            assert events.stdout
            told = json.loads(events.stdout.readline())
            events.terminate()
        assert abs(moment(told["time"]) - now) < 60
        # Its retention was not cut short, and is not drawn out.
        deadline = time.monotonic() + 120
        while exporter.samples(CHECKS, container=goes.name[:12]):
            assert time.monotonic() < deadline
            time.sleep(1)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
