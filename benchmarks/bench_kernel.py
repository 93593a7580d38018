# SPDX-License-Identifier: Apache-2.0
"""What a capability check costs in the kernel with our programs attached, against what a user
would pick instead on the same hook: nothing, an empty program, the usual per-CPU hash (cgroup,
capability, verdict only), an event per check through a perf buffer; and bpftrace's count of the
same, on its own hook.

    python -m benchmarks.bench_kernel [ROUNDS]

Every number is the least of several rounds; the alternatives take turns, in one run, so that the
machine's ups and downs hit all. Needs root, and the cap_capable tracepoint (Linux 6.14).
"""

from __future__ import annotations

import ctypes
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import bpftrace
from benchmarks.compile import compile_bpf
from benchmarks.results import report
from cap_exporter.cgroups.hierarchies import UNIFIED, discover
from cap_exporter.sources.events import EventSettings
from cap_exporter.sources.libbpf import LibbpfSource
from cap_exporter.sources.libbpf_binding import LibBpf, Object

HERE = Path(__file__).parent
CALLS = 200_000

#: Name → program of bpf/peers.bpf.c; None: no program; "ours": the exporter's.
ALTERNATIVES = {
    "no program": None,
    "empty program": "peer_empty",
    "per-CPU hash": "peer_percpu_hash",
    "filter alone": "peer_filter",
    "cap-exporter": "ours",
    "… with events": "ours with events",
    "event per check": "peer_event_per_check",
    "bpftrace": "bpftrace",
}

WITH_EVENTS = "peer_event_per_check"

