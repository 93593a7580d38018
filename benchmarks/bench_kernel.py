# SPDX-License-Identifier: Apache-2.0
"""What a capability check costs in the kernel with our programs attached, against what a user
would pick instead on the same hook: nothing, an empty program, the usual per-CPU hash (cgroup,
capability, verdict only), an event per check through a perf buffer.

    python -m benchmarks.bench_kernel [ROUNDS]

Every number is the least of several rounds; the alternatives take turns, in one run, so that the
machine's ups and downs hit all. Needs root, and the cap_capable tracepoint (Linux 6.14).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.compile import compile_bpf
from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.sources.libbpf import LibbpfSource
from cap_exporter.sources.libbpf_binding import LibBpf, Object

HERE = Path(__file__).parent
CALLS = 200_000

#: Name → program of bpf/peers.bpf.c; None: no program; "ours": the exporter's.
ALTERNATIVES = {
    "no program": None,
    "empty program": "peer_empty",
    "per-CPU hash": "peer_percpu_hash",
    "cap-exporter": "ours",
    "event per check": "peer_event_per_check",
}

#: A call that makes one check each: whose audit class is told by the capability, or by the stack.
KINDS = {"pacct": "CAP_SYS_PACCT (always audited)", "hostname": "CAP_SYS_ADMIN (class is read)"}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        loop, peers = _build(Path(folder))
        for kind, text in KINDS.items():
            for cpus, where in ((("0",), "one CPU"), (("0", "1"), "two CPUs, one cgroup")):
                print(f"\n{text}, {where}, ns per check")
                _print(_measure(loop, peers, kind, cpus, rounds))


def _build(folder: Path) -> tuple[Path, Path]:
    folder.chmod(0o755)
    loop, peers = folder / "check_loop", folder / "peers.bpf.o"
    subprocess.run(["clang", "-O2", "-o", loop, HERE / "check_loop.c"], check=True)
    compile_bpf(HERE / "bpf/peers.bpf.c", peers)
    return loop, peers


@contextmanager
def _attached(peers: Path, program: str | None) -> Iterator[None]:
    close: Callable[[], None] = lambda: None  # noqa: E731
    if program == "ours":
        source = LibbpfSource(discover())
        source.open()
        close = source.close
    elif program:
        peer = Object(LibBpf(), peers)
        peer.only(frozenset({program}))
        peer.load()
        peer.attach(program)
        close = peer.close
    try:
        yield
    finally:
        close()


def _run(loop: Path, kind: str, cpus: tuple[str, ...]) -> float:
    """The least of five batches, of the slowest CPU."""
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    running = [
        subprocess.Popen(
            [*user, "taskset", "-c", cpu, loop, kind, str(CALLS), "5"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for cpu in cpus
    ]
    return max(min(map(float, p.communicate()[0].split())) for p in running)


def _measure(
    loop: Path, peers: Path, kind: str, cpus: tuple[str, ...], rounds: int
) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {name: [] for name in ALTERNATIVES}
    for _ in range(rounds):
        for name, program in ALTERNATIVES.items():
            with _attached(peers, program):
                seen[name].append(_run(loop, kind, cpus))
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
