# SPDX-License-Identifier: Apache-2.0
"""Where the members of kernel structs lie, from the kernel's BTF, for a program that is compiled
without CO-RE relocation (bpf/cap_checks.bcc.c).

Format: Documentation/bpf/btf.rst (6.18), include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cap_exporter.model import SourceError
from cap_exporter.sources.libbpf_binding import KernelTypes

#: struct → members that the program reads.
MEMBERS: Final = {
    "task_struct": (
        *("tgid", "cred", "real_cred", "cgroups", "nsproxy", "mm", "real_parent", "pid"),
    ),
    "cred": ("uid", "gid", "suid", "sgid", "euid", "user_ns", "cap_effective"),
    "user_namespace": ("parent", "level", "owner"),
    "css_set": ("subsys", "dfl_cgrp"),
    "cgroup_subsys_state": ("cgroup", "parent"),
    "cgroup": ("self", "kn", "root"),
    "cgroup_root": ("hierarchy_id",),
    "kernfs_node": ("id", "name"),
    "nsproxy": ("mnt_ns",),
    "mm_struct": ("exe_file",),
    "file": ("f_path", "f_inode"),
    "path": ("mnt", "dentry"),
    "dentry": ("d_name",),
    "qstr": ("name",),
}

#: struct → members that only events read.
EVENT_MEMBERS: Final = {
    "task_struct": ("comm", "group_leader", "thread_pid", "fs"),
    "cred": ("cap_permitted", "cap_bset"),
    "user_namespace": ("ns", "group"),
    "ns_common": ("inum",),
    "nsproxy": ("uts_ns", "ipc_ns", "net_ns", "cgroup_ns", "pid_ns_for_children"),
    "uts_namespace": ("ns",),
    "ipc_namespace": ("ns",),
    "net": ("ns",),
    "cgroup_namespace": ("ns",),
    "pid_namespace": ("ns",),
    "mm_struct": ("arg_start", "arg_end"),
    "pid": ("level", "numbers"),
    "upid": ("nr", "ns"),
    "fs_struct": ("root", "pwd"),
    "vfsmount": ("mnt_root",),
    "dentry": ("d_parent",),
    "inode": ("i_ino", "i_sb"),
    "super_block": ("s_dev",),
    "mount": ("mnt", "mnt_parent", "mnt_mountpoint"),
    "mnt_namespace": ("ns",),
}

_KIND_STRUCT, _KIND_UNION, _KIND_ENUM = 4, 5, 6

#: Modifiers that lead to another type: typedef, volatile, const, restrict, type tag.
_KINDS_OF_OTHERS = frozenset({8, 9, 10, 11, 18})


class _Type(ctypes.Structure):
    """struct btf_type"""

    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size_or_type", ctypes.c_uint32),
    )

    @property
    def kind(self) -> int:
        return int(self.info) >> 24 & 0x1F

    @property
    def length(self) -> int:
        return int(self.info) & 0xFFFF


class _Member(ctypes.Structure):
    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    )


class _Enumerator(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


class Definitions(NamedTuple):
    """What the BTF tells."""

    text: str
    """For in front of the program."""
    mount_namespace: int
    """From a ``struct vfsmount`` to its ``struct mount``'s ``mnt_ns``, bytes."""
    mount_inode: int
    """From a ``struct mnt_namespace`` to its inode number, bytes."""
    no_events: str
    """What is missing to tell events; empty: nothing."""


