# SPDX-License-Identifier: Apache-2.0
"""Events: what they tell, how often, and what becomes of the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.model import Event
from cap_exporter.sources.bcc import BccSource
from cap_exporter.sources.events import EventSettings
from cap_exporter.sources.kernel_structs import KernelStructs
from cap_exporter.sources.libbpf import LibbpfSource
from cap_exporter.sources.libbpf_binding import LibBpf
from tests.kernel.conftest import Counting, go, run_in_cgroup, start_in_cgroup
from tests.kernel.containers import Container

pytestmark = pytest.mark.needs("runc", "clang")

SETUID, SYS_PACCT, SYSLOG = 7, 20, 34

Told = Callable[..., tuple[Counting, Callable[[], list[Event]]]]


@pytest.fixture(params=["libbpf", "bcc"])
def told(hierarchies: Hierarchies, request: pytest.FixtureRequest) -> Iterator[Told]:
    """Opens a source with events; gives what it counts, and a way to read the events of it."""
    opened: list[LibbpfSource | BccSource] = []

    def open_source(**settings: object) -> tuple[Counting, Callable[[], list[Event]]]:
        attach = os.environ.get("CAP_EXPORTER_ATTACH")
        wanted = EventSettings(**settings)  # type: ignore[arg-type]
        source: LibbpfSource | BccSource
        if request.param == "bcc":
            source = BccSource(
                hierarchies, attach="kprobe" if attach == "kprobe" else None, events=wanted
            )
        else:
            attach = None if attach in (None, "auto") else attach
            source = LibbpfSource(hierarchies, attach=attach, events=wanted)
        opened.append(source)
        counting = Counting(hierarchies, source)

        def events() -> list[Event]:
            counting.drain()
            return [
                event
                for event in counting.last.events
                if is_ours(counting.tree.path(event.check.cgroup) or "")
            ]

        return counting, events

    yield open_source
    for source in opened:
        source.close()


def is_ours(path: str) -> bool:
    """Not of whatever else makes checks on this machine now."""
    return f"cap-exporter-test-{os.getpid()}-" in path or "/kubepods/" in path


def of(events: list[Event], capability: int) -> list[Event]:
    return [event for event in events if event.check.capability == capability]


def tells_registers() -> bool:
    """The helper that system call numbers come from is there since 5.15."""
    with closing(KernelStructs(LibBpf(), None)) as structs:
        return structs.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs") is not None


def test_a_container_s_dmesg_is_told_with_all_that_is_known_of_it(
    told: Told, container: Callable[..., Container]
) -> None:
    counting, events = told(stack=True)
    one = container("AUDIT_WRITE", "KILL")
    began = time.time()
    one.run("sh", "-c", "cd /tmp; dmesg; true")
    (event,) = of(events(), SYSLOG)
    assert counting.paths.get(event.check.cgroup) == one.cgroup
    assert (event.check.verdict, event.return_value) == ("denied", -1)
    assert began - 1 < event.process.start_time <= event.time < time.time() + 1
    assert (event.process.comm, event.process.executable) == ("dmesg", "/bin/busybox")
    assert (event.process.cwd, event.process.uid, event.gid) == ("/tmp", 0, 0)
    assert (event.parent.comm, event.parent.executable) == ("sh", "/bin/busybox")
    assert 1 < event.container_pid < event.process.pid == event.tid
    assert event.parent.pid not in (0, event.process.pid)
    if tells_registers():
        assert event.syscall in (103, 116)  # syslog on x86_64, on arm64
    else:
        assert event.syscall is None
    assert event.target_level == 0
    assert event.effective == event.permitted == event.bounding == 1 << 29 | 1 << 5
    own = {
        name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in ("mnt", "pid", "net", "user")
    }
    assert event.namespaces["user"] == own["user"] == event.target_inode
    assert all(event.namespaces[name] != own[name] for name in ("mnt", "pid", "net"))
    assert len(event.stack) > 3


def test_equal_checks_are_told_once_and_counted_all(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    counting, events = told(interval=60)
    directory, path = fresh_cgroup("")
    run_in_cgroup(directory, checks, "acct", "10000")
    assert len(of(events(), SYS_PACCT)) == 1
    run_in_cgroup(directory, checks, "acct", "10000")  # another process of the same kind
    assert of(events(), SYS_PACCT) == []
    assert sum(n for k, n in counting.under(path).items() if k.capability == SYS_PACCT) == 20_000


def test_the_next_event_says_how_many_it_stands_for(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    _, events = told(interval=0.5)
    directory, _ = fresh_cgroup("")
    run_in_cgroup(directory, checks, "acct", "100")
    (first,) = of(events(), SYS_PACCT)
    time.sleep(0.6)
    events()  # as the exporter does all the time: a flood is looked at again after a drain
    run_in_cgroup(directory, checks, "acct", "1")
    (second,) = of(events(), SYS_PACCT)
    assert (first.suppressed, second.suppressed) == (0, 99)


def test_a_denied_check_after_an_allowed_one_is_told(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]]
) -> None:
    _, events = told(allowed=True)
    directory, _ = fresh_cgroup("")
    run_in_cgroup(directory, "dmesg", uid=0)
    run_in_cgroup(directory, "dmesg", uid=1000)
    assert [str(e.check.verdict) for e in of(events(), SYSLOG)] == ["allowed", "denied"]


def test_only_the_capabilities_that_were_asked_for_are_told(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    _, events = told(capabilities=1 << SYSLOG)
    directory, _ = fresh_cgroup("")
    run_in_cgroup(directory, checks, "acct", "1")
    run_in_cgroup(directory, "dmesg")
    assert {event.check.capability for event in events()} <= {SYSLOG}


def test_a_flood_of_one_cgroup_leaves_room_for_another_s_first_event(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path, tmp_path: Path
) -> None:
    """Many executables, so that each check is of a new kind."""
    counting, events = told(burst=10, rate=1)
    noisy, path = fresh_cgroup("")
    folder = checks.parent / "copies"
    folder.mkdir(mode=0o755, exist_ok=True)
    script = f"for i in $(seq 60); do cp {checks} /tmp/$$.$i && /tmp/$$.$i acct 1; done"
    script += "; rm -f /tmp/$$.*"
    began = time.monotonic()
    run_in_cgroup(noisy, "sh", "-c", script)
    took = time.monotonic() - began
    quiet, _ = fresh_cgroup("")
    run_in_cgroup(quiet, checks, "acct", "1")
    seen = of(events(), SYS_PACCT)
    by_path = [counting.paths.get(event.check.cgroup) for event in seen]
    assert 10 <= by_path.count(path) <= 11 + took  # the burst, and one a second
    assert len(seen) - by_path.count(path) == 1
    assert counting.last.events_lost["limited"] >= 45
    assert sum(n for k, n in counting.under(path).items() if k.capability == SYS_PACCT) == 60


def test_a_full_ring_is_counted_and_the_counters_stay_exact(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    counting, events = told(ring_bytes=1 << 16, interval=0, burst=100_000, rate=1_000_000)
    directory, path = fresh_cgroup("")
    run_in_cgroup(directory, checks, "acct", "1000")
    seen = of(events(), SYS_PACCT)
    lost = counting.last.events_lost
    assert lost["full"] > 0
    assert len(seen) + lost["full"] + lost["limited"] >= 1000
    assert sum(n for k, n in counting.under(path).items() if k.capability == SYS_PACCT) == 1000


def test_a_process_that_lives_for_a_moment_is_told_whole(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    _, events = told()
    directory, _ = fresh_cgroup("")
    process = start_in_cgroup(directory, "sh", "-c", f"cd /var; {checks} acct 1; true")
    go(process)
    process.wait()
    (event,) = of(events(), SYS_PACCT)
    assert event.process.executable == str(checks)
    assert event.process.cwd == "/var"
    assert event.parent.executable.startswith("/usr/bin/")


def test_200_000_denied_checks_a_second_stay_exact_and_within_the_rate(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    counting, events = told(interval=0, burst=10, rate=5)
    directory, path = fresh_cgroup("")
    workers = [start_in_cgroup(directory, checks, "acct", "40000") for _ in range(50)]
    began = time.monotonic()
    for worker in workers:
        go(worker)
    seen = []
    while any(worker.poll() is None for worker in workers):
        seen += of(events(), SYS_PACCT)
        time.sleep(0.1)
    seen += of(events(), SYS_PACCT)
    took = time.monotonic() - began
    assert sum(n for k, n in counting.under(path).items() if k.capability == SYS_PACCT) == 2_000_000
    assert len(seen) <= 10 + 5 * (took + 1) * 2
    assert len(seen) + sum(counting.last.events_lost.values()) >= 2_000_000


#: Takes any arguments, and asks for one capability.
CODE = "import os\ntry: os.setuid(4711)\nexcept OSError: pass"


def test_the_command_line_is_told_only_where_it_was_asked_for(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]]
) -> None:
    _, without = told()
    _, events = told(arguments=True)
    directory, _ = fresh_cgroup("")
    command = ("/usr/bin/python3", "-SEc", CODE, "hunter2 \udcff", "")
    run_in_cgroup(directory, *command)
    (silent,) = of(without(), SETUID)
    (event,) = of(events(), SETUID)
    assert silent.arguments == ()
    assert event.arguments == command


def test_a_long_command_line_is_cut(
    told: Told, fresh_cgroup: Callable[..., tuple[Path, str]]
) -> None:
    _, events = told(arguments=True)
    directory, _ = fresh_cgroup("")
    command = ("/usr/bin/python3", "-SEc", CODE, "x" * 5000)
    run_in_cgroup(directory, *command)
    (event,) = of(events(), SETUID)
    assert "\0".join(event.arguments) == "\0".join(command)[:1024]
