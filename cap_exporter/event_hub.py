# SPDX-License-Identifier: Apache-2.0
"""Hands events to whoever listens: the last ones are kept for those who come later.

Where there is no room, the oldest event of the container with most of them goes, so that a
container that makes many hides none of another's.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

#: Events that are kept.
KEPT = 1000

#: Events that a slow reader may be behind before it loses the oldest.
BEHIND = 1000

#: Readers at one time.
MAX_READERS = 16

#: What tells the containers of events apart.
_CONTAINER = ("namespace", "pod", "container", "container_id")


class Numbered(NamedTuple):
    number: int
    record: dict[str, Any]


class TooManyReaders(Exception):
    pass


class _Fair:
    """The last events, ``most`` at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._by_container: dict[tuple[str, ...], deque[Numbered]] = {}

    def add(self, one: Numbered) -> bool:
        """Whether another had to go."""
        record = one.record
        container = tuple(str(record.get(name, "")) for name in _CONTAINER)
        self._by_container.setdefault(container, deque()).append(one)
        self._size += 1
        if self._size <= self._most:
            return False
        self._size -= 1
        # Of several the one that was first: it is the first whose events are old.
        most = max(self._by_container, key=lambda name: len(self._by_container[name]))
        self._by_container[most].popleft()
        if not self._by_container[most]:
            del self._by_container[most]
        return True

    def all(self) -> list[Numbered]:
        """In their order."""
        every = (one for kept in self._by_container.values() for one in kept)
        return sorted(every, key=lambda one: one.number)

    def clear(self) -> None:
        self._by_container.clear()
        self._size = 0


class Reader:
    """One listener's queue. ``wake`` is called, on the publisher's thread, when there is news."""

    def __init__(self, wake: Callable[[], None], backlog: Iterable[Numbered]) -> None:
        self._queue = _Fair(BEHIND)
        for one in backlog:
            self._queue.add(one)
        self._lock = threading.Lock()
        self.lost = 0
        self.wake = wake

    def put(self, one: Numbered) -> None:
        with self._lock:
            self.lost += self._queue.add(one)

    def take(self) -> list[Numbered]:
        with self._lock:
            taken = self._queue.all()
            self._queue.clear()
        return taken


class EventHub:
    """Thread-safe: one thread publishes, any thread reads."""

    def __init__(self) -> None:
        self._kept = _Fair(KEPT)
        self._numbers = itertools.count(1)
        self._readers: set[Reader] = set()
        self._lock = threading.Lock()

    def publish(self, record: dict[str, Any]) -> None:
        with self._lock:
            one = Numbered(next(self._numbers), record)
            self._kept.add(one)
            readers = list(self._readers)
        for reader in readers:
            reader.put(one)
            reader.wake()

    def recent(self) -> list[Numbered]:
        with self._lock:
            return self._kept.all()

    def join(self, wake: Callable[[], None], after: int | None = None) -> Reader:
        """``after``: start with the kept events of a higher number; None: only new ones. Raises
        TooManyReaders."""
        with self._lock:
            if len(self._readers) >= MAX_READERS:
                raise TooManyReaders(f"there are {MAX_READERS} readers of events already")
            backlog = [] if after is None else [o for o in self._kept.all() if o.number > after]
            reader = Reader(wake, backlog)
            self._readers.add(reader)
            return reader

    def leave(self, reader: Reader) -> None:
        with self._lock:
            self._readers.discard(reader)
