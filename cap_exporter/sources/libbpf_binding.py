# SPDX-License-Identifier: Apache-2.0
"""A small typed binding to libbpf.so.1 (1.0 or later) through ctypes: only what is used.

Signatures as in libbpf 1.1's libbpf.h, bpf.h and btf.h. Everything libbpf allocates is freed by
``Object.close()``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cap_exporter.model import SourceError

LIBRARY = "libbpf.so.1"

_BTF_KIND_TYPEDEF = 8
_BTF_KIND_FUNC = 12
_BTF_KIND_VAR = 14

_PrintFn = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_LIBBPF_DEBUG = 2


class BpfError(Exception):
    """A libbpf call failed. ``errno`` as the kernel gave it, ``log`` what libbpf printed
    (with the verifier's log where a program was refused)."""

    def __init__(self, what: str, number: int, log: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.errno = number
        self.log = log


class _OpenOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("unused", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
    )


class _TestRunOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class ProgInfo(ctypes.Structure):
    """struct bpf_prog_info (include/uapi/linux/bpf.h, 6.18), named where it is used."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("unused", ctypes.c_uint8 * 200),
        ("recursion_misses", ctypes.c_uint64),
        ("verified_insns", ctypes.c_uint32),
        ("attach_btf_obj_id", ctypes.c_uint32),
    )


class MapInfo(ctypes.Structure):
    """struct bpf_map_info (include/uapi/linux/bpf.h, 6.18), its beginning."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


#: include/uapi/linux/bpf.h
_BPF_MAP_TYPE_ARRAY = 2
_BPF_F_MMAPABLE = 1 << 10


class _MapCreateOpts(ctypes.Structure):
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _BtfType(ctypes.Structure):
    """struct btf_type (include/uapi/linux/btf.h)"""

    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
    )


class _BtfParam(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32))


