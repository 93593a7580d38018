# SPDX-License-Identifier: Apache-2.0
"""Finds BCC, has it compile bpf/cap_checks.bcc.c for this kernel, and gives access to the result.

BCC's Python module is part of the distribution (Debian: python3-bpfcc), for the distribution's
own Python. It is pure Python over libbcc.so.0, so it is imported from there by its path, into
whatever Python this is. PyPI's `bcc` is something else.

Kernel headers are needed only where the kernel has no BTF: with BTF the struct offsets come from
there, and what BCC's own files take from headers is in bpf/bcc-headers.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from cap_exporter.model import SourceError
from cap_exporter.sources.kernel_structs import Definitions, KernelStructs, definitions
from cap_exporter.sources.libbpf_binding import BpfError, LibBpf, ProgInfo

#: Where distributions put Python modules that belong to no virtual environment.
DIST_PACKAGES = (
    Path("/usr/lib/python3/dist-packages"),
    *sorted(Path("/usr/lib").glob("python3*/site-packages"), reverse=True),
    *sorted(Path("/usr/lib64").glob("python3*/site-packages"), reverse=True),
)

_INSTALL = (
    "on Debian and Ubuntu the package python3-bpfcc, on Fedora and RHEL python3-bcc "
    "(PyPI's bcc is another thing)"
)

_S = TypeVar("_S", bound=ctypes.Structure)


def import_bcc(places: Sequence[Path] = DIST_PACKAGES) -> Any:
    """BCC's module. Raises SourceError that names what is missing and the way out."""
    loaded = sys.modules.get("bcc")
    if loaded is not None and hasattr(loaded, "BPF"):
        return loaded
    for place in places:
        init = place / "bcc" / "__init__.py"
        if not (place / "bcc" / "libbcc.py").is_file():
            continue
        spec = importlib.util.spec_from_file_location(
            "bcc", init, submodule_search_locations=[str(init.parent)]
        )
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules["bcc"] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules["bcc"]
            raise SourceError(
                f"BCC in {place} cannot be loaded ({error}). Install it whole: {_INSTALL}"
            ) from error
        return module
    raise SourceError(f"BCC's Python module is not installed. Install it: {_INSTALL}")


def why_no_headers(modules: Path) -> str:
    """What is wrong with a kernel's headers below /lib/modules/RELEASE; empty: they are there."""
    build = modules / "build"
    if build.is_symlink() and not build.exists():
        return (
            f"{build} points to {build.readlink()}, which is not there: mount the host's "
            "/usr/src beside /lib/modules, or install the headers again"
        )
    if not build.is_dir():
        return (
            f"there are no kernel headers in {build}: install them (Debian: "
            f"linux-headers-{platform.release()}), or mount the host's /lib/modules and /usr/src"
        )
    return ""


