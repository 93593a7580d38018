# SPDX-License-Identifier: Apache-2.0
"""Where the members of kernel structs lie, from the kernel's BTF, for a program that is compiled
without CO-RE relocation (bpf/cap_checks.bcc.c).

Format: Documentation/bpf/btf.rst (6.18), include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
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
    """What bpf/cap_checks.bcc.c needs in front. Raises SourceError where a member is not found."""
    lines = ["#define OFFSETS_FROM_BTF"]
    missing = []
    for struct, members in MEMBERS.items():
        for member in members:
            offset = structs.offset(struct, member)
            if offset is None:
                missing.append(f"struct {struct}: {member}")
            lines.append(f"#define OFFSET_{struct}_{member} {offset}")
    vfsmount, namespace = structs.offset("mount", "mnt"), structs.offset("mount", "mnt_ns")
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
    return Definitions("\n".join(lines) + "\n", (namespace or 0) - (vfsmount or 0))