def _signatures(lib: ctypes.CDLL) -> None:
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    integer, u32, boolean = ctypes.c_int, ctypes.c_uint32, ctypes.c_bool
    for name, result, *arguments in (
        ("libbpf_set_print", pointer, pointer),
        ("libbpf_version_string", text),
        ("bpf_object__open_file", pointer, text, pointer),
        ("bpf_object__load", integer, pointer),
        ("bpf_object__close", None, pointer),
        ("bpf_object__next_program", pointer, pointer, pointer),
        ("bpf_object__next_map", pointer, pointer, pointer),
        ("bpf_program__name", text, pointer),
        ("bpf_program__set_autoload", integer, pointer, boolean),
        ("bpf_program__fd", integer, pointer),
        ("bpf_program__attach", pointer, pointer),
        ("bpf_program__attach_iter", pointer, pointer, pointer),
        ("bpf_link__destroy", integer, pointer),
        ("bpf_link__disconnect", None, pointer),
        ("bpf_link__fd", integer, pointer),
        ("bpf_iter_create", integer, integer),
        ("bpf_map__name", text, pointer),
        ("bpf_map__fd", integer, pointer),
        ("bpf_map__set_max_entries", integer, pointer, u32),
        ("bpf_map__max_entries", u32, pointer),
        ("bpf_map__value_size", u32, pointer),
        ("bpf_map__set_autocreate", integer, pointer, boolean),
        ("bpf_map__set_initial_value", integer, pointer, pointer, size),
        ("bpf_map_get_next_key", integer, integer, pointer, pointer),
        ("bpf_map_lookup_elem", integer, integer, pointer, pointer),
        ("bpf_map_update_elem", integer, integer, pointer, pointer, ctypes.c_uint64),
        ("bpf_map_delete_elem", integer, integer, pointer),
        ("bpf_obj_pin", integer, integer, text),
        ("bpf_obj_get", integer, text),
        ("bpf_map_create", integer, integer, text, u32, u32, u32, pointer),
        ("bpf_obj_get_info_by_fd", integer, integer, pointer, pointer),
        ("bpf_prog_test_run_opts", integer, integer, pointer),
        ("libbpf_num_possible_cpus", integer),
        ("btf__load_vmlinux_btf", pointer),
        ("btf__parse", pointer, text, pointer),
        ("btf__free", None, pointer),
        ("btf__find_by_name_kind", ctypes.c_int32, pointer, text, u32),
        ("btf__type_by_id", pointer, pointer, u32),
        ("btf__name_by_offset", text, pointer, u32),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments


class LibBpf:
    """The library. Raises SourceError where it is not installed or too old."""

    def __init__(self) -> None:
        try:
            self.lib = ctypes.CDLL(LIBRARY, use_errno=True)
            _signatures(self.lib)
        except OSError as error:
            raise SourceError(
                f"{LIBRARY} cannot be loaded ({error}). Install libbpf 1.0 or later: "
                "on Debian and Ubuntu the package libbpf1, on Fedora and RHEL libbpf."
            ) from error
        except AttributeError as error:
            raise SourceError(
                f"{LIBRARY} lacks a function ({error}). Install libbpf 1.0 or later."
            ) from error
        self._lines: list[str] = []
        self._vsnprintf = ctypes.CDLL(None).vsnprintf
        # Kept: libbpf calls it as long as the process lives.
        self._print = _PrintFn(self._on_print)
        self.lib.libbpf_set_print(self._print)

    def _on_print(self, level: int, template: bytes, arguments: int) -> int:
        if level >= _LIBBPF_DEBUG:
            return 0
        # The verifier's log is one message, and what it minds is at its end.
        buffer = ctypes.create_string_buffer(1 << 24)
        self._vsnprintf(buffer, len(buffer), template, ctypes.c_void_p(arguments))
        self._lines.append(buffer.value.decode(errors="replace"))
        return 0

    def take_log(self) -> str:
        """What libbpf printed since the last call."""
        text = "".join(self._lines)
        self._lines.clear()
        return text

    def fail(self, what: str, number: int | None = None) -> BpfError:
        return BpfError(what, number or ctypes.get_errno() or errno.EIO, self.take_log())

    def pin(self, fd: int, path: Path) -> None:
        """Give a map, program or link a name in a BPF file system. Raises BpfError."""
        if result := self.lib.bpf_obj_pin(fd, os.fsencode(path)):
            raise self.fail(f"cannot pin {path.name}", -result)

    def open_pinned(self, path: Path) -> int:
        """A file descriptor, the caller's. Raises BpfError."""
        fd = self.lib.bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise self.fail(f"cannot open {path}", -fd)
        return int(fd)

    def recursion_misses(self, fd: int) -> int:
        """Runs of a program that the kernel left out because it was running on that CPU already
        (5.12)."""
        info = ProgInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        if self.lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)):
            return 0
        return int(info.recursion_misses)

    @property
    def possible_cpus(self) -> int:
        """How many values a per-CPU map's entry has."""
        return int(self.lib.libbpf_num_possible_cpus())

    @property
    def version(self) -> str:
        text: bytes = self.lib.libbpf_version_string()
        return text.decode()


_T = TypeVar("_T", bound=ctypes.Structure)


def read_link(bpf: LibBpf, link_fd: int) -> bytes:
    """All that an iterator's program writes in one run. Raises BpfError, OSError."""
    fd = bpf.lib.bpf_iter_create(link_fd)
    if fd < 0:
        raise bpf.fail("cannot read a BPF iterator", -fd)
    with os.fdopen(fd, "rb", buffering=0) as stream:
        return stream.readall() or b""


