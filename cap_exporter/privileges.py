# SPDX-License-Identifier: Apache-2.0
"""Gives up what is not needed once the probe is attached. capabilities(7), prctl(2).

Capabilities belong to a thread: those that are started afterwards inherit what is left, so this
comes before them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cap_exporter.capabilities import name_of, number_of

log = logging.getLogger(__name__)

#: include/uapi/linux/prctl.h
_CAPBSET_READ: Final = 23
_CAPBSET_DROP: Final = 24
_SET_NO_NEW_PRIVS: Final = 38
_CAP_AMBIENT: Final = 47
_CAP_AMBIENT_CLEAR_ALL: Final = 4

#: Open cgroups by number, and read files of whoever runs as root.
_LASTING: Final = ("DAC_READ_SEARCH",)

_VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct, include/uapi/linux/capability.h"""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int32))


class _Words(ctypes.Structure):
    """struct __user_cap_data_struct"""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class Held(NamedTuple):
    """Masks of one thread."""

    effective: int
    permitted: int
    inheritable: int


_libc = ctypes.CDLL(None, use_errno=True)


def held() -> Held:
    """The calling thread's. Raises OSError."""
    words = (_Words * 2)()
    _check(_libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), words))
    low, high = words
    return Held(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def drop(also: Collection[str] = ()) -> None:
    """Keep CAP_DAC_READ_SEARCH, CAP_BPF (without it CAP_SYS_ADMIN), and ``also`` (names), as far
    as they are held; give up all else, and gain nothing by executing any file.

    What cannot be given up is said in the log: it is no reason not to count.
    """
    wanted = 0
    for name in (*_LASTING, *also):
        wanted |= 1 << number_of(name)
    try:
        _prctl(_SET_NO_NEW_PRIVS, 1)
        # Not before Linux 4.3, and then there is nothing in it.
        with contextlib.suppress(OSError):
            _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
        permitted = held().permitted
        kept = permitted & (wanted | _for_maps(permitted))
        if permitted >> number_of("SETPCAP") & 1:
            # Without it the set stays: of no use to anybody who gains no new privileges.
            _lessen_bounding_set(kept)
        _set(Held(kept, kept, 0))
    except OSError as error:
        log.warning("capabilities that are not needed any more could not be given up: %s", error)
        return
    names = ", ".join(name_of(number) for number in _numbers(kept))
    log.info("gave up all capabilities but %s", names or "none")
    for thread in _threads_with_more(kept):
        log.warning("thread %s still has more capabilities than that", thread)


def owns(path: Path | None) -> bool:
    """Whether this process may write to the file as its owner; True where there is none yet."""
    try:
        return path is None or path.stat().st_uid == os.geteuid()
    except OSError:
        return True


def _for_maps(permitted: int) -> int:
    """bpf() asks for CAP_BPF with each call, also on maps that are open (kernel/bpf/syscall.c).
    Since Linux 5.19 a "no" is no hindrance there, but it is a denied check of this very process,
    which somebody's alert would see. CAP_SYS_ADMIN stands for it, before 5.8 alone."""
    bpf = 1 << number_of("BPF")
    return bpf if permitted & bpf else 1 << number_of("SYS_ADMIN")


def _lessen_bounding_set(kept: int) -> None:
    number = 0
    with contextlib.suppress(OSError):  # EINVAL after the last one
        while True:
            if _prctl(_CAPBSET_READ, number) and not kept >> number & 1:
                _prctl(_CAPBSET_DROP, number)
            number += 1


def _threads_with_more(kept: int, tasks: Path = Path("/proc/self/task")) -> Iterator[str]:
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":", 1) for line in (task / "status").read_text().splitlines() if line
            )
            if int(status["CapPrm"], 16) & ~kept:
                yield f"{task.name} ({status['Name'].strip()})"


def _set(wanted: Held) -> None:
    words = (_Words * 2)(
        *(_Words(*(mask >> shift & 0xFFFFFFFF for mask in wanted)) for shift in (0, 32))
    )
    _check(_libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), words))


def _prctl(what: int, value: int) -> int:
    return _check(_libc.prctl(what, *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _numbers(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]
