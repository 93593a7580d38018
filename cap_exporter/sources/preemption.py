# SPDX-License-Identifier: Apache-2.0
"""Whether a way to attach can be trusted with this kernel's preemption.

A task that is preempted inside an fexit program makes the kernel skip the program for every other
task on that CPU (kernel/bpf/trampoline.c, __bpf_prog_enter_recur(), 6.12): 60 to 74 percent of
the checks were lost in a measurement on 6.1 and 6.12 under full preemption. Since 7.0 the same goes
for programs on tracepoints, which ran with preemption disabled before. A kprobe does so still.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path

from cap_exporter.sources import layout
from cap_exporter.sources.kallsyms import Symbols
from cap_exporter.sources.libbpf_binding import BpfError, KernelTypes, LibBpf, Object

#: kernel/sched/core.c, 6.18: preempt_dynamic_none, _voluntary, _full, _lazy.
_MODES = ("none", "voluntary", "full", "lazy")

#: Modes under which nothing was lost ("lazy": 0 to 0.3 percent, so not among them).
_SAFE = ("none", "voluntary")

#: Since then tracepoints call their programs under SRCU instead of with preemption disabled
#: (include/linux/tracepoint.h), for which there is this per-CPU variable; also where a vendor
#: brought that to an older kernel.
_PREEMPTIBLE_TRACEPOINTS = (7, 0)
_TRACEPOINT_SRCU = "tracepoint_srcu_srcu_data"


def why_not_fexit(mode: str | None) -> str:
    """Empty where fexit loses nothing. mode: as mode_of() gives it."""
    return _why_not("fexit", mode)


def why_not_tracepoint(types: KernelTypes, mode: Callable[[], str | None]) -> str:
    """Empty where a tracepoint's program loses nothing. mode: asked only where it matters."""
    preemptible = types.has_variable(_TRACEPOINT_SRCU) or _release() >= _PREEMPTIBLE_TRACEPOINTS
    return _why_not("a tracepoint", mode()) if preemptible else ""


def _why_not(way: str, mode: str | None) -> str:
    if mode in _SAFE:
        return ""
    if mode is None:
        return f"the preemption mode could not be read, and under a full one {way} loses checks"
    return f"the kernel runs with {mode} preemption, under which {way} loses checks"


def _release() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def mode_of(bpf: LibBpf, path: Path, symbols: Symbols | None) -> str | None:
    """The mode, None where it can't be told."""
    words = platform.version().split()
    if "PREEMPT_RT" in words or "PREEMPT" in words:
        return "full"
    if not any(word.startswith("PREEMPT") for word in words):
        return "none"
    address = symbols.address("preempt_dynamic_mode") if symbols else None
    if address is None:
        return None
    try:
        probe = Object(bpf, path)
    except BpfError:
        return None
    try:
        probe.only(frozenset({"read_preempt_mode"}))
        probe.set_initial(".rodata.config", layout.Config(preempt_mode_address=address))
        for name in ("counters", "claims", "counts_by_key"):
            probe.without_map(name)
        probe.load()
        seen = probe.struct("calibration", layout.Calibration)
        ran = probe.run_once("read_preempt_mode") and seen.hits
        number = seen.preempt_mode
        del seen
        return _MODES[number] if ran and 0 <= number < len(_MODES) else None
    except BpfError:
        return None
    finally:
        probe.close()
