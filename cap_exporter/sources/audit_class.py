# SPDX-License-Identifier: Apache-2.0
"""Finds how the BPF programs can tell a check's audit class from the kernel stack.

The cap_capable tracepoint (6.14 and later) does not tell CAP_OPT_NOAUDIT, but the caller of
cap_capable() does: the functions below pass it and do nothing else. See bpf/classify.bpf.h for
the reading side; here are the addresses, and the measuring of where return addresses lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import socket
import threading
from collections.abc import Callable, Sequence

from cap_exporter.sources import layout
from cap_exporter.sources.kallsyms import Symbols
from cap_exporter.sources.libbpf_binding import BpfError

log = logging.getLogger(__name__)

#: Functions that ask with CAP_OPT_NOAUDIT whatever they are asked for (kernel 6.18:
#: kernel/capability.c, kernel/kallsyms.c, security/commoncap.c). security_vm_enough_memory_mm is
#: here because cap_vm_enough_memory ends in a jump to cap_capable and so leaves no frame.
#: The most frequent first: they are compared in this order.
NOAUDIT = (
    "security_vm_enough_memory_mm",
    "cap_vm_enough_memory",
    "ns_capable_noaudit",
    "has_capability_noaudit",
    "has_ns_capability_noaudit",
    "ptracer_capable",
    "kallsyms_show_value",
)

#: Functions that ask in both ways (security/selinux/hooks.c).
UNSURE = ("has_cap_mac_admin",)

#: Capabilities that some caller asks for with CAP_OPT_NOAUDIT, from a scan of every call in a
#: 6.18 kernel and of the sources of 6.1 and 6.12: FOWNER (xfs), SETGID and SETUID (IMA),
#: NET_ADMIN, IPC_LOCK, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE, MAC_ADMIN (SELinux), SYSLOG,
#: CHECKPOINT_RESTORE. A check of any other capability is audited whoever asks. Numbers that
#: this list can't know, above CHECKPOINT_RESTORE, are looked at too.
AMBIGUOUS = sum(1 << number for number in (3, 6, 7, 12, 14, 19, 21, 24, 33, 34, 40)) | (
    (1 << 64) - (1 << 41)
)

HIDDEN = (
    "kernel symbol addresses are hidden (CAP_SYSLOG is missing, or kernel.kptr_restrict is 2): "
    "checks of capabilities that the kernel also probes for are published as background checks, "
    "reason unclassified"
)

_PROGRAMS = ("calibrate", "calibrate_company")


def set_callers(config: layout.Config, symbols: Symbols) -> bool:
    """Fill in the addresses. False where they are hidden (no CAP_SYSLOG)."""
    cap_capable = symbols.ranges("cap_capable")
    if not cap_capable:
        return False
    config.ambiguous = AMBIGUOUS
    config.cap_capable = layout.TextRange(*cap_capable[0])
    for start, end in symbols.ranges("security_capable")[:1]:
        config.security_capable = layout.TextRange(start, end)
    _fill(config.noaudit, [r for name in NOAUDIT for r in symbols.ranges(name)])
    _fill(config.unsure, [r for name in UNSURE for r in symbols.ranges(name)])
    return True


def _fill(places: ctypes.Array[layout.TextRange], ranges: Sequence[tuple[int, int]]) -> None:
    if len(ranges) > len(places):
        # Left out, their checks would pass as audited: a range too many is a fault to be told.
        raise ValueError(f"{len(ranges)} address ranges for {len(places)} places")
    for place, (start, end) in enumerate(ranges):
        places[place] = layout.TextRange(start, end)


def measure(
    attach: Callable[[str], object],
    look: Callable[[], layout.Calibration],
    config: layout.Config,
) -> None:
    """Attach the measuring program, alone and in company, make a known check each time, and put
    what was found into ``config.layouts``. ``calibrate_tid`` is this thread. What can't be
    measured stays 0: the programs then unwind."""
    for number, program in enumerate(_PROGRAMS):
        try:
            attach(program)
        except BpfError as error:
            log.debug("stack layout %d not measured: %s", number, error)
            return
        before = look().hits
        _ask_for_net_raw()
        seen = look()
        found = stack_layout(seen, config) if seen.hits > before else None
        if found:
            config.layouts[number] = found
        log.debug("stack layout %d: %s", number, found and (found.guard, found.outer))


def programs() -> frozenset[str]:
    return frozenset(_PROGRAMS)


def this_thread() -> int:
    return threading.get_native_id()


def _ask_for_net_raw() -> None:
    """One CAP_NET_RAW check by this thread, through ns_capable(); granted or not is the same
    (net/ipv4/af_inet.c, inet_create())."""
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def stack_layout(seen: layout.Calibration, config: layout.Config) -> layout.StackLayout | None:
    """Where the return addresses into cap_capable, security_capable and the latter's caller lie
    (struct stack_layout of bpf/cap_checks.h), from a dump of the stack and an unwinding of the
    same moment. None where they don't fit together, or not into what a program reads at once."""
    frames = [seen.frames[i] for i in range(max(seen.frames_len, 0) // 8)]
    words = list(seen.words)
    inside = [
        i for i, f in enumerate(frames) if config.cap_capable.start <= f < config.cap_capable.end
    ]
    if not inside or len(frames) < inside[0] + 3:
        return None
    guard, caller, outer = frames[inside[0] : inside[0] + 3]
    if not config.security_capable.start <= caller < config.security_capable.end:
        return None
    places = []
    start = 0
    for frame in (guard, caller, outer):
        try:
            start = words.index(frame, start) + 1
        except ValueError:
            return None
        places.append(start - 1)
    first, second, third = places
    if third - first >= layout.STACK_SPAN:
        return None
    return layout.StackLayout(first * 8, second - first, third - first, 0)
