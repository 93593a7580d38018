# SPDX-License-Identifier: Apache-2.0
"""What reading the kernel's counters costs: our mapped table against two system calls per key,
with the same 10,000 live keys.

    python -m benchmarks.bench_drain [KEYS]

The table's memory is filled as the kernel fills it; the hash is a real BPF map. Needs root.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.compile import BPF, compile_bpf
from benchmarks.results import report
from cap_exporter.sources import layout
from cap_exporter.sources.by_key import KeyCounters
from cap_exporter.sources.counters import CounterTable
from cap_exporter.sources.libbpf_binding import LibBpf, Object

ROUNDS = 9


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    wide = _wide(keys)
    table, grow_all = filled_table(keys)

    def one_by_key() -> Callable[[], object]:
        bpf = LibBpf()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.bpf.o"
            compile_bpf(BPF / "cap_checks.bpf.c", path)
            probe = Object(bpf, path)
        probe.only(frozenset())
        for name in ("counters", "claims"):
            probe.without_map(name)
        probe.set_max_entries("counts_by_key", wide)
        probe.load()
        value = ctypes.c_uint64 * bpf.possible_cpus
        for number in range(keys):
            key = ctypes.c_uint64((number + 2) << layout.KEY_CGROUP_SHIFT | 21)
            probe.update("counts_by_key", key, value(1))
        by_key = KeyCounters(probe, "counts_by_key", (0, -1, -1), wide, bpf.possible_cpus)
        return lambda: by_key.drain(0.0)

    table.drain(0.0)
    idle = median(lambda: table.drain(0.0))
    grown = median(lambda: table.drain(0.0), before=grow_all)
    per_key = median(one_by_key())
    print(f"{keys} live keys, milliseconds, median of {ROUNDS} (ratio to per-key look-ups)")
    report("drain", f"{keys} live keys, all changed", grown, "ms", 2)
    report("drain", f"… against look-ups key by key, {keys} keys", grown / per_key, "x", 0.05)
    print(f"  mapped table, nothing changed    {idle:8.3f}  {idle / per_key:6.3f}")
    print(f"  mapped table, every key changed  {grown:8.3f}  {grown / per_key:6.3f}")
    print(f"  per-CPU hash, key by key         {per_key:8.3f}  {1:6.3f}")


def _wide(keys: int) -> int:
    return 1 << max(keys - 1, 1).bit_length()


def filled_table(keys: int) -> tuple[CounterTable, Callable[[], None]]:
    """A table with so many live keys, and what counts one check for each of them."""
    wide = _wide(keys)
    counters = memoryview(bytearray(2 * wide * layout.SLOT_BYTES))
    claims = memoryview(bytearray(2 * wide * 8))
    words = counters.cast("Q")
    for number in range(keys):
        words[2 * number] = (number + 2) << layout.KEY_CGROUP_SHIFT | 21
        claims.cast("Q")[number] = number << 32 | number + 1

    def grow_all() -> None:
        for number in range(keys):
            words[2 * number + 1] += 1

    return CounterTable(counters, claims, lambda: keys, (0, -1, -1), lambda: None), grow_all


def median(
    act: Callable[[], object],
    before: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Milliseconds of ROUNDS rounds."""
    taken = []
    for _ in range(ROUNDS):
        before()
        began = clock()
        act()
        taken.append((clock() - began) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
