# SPDX-License-Identifier: Apache-2.0
"""What the exporter stands on fails: it is killed, the disk is full, the cgroup file system goes,
nobody reads its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.sources.recording import Reader
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.prometheus import eventually
from tests.kernel.conftest import run_in_cgroup
from tests.ports import free_port

pytestmark = [pytest.mark.kernel, pytest.mark.needs("clang", "bpftool", "mount", "umount")]

CHECKS = "capability_checks_total"
PACCT = {"capability": "CAP_SYS_PACCT", "verdict": "denied"}
ONE, TWO, THREE = (f"{letter * 3}{os.getpid():09x}{'0' * 52}" for letter in "abc")

Made = Callable[..., tuple[Path, str]]


def of(exporter: RunningExporter, container: str, count: int) -> None:
    exporter.eventually(CHECKS, count, container=container[:12], **PACCT)


def said(exporter: RunningExporter, what: str) -> None:
    eventually(lambda: what in exporter.log.read_text(), what)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """With 256 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)


def programs_of(pid: int) -> set[int]:
    """Ids of the BPF programs that a process holds."""
    found: set[int] = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            found |= {int(number) for number in re.findall(r"\nprog_id:\t(\d+)", info.read_text())}
    return found


def loaded(program: int) -> bool:
    return not subprocess.run(
        ["bpftool", "prog", "show", "id", str(program)], capture_output=True, check=False
    ).returncode