#: A call that makes one check each: whose audit class is told by the capability, or by the stack.
KINDS = {"pacct": "CAP_SYS_PACCT (always audited)", "hostname": "CAP_SYS_ADMIN (class is read)"}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if reason := bpftrace.why_not():
        print(f"left out: bpftrace: {reason}")
        del ALTERNATIVES["bpftrace"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        loop, peers = _build(Path(folder))
        places: tuple[tuple[str, str, tuple[str, ...], int], ...] = (
            ("pacct", "one CPU", ("0",), 0),
            ("hostname", "one CPU, audit class read", ("0",), 0),
            ("pacct", "two CPUs, one cgroup", ("0", "1"), 0),
            ("pacct", "two CPUs, 1,000 cgroups in turn", ("0", "1"), 1000),
        )
        for kind, where, cpus, cgroups in places:
            with _cgroups(cgroups) as folders:
                seen = _measure(loop, peers, kind, cpus, rounds, folders)
            print(f"\n{KINDS[kind]}, {where}, ns per check")
            _print(seen)
            _report(where, seen)


def _report(where: str, seen: dict[str, list[float]]) -> None:
    empty = min(seen["empty program"])
    ours, usual, events = (
        min(seen[name]) - empty for name in ("cap-exporter", "per-CPU hash", "event per check")
    )
    target = 0.8 if "audit" in where else 0.4 if where == "one CPU" else 1.0
    report("kernel", f"ns per check over an empty program, {where}", ours, "ns")
    report("kernel", f"… against a per-CPU hash, {where}", ours / usual, "x", target)
    if "bpftrace" in seen:
        theirs = min(seen["bpftrace"]) - empty
        report("kernel", f"… against bpftrace's count, {where}", ours / theirs, "x")
    told = min(seen["… with events"]) - empty
    report("kernel", f"… denied checks with sampled events on, {where}", told, "ns")
    if where == "one CPU":
        asked = min(seen["filter alone"]) - empty
        report(
            "kernel", f"… looking a cgroup up in a hash, as a filter would, {where}", asked, "ns"
        )
        report("kernel", f"… against an event per check, {where}", ours / events, "x", 0.1)


@contextmanager
def _cgroups(count: int) -> Iterator[list[Path]]:
    mounts = [h.mount for h in discover().counted if h.id == UNIFIED and h.mount]
    base = mounts[0] / "docker"
    folders = [base / secrets.token_hex(32) for _ in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
    try:
        yield folders
    finally:
        time.sleep(0.2 if folders else 0)
        for folder in (*folders, *([base] if folders else [])):
            folder.rmdir()


def _build(folder: Path) -> tuple[Path, Path]:
    folder.chmod(0o755)
    loop, peers = folder / "check_loop", folder / "peers.bpf.o"
    subprocess.run(["clang", "-O2", "-o", loop, HERE / "check_loop.c"], check=True)
    compile_bpf(HERE / "bpf/peers.bpf.c", peers)
    return loop, peers


class _PerfReader:
    """Takes the events out of the perf buffer in a thread, and does nothing with them: without a
    reader the kernel would give up on each event early. C all the way: no Python per event."""

    def __init__(self, bpf: LibBpf, map_fd: int) -> None:
        lib, pointer = bpf.lib, ctypes.c_void_p
        lib.perf_buffer__new.restype = pointer
        lib.perf_buffer__new.argtypes = [ctypes.c_int, ctypes.c_size_t, *(pointer,) * 4]
        lib.perf_buffer__poll.argtypes = [pointer, ctypes.c_int]
        lib.perf_buffer__free.argtypes = [pointer]
        nothing = ctypes.cast(ctypes.CDLL(None).getpid, pointer)
        self._lib = lib
        self._buffer = lib.perf_buffer__new(map_fd, 64, nothing, nothing, None, None)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._ending.is_set():
            self._lib.perf_buffer__poll(self._buffer, 50)

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self._lib.perf_buffer__free(self._buffer)


@contextmanager
def _attached(peers: Path, program: str | None) -> Iterator[None]:
    with ExitStack() as ending:
        if program and program.startswith("ours"):
            events = EventSettings() if program == "ours with events" else None
            source = LibbpfSource(discover(), events=events)
            source.open()
            ending.callback(source.close)
        elif program == "bpftrace":
            ending.enter_context(bpftrace.counting())
        elif program:
            bpf = LibBpf()
            peer = Object(bpf, peers)
            ending.callback(peer.close)
            peer.only(frozenset({program}))
            peer.load()
            if program == WITH_EVENTS:
                ending.callback(_PerfReader(bpf, peer.map_fd("events")).stop)
            peer.attach(program)
        yield


def _run(loop: Path, kind: str, cpus: tuple[str, ...], cgroups: list[Path]) -> float:
    """The least of five batches, of the slowest CPU. With cgroups: a process in each, and as many
    as there are CPUs take turns; the mean over all."""
    # What else runs on this machine waits, as far as it can.
    user = [
        "nice",
        "-n",
        "-20",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
    ]
    if not cgroups:
        running = [
            subprocess.Popen(
                [*user, "taskset", "-c", cpu, loop, kind, str(CALLS), "5"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for cpu in cpus
        ]
        return max(min(map(float, p.communicate()[0].split())) for p in running)
    shell = ["sh", "-c", 'echo 0 > "$0/cgroup.procs"; exec "$@"']
    taken = []
    batch = str(CALLS // 100)
    for first in range(0, len(cgroups), len(cpus)):
        running = [
            subprocess.Popen(
                [*shell, str(where), *user, "taskset", "-c", cpu, loop, kind, batch, "3"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for cpu, where in zip(cpus, cgroups[first:], strict=False)
        ]
        taken += [min(map(float, p.communicate()[0].split())) for p in running]
    return sum(taken) / len(taken)


def _measure(
    loop: Path,
    peers: Path,
    kind: str,
    cpus: tuple[str, ...],
    rounds: int,
    cgroups: list[Path],
) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {name: [] for name in ALTERNATIVES}
    for _ in range(1 if cgroups else rounds):
        for name, program in ALTERNATIVES.items():
            with _attached(peers, program):
                seen[name].append(_run(loop, kind, cpus, cgroups))
    return seen


def _print(seen: dict[str, list[float]]) -> None:
    empty = min(seen["empty program"])
    usual = min(seen["per-CPU hash"]) - empty
    print(f"{'':16} {'call':>7} {'spread':>13} {'over empty':>11} {'ratio to hash':>14}")
    for name, values in seen.items():
        over = min(values) - empty
        ratio = f"{over / usual:14.2f}" if over > 0 else f"{'':14}"
        spread = f"{min(values):.0f}-{max(values):.0f}"
        print(f"{name:16} {min(values):7.1f} {spread:>13} {over:11.1f} {ratio}")


if __name__ == "__main__":
    main()
