# SPDX-License-Identifier: Apache-2.0
"""Which path a cgroup's id has: now, and for a while after the cgroup is gone.

Fed by the kernel's cgroup events, by a walk at the start, and, for an id that neither told, by
asking the kernel. An id is never reused within a boot (fs/kernfs/dir.c, idr_alloc_cyclic), so what
is known of an id stays true: a directory made again under the same name has another one.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from cap_exporter.cgroups.handles import FileHandles
from cap_exporter.cgroups.mounted import MAX_PATH, SHORT, MountedHierarchy, Unanswerable
from cap_exporter.cgroups.processes import ProcessCgroup, cgroups_of
from cap_exporter.model import CgroupChange, CgroupEvent, CgroupKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from cap_exporter.cgroups.hierarchies import Hierarchies

logger = logging.getLogger(__name__)

RETENTION: Final = 600.0
"""Seconds that a removed cgroup's path is kept for late counts."""
RETRY: Final = 60.0
"""Seconds before the kernel is asked again for an id that it did not know, or walked for it."""
MAX_LIVE: Final = 65_536
MAX_REMOVED: Final = 16_384
"""About 0.4 kB each."""
MAX_UNKNOWN: Final = 65_536
"""Not fewer than have counters: of what is forgotten here no rescan says that it is gone."""