def test_kill_9_without_pin_leaves_nothing_in_the_kernel_and_the_next_one_begins_at_0(
    tmp_path: Path, fresh_cgroup: Made, checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{ONE}")
    with RunningExporter(tmp_path, "--drain-interval=50ms") as first:
        run_in_cgroup(directory, checks, "acct", "11")
        of(first, ONE, 11)
        programs = programs_of(first.process.pid)
        assert len(programs) > 5
        # In the middle of drains.
        checking = subprocess.Popen([checks, "acct", "100000000"])
        time.sleep(0.3)
        first.process.kill()
        first.process.wait()
        checking.kill()
        checking.wait()
    deadline = time.monotonic() + 5
    while left := {program for program in programs if loaded(program)}:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    run_in_cgroup(directory, checks, "acct", "100")
    with RunningExporter(tmp_path) as second:
        run_in_cgroup(directory, checks, "acct", "5")
        of(second, ONE, 5)  # less than before: a reset, for Prometheus


@pytest.mark.parametrize("name", ["recording", "recording.gz"])
def test_a_recording_onto_a_full_disk_ends_with_an_error_and_is_readable_up_to_there(
    small_disk: Path, fresh_cgroup: Made, checks: Path, name: str
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{ONE}")
    file = small_disk / name

    def recorded() -> int:
        reader = Reader(file)
        try:
            return sum(
                count
                for drain in reader.drains()
                for key, count in drain.increments
                if key.cgroup.id == directory.stat().st_ino
            )
        finally:
            reader.close()

    with subprocess.Popen(
        [COMMAND, "record", file, "--drain-interval=50ms"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: file.stat().st_size > 200, "a recording")
            run_in_cgroup(directory, checks, "acct", "11")
            eventually(lambda: recorded() >= 11, "11 checks")
            before = recorded()
            with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 1, said
    assert f"cannot write {file}: No space left on device" in said
    assert "Traceback" not in said
    assert recorded() == before


def test_a_recording_that_can_not_begin_says_why(small_disk: Path) -> None:
    for file in ("/dev/full", small_disk / "no" / "folder"):
        done = subprocess.run(
            [COMMAND, "record", file, "--for=1s"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert f"cannot write {file}: No " in done.stderr
        assert "Traceback" not in done.stderr


def test_when_the_cgroup_file_system_goes_counts_and_names_stay(
    tmp_path: Path, fresh_cgroup: Made, checks: Path
) -> None:
    """Unmounted from under it: what is new is named by the kernel's events."""
    root = tmp_path / "cgroup"
    root.mkdir()
    before, _ = fresh_cgroup("", f"docker/{ONE}")
    subprocess.run(["mount", "--rbind", "/sys/fs/cgroup", root], check=True)
    subprocess.run(["mount", "--make-rslave", root], check=True)
    mounted = True
    try:
        with RunningExporter(tmp_path, f"--cgroup-root={root}") as exporter:
            run_in_cgroup(before, checks, "acct", "11")
            of(exporter, ONE, 11)
            subprocess.run(["umount", "-R", "-l", root], check=True)
            mounted = False
            after, _ = fresh_cgroup("", f"docker/{TWO}")
            run_in_cgroup(before, checks, "acct", "11")
            run_in_cgroup(after, checks, "acct", "5")
            of(exporter, ONE, 22)
            of(exporter, TWO, 5)
            # Also the walk after lost events has nothing to go by.
            exporter.process.send_signal(signal.SIGSTOP)
            many(before.parent, 1200)
            exporter.process.send_signal(signal.SIGCONT)
            said(exporter, "events were lost")
            run_in_cgroup(after, checks, "acct", "5")
            of(exporter, TWO, 10)
            assert exporter.get("/healthz") == "ok\n"
    finally:
        if mounted:
            subprocess.run(["umount", "-R", "-l", root], check=True)


def many(parent: Path, count: int) -> None:
    """Cgroups that come and go, in silence."""
    one = parent / f"short-{os.getpid()}"
    for _ in range(count):
        one.mkdir()
        one.rmdir()


@pytest.mark.parametrize("root", ["gone", "empty"])
def test_without_a_cgroup_file_system_events_name_what_comes(
    tmp_path: Path, fresh_cgroup: Made, checks: Path, root: str
) -> None:
    (tmp_path / "empty").mkdir()
    before, _ = fresh_cgroup("", f"docker/{ONE}")
    with RunningExporter(tmp_path, f"--cgroup-root={tmp_path / root}") as exporter:
        after, _ = fresh_cgroup("", f"docker/{TWO}")
        run_in_cgroup(before, checks, "acct", "11")
        run_in_cgroup(after, checks, "acct", "5")
        of(exporter, TWO, 5)
        assert "cgroup" in exporter.log.read_text()
        assert str(tmp_path / root) in exporter.log.read_text()


#: The exporter's log goes through a pipe.
PIPED = ("bash", "-c", 'exec "$@" 2> >(exec cat)', "bash")


def reader_of_log(exporter: RunningExporter) -> int:
    pid = exporter.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text() == "cat\n":
            return int(child)
    raise AssertionError("nobody reads the log")


def lose_events(exporter: RunningExporter) -> None:
    """Something to log."""
    v2 = next(h.mount for h in discover().counted if h.mount and not h.controller)
    exporter.process.send_signal(signal.SIGSTOP)
    many(v2, 1200)
    exporter.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_log_that_nobody_reads_holds_up_no_counting(
    tmp_path: Path, fresh_cgroup: Made, checks: Path, fault: str
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{ONE}")
    with RunningExporter(tmp_path, under=PIPED) as exporter:
        reader = reader_of_log(exporter)
        if fault == "full":
            os.kill(reader, signal.SIGSTOP)
            eventually(lambda: ") T " in Path(f"/proc/{reader}/stat").read_text(), "stopped")
            pipe = os.open(f"/proc/{reader}/fd/0", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, b"." * 4096)
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, b".")
            os.close(pipe)
        else:
            os.kill(reader, signal.SIGKILL)
        for count in (11, 22):
            lose_events(exporter)
            run_in_cgroup(directory, checks, "acct", "11")
            of(exporter, ONE, count)
        if fault == "full":
            os.kill(reader, signal.SIGCONT)
            lose_events(exporter)
            said(exporter, "lines before this one are missing")
            os.kill(reader, signal.SIGSTOP)
        assert exporter.stop() < 5
        if fault == "full":
            os.kill(reader, signal.SIGKILL)


def test_with_its_standard_streams_closed_it_counts(
    tmp_path: Path, fresh_cgroup: Made, checks: Path
) -> None:
    directory, _ = fresh_cgroup("", f"docker/{ONE}")
    port = free_port()
    with subprocess.Popen(
        [
            "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", COMMAND, "run", "--page-listen=127.0.0.1:0",
            f"--listen=127.0.0.1:{port}", "--drain-interval=200ms",
        ],
    ) as process:  # fmt: skip
        try:
            eventually(lambda: bool(scrape(port)), "an answer")
            run_in_cgroup(directory, checks, "acct", "11")
            wanted = f'{PACCT["capability"]}",container="{ONE[:12]}"'
            counted = re.compile(re.escape(wanted) + r".* 11\.0$", re.MULTILINE)
            eventually(lambda: bool(counted.search(scrape(port))), "11 checks")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
