# SPDX-License-Identifier: Apache-2.0
"""The exporter as a whole: real checks, real containers, a real Prometheus."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.prometheus import Prometheus, eventually
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import Container

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang", "prometheus", "promtool")]

PACCT = "CAP_SYS_PACCT"


def test_checks_are_served_under_the_name_that_a_plain_host_has_for_them(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    unit, _ = fresh_cgroup("", f"system.slice/cap-exporter-test-{os.getpid()}.service")
    docker, _ = fresh_cgroup("", f"docker/{'e' * 64}")
    with RunningExporter(tmp_path) as exporter:
        run_in_cgroup(unit, checks, "acct", "11")
        run_in_cgroup(docker, checks, "acct", "12")
        exporter.eventually(
            "capability_checks_total",
            11,
            capability=PACCT,
            container=f"cap-exporter-test-{os.getpid()}.service",
            verdict="denied",
            user_namespace="init",
            namespace="",
            pod="",
        )
        exporter.eventually(
            "capability_checks_total", 12, capability=PACCT, container="e" * 12, verdict="denied"
        )
        assert exporter.get("/healthz") == "ok\n"
        assert exporter.get("/readyz").startswith("ready")
        assert "e" * 12 in exporter.get("/", exporter.page_port)


def test_the_page_satisfies_promtool_and_a_real_prometheus_answers_with_the_count(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{'f' * 64}")
    with RunningExporter(tmp_path) as exporter:
        run_in_cgroup(directory, checks, "acct", "1234")
        exporter.eventually("capability_checks_total", 1234, capability=PACCT, container="f" * 12)
        page = exporter.get("/metrics")
        lint = subprocess.run(
            ["promtool", "check", "metrics"],
            input=page,
            text=True,
            capture_output=True,
            check=False,
        )
        assert (lint.returncode, lint.stderr) == (0, "")

        with Prometheus(tmp_path, [exporter.metrics_port]) as prometheus:
            query = f'sum(capability_checks_total{{container="{"f" * 12}",verdict="denied"}})'
            eventually(lambda: bool(prometheus.query(query)), query)
            assert prometheus.query(query)[0]["value"][1] == "1234"


def test_sigterm_drains_once_more_and_ends_within_two_seconds(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{'a' * 64}")
    recording = tmp_path / "recording"
    process = subprocess.Popen(
        [COMMAND, "record", recording, "--drain-interval", "30s"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (
        not recording.exists() or recording.read_text().count("\n") < 2
    ):
        time.sleep(0.02)
    run_in_cgroup(directory, checks, "acct", "77")
    began = time.monotonic()
    process.terminate()
    _, said = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert process.returncode == 0, said
    played = _profile("--source", f"replay:{recording}")
    assert played["a" * 12]["denied"] == {PACCT: 77}


def _profile(*arguments: str) -> dict[str, dict[str, dict[str, int]]]:
    done = subprocess.run(
        [COMMAND, "profile", "-o", "json", *arguments], capture_output=True, text=True, check=True
    )
    return {one["container"]: one for one in json.loads(done.stdout)["containers"]}


def test_run_ends_within_two_seconds_of_sigterm(tmp_path: Path) -> None:
    with RunningExporter(tmp_path, "--drain-interval=60s") as exporter:
        assert exporter.stop() < 2
        assert exporter.process.returncode == 0
        assert "Traceback" not in exporter.log.read_text()


def test_profile_for_some_seconds_shows_a_real_container_s_profile(
    container: Callable[..., Container],
) -> None:
    one = container("AUDIT_WRITE", "KILL", "NET_BIND_SERVICE")
    counting = subprocess.Popen(
        [COMMAND, "profile", "--for", "4s", "-o", "json"], stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.5)
    one.run("sh", "-c", "timeout 0.3 nc -l -p 80; dmesg; true")
    answer, _ = counting.communicate(timeout=20)
    found = {c["container_id"]: c for c in json.loads(answer)["containers"]}[one.container_id]
    assert set(found["used"]) == {"CAP_NET_BIND_SERVICE"}
    assert set(found["denied"]) == {"CAP_SYSLOG"}
    assert found["cgroup"] == one.cgroup
    assert {"setup", "noaudit"} <= set(found["background"])


def test_profile_asks_a_running_exporter(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{'b' * 64}")
    with RunningExporter(tmp_path) as exporter:
        run_in_cgroup(directory, checks, "acct", "5")
        exporter.eventually("capability_checks_total", 5, container="b" * 12, capability=PACCT)
        url = f"http://127.0.0.1:{exporter.page_port}"
        assert _profile("--url", url)["b" * 12]["denied"] == {PACCT: 5}


def test_every_check_is_in_one_of_the_two_counters_and_a_series_never_falls(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    """A unit that is restarted: its cgroup goes and comes back with another number."""
    name = f"system.slice/cap-exporter-restart-{os.getpid()}.service"
    labels = {"container": Path(name).name, "capability": PACCT}
    with RunningExporter(tmp_path) as exporter:
        for total in (3, 6, 9):
            directory, _ = fresh_cgroup("", name)
            run_in_cgroup(directory, checks, "acct", "3")
            exporter.eventually("capability_checks_total", total, **labels)
            directory.rmdir()
            time.sleep(0.3)
        time.sleep(1.5)  # past the grace period after which the kernel's slots are used again
        exporter.eventually("capability_checks_total", 9, **labels)


def test_a_port_in_use_is_an_error_that_names_it_and_the_way_out(tmp_path: Path) -> None:
    with RunningExporter(tmp_path) as exporter:
        done = subprocess.run(
            [COMMAND, "run", "--listen", f"127.0.0.1:{exporter.metrics_port}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert f"127.0.0.1:{exporter.metrics_port} is in use" in done.stderr
        assert "--listen" in done.stderr


def test_without_privileges_it_says_what_is_missing_and_exits_with_3() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon", "--inh-caps=-all", "--",
         COMMAND, "profile", "--for", "1s"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "counting takes CAP_BPF and CAP_PERFMON, which this process has not" in done.stderr


def test_what_a_container_is_granted_is_published_though_it_never_asks(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    one = container("NET_RAW", "CHOWN")
    labels = {"container": one.container_id[:12]}
    with RunningExporter(tmp_path, "--pod-patience=0s") as exporter:
        assert one.run("true").returncode == 0
        exporter.eventually("capability_container_granted", 2, **labels)
        assert exporter.total("capability_container_granted", capability="CAP_NET_RAW") >= 1
        exporter.eventually("capability_container_info", 1, **labels)