class KernelStructs(KernelTypes):
    """The running kernel's BTF, with the layout of structs."""

    def offset(self, struct: str, member: str) -> int | None:
        """In bytes; members of anonymous structs and unions inside count as the struct's own (as
        in C, and as a kernel with randomized layouts has them). None: there is none."""
        number = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), _KIND_STRUCT)
        if number <= 0:
            return None
        bits = self._bit_offset(number, member)
        return None if bits is None else bits // 8

    def size(self, struct: str) -> int | None:
        """In bytes. None: there is no such struct."""
        number = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), _KIND_STRUCT)
        if number <= 0:
            return None
        return int(_Type.from_address(self._lib.btf__type_by_id(self._btf, number)).size_or_type)

    def enumerator(self, enum: str, name: str) -> int | None:
        """The value of one; None: there is none."""
        number = self._lib.btf__find_by_name_kind(self._btf, enum.encode(), _KIND_ENUM)
        if number <= 0:
            return None
        address = self._lib.btf__type_by_id(self._btf, number)
        count = _Type.from_address(address).length
        for one in (_Enumerator * count).from_address(address + ctypes.sizeof(_Type)):
            if self._name(one.name_off) == name:
                return int(one.value)
        return None

    def _bit_offset(self, number: int, name: str) -> int | None:
        for member, offset in self._members(number):
            if self._name(member.name_off) == name:
                return offset
            if not member.name_off:
                inner = self._bit_offset(self._resolved(member.type), name)
                if inner is not None:
                    return offset + inner
        return None

    def _members(self, number: int) -> Iterator[tuple[_Member, int]]:
        """Members with their offsets in bits."""
        address = self._lib.btf__type_by_id(self._btf, number)
        of = _Type.from_address(address)
        if of.kind not in (_KIND_STRUCT, _KIND_UNION):
            return
        # With kind_flag the upper byte is a bit field's size.
        mask = 0xFFFFFF if of.info >> 31 else 0xFFFFFFFF
        members = (_Member * of.length).from_address(address + ctypes.sizeof(_Type))
        for member in members:
            yield member, member.offset & mask

    def _resolved(self, number: int) -> int:
        while True:
            of = _Type.from_address(self._lib.btf__type_by_id(self._btf, number))
            if of.kind not in _KINDS_OF_OTHERS:
                return number
            number = of.size_or_type

    def _name(self, offset: int) -> str:
        return (self._lib.btf__name_by_offset(self._btf, offset) or b"").decode()


def definitions(structs: KernelStructs) -> Definitions:
    """What bpf/cap_checks.bcc.c needs in front. Raises SourceError where a member is not found
    that counting needs."""
    offsets, missing = _offsets(structs, MEMBERS)
    lines = ["#define OFFSETS_FROM_BTF", *offsets]
    namespace = structs.offset("mount", "mnt_ns")
    vfsmount = structs.offset("mount", "mnt")
    if vfsmount is None or namespace is None:
        missing.append("struct mount: mnt, mnt_ns")
    if missing:
        raise SourceError(
            f"the kernel's BTF lacks what is read ({', '.join(missing)}): this kernel is newer "
            "than this version of cap-exporter"
        )
    for controller in ("pids", "memory"):
        # 0 where the kernel is built without: then no hierarchy has it, and nothing reads it.
        number = structs.enumerator("cgroup_subsys_id", f"{controller}_cgrp_id") or 0
        lines.append(f"#define {controller}_cgrp_id {number}")
    parameters = structs.parameters("cap_capable")
    # Asked by name, since vendors brought the change of 5.1 to older kernels.
    argument = 1 if "opts" in parameters else 2 if "audit" in parameters else 0
    lines.append(f"#define AUDIT_ARGUMENT {argument}")
    if structs.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs") is not None:
        lines.append("#define HAS_TASK_PT_REGS")
    events, lacking = _for_events(structs)
    return Definitions(
        "\n".join(lines + events) + "\n",
        mount_namespace=(namespace or 0) - (vfsmount or 0),
        mount_inode=(structs.offset("mnt_namespace", "ns") or 0)
        + (structs.offset("ns_common", "inum") or 0),
        no_events=", ".join(lacking),
    )


def _offsets(
    structs: KernelStructs, members: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Definitions, and what is missing."""
    lines, missing = [], []
    for struct, names in members.items():
        for name in names:
            offset = structs.offset(struct, name)
            if offset is None:
                missing.append(f"struct {struct}: {name}")
            lines.append(f"#define OFFSET_{struct}_{name} {offset}")
    return lines, missing


def _for_events(structs: KernelStructs) -> tuple[list[str], list[str]]:
    lines, missing = _offsets(structs, EVENT_MEMBERS)
    # Renamed in 5.5.
    start = structs.offset("task_struct", "start_boottime")
    if start is None:
        start = structs.offset("task_struct", "real_start_time")
    upid = structs.size("upid")
    if start is None or upid is None:
        missing.append("struct task_struct: start_boottime, struct upid")
    lines += [f"#define OFFSET_task_start {start}", f"#define SIZE_upid {upid}"]
    # Not in every configuration, or not in every version.
    optional: dict[str, dict[str, tuple[str, ...]]] = {
        "HAS_LOGINUID": {"task_struct": ("loginuid",)},
        "HAS_TIME_NS": {"nsproxy": ("time_ns", "time_ns_for_children"), "time_namespace": ("ns",)},
        "HAS_SYSCALLNO": {"pt_regs": ("syscallno",)},  # arm64
    }
    for define, members in optional.items():
        found, lacking = _offsets(structs, members)
        if not lacking:
            lines += [f"#define {define}", *found]
    return lines, missing