class CgroupTree:
    """The paths of all cgroups of the counted hierarchies. For one thread."""

    def __init__(
        self,
        hierarchies: Hierarchies,
        *,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
        retention: float = RETENTION,
        retry: float = RETRY,
        max_live: int = MAX_LIVE,
        max_removed: int = MAX_REMOVED,
        handles: FileHandles | None = None,
    ) -> None:
        """``clock`` gives seconds that never go back. Nothing is opened or read before the first
        use; a mount that cannot be opened is then a warning in the log, and that hierarchy's
        cgroups are known from events alone."""
        self._proc = proc
        self._clock = clock
        self._retention = retention
        self._retry = retry
        self._max_live = max_live
        self._max_removed = max_removed
        self._live: dict[CgroupKey, str] = {}
        #: key → (when it was found to be removed, its last path), the oldest first.
        self._removed: dict[CgroupKey, tuple[float, str]] = {}
        #: key → when to ask again.
        self._unknown: dict[CgroupKey, float] = {}
        #: Hierarchies where ids cannot be asked for → when to walk again for unknown ones.
        self._walk_again: dict[int, float] = {}
        self._unread: set[int] = set()
        self.must_rescan = False
        """The last rescan() could not see all, for want of file descriptors or memory."""
        self._hierarchies = hierarchies
        self._handles = handles or FileHandles()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Live cgroups known."""
        return len(self._live)

    def items(self) -> list[tuple[CgroupKey, str]]:
        """The cgroups that are there, with their paths."""
        return list(self._live.items())

    def close(self) -> None:
        """Paths that are known stay known; the kernel is not asked any more."""
        for mounted in self.__dict__.get("_mounted", {}).values():
            mounted.close()
        self._mounted = {}

    def scan(self) -> None:
        """Learn all cgroups there are. Call it after the source was opened, so that whatever
        comes later comes as an event."""
        for hierarchy in self._mounted:
            self._walk(hierarchy)

    def rescan(self) -> list[CgroupKey]:
        """After events were lost: learn all cgroups again and return those that are gone.

        Also returns ids that were asked for in vain and that no cgroup has any more.
        """
        now = self._clock()
        self._forget_expired(now)
        self.must_rescan = False
        gone: list[CgroupKey] = []
        for hierarchy, mounted in self._mounted.items():
            asked = [key for key in self._unknown if key.hierarchy == hierarchy]
            before = [key for key in self._live if key.hierarchy == hierarchy]
            seen, complete = self._walk(hierarchy)
            # What the walk did not show may have been renamed meanwhile, or lie too deep.
            for key in before:
                if key.id not in seen and self._is_gone(mounted, key, complete):
                    self._remove(key, self._live[key], now)
                    gone.append(key)
            for key in asked:
                if key.id not in seen and self._is_gone(mounted, key, complete):
                    self._unknown.pop(key, None)
                    gone.append(key)
        return gone

    def apply(self, events: Sequence[CgroupEvent]) -> list[CgroupKey]:
        """Take the kernel's events, in its order; return the cgroups that are gone.

        Each cgroup is returned once, here or by rescan().
        """
        now = self._clock()
        self._forget_expired(now)
        gone: list[CgroupKey] = []
        for change, key, path in events:
            if key in self._removed:
                # A rescan was faster than the event.
                continue
            if change is CgroupChange.REMOVED:
                self._remove(key, path if path.startswith("/") else self._live.get(key, ""), now)
                gone.append(key)
            elif not path.startswith("/"):
                # The kernel had no room for the path: path() asks for it.
                self._live.pop(key, None)
            elif change is CgroupChange.RENAMED:
                self._rename(key, path[:MAX_PATH])
            else:
                self._add(key, path[:MAX_PATH])
        return gone

    def path(self, key: CgroupKey) -> str | None:
        """From the hierarchy's root, ``/`` first; None: not known, and not to be found out now."""
        if (path := self._live.get(key)) is not None:
            return path
        if (removed := self._removed.get(key)) is not None:
            since, path = removed
            return path if path and self._clock() - since < self._retention else None
        mounted = self._mounted.get(key.hierarchy)
        if mounted is None:
            return None
        now = self._clock()
        if now < self._unknown.get(key, now):
            return None
        path = self._ask(mounted, key, now)
        if path is None:
            self._unknown[key] = now + self._retry
            _drop_oldest(self._unknown, MAX_UNKNOWN)
        else:
            self._add(key, path)
        return path

    def remember(self, paths: Iterable[tuple[CgroupKey, str]]) -> None:
        """Paths that another process knew. Those that are not there any more were removed in
        between: for their last counts."""
        now = self._clock()
        for key, path in paths:
            if key not in self._live and key not in self._removed and self.path(key) is None:
                self._remove(key, path, now)

    def is_removed(self, key: CgroupKey) -> bool:
        """Whether it is known to be gone, for as long as its path is kept."""
        return key in self._removed

    def key(self, hierarchy: int, path: str) -> CgroupKey | None:
        """The cgroup that has this path now, else the last one that had it; None: neither."""
        if (mounted := self._mounted.get(hierarchy)) is not None:
            cgroup = mounted.id_of(path)
            if cgroup is not None:
                return CgroupKey(hierarchy, cgroup)
        for key, known in self._newest_first():
            if key.hierarchy == hierarchy and known == path:
                return key
        return None

    def of_pid(self, pid: int) -> list[ProcessCgroup]:
        """The process's cgroups with their keys, the one that says most first.

        Raises ProcessLookupError and PermissionError as processes.cgroups_of() does.
        """
        return [
            cgroup._replace(key=self.key(cgroup.hierarchy, cgroup.path))
            for cgroup in cgroups_of(pid, self._proc)
        ]

    @cached_property
    def _mounted(self) -> dict[int, MountedHierarchy]:
        opened: dict[int, MountedHierarchy] = {}
        for hierarchy in self._hierarchies.counted:
            if hierarchy.mount is None:
                continue
            try:
                opened[hierarchy.id] = MountedHierarchy(hierarchy, self._proc, self._handles)
            except OSError as error:
                logger.warning("cannot open the cgroup mount %s: %s", hierarchy.mount, error)
        return opened

    def _newest_first(self) -> Iterator[tuple[CgroupKey, str]]:
        yield from reversed(self._live.items())
        yield from ((key, path) for key, (_, path) in reversed(self._removed.items()))

    def _ask(self, mounted: MountedHierarchy, key: CgroupKey, now: float) -> str | None:
        if key.hierarchy not in self._walk_again:
            try:
                return mounted.path_of(key.id)
            except Unanswerable:
                logger.info("cannot open cgroups of hierarchy %d by id: walking", key.hierarchy)
                self._walk_again[key.hierarchy] = now
            except OSError as error:
                logger.warning("cannot tell the path of %s: %s", key, error)
                return None
        if now < self._walk_again[key.hierarchy]:
            return None
        self._walk_again[key.hierarchy] = now + self._retry
        seen, _ = self._walk(key.hierarchy)
        return seen.get(key.id)

    def _walk(self, hierarchy: int) -> tuple[dict[int, str], bool]:
        try:
            seen, complete = self._mounted[hierarchy].walk()
        except OSError as error:
            if hierarchy not in self._unread:
                logger.warning(
                    "cannot read the cgroup file system, cgroups are known from events alone: %s",
                    error,
                )
            self._unread.add(hierarchy)
            self.must_rescan |= error.errno in SHORT
            return {}, False
        self._unread.discard(hierarchy)
        for cgroup, path in seen.items():
            key = CgroupKey(hierarchy, cgroup)
            if key not in self._removed:
                self._add(key, path)
        return seen, complete

    def _is_gone(self, mounted: MountedHierarchy, key: CgroupKey, complete: bool) -> bool:
        if key.hierarchy not in self._walk_again:
            try:
                path = mounted.path_of(key.id)
            except Unanswerable:
                return complete
            except OSError as error:
                self.must_rescan |= error.errno in SHORT
                return False
            if path is not None:
                self._add(key, path)
            return path is None
        return complete

    def _add(self, key: CgroupKey, path: str) -> None:
        self._live[key] = path
        if self._unknown:
            self._unknown.pop(key, None)
        _drop_oldest(self._live, self._max_live)

    def _remove(self, key: CgroupKey, path: str, now: float) -> None:
        self._live.pop(key, None)
        self._unknown.pop(key, None)
        self._removed[key] = (now, path[:MAX_PATH])
        _drop_oldest(self._removed, self._max_removed)

    def _rename(self, key: CgroupKey, path: str) -> None:
        """v1 only: v2 has no rename (kernel/cgroup/cgroup-v1.c, cgroup1_rename)."""
        old = self._live.get(key)
        if old is not None:
            below = f"{old}/"
            moved = [
                (other, (path + known[len(old) :])[:MAX_PATH])
                for other, known in self._live.items()
                if other.hierarchy == key.hierarchy and known.startswith(below)
            ]
            self._live.update(moved)
        self._add(key, path)

    def _forget_expired(self, now: float) -> None:
        expired = []
        for key, (since, _) in self._removed.items():
            if now - since < self._retention:
                break
            expired.append(key)
        for key in expired:
            del self._removed[key]


def _drop_oldest(table: dict[CgroupKey, Any], limit: int) -> None:
    """Some at once: taking the first key of a dict again and again is quadratic."""
    if len(table) > limit:
        for key in list(islice(table, len(table) - limit + limit // 16)):
            del table[key]
