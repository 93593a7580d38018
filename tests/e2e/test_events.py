# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter events`: from a running exporter and by itself."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import Container

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang")]


def _follow(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "events", "-o", "json", *arguments], stdout=subprocess.PIPE, text=True
    )


def _next(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    record = json.loads(process.stdout.readline())
    assert isinstance(record, dict)
    return record


def test_a_container_s_denied_check_reaches_a_reader_and_one_that_comes_later(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    one = container("AUDIT_WRITE", "KILL")
    with RunningExporter(tmp_path) as exporter:
        url = f"--url=http://127.0.0.1:{exporter.page_port}"
        with _follow(url) as live:
            time.sleep(1)
            one.run("dmesg")
            record = _next(live)
            live.terminate()
        with _follow(url, "--recent", "--process", "dmesg", "--capability", "SYSLOG") as late:
            assert _next(late) == record
            late.terminate()
        assert exporter.total("cap_exporter_events_total", outcome="sent") >= 1
        with _follow(url) as follower:
            time.sleep(0.5)
            # An open stream does not hold up the end.
            assert exporter.stop() < 2
            follower.terminate()
    assert record["event"] == "cap_exporter.capability.check"
    assert record["capability"] == {"name": "CAP_SYSLOG", "value": 34}
    assert record["container_id"] == one.container_id
    assert record["process"]["executable"] == "/bin/busybox"
    assert record["syscall"]["name"] == "syslog"
    assert record["user_namespace"]["is_host"] is True


def test_by_itself_with_kernel_stacks_for_some_time(
    fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{'9' * 64}")
    began = time.monotonic()
    process = _follow("--for", "3s", "--event-stack", "--container", "999*")
    time.sleep(1.8)
    run_in_cgroup(directory, checks, "acct", "5")
    told, _ = process.communicate(timeout=20)
    assert time.monotonic() - began < 6
    (record,) = (json.loads(line) for line in told.splitlines())
    assert record["stack"][0].startswith("cap_capable")
    assert any("acct" in function for function in record["stack"])


def test_a_closed_pipe_and_ctrl_c_end_it_without_a_traceback(tmp_path: Path) -> None:
    with RunningExporter(tmp_path) as exporter:
        url = f"http://127.0.0.1:{exporter.page_port}"
        piped = subprocess.run(
            f"{COMMAND} events --url {url} | true",
            shell=True,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=10,
        )
        assert piped.stderr == ""
        with _follow("--url", url) as follower:
            time.sleep(1)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(5) == 0


def test_without_an_exporter_it_says_what_to_do() -> None:
    done = subprocess.run(
        [COMMAND, "events", "--url", "http://127.0.0.1:1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cap-exporter run" in done.stderr
    assert "--for" in done.stderr
