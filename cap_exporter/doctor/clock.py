# SPDX-License-Identifier: Apache-2.0
"""Whether the times of events can be trusted. adjtimex(2), clock_gettime(2)."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted

_STA_UNSYNC: Final = 0x40
_TIME_ERROR: Final = 5

OFFSETS = Path("/proc/self/timens_offsets")


class _Timex(ctypes.Structure):
    """The beginning of struct timex (include/uapi/linux/timex.h), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def _wall(_wanted: Wanted) -> Iterator[Finding]:
    state = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.adjtimex(ctypes.byref(state))
    now = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        yield Finding(
            "clock", "clock", Status.INFO, f"{now}; whether it is synchronised is hidden: {reason}"
        )
    elif state.status & _STA_UNSYNC or result == _TIME_ERROR:
        yield Finding(
            "clock",
            "clock",
            Status.LIMITED,
            f"{now}, not synchronised: times of events may differ from other hosts'",
            "run an NTP client (chrony, systemd-timesyncd), unless the host's clock is kept right "
            "from outside",
            "timedatectl set-ntp true",
        )
    else:
        yield Finding("clock", "clock", Status.OK, f"{now}, synchronised")


def _boot(_wanted: Wanted) -> Iterator[Finding]:
    """Events are stamped with the boot clock, which a time namespace shifts for who reads it."""
    try:
        lines = OFFSETS.read_text().split("\n")
    except OSError:  # before Linux 5.6
        lines = []
    shifted = [line for line in lines if line.startswith("boottime") and line.split()[1:3] != _NONE]
    if shifted:
        yield Finding(
            "boot_clock",
            "boot clock",
            Status.LIMITED,
            "this process is in a time namespace with a clock of its own: times of events are off",
            "run it in the host's time namespace",
        )
        return
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    yield Finding("boot_clock", "boot clock", Status.OK, f"the host's, up for {_age(up)}")


_NONE: Final = ["0", "0"]


def _age(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h {minutes} min"


CHECKS: Final = (Check("clock", "clock", _wall), Check("boot_clock", "boot clock", _boot))
