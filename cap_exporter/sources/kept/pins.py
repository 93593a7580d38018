# SPDX-License-Identifier: Apache-2.0
"""Programs and maps that outlive their process, by names in a BPF file system.

DIR/live has all of one set: maps, links, the counting program, and the text that the processes
leave each other (``saved``). A new set is put together in DIR/building and renamed, and the one
before is DIR/old meanwhile: so there is always one that is whole. Whoever works with it holds a
lock on DIR.

Source: kernel/bpf/inode.c (6.18).
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from cap_exporter.model import SourceError
from cap_exporter.sources.libbpf_binding import BpfError, LibBpf, MapFd, Object, read_link

log = logging.getLogger(__name__)

DEFAULT_DIR: Final = Path("/sys/fs/bpf/cap-exporter")

#: The text's room, bytes: twice a thousand containers' with a few hundred kB each.
SAVED_BYTES: Final = 8 << 20

#: Another process that is about to end gives its lock back within this time, seconds.
PATIENCE: Final = 10.0

#: Maps that a process works with; of the rest the programs take care.
MAPS: Final = (
    "counters",
    "claims",
    ".bss.state",
    "cgroup_events",
    "check_events",
    "cgroup_notes",
)
_PROGRAM: Final = "program"
_LINK: Final = "link_"
_CHECKS: Final = _LINK + "checks_"
_SAVED: Final = "saved"
_HELD: Final = "held"

#: linux/magic.h: BPF_FS_MAGIC
_BPF_FS: Final = 0xCAFE4A11

_T = TypeVar("_T", bound=ctypes.Structure)


class PinError(Exception):
    """This kernel, or this set, can't be kept; the text says why."""


class Adopted:
    """A set that another process left: what Object is to one that was loaded here."""

    def __init__(self, bpf: LibBpf, folder: Path) -> None:
        """Raises BpfError where something of it is missing."""
        self._bpf = bpf
        self._maps: dict[str, MapFd] = {}
        self._others: dict[str, int] = {}
        try:
            for name in (*MAPS, _SAVED):
                self._maps[name] = MapFd(bpf, bpf.open_pinned(folder / _file(name)))
            self._others[_PROGRAM] = bpf.open_pinned(folder / _PROGRAM)
            with suppress(BpfError):
                self._others[_HELD] = bpf.open_pinned(folder / _HELD)
        except BpfError:
            self.close()
            raise

    @property
    def saved(self) -> memoryview:
        return self._maps[_SAVED].memory()

    def struct(self, name: str, kind: type[_T]) -> _T:
        return kind.from_buffer(self._maps[name].memory())

    def map_memory(self, name: str) -> memoryview:
        return self._maps[name].memory()

    def map_fd(self, name: str) -> int:
        return self._maps[name].fd

    def update(self, name: str, key: Any, value: Any, flags: int = 0) -> bool:
        return self._maps[name].update(key, value, flags)

    def items(self, name: str, key: type[Any], value: type[Any]) -> Iterator[tuple[Any, Any]]:
        return self._maps[name].items(key, value)

    def delete(self, name: str, key: Any) -> None:
        self._maps[name].delete(key)

    def recursion_misses(self, _program: str) -> int:
        return self._bpf.recursion_misses(self._others[_PROGRAM])

    @property
    def has_held(self) -> bool:
        return _HELD in self._others

    def read_held(self) -> bytes:
        """One run of the iterator over what processes hold."""
        return read_link(self._bpf, self._others[_HELD])

    def close(self) -> None:
        for one in self._maps.values():
            one.close()
        for fd in self._others.values():
            os.close(fd)
        self._maps.clear()
        self._others.clear()


class Pins:
    """The folder of a set, and the lock on it."""

    def __init__(self, bpf: LibBpf, folder: Path, *, patience: float = PATIENCE) -> None:
        """Makes the folder and takes the lock, which another process may hold for ``patience``
        more seconds. Raises SourceError."""
        self._bpf = bpf
        self.folder = folder
        self.live = folder / "live"
        self._building = folder / "building"
        self._old = folder / "old"
        self._lock = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"cannot make {folder}: {error.strerror or error}") from error
        if not _is_bpf_fs(folder):
            with suppress(OSError):
                folder.rmdir()
            raise SourceError(
                f"{folder} is on no BPF file system, where alone programs can be kept: mount one "
                "(`mount -t bpf bpf /sys/fs/bpf`; in a container mount the host's /sys/fs/bpf)"
            )
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    self.close()
                    raise SourceError(
                        f"another cap-exporter works with {folder}: stop it, or choose another "
                        "folder (--pin)"
                    ) from error
                time.sleep(0.05)
        # What was not finished.
        if self._old.is_dir() and not self.live.is_dir():
            self._old.rename(self.live)
        for left in (self._building, self._old):
            _remove(left)

    def adopt(self) -> Adopted | None:
        """What a process before left; None: nothing, or not a whole set."""
        if not self.live.is_dir():
            return None
        try:
            return Adopted(self._bpf, self.live)
        except BpfError as error:
            log.warning("what is in %s can't be used, and is removed: %s", self.live, error)
            return None

    @property
    def is_attached(self) -> bool:
        """Checks are counted."""
        return any(self.live.glob(f"{_CHECKS}*"))

    def build(self, loaded: Object, program: str, held_link: int | None) -> memoryview:
        """Give all of a loaded object names, out of the way. Returns the text's memory; write it
        before publish(). Raises PinError."""
        self._building.mkdir(mode=0o700)
        here = self._building
        try:
            for name in MAPS:
                self._bpf.pin(loaded.map_fd(name), here / _file(name))
            self._bpf.pin(loaded.program_fd(program), here / _PROGRAM)
            for link, attached in loaded.links.items():
                name = _HELD if link == held_link else _LINK + attached
                self._bpf.pin(loaded.link_fd(link), here / name)
            saved = MapFd.create_array(self._bpf, "cap_saved", SAVED_BYTES)
            self._bpf.pin(saved.fd, here / _SAVED)
        except BpfError as error:
            _remove(here)
            raise PinError(f"this kernel can't keep what is loaded ({error})") from error
        self._saved = saved
        return saved.memory()

    def publish(self) -> None:
        """From now on what was built is what the next process finds."""
        if self.live.is_dir():
            self.live.rename(self._old)
        self._building.rename(self.live)
        _remove(self._old)

    def detach_checks(self) -> None:
        """Let the programs of the live set count no more; all else of it stays until publish() or
        unload()."""
        for path in self.live.glob(f"{_CHECKS}*"):
            fd = self._bpf.open_pinned(path)
            path.unlink()
            # Now, and not by the file system's worker.
            os.close(fd)

    def unload(self) -> int:
        """Remove everything. Returns how many programs were attached."""
        attached = sum(1 for path in self.folder.glob(f"*/{_LINK}*"))
        for path in (self._building, self._old, self.live):
            _remove(path)
        self.folder.rmdir()
        return attached

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _file(name: str) -> str:
    """A BPF file system takes no dot in a name (kernel/bpf/inode.c: bpf_lookup)."""
    return name.replace(".", "_")


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def _is_bpf_fs(folder: Path) -> bool:
    class _StatFs(ctypes.Structure):
        _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_byte * 512))

    found = _StatFs()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(folder), ctypes.byref(found)):
        return False
    return int(found.type) & 0xFFFFFFFF == _BPF_FS
