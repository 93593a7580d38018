# SPDX-License-Identifier: Apache-2.0
"""One mounted hierarchy: which id has which path, asked of the file system.

Paths are from the hierarchy's root, ``/`` first, as in /proc/PID/cgroup and in the tracepoints.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from pathlib import Path
from typing import Final

from cap_exporter.cgroups.handles import NOT_PERMITTED, ROOT_IDS, FileHandles, Handle
from cap_exporter.cgroups.hierarchies import ROOT_INODE, Hierarchy

#: Longer paths are cut, so that a tree of deep and long names takes no memory to speak of. What
#: identifies a container is in the first few hundred; the kernel's tracepoints cut at 1024.
MAX_PATH: Final = os.pathconf("/", "PC_PATH_MAX")

#: Passes: worth another try.
SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
#: A directory without subdirectories (kernfs, ext4, tmpfs; others say 1 and are looked into).
_LINKS_OF_LEAF: Final = 2
_DELETED: Final = " (deleted)"


class Unanswerable(Exception):
    """The kernel will not open cgroups by id for this process, on this mount."""


class MountedHierarchy:
    """Needs no capability but for path_of(), see FileHandles. Close it after use."""

    def __init__(self, hierarchy: Hierarchy, proc: Path, handles: FileHandles) -> None:
        """Raises OSError where ``hierarchy.mount`` cannot be opened."""
        if hierarchy.mount is None:
            raise FileNotFoundError(errno.ENOENT, "hierarchy without a mount", hierarchy.controller)
        self._handles = handles
        self._descriptors = proc / "self/fd"
        self._mount = os.open(hierarchy.mount, _DIRECTORY & ~os.O_NOFOLLOW)
        self._root = self._mount
        self._prefix = hierarchy.root
        try:
            self._own: Handle | None = handles.of(self._mount)
        except OSError:
            self._own = None
        whole = hierarchy.root == "/" or os.fstat(self._mount).st_ino == ROOT_INODE
        if whole:
            self._prefix = "/"
        elif self._own is not None:
            # A part is mounted, but by its handle the root can be had nevertheless.
            try:
                root = Handle(ROOT_IDS[self._own.type], self._own.type)
                self._root = handles.open(self._mount, root, _DIRECTORY)
                self._prefix = "/"
            except OSError:
                pass
        # The link of a directory outside of what is mounted is "/" and says nothing.
        self._links = self._own is not None and whole
        self._mount_path = self._link(self._mount)
        self._close = weakref.finalize(self, _close_all, {self._root, self._mount})

    def close(self) -> None:
        """May be called again; also happens when this is garbage collected."""
        self._close()

    def walk(self) -> tuple[dict[int, str], bool]:
        """(id → path of every cgroup, whether nothing is missing).

        Cgroups that come or go meanwhile may be in it or not. Uses few descriptors at any depth.
        Raises OSError where the root cannot be read, or where descriptors or memory are short.
        """
        found: dict[int, str] = {}
        if self._prefix is None:
            return found, False
        complete = self._prefix == "/"
        here = os.open(".", _DIRECTORY, dir_fd=self._root)
        try:
            at = self._identify(here)
            found[at.id] = self._prefix
            #: The way from the root to here: who it is, its path, names of children still to visit.
            trail = [(at, self._prefix, _subdirectories(here))]
            while trail:
                at, path, names = trail[-1]
                if not names:
                    trail.pop()
                    if trail:
                        above = self._back(here, trail)
                        os.close(here)
                        here = above
                    continue
                name = names.pop()
                child_path = f"{path.rstrip('/')}/{_utf8(name)}"[:MAX_PATH]
                try:
                    if os.stat(name, dir_fd=here).st_nlink == _LINKS_OF_LEAF:
                        found[self._identify(here, name).id] = child_path
                        continue
                    below = os.open(name, _DIRECTORY, dir_fd=here)
                except OSError as error:
                    _raise_if_short(error)
                    complete &= _is_gone(error)
                    continue
                os.close(here)
                here = below
                at, names = self._identify(here), []
                found[at.id] = child_path
                trail.append((at, child_path, names))
                try:
                    names += _subdirectories(here)
                except OSError as error:
                    _raise_if_short(error)
                    complete &= _is_gone(error)
        except OSError as error:
            _raise_if_short(error)
            # The way back is gone: somebody removed a directory with us in it.
            complete = False
        finally:
            os.close(here)
        return found, complete

    def path_of(self, cgroup: int) -> str | None:
        """The path of the cgroup with this id; None: there is none, or none any more.

        A path longer than PATH_MAX comes back as that of the nearest ancestor that is not. Raises
        Unanswerable where the answer needs a capability (or the root) that we do not have.
        """
        if self._own is None or not self._links:
            raise Unanswerable
        try:
            directory = self._handles.open(self._mount, Handle(cgroup, self._own.type), os.O_PATH)
        except OSError as error:
            if error.errno in NOT_PERMITTED:
                raise Unanswerable from error
            if error.errno in {errno.ESTALE, errno.ENOENT}:
                return None
            raise
        try:
            while True:
                try:
                    return self._path_of_descriptor(directory)
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:
                        raise
                above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
                os.close(directory)
                directory = above
        finally:
            os.close(directory)

    def id_of(self, path: str) -> int | None:
        """The id of the cgroup at this path; None: there is none, or it is out of sight."""
        if self._prefix is None:
            return None
        prefix = self._prefix.rstrip("/")
        if not path.startswith("/") or not f"{path}/".startswith(f"{prefix}/"):
            return None
        relative = path[len(prefix) :].strip("/") or "."
        try:
            name = relative.encode("utf-8", "surrogateescape")
            if not stat.S_ISDIR(os.stat(name, dir_fd=self._root).st_mode):
                return None
            return self._identify(self._root, name).id
        except (OSError, ValueError):
            return None

    def _identify(self, directory: int, name: bytes = b"") -> Handle:
        """By handle; where that is ruled out by st_ino, which is the same on 64 bits since 5.5."""
        if self._own is not None:
            return self._handles.of(directory, name)
        status = os.stat(name, dir_fd=directory) if name else os.fstat(directory)
        return Handle(status.st_ino, 0)

    def _back(self, here: int, trail: list[tuple[Handle, str, list[bytes]]]) -> int:
        """Open the trail's last directory that is still there; shorten the trail to it."""
        while True:
            try:
                return self._up(here, trail[-1][0])
            except OSError as error:
                if error.errno != errno.ESTALE or len(trail) == 1:
                    raise
                # Removed meanwhile, so there is nothing left below it.
                trail.pop()

    def _up(self, directory: int, above: Handle) -> int:
        if self._root is not self._mount and self._own is not None:
            # Outside of what is mounted, ".." leads nowhere.
            return self._handles.open(self._mount, above, _DIRECTORY)
        return os.open("..", _DIRECTORY, dir_fd=directory)

    def _link(self, directory: int) -> str:
        return _utf8((self._descriptors / str(directory)).readlink())

    def _path_of_descriptor(self, directory: int) -> str | None:
        link = self._link(directory)
        if link.endswith(_DELETED) and not _is_at(link, directory):
            link = link[: -len(_DELETED)]
        if link == self._mount_path:
            return "/"
        if not link.startswith(f"{self._mount_path}/"):
            return None
        return link[len(self._mount_path) :]


def _close_all(descriptors: set[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _is_at(path: str, directory: int) -> bool:
    """Whether the path is this directory's: a cgroup may be called ``x (deleted)``."""
    try:
        there = Path(os.fsdecode(path.encode("utf-8", "surrogateescape"))).stat()
        return os.path.samestat(there, os.fstat(directory))
    except OSError:
        return False


def _subdirectories(directory: int) -> list[bytes]:
    with os.scandir(directory) as entries:
        return [os.fsencode(e.name) for e in entries if e.is_dir(follow_symlinks=False)]


def _utf8(name: os.PathLike[str] | bytes) -> str:
    """Whatever the locale: paths from the kernel are UTF-8 here, other bytes are escaped."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _raise_if_short(error: OSError) -> None:
    """For want of descriptors or memory nothing can be said of what is there."""
    if error.errno in SHORT:
        raise error


def _is_gone(error: OSError) -> bool:
    return error.errno in {errno.ENOENT, errno.ENODEV}
