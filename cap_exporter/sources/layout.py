# SPDX-License-Identifier: Apache-2.0
"""bpf/cap_checks.h for Python: the records shared with the BPF programs.

tests/kernel/test_layout.py compares sizes and offsets with what the compiler wrote into the
object's BTF.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Final

from cap_exporter.cgroups.hierarchies import Hierarchy
from cap_exporter.model import (
    CgroupChange,
    CheckClass,
    CheckKey,
    ReferenceKind,
    UserNamespace,
    Verdict,
)
from cap_exporter.model import CgroupKey as Cgroup

LAYOUT_VERSION: Final = 3

KEY_DENIED: Final = 1 << 7
KEY_OTHER_NS: Final = 1 << 8
KEY_CLASS_SHIFT: Final = 9
KEY_HIERARCHY_SHIFT: Final = 12
KEY_CGROUP_SHIFT: Final = 14
KEY_KIND_BITS: Final = 12
KEY_KINDS: Final = 1 << KEY_KIND_BITS

SLOT_EMPTY: Final = 0
SLOT_RETIRED: Final = 1

BUCKET_SLOTS: Final = 4
SLOT_BYTES: Final = 16

#: By ``enum check_class``.
CLASSES: Final = (
    CheckClass.MEANINGFUL,
    CheckClass.SETUP,
    CheckClass.OTHER,
    CheckClass.OVERRIDE,
    CheckClass.NOAUDIT,
    CheckClass.ALTERNATIVE,
    CheckClass.UNCLASSIFIED,
)

#: By ``enum hierarchy``: the cgroup v1 controller, "" for cgroup v2.
HIERARCHIES: Final = ("", "pids", "memory")

NOAUDIT_CALLERS: Final = 8
UNSURE_CALLERS: Final = 4
STACK_LAYOUTS: Final = 2
STACK_WORDS: Final = 64
STACK_FRAMES: Final = 12

#: Words of the stack that can be looked at from the guard on: struct pt_regs, the smaller one.
STACK_SPAN: Final = 21

CHANGES: Final = {
    1: CgroupChange.CREATED,
    2: CgroupChange.REMOVED,
    3: CgroupChange.RENAMED,
}


class TextRange(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64))


class StackLayout(ctypes.Structure):
    _fields_ = (
        ("guard", ctypes.c_uint32),
        ("caller", ctypes.c_uint32),
        ("outer", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


class Config(ctypes.Structure):
    """struct cap_config"""

    _fields_ = (
        ("bucket_mask", ctypes.c_uint32),
        ("bucket_bits", ctypes.c_uint32),
        ("shard_mask", ctypes.c_uint32),
        ("claims_mask", ctypes.c_uint32),
        ("v1_pids", ctypes.c_uint8),
        ("v1_memory", ctypes.c_uint8),
        ("v2", ctypes.c_uint8),
        ("audit_argument", ctypes.c_uint8),
        ("calibrate_tid", ctypes.c_uint32),
        ("hierarchy_ids", ctypes.c_int32 * 3),
        ("events", ctypes.c_uint32),
        ("event_ticks", ctypes.c_uint32),
        ("event_capabilities", ctypes.c_uint64),
        ("event_interval", ctypes.c_uint64),
        ("event_burst", ctypes.c_uint64),
        ("event_refill", ctypes.c_uint64),
        ("ambiguous", ctypes.c_uint64),
        ("preempt_mode_address", ctypes.c_uint64),
        ("cap_capable", TextRange),
        ("security_capable", TextRange),
        ("noaudit", TextRange * NOAUDIT_CALLERS),
        ("unsure", TextRange * UNSURE_CALLERS),
        ("layouts", StackLayout * STACK_LAYOUTS),
    )


class State(ctypes.Structure):
    """struct cap_state"""

    _fields_ = (
        ("claims", ctypes.c_uint64),
        ("overflow_full", ctypes.c_uint64),
        ("overflow_id", ctypes.c_uint64),
        ("events_lost", ctypes.c_uint64),
        ("marks_lost", ctypes.c_uint64),
        ("stack_walks", ctypes.c_uint64),
        ("map_errors", ctypes.c_uint64),
        ("setup_tasks", ctypes.c_int64),
        ("init_exe", ctypes.c_uint64),
        ("epoch", ctypes.c_uint64),
        ("event_tick", ctypes.c_uint64),
        ("events_sent", ctypes.c_uint64),
        ("events_full", ctypes.c_uint64),
        ("events_limited", ctypes.c_uint64),
        ("unknown_zero", ctypes.c_uint64),
        ("overflow", ctypes.c_uint64 * KEY_KINDS),
    )


class CgroupEventHead(ctypes.Structure):
    """struct cgroup_event_head; the path follows, ``path_len`` bytes with the final NUL."""

    _fields_ = (
        ("id", ctypes.c_uint64),
        ("hierarchy", ctypes.c_int32),
        ("change", ctypes.c_uint16),
        ("path_len", ctypes.c_uint16),
    )


#: CGROUP_ENTERED: not a change of the cgroup; a struct held follows the head.
ENTERED: Final = 4

HELD_NO_NEW_PRIVS: Final = 1
HELD_HOST_USER_NS: Final = 2


class Held(ctypes.Structure):
    """struct held"""

    _fields_ = (
        ("cgroup", ctypes.c_uint64),
        ("bounding", ctypes.c_uint64),
        ("permitted", ctypes.c_uint64),
        ("effective", ctypes.c_uint64),
        ("ambient", ctypes.c_uint64),
        ("inheritable", ctypes.c_uint64),
        ("tgid", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


RANK_OTHER: Final = 0
RANK_NAMED: Final = 1
RANK_CONTAINER: Final = 2


class CgroupNote(ctypes.Structure):
    """struct cgroup_note"""

    _fields_ = (("created", ctypes.c_uint64), ("rank", ctypes.c_uint64))


RANKS: Final = {
    ReferenceKind.POD: RANK_CONTAINER,
    ReferenceKind.CONTAINER: RANK_CONTAINER,
    ReferenceKind.SYSTEMD: RANK_NAMED,
}


def set_hierarchies(config: Config, counted: Iterable[Hierarchy]) -> None:
    """Which cgroup hierarchies there are."""
    for number in range(len(HIERARCHIES)):
        config.hierarchy_ids[number] = -1
    for hierarchy in counted:
        config.hierarchy_ids[HIERARCHIES.index(hierarchy.controller)] = hierarchy.id
        if hierarchy.controller == "pids":
            config.v1_pids = 1
        elif hierarchy.controller == "memory":
            config.v1_memory = 1
        else:
            config.v2 = 1


EVENTS_DENIED: Final = 1
EVENTS_ALLOWED: Final = 2
EVENTS_STACK: Final = 4
EVENTS_ARGUMENTS: Final = 8
#: CAP_EVENT_PATH_ROOM
EVENT_PATH: Final = 512 + 64
EVENT_FRAMES: Final = 20
EVENT_ARGUMENTS: Final = 1024

#: Names of ``struct event_namespaces``'s members, as under /proc/PID/ns.
NAMESPACES: Final = (
    "uts",
    "ipc",
    "mnt",
    "pid",
    "pid_for_children",
    "net",
    "time",
    "time_for_children",
    "cgroup",
    "user",
)


class EventProcess(ctypes.Structure):
    """struct event_process"""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("pid", ctypes.c_int32),
        ("uid", ctypes.c_uint32),
        ("comm", ctypes.c_ubyte * 16),
    )


class CheckEvent(ctypes.Structure):
    """struct check_event"""

    _fields_ = (
        ("time", ctypes.c_uint64),
        ("key", ctypes.c_uint64),
        ("suppressed", ctypes.c_uint64),
        ("effective", ctypes.c_uint64),
        ("permitted", ctypes.c_uint64),
        ("bounding", ctypes.c_uint64),
        ("tid", ctypes.c_int32),
        ("pid_in_container", ctypes.c_int32),
        ("gid", ctypes.c_uint32),
        ("auid", ctypes.c_uint32),
        ("ret", ctypes.c_int32),
        ("syscall", ctypes.c_int32),
        ("target_level", ctypes.c_int32),
        ("target_inode", ctypes.c_uint32),
        ("target_uid", ctypes.c_uint32),
        ("target_gid", ctypes.c_uint32),
        ("opts", ctypes.c_uint32),
        ("has_opts", ctypes.c_uint8),
        ("frames", ctypes.c_uint8),
        ("pad", ctypes.c_uint16),
        ("namespaces", ctypes.c_uint32 * len(NAMESPACES)),
        ("process", EventProcess),
        ("parent", EventProcess),
        ("names_len", ctypes.c_uint16 * 4),
        ("names", ctypes.c_ubyte * EVENT_PATH * 4),
        ("stack", ctypes.c_uint64 * EVENT_FRAMES),
    )


class CheckEventLong(ctypes.Structure):
    """struct check_event_long"""

    _fields_ = (
        ("event", CheckEvent),
        ("arguments_len", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("arguments", ctypes.c_ubyte * EVENT_ARGUMENTS),
    )


class Calibration(ctypes.Structure):
    """struct calibration"""

    _fields_ = (
        ("hits", ctypes.c_uint64),
        ("frames_len", ctypes.c_int64),
        ("preempt_mode", ctypes.c_int64),
        ("words", ctypes.c_uint64 * STACK_WORDS),
        ("frames", ctypes.c_uint64 * STACK_FRAMES),
    )


def decode_kind(key: int, cgroup: Cgroup) -> CheckKey:
    """The part of a counter's key that is not the cgroup. Raises ValueError."""
    number = key >> KEY_CLASS_SHIFT & 7
    if number >= len(CLASSES):
        raise ValueError(f"{key:#x} is of no class")
    return CheckKey(
        cgroup,
        key & 0x7F,
        Verdict.DENIED if key & KEY_DENIED else Verdict.ALLOWED,
        UserNamespace.OTHER if key & KEY_OTHER_NS else UserNamespace.INIT,
        CLASSES[number],
    )


def encode_kind(key: CheckKey) -> int:
    """The other way round."""
    return (
        key.capability
        | (KEY_DENIED if key.verdict is Verdict.DENIED else 0)
        | (KEY_OTHER_NS if key.user_namespace is UserNamespace.OTHER else 0)
        | CLASSES.index(key.check_class) << KEY_CLASS_SHIFT
    )