class BccProgram:
    """The compiled program: load, attach, and its maps. Close it after use."""

    def __init__(self, module: Any, *, btf: Path | None, counters: int, events: int = 0) -> None:
        """events: room for so many between two drains; 0: without. Raises SourceError."""
        self._module = module
        self._lib = module.libbcc.lib
        self._functions: dict[str, Any] = {}
        self._attached: list[int] = []
        self._kprobes: list[str] = []
        folder = Path(str(resources.files("cap_exporter").joinpath("_bpf")))
        source = folder / "cap_checks.bcc.c"
        if not source.is_file():
            raise SourceError(f"{source} is missing: run `make build` in the source tree")
        headers: Path | None = None
        self.structs = _struct_offsets(btf)
        if self.structs is not None:
            headers = folder / "bcc-headers"
        elif problem := why_no_headers(Path("/lib/modules") / platform.release()):
            raise SourceError(f"the kernel has no BTF, and {problem}")
        front = f"#define COUNTERS {counters}\n{self.structs.text if self.structs else ''}"
        self.no_events = self.structs.no_events if self.structs else ""
        if events and not self.no_events:
            front += f"#define EVENTS {events}\n"
        self._bpf = self._compile(front + source.read_text(), folder, headers)

    def _compile(self, text: str, include: Path, headers: Path | None) -> Any:
        before = os.environ.get("BCC_KERNEL_SOURCE")
        if headers is not None and before is None:
            os.environ["BCC_KERNEL_SOURCE"] = str(headers)
        try:
            with _Errors() as errors:
                return self._module.BPF(text=text.encode(), cflags=[f"-I{include}"])
        except Exception as error:
            raise SourceError(
                f"BCC cannot compile the program for this kernel: {error}{errors.lines()}"
            ) from error
        finally:
            if before is None:
                os.environ.pop("BCC_KERNEL_SOURCE", None)

    def load(self, name: str, *, kprobe: bool = False) -> None:
        """Raises BpfError."""
        kind = self._module.BPF.KPROBE if kprobe else self._module.BPF.RAW_TRACEPOINT
        try:
            with _Errors() as errors:
                self._functions[name] = self._bpf.load_func(name.encode(), kind)
        except Exception as error:
            number = ctypes.get_errno() or getattr(error, "errno", 0) or 1
            raise BpfError(f"the kernel refused {name} ({error})", number, errors.text) from error

    def jump_from(self, table: str, index: int, name: str) -> None:
        """Programs that call this element of a program array go on in the loaded one of this
        name. Raises BpfError."""
        fd = ctypes.c_uint32(self._functions[name].fd)
        if not self.update(table, ctypes.c_uint32(index), fd):
            raise BpfError(f"the kernel refused {name} in {table}", ctypes.get_errno() or 22)

    def attach(self, name: str, tracepoint: str) -> None:
        """Raises BpfError with ENOENT where the kernel has no such tracepoint."""
        with _Errors():
            ctypes.set_errno(0)
            fd = self._lib.bpf_attach_raw_tracepoint(self._functions[name].fd, tracepoint.encode())
            number = ctypes.get_errno()
        if fd < 0:
            raise BpfError(f"cannot attach {name}", number or errno.ENOENT)
        self._attached.append(fd)

    def attach_kprobe(self, name: str, function: str) -> None:
        """Raises BpfError."""
        try:
            with _Errors() as errors:
                self._bpf.attach_kprobe(event=function.encode(), fn_name=name.encode())
        except Exception as error:
            raise BpfError(f"cannot attach to {function} ({error})", 2, errors.text) from error
        self._kprobes.append(function)

    def free_compiler(self) -> None:
        """Give back what of clang can be given back."""
        self._bpf.free_bcc_memory()

    def recursion_misses(self, name: str) -> int:
        info = ProgInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        fd = self._functions[name].fd
        if self._lib.bpf_obj_get_info(fd, ctypes.byref(info), ctypes.byref(size)):
            return 0
        return int(info.recursion_misses)

    # -- maps: plain bytes by plain numbers ------------------------------------------------------

    def _fd(self, name: str) -> int:
        return int(self._bpf[name.encode()].map_fd)

    def value(self, name: str, kind: type[_S], index: int = 0) -> _S:
        """A copy of an array's element."""
        value = kind()
        key = ctypes.c_uint32(index)
        self._lib.bpf_lookup_elem(self._fd(name), ctypes.byref(key), ctypes.byref(value))
        return value

    def number(self, name: str) -> int:
        value = ctypes.c_uint64()
        key = ctypes.c_uint32(0)
        self._lib.bpf_lookup_elem(self._fd(name), ctypes.byref(key), ctypes.byref(value))
        return value.value

    def update(self, name: str, key: Any, value: Any, flags: int = 0) -> bool:
        byref = ctypes.byref
        return int(self._lib.bpf_update_elem(self._fd(name), byref(key), byref(value), flags)) == 0

    def delete(self, name: str, key: Any) -> None:
        self._lib.bpf_delete_elem(self._fd(name), ctypes.byref(key))

    def items(self, name: str, key: type[Any], value: type[Any]) -> Iterator[tuple[Any, Any]]:
        """Every entry of a hash map: two system calls an entry."""
        fd = self._fd(name)
        before, here, contents = None, key(), value()
        while self._lib.bpf_get_next_key(fd, before, ctypes.byref(here)) == 0:
            if self._lib.bpf_lookup_elem(fd, ctypes.byref(here), ctypes.byref(contents)) == 0:
                yield here, contents
            before = ctypes.byref(key.from_buffer_copy(here))

    @property
    def possible_cpus(self) -> int:
        return len(self._module.utils.get_possible_cpus())

    def detach(self) -> None:
        while self._attached:
            os.close(self._attached.pop())
        while self._kprobes:
            self._bpf.detach_kprobe(event=self._kprobes.pop().encode())

    def close(self) -> None:
        self.detach()
        self._bpf.cleanup()


def _struct_offsets(btf: Path | None) -> Definitions | None:
    """None where there is no BTF that tells."""
    try:
        structs = KernelStructs(LibBpf(), btf)
    except (BpfError, SourceError):
        return None
    try:
        return definitions(structs)
    finally:
        structs.close()


class _Errors:
    """What clang and libbcc print to standard error while it is entered."""

    text = ""

    def __enter__(self) -> _Errors:
        # No temporary file: a container's root is read-only.
        self._file = os.fdopen(os.memfd_create("bcc-errors"), "w+b")
        self._saved = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)
        self._file.seek(0)
        self.text = self._file.read().decode(errors="replace")
        self._file.close()

    def lines(self, most: int = 12) -> str:
        """From the first error on, which explains those after it."""
        kept = [line for line in self.text.splitlines() if line.strip()]
        first = next((i for i, line in enumerate(kept) if " error: " in line), len(kept) - most)
        return "".join(f"\n    {line[:160]}" for line in kept[max(first, 0) :][:most])
