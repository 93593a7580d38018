# SPDX-License-Identifier: Apache-2.0
"""Too much, or too little to do it with: storms of cgroups, full maps and rings, many scrapes, and
an exporter short of CPU, file descriptors or memory. The sums are exact.

CAP_EXPORTER_FAULTS=full takes the sizes that docs/reliability.md has numbers of.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.model import (
    CgroupChange,
    CgroupEvent,
    CgroupKey,
    CheckClass,
    CheckKey,
    Drain,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.sources.recording import Header, Writer
from tests.e2e.exporter import RunningExporter
from tests.e2e.prometheus import eventually
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import remove_cgroup

pytestmark = [pytest.mark.kernel, pytest.mark.needs("clang", "setpriv", "prlimit")]

FULL = os.environ.get("CAP_EXPORTER_FAULTS") == "full"
CHECKS = "capability_checks_total"
PACCT = {"capability": "CAP_SYS_PACCT", "verdict": "denied"}
#: Nobody else asks for it.
BOOT = {"capability": "CAP_SYS_BOOT", "verdict": "denied"}
ONE = f"abc{os.getpid():09x}{'0' * 52}"
UNKNOWN = "(unknown)"
SLOTS = "cap_exporter_map_slots"

Made = Callable[..., tuple[Path, str]]


def v2() -> Path:
    return next(h.mount for h in discover().counted if h.mount and not h.controller)


@pytest.fixture
def top() -> Iterator[Path]:
    """Where containers are made, of this test alone."""
    folder = v2() / f"faults-{os.getpid()}" / "docker"
    folder.mkdir(parents=True)
    yield folder
    remove_cgroup(folder.parent)


def storm(checks: Path, top: Path, cgroups: int, parallel: int = 4) -> float:
    """Containers that are made, make a check each and are removed, as fast as it goes. Returns
    seconds."""
    began = time.monotonic()
    churning = [
        subprocess.Popen(
            ["setpriv", "--bounding-set=-sys_boot", checks, "churn", top, str(cgroups // parallel)]
        )
        for _ in range(parallel)
    ]
    assert sum(one.wait() for one in churning) == 0
    return time.monotonic() - began


def becomes(
    exporter: RunningExporter, name: str, wanted: Callable[[float], bool], **labels: str
) -> float:
    """The sum of these samples becomes one that is wanted; returns how long it took."""
    began = time.monotonic()
    while not wanted(value := exporter.total(name, **labels)):
        assert time.monotonic() - began < 30, (name, value, exporter.log.read_text()[-2000:])
        time.sleep(0.1)
    return time.monotonic() - began


def counted(exporter: RunningExporter, count: int, **labels: str) -> float:
    return becomes(exporter, CHECKS, lambda value: value == count, **labels)


def freed(exporter: RunningExporter, before: float) -> float:
    """The counters of cgroups that are gone are free; other cgroups may have taken some."""
    return becomes(exporter, SLOTS, lambda used: used < before + 150, state="used")


def used(exporter: RunningExporter) -> float:
    return exporter.total(SLOTS, state="used")


def report(**numbers: float) -> None:
    """For docs/reliability.md; shown by pytest -s."""
    print(*(f"{name}={number:.6g}" for name, number in numbers.items()))


def test_a_storm_of_cgroups_is_counted_to_the_last_check(
    tmp_path: Path, top: Path, checks: Path
) -> None:
    cgroups = 10_000 if FULL else 1000
    with RunningExporter(tmp_path, "--max-series=1000", "--event-verdicts=none") as exporter:
        slots, memory = used(exporter), exporter.total("process_resident_memory_bytes")
        took = storm(checks, top, cgroups)
        behind = counted(exporter, cgroups, **BOOT)
        free = freed(exporter, slots)
        grown = exporter.total("process_resident_memory_bytes") - memory
        assert grown < 10 << 20
        report(
            cgroups=cgroups,
            took=took,
            behind=behind,
            free=free,
            grown=grown / 1e6,
            unknown=exporter.total(CHECKS, container=UNKNOWN, **BOOT),
        )


def test_while_it_is_stopped_names_and_events_may_be_lost_and_no_check_is(
    tmp_path: Path, top: Path, fresh_cgroup: Made, checks: Path
) -> None:
    """The rings have room for the news of some hundred cgroups, and for some hundred events."""
    cgroups = 10_000 if FULL else 3000
    with RunningExporter(tmp_path) as exporter:
        slots = used(exporter)
        exporter.process.send_signal(signal.SIGSTOP)
        storm(checks, top, cgroups)
        # Beyond the end of the ring, and still there.
        stays, _ = fresh_cgroup("", f"docker/{ONE}")
        run_in_cgroup(stays, checks, "acct", "7")
        exporter.process.send_signal(signal.SIGCONT)
        counted(exporter, 7, container=ONE[:12], **PACCT)
        assert "cgroup events were lost (the ring was full)" in exporter.log.read_text()
        # Those that nobody can name any more give their counters back, too.
        free = freed(exporter, slots)
        counted(exporter, cgroups, **BOOT)
        unknown = exporter.total(CHECKS, container=UNKNOWN, **BOOT)
        assert 0 < unknown < cgroups
        becomes(exporter, "cap_exporter_unresolved_cgroups", lambda left: left == 0)
        events = "cap_exporter_events_total"
        full = exporter.total(events, outcome="full")
        assert full > 0
        assert exporter.total(events, outcome="sent") + full > cgroups
        report(cgroups=cgroups, unknown=unknown, free=free, events_lost=full)


def containers(top: Path, number: int, letter: str) -> list[Path]:
    made = [top / f"{letter}{n:04x}{os.getpid():07x}{'0' * 52}" for n in range(number)]
    for one in made:
        one.mkdir()
    return made


def check_in_each(checks: Path, cgroups: list[Path], count: int) -> None:
    into = f'for one; do "$0" into $one acct {count} || exit; done'
    run = ["setpriv", "--bounding-set=-sys_pacct", "sh", "-c", into]
    subprocess.run([*run, checks, *cgroups], check=True)


def test_counters_that_were_full_are_used_again(tmp_path: Path, top: Path, checks: Path) -> None:
    over = {"container": "(overflow)", **PACCT}
    with RunningExporter(tmp_path, "--counters=128", "--event-verdicts=none") as exporter:
        slots = exporter.total(SLOTS)
        many = int(slots) + 100
        made = containers(top, many, "a")
        check_in_each(checks, made, 3)
        counted(exporter, 3 * many, **PACCT)
        before = exporter.total(CHECKS, **over)
        assert 300 <= before < 3 * many
        assert exporter.total("cap_exporter_overflow_checks_total") >= before
        for one in made:
            one.rmdir()
        becomes(exporter, SLOTS, lambda used: used < slots / 2, state="used")
        check_in_each(checks, containers(top, 10, "b"), 3)
        counted(exporter, 3 * many + 30, **PACCT)
        assert exporter.total(CHECKS, **over) == before


def plays(path: Path, number: int, capabilities: int) -> Path:
    """All counters grow by the same with each drain: a page shows one moment if all of them are
    equal."""
    cgroups = [CgroupKey(0, n + 2) for n in range(number)]
    keys = [
        CheckKey(cgroup, number, Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL)
        for cgroup in cgroups
        for number in range(capabilities)
    ]
    with Writer(path, Header(SourceInfo("libbpf", "tp_btf"), 0.0, "6.18")) as writer:
        for second in range(30):
            writer.write(
                Drain(
                    time=second / 2,
                    increments=[(key, 1) for key in keys],
                    cgroup_events=[
                        CgroupEvent(
                            CgroupChange.CREATED, cgroup, f"/docker/{cgroup.id:012x}{'0' * 52}"
                        )
                        for cgroup in cgroups
                        if not second
                    ],
                )
            )
    return path


def test_twenty_scrapes_at_a_time_are_whole_and_hold_up_no_drain(tmp_path: Path) -> None:
    number, capabilities = 500, 20
    recording = plays(tmp_path / "recording", number, capabilities)
    with RunningExporter(tmp_path, f"--source=replay:{recording}") as exporter:
        eventually(
            lambda: exporter.get("/metrics").count("\n") > number * capabilities, "all series"
        )
        before = drains(exporter)
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            pages = list(pool.map(lambda _: exporter.get("/metrics"), range(60)))
        took = time.monotonic() - began
        seen = set()
        for page in pages:
            assert page.endswith("\n")
            rows = [line for line in page.splitlines() if line.startswith(f"{CHECKS}{{")]
            assert len(rows) == number * capabilities
            [value] = {line.rpartition(" ")[2] for line in rows}
            seen.add(value)
        assert len(seen) > 1  # it counted on meanwhile
        after = drains(exporter)
        more = after["+Inf"] - before["+Inf"]
        assert after["5.0"] - before["5.0"] == more
        assert more >= took / 2
        report(scrapes=60, took=took, drains=more)


def drains(exporter: RunningExporter) -> dict[str, float]:
    """Drains so far by how long they took at most, seconds."""
    bucket = r'^cap_exporter_drain_duration_seconds_bucket\{le="(.+)"\} (.+)$'
    return {le: float(n) for le, n in re.findall(bucket, exporter.get("/metrics"), re.MULTILINE)}


class Limits:
    """A cgroup for limits, in whichever version has the controller."""

    def __init__(self, controller: str) -> None:
        v1 = Path("/sys/fs/cgroup") / controller
        self.is_v1 = v1.is_dir()
        if self.is_v1:
            self.folder = v1 / f"limits-{os.getpid()}"
        else:
            (v2() / "cgroup.subtree_control").write_text(f"+{controller}")
            self.folder = v2() / f"limits-{os.getpid()}"
        self.folder.mkdir()

    def cpu(self, part: float) -> None:
        period = 100_000
        if self.is_v1:
            (self.folder / "cpu.cfs_period_us").write_text(str(period))
            (self.folder / "cpu.cfs_quota_us").write_text(str(int(part * period)))
        else:
            (self.folder / "cpu.max").write_text(f"{int(part * period)} {period}")

    def memory(self, size: int) -> None:
        name = "memory.limit_in_bytes" if self.is_v1 else "memory.max"
        (self.folder / name).write_text(str(size))

    @property
    def most_memory(self) -> int:
        name = "memory.max_usage_in_bytes" if self.is_v1 else "memory.peak"
        return int((self.folder / name).read_text())

    @property
    def procs(self) -> Path:
        return self.folder / "cgroup.procs"


@contextmanager
def limits(controller: str) -> Iterator[Limits]:
    made = Limits(controller)
    try:
        yield made
    finally:
        remove_cgroup(made.folder)


def test_with_a_twentieth_of_a_cpu_it_counts_all_and_stays_healthy(
    tmp_path: Path, top: Path, fresh_cgroup: Made, checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{ONE}")
    with limits("cpu") as limited, RunningExporter(tmp_path, "--drain-interval=1s") as exporter:
        limited.cpu(0.05)
        limited.procs.write_text(str(exporter.process.pid))
        for _ in range(3):
            run_in_cgroup(directory, checks, "acct", "200000")
        storm(checks, top, 400)
        began = time.monotonic()
        assert exporter.get("/healthz") == "ok\n"
        probe = time.monotonic() - began
        behind = counted(exporter, 400, **BOOT)
        behind += counted(exporter, 600_000, container=ONE[:12], **PACCT)
        began = time.monotonic()
        exporter.get("/metrics")
        report(probe=probe, behind=behind, scrape=time.monotonic() - began)
        assert probe < 5
        limited.cpu(1)
        assert exporter.stop() < 5


def test_without_file_descriptors_it_counts_on_and_answers_when_there_are_some_again(
    tmp_path: Path, top: Path, fresh_cgroup: Made, checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{ONE}")
    with RunningExporter(tmp_path) as exporter:
        exporter.get("/metrics")
        slots = used(exporter)
        pid = exporter.process.pid
        set_open_files(pid, 3)
        with pytest.raises(TimeoutError), ask(exporter) as waiting:
            waiting.recv(1)
        exporter.process.send_signal(signal.SIGSTOP)
        for _ in range(1200):  # news are lost, and the file system can't be read
            (top / "short").mkdir()
            (top / "short").rmdir()
        [stays] = containers(top, 1, "c")
        exporter.process.send_signal(signal.SIGCONT)
        run_in_cgroup(directory, checks, "acct", "11")
        run_in_cgroup(stays, checks, "acct", "5")
        before = cpu(pid)
        time.sleep(2)
        busy = (cpu(pid) - before) / 2
        assert exporter.process.poll() is None
        set_open_files(pid, 1024)
        began = time.monotonic()
        eventually(lambda: healthy(exporter), "an answer")
        took = time.monotonic() - began
        counted(exporter, 11, container=ONE[:12], **PACCT)
        counted(exporter, 5, container=stays.name[:12], **PACCT)
        stays.rmdir()
        freed(exporter, slots)
        assert exporter.total(CHECKS, **PACCT) == 16
        report(busy=busy, answers_after=took)
        assert busy < 0.3
        log = exporter.log.read_text()
        assert "Too many open files" in log
        assert len(log.splitlines()) < 200


def ask(exporter: RunningExporter) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", exporter.metrics_port), 1)
    connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    return connection


def healthy(exporter: RunningExporter) -> bool:
    with suppress(TimeoutError), ask(exporter) as connection:
        return b" 200 " in connection.recv(100)
    return False


def set_open_files(pid: int, soft: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def cpu(pid: int) -> float:
    """Seconds that it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_memory_stays_below_a_limit_with_a_thousand_containers(
    tmp_path: Path, top: Path, checks: Path
) -> None:
    """The kernel's part, the maps, is in it."""
    number = 1000 if FULL else 300
    with limits("memory") as limited:
        limited.memory(96 << 20)
        inside = ("sh", "-c", f'echo $$ >{limited.procs}; exec "$@"', "sh")
        with RunningExporter(tmp_path, "--max-series=5000", under=inside) as exporter:
            check_in_each(checks, containers(top, number, "d"), 3)
            counted(exporter, 3 * number, **PACCT)
            for _ in range(5):
                exporter.get("/metrics")
            report(containers=number, most=limited.most_memory / 1e6)
            assert limited.most_memory < 90 << 20