class MapFd:
    """A map by its file descriptor."""

    def __init__(self, bpf: LibBpf, fd: int, *, own: bool = True) -> None:
        """own: close() closes it."""
        self._lib = bpf.lib
        self.fd = fd
        self._own = own
        self._mapping: tuple[memoryview, mmap.mmap] | None = None

    @classmethod
    def create_array(cls, bpf: LibBpf, name: str, size: int) -> MapFd:
        """An array that can be mapped, of ``size`` bytes. Raises BpfError."""
        options = _MapCreateOpts(sz=ctypes.sizeof(_MapCreateOpts), map_flags=_BPF_F_MMAPABLE)
        page = mmap.PAGESIZE
        fd = bpf.lib.bpf_map_create(
            _BPF_MAP_TYPE_ARRAY, name.encode(), 4, page, size // page, ctypes.byref(options)
        )
        if fd < 0:
            raise bpf.fail(f"cannot make the map {name}", -fd)
        return cls(bpf, fd)

    def memory(self) -> memoryview:
        """An array map's values as this process's own writable memory."""
        if self._mapping is None:
            info = MapInfo()
            size = ctypes.c_uint32(ctypes.sizeof(info))
            self._lib.bpf_obj_get_info_by_fd(self.fd, ctypes.byref(info), ctypes.byref(size))
            length = ((info.value_size + 7) & ~7) * info.max_entries
            page = mmap.PAGESIZE
            mapping = mmap.mmap(self.fd, (length + page - 1) // page * page)
            self._mapping = (memoryview(mapping)[:length], mapping)
        return self._mapping[0]

    def items(self, key: type[Any], value: type[Any]) -> Iterator[tuple[Any, Any]]:
        """Every entry of a hash map: two system calls an entry."""
        before, here, contents = None, key(), value()
        while self._lib.bpf_map_get_next_key(self.fd, before, ctypes.byref(here)) == 0:
            found = self._lib.bpf_map_lookup_elem(
                self.fd, ctypes.byref(here), ctypes.byref(contents)
            )
            if found == 0:
                yield here, contents
            before = ctypes.byref(key.from_buffer_copy(here))

    def update(self, key: Any, value: Any, flags: int = 0) -> bool:
        """False where the map is full or, with BPF_NOEXIST (1), where the key is there."""
        byref = ctypes.byref
        return int(self._lib.bpf_map_update_elem(self.fd, byref(key), byref(value), flags)) == 0

    def delete(self, key: Any) -> None:
        self._lib.bpf_map_delete_elem(self.fd, ctypes.byref(key))

    def close(self) -> None:
        if self._mapping is not None:
            view, mapping = self._mapping
            self._mapping = None
            try:
                view.release()
                mapping.close()
            except BufferError:
                pass  # still looked at: freed with the last view
        if self._own and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Object:
    """An opened BPF object: configure, ``load()``, ``attach()``, ``close()``."""

    def __init__(self, bpf: LibBpf, path: Path, btf: Path | None = None) -> None:
        self._bpf = bpf
        self._lib = bpf.lib
        options = _OpenOpts(
            sz=ctypes.sizeof(_OpenOpts), btf_custom_path=os.fsencode(btf) if btf else None
        )
        self._object = self._lib.bpf_object__open_file(os.fsencode(path), ctypes.byref(options))
        if not self._object:
            raise bpf.fail(f"cannot open the BPF object {path}")
        self._links: dict[int, str] = {}
        self._opened: dict[str, MapFd] = {}
        self.programs = {
            self._lib.bpf_program__name(p).decode(): p
            for p in self._each(self._lib.bpf_object__next_program)
        }
        self.maps = {
            self._lib.bpf_map__name(m).decode(): m
            for m in self._each(self._lib.bpf_object__next_map)
        }

    def _each(self, step: Callable[[int, int | None], int | None]) -> Iterator[int]:
        item = step(self._object, None)
        while item:
            yield item
            item = step(self._object, item)

    def only(self, programs: frozenset[str]) -> None:
        """Load these programs and no others."""
        for name, program in self.programs.items():
            self._lib.bpf_program__set_autoload(program, name in programs)

    def without_map(self, name: str) -> None:
        self._lib.bpf_map__set_autocreate(self.maps[name], False)

    def set_max_entries(self, name: str, entries: int) -> None:
        if self._lib.bpf_map__set_max_entries(self.maps[name], entries):
            raise self._bpf.fail(f"cannot size map {name} to {entries} entries")

    def set_initial(self, name: str, value: ctypes.Structure) -> None:
        """The contents of a data section (``.rodata.…``) before loading."""
        size = ctypes.sizeof(value)
        result = self._lib.bpf_map__set_initial_value(self.maps[name], ctypes.byref(value), size)
        if result:
            raise self._bpf.fail(f"cannot set {name} ({size} bytes)", -result)

    def load(self) -> None:
        result = self._lib.bpf_object__load(self._object)
        if result:
            raise self._bpf.fail("the kernel refused the BPF programs", -result)

    def attach(self, program: str) -> int:
        link: int | None = self._lib.bpf_program__attach(self.programs[program])
        if not link:
            raise self._bpf.fail(f"cannot attach {program}")
        self._links[link] = program
        return link

    def attach_iterator(self, program: str) -> int:
        """For read_iterator(). An iterator runs when it is read."""
        link: int | None = self._lib.bpf_program__attach_iter(self.programs[program], None)
        if not link:
            raise self._bpf.fail(f"cannot attach {program}")
        self._links[link] = program
        return link

    def read_iterator(self, link: int) -> bytes:
        """All that the program writes in one run over everything it iterates."""
        return read_link(self._bpf, self.link_fd(link))

    def program_fd(self, name: str) -> int:
        return int(self._lib.bpf_program__fd(self.programs[name]))

    def map_fd(self, name: str) -> int:
        return int(self._lib.bpf_map__fd(self.maps[name]))

    def map_memory(self, name: str) -> memoryview:
        """The array map's values as this process's own writable memory."""
        return self._map(name).memory()

    def _map(self, name: str) -> MapFd:
        if name not in self._opened:
            self._opened[name] = MapFd(self._bpf, self.map_fd(name), own=False)
        return self._opened[name]

    def struct(self, name: str, kind: type[_T]) -> _T:
        """The first value of an array map as a structure over its memory."""
        return kind.from_buffer(self.map_memory(name))

    def recursion_misses(self, program: str) -> int:
        return self._bpf.recursion_misses(self.program_fd(program))

    def run_once(self, program: str) -> bool:
        """BPF_PROG_TEST_RUN of a raw tracepoint program (5.10)."""
        options = _TestRunOpts(sz=ctypes.sizeof(_TestRunOpts))
        fd = self.program_fd(program)
        return int(self._lib.bpf_prog_test_run_opts(fd, ctypes.byref(options))) == 0

    def items(self, name: str, key: type[Any], value: type[Any]) -> Iterator[tuple[Any, Any]]:
        return self._map(name).items(key, value)

    def update(self, name: str, key: Any, value: Any, flags: int = 0) -> bool:
        return self._map(name).update(key, value, flags)

    def delete(self, name: str, key: Any) -> None:
        self._map(name).delete(key)

    @property
    def links(self) -> Mapping[int, str]:
        """What is attached, for link_fd(), and the program's name."""
        return self._links

    def link_fd(self, link: int) -> int:
        return int(self._lib.bpf_link__fd(link))

    def keep_attached(self) -> None:
        """close() does not detach: others hold the links too."""
        for link in self._links:
            self._lib.bpf_link__disconnect(link)

    def detach(self) -> None:
        while self._links:
            self._lib.bpf_link__destroy(self._links.popitem()[0])

    def close(self) -> None:
        self.detach()
        for one in self._opened.values():
            one.close()
        self._opened.clear()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None


class KernelTypes:
    """The running kernel's BTF, for what must be known before a program is loaded."""

    def __init__(self, bpf: LibBpf, path: Path | None = None) -> None:
        self._lib = bpf.lib
        if path is None:
            self._btf = self._lib.btf__load_vmlinux_btf()
        else:
            self._btf = self._lib.btf__parse(os.fsencode(path), None)
        if not self._btf:
            raise bpf.fail(f"no BTF in {path or '/sys/kernel/btf/vmlinux'}")

    def has_tracepoint(self, name: str) -> bool:
        wanted = f"btf_trace_{name}".encode()
        return int(self._lib.btf__find_by_name_kind(self._btf, wanted, _BTF_KIND_TYPEDEF)) > 0

    def has_variable(self, name: str) -> bool:
        """A per-CPU variable: of others BTF says nothing."""
        found = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _BTF_KIND_VAR)
        return int(found) > 0

    def parameters(self, function: str) -> list[str]:
        """Names of a kernel function's parameters; empty where it is not in the BTF."""
        number = self._lib.btf__find_by_name_kind(self._btf, function.encode(), _BTF_KIND_FUNC)
        if number <= 0:
            return []
        of = _BtfType.from_address(self._lib.btf__type_by_id(self._btf, number))
        address = self._lib.btf__type_by_id(self._btf, of.type)
        count = _BtfType.from_address(address).info & 0xFFFF
        parameters = (_BtfParam * count).from_address(address + ctypes.sizeof(_BtfType))
        return [
            (self._lib.btf__name_by_offset(self._btf, p.name_off) or b"").decode()
            for p in parameters
        ]

    def close(self) -> None:
        self._lib.btf__free(self._btf)
