# SPDX-License-Identifier: Apache-2.0
"""Workloads that mean harm, for real: names that terminals and pages would obey, floods of cgroups
and of denials, and those who pose as a runtime or as another pod."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.cli import group
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import Container, remove_cgroup
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer
from tests.otlp.servers import HttpReceiver

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang", "promtool")]

CHECKS = "capability_checks_total"
BACKGROUND = "capability_background_checks_total"
PACCT = "CAP_SYS_PACCT"
#: Nobody else asks for it.
BOOT = "CAP_SYS_BOOT"

#: Sets the title, colours (also by one byte), goes back, rings, is no UTF-8, turns the line around,
#: ends strings of all kinds. The kernel takes no line feed in a cgroup's name.
EVIL = b"evil\x1b]0;x\x07\x1b[31m\x9b31m\r\t\x7f\xff\xfe\xe2\x80\xae\xe2\x80\xa8\"'`$(id)|<b>{}\\%s"

#: systemd's way to write any byte, so also a line feed.
ESCAPED = "machine-evil\\x0a\\x1b\\x5b31m\\x22.scope"


def v2() -> Path:
    return next(h.mount for h in discover().counted if h.mount and not h.controller)


@pytest.fixture
def evil_cgroups() -> Iterator[list[Path]]:
    """LXC's and systemd's names for containers, and 4 KB below a container."""
    deep = v2() / "docker" / ("7" * 64)
    made = [v2() / os.fsdecode(b"lxc.payload." + EVIL), v2() / ESCAPED, deep]
    below = deep
    while len(str(below)) < 3700:
        below /= os.fsdecode(EVIL.ljust(250, b"x"))
    below.mkdir(parents=True)
    for one in made[:2]:
        one.mkdir()
    yield [*made[:2], below]
    for one in made:
        remove_cgroup(one)
    remove_cgroup(deep.parent)


@pytest.fixture
def evil_program(checks: Path) -> Iterator[Path]:
    """Under a path of 4 KB, all of it bad."""
    folder = Path(f"/tmp/hostile-{secrets.token_hex(4)}")
    below = folder
    while len(str(below)) < 3500:
        below /= os.fsdecode(b"\n" + EVIL.ljust(250, b"y"))
    below.mkdir(parents=True)
    program = below / os.fsdecode(b'\x1b[2Jy\n\xff"' + EVIL)
    shutil.copy(checks, program)
    yield program
    shutil.rmtree(folder)


def assert_harmless(text: str, what: str) -> None:
    """For a terminal: nothing to obey, and no more lines than were meant."""
    bad = {c for c in text if not c.isprintable() and c != "\n"}
    assert not bad, (what, bad)


def strings(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from strings(key)
            yield from strings(value)
    elif isinstance(document, list):
        for value in document:
            yield from strings(value)
    elif isinstance(document, str):
        yield document


def test_names_of_any_bytes_harm_no_page_and_no_terminal(
    tmp_path: Path,
    evil_cgroups: list[Path],
    evil_program: Path,
    checks: Path,
) -> None:
    receiver = HttpReceiver()
    receiver.start()
    with RunningExporter(
        tmp_path, f"--otlp-endpoint={receiver.endpoint}", "--event-arguments"
    ) as exporter:
        url = f"--url=http://127.0.0.1:{exporter.page_port}"
        with urllib.request.urlopen(
            f"http://127.0.0.1:{exporter.page_port}/api/v1/events?recent=1", timeout=10
        ) as stream:
            for number, cgroup in enumerate(evil_cgroups, 3):
                run_in_cgroup(cgroup, evil_program, "acct", str(number))
            for value in (3, 4, 5):
                wait_for_total(exporter, value)
            page = exporter.get("/metrics")
            evil = {
                labels["container"]: value
                for labels, value in samples_of(page)
                if labels["capability"] == PACCT and labels["verdict"] == "denied"
            }
            assert sorted(v for name, v in evil.items() if name.startswith("evil")) == [3, 4]
            assert evil["7" * 12] == 5
            lint = subprocess.run(
                ["promtool", "check", "metrics"],
                input=page, text=True, capture_output=True, check=False,
            )  # fmt: skip
            assert (lint.returncode, lint.stderr) == (0, "")
            # Server-sent events: a line feed in a name would begin another field.
            told: list[dict[str, Any]] = []
            while len(told) < 3:
                line = stream.readline().decode()
                assert re.fullmatch(r"(data: \{.*\}|id: \d+|: .*|)\n", line), line
                if line.startswith("data: ") and "acct" in line:
                    told.append(json.loads(line.removeprefix("data: ")))
        assert {len(one["process"]["executable"]) > 200 for one in told} == {True}
        events = [
            subprocess.Popen(
                ["timeout", "2", COMMAND, "events", "--recent", "-o", form, url],
                stdout=subprocess.PIPE,
                text=True,
            )
            for form in ("compact", "json")
        ]
        for form in ("table", "json", "yaml"):
            answer = CliRunner().invoke(group, ["profile", "-o", form, url])
            assert answer.exit_code == 0, answer.output
            assert "evil" in answer.stdout
            assert_harmless(answer.stdout, f"profile -o {form}")
        for form in ("kubernetes", "patch", "docker", "compose", "systemd", "json"):
            answer = CliRunner().invoke(group, ["advise", "-o", form, url])
            # These are for pods and for units only.
            assert answer.exit_code == (form in ("patch", "systemd")), (form, answer.output)
            assert_harmless(answer.output, f"advise -o {form}")
        html = exporter.get("/", exporter.page_port)
        assert "|<b>" not in html
        assert_harmless(html, "the page")
        compact, as_json = (one.communicate(timeout=20)[0] for one in events)
        assert compact.count("evil") >= 3
        assert_harmless(compact, "events -o compact")
        lines = as_json.splitlines()
        assert_harmless(as_json, "events -o json")
        assert sum("acct" in line for line in lines if json.loads(line)) >= 3
        assert exporter.stop() < 5
    receiver.stop()
    assert_harmless(exporter.log.read_text(), "the log")
    assert "Traceback" not in exporter.log.read_text()
    names = {log.resource.get("container.name", "") for log in receiver.received.logs}
    assert len([name for name in names if name.startswith("evil")]) == 2


def samples_of(page: str) -> list[tuple[dict[str, str], float]]:
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == CHECKS
    ]


def wait_for_total(exporter: RunningExporter, value: float) -> None:
    deadline = time.monotonic() + 10
    while value not in exporter.samples(CHECKS, capability=PACCT, verdict="denied").values():
        assert time.monotonic() < deadline, exporter.get("/metrics")
        time.sleep(0.05)


def test_a_flood_of_short_cgroups_stays_bounded_and_every_sum_exact(
    tmp_path: Path, checks: Path
) -> None:
    most, made = 300, 1000
    with RunningExporter(
        tmp_path, f"--max-series={most}", "--counters=1024", "--event-verdicts=none"
    ) as exporter:
        short_lives(checks, 200)
        exporter.eventually(CHECKS, 200, capability=BOOT)
        before = exporter.total("process_resident_memory_bytes")
        short_lives(checks, made)
        exporter.eventually(CHECKS, 200 + made, capability=BOOT)
        page = exporter.get("/metrics")
        series = [
            line
            for line in page.splitlines()
            if re.match(r"capability_(background_)?checks_total", line) and "(overflow)" not in line
        ]
        assert len(series) <= most
        assert exporter.total("cap_exporter_overflow_checks_total") > made - most
        assert exporter.total(CHECKS, capability=BOOT, container="(overflow)") > made - most
        grown = exporter.total("process_resident_memory_bytes") - before
        assert grown < 8 << 20, f"{grown / made:.0f} bytes for a cgroup that is gone"


def short_lives(checks: Path, times: int) -> None:
    """Containers with one check each, one after the other."""
    top = v2() / "docker"
    top.mkdir(exist_ok=True)
    made = subprocess.run(
        ["setpriv", "--bounding-set=-sys_boot", checks, "churn", top, str(times)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")


def test_who_is_called_like_a_runtime_is_a_workload_all_the_same(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    one = container()
    with RunningExporter(tmp_path, "--pod-patience=0s") as exporter:
        one.run(
            "sh",
            "-c",
            "cd /tmp; for name in 'runc:[2:INIT]' runc crun conmon systemd-executor; do"
            ' cp /bin/checks "$name"; "./$name" acct 5; rm "$name"; done; checks memfd /bin/checks'
            " acct 2",
        )
        where = {"container": one.container_id[:12], "capability": PACCT}
        exporter.eventually(CHECKS, 27, verdict="denied", **where)
        assert exporter.total(BACKGROUND, **where) == 0


def test_nobody_poses_as_another_pod_by_cgroups_of_its_own(
    tmp_path: Path, kube: KubeServer, container: Callable[..., Container], checks: Path
) -> None:
    victim, attacker = container(), container("SYS_ADMIN", mounts=[CGROUPS])
    for name, one in (("victim", victim), ("attacker", attacker)):
        kube.apply(pod(name, "shop", {"app": one.container_id}, uid=one.pod_uid))
    posed = f"{{}}/kubepods/burstable/pod{victim.pod_uid}/{victim.container_id}"
    with RunningExporter(
        tmp_path, f"--kubeconfig={kube.kubeconfig()}", f"--node-name={NODE}"
    ) as exporter:
        exporter.eventually("cap_exporter_pod_watch_synced", 1)
        victim.run("checks", "acct", "3")
        # What the container sees of the hierarchies as its root is its own cgroup.
        done = attacker.run(
            "sh",
            "-c",
            "for root in /cg/*; do"
            f" mkdir -p {posed.format('$root')} &&"
            f" checks move {posed.format('$root')}/cgroup.procs acct 10 && echo moved; done",
        )
        # Not into every hierarchy: a new cpuset has no CPUs.
        moved = done.stdout.count("moved")
        assert moved, done.stdout
        exporter.eventually(CHECKS, 3, pod="victim", capability=PACCT, verdict="denied")
        exporter.eventually(CHECKS, 10 * moved, pod="attacker", capability=PACCT, verdict="denied")
        names = {dict(labels)["pod"] for labels in exporter.samples(CHECKS, capability=PACCT)}
        assert names == {"victim", "attacker"}


#: The hierarchies, to write to: what a container with a delegated subtree has.
CGROUPS = {
    "destination": "/cg",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["rw", "nosuid", "noexec", "nodev", "relatime"],
}


def test_a_flood_of_denials_hides_no_other_container_s(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    """Files of many names and many user namespaces, so that hardly two denials are equal."""
    attacker, victim = container(), container()
    with RunningExporter(tmp_path, "--pod-patience=0s") as exporter:
        attacker.start(
            "sh",
            "-c",
            "cd /tmp; for n in $(seq 80); do cp /bin/checks flood$n; done;"
            " while :; do for n in $(seq 80); do ./flood$n acct 20; unshare -U ./flood$n acct 20;"
            " done; dmesg; chown 1 /bin/sh; done",
        )
        deadline = time.monotonic() + 10
        while not exporter.total("cap_exporter_events_total", outcome="limited"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        victim.run("dmesg")
        address = f"http://127.0.0.1:{exporter.page_port}/api/v1/events?recent=1"
        with urllib.request.urlopen(address, timeout=10) as answer:
            for line in answer:
                if line.startswith(b"data: ") and victim.container_id.encode() in line:
                    break
        assert json.loads(line.removeprefix(b"data: "))["capability"]["name"] == "CAP_SYSLOG"
    attacker.kill()
    for copy in (attacker.root / "tmp").glob("flood*"):
        copy.unlink()
