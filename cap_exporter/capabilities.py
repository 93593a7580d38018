# SPDX-License-Identifier: Apache-2.0
"""Capability numbers and names (include/uapi/linux/capability.h, Linux 6.18)."""

from __future__ import annotations

#: Names in the order of their numbers, without the ``CAP_`` prefix.
_NAMES: tuple[str, ...] = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)

#: The last capability this program has a name for.
LAST_KNOWN = len(_NAMES) - 1

#: Full names, ``CAP_CHOWN`` and so on, in the order of their numbers.
KNOWN: tuple[str, ...] = tuple(f"CAP_{name}" for name in _NAMES)

_NUMBERS = {name: number for number, name in enumerate(_NAMES)}


def name_of(number: int) -> str:
    """The name of capability ``number``; ``CAP_<number>`` for one newer than this program."""
    if 0 <= number <= LAST_KNOWN:
        return KNOWN[number]
    return f"CAP_{number}"


def number_of(name: str) -> int:
    """The number of the capability called ``name``.

    Takes what people write: ``CAP_NET_ADMIN``, ``net_admin``, ``NET_ADMIN``, ``CAP_41``.
    Raises ValueError, with the nearest known name, for anything else.
    """
    bare = name.strip().upper().removeprefix("CAP_")
    if bare in _NUMBERS:
        return _NUMBERS[bare]
    if bare.isascii() and bare.isdigit() and LAST_KNOWN < int(bare) < 64:
        return int(bare)
    import difflib

    near = difflib.get_close_matches(bare, _NAMES, n=1)
    hint = f"; did you mean CAP_{near[0]}?" if near else ""
    raise ValueError(f"unknown capability {name!r}{hint}")


def numbers_of(mask: int) -> list[int]:
    """Numbers of a mask's bits, ascending."""
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def names_of(mask: int) -> list[str]:
    """``CAP_…`` of each of a mask's bits, by number."""
    return [name_of(number) for number in numbers_of(mask)]


#: What a container gets whose manifest says nothing: Docker (moby oci/caps/defaults.go) and
#: containerd (pkg/oci/spec.go, defaultUnixCaps()) have the same fourteen.
CONTAINERD_DEFAULT = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
)

#: CRI-O since 1.18 (internal/config/capabilities/capabilities.go, Default()).
CRIO_DEFAULT = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "KILL",
)


def runtime_default(runtime: str) -> tuple[str, ...]:
    """What this runtime (as in containerID, ``containerd`` or ``cri-o``) gives by default."""
    return CRIO_DEFAULT if runtime == "cri-o" else CONTAINERD_DEFAULT
