# SPDX-License-Identifier: Apache-2.0
"""Hands events to whoever listens: the last ones are kept for those who come later."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

#: Events that are kept.
KEPT = 1000

#: Events that a slow reader may be behind before it loses the oldest.
BEHIND = 1000

#: Readers at one time.
MAX_READERS = 16


class Numbered(NamedTuple):
    number: int
    record: dict[str, Any]


class TooManyReaders(Exception):
    pass


class Reader:
    """One listener's queue. ``wake`` is called, on the publisher's thread, when there is news."""

    def __init__(self, wake: Callable[[], None], backlog: deque[Numbered]) -> None:
        self._queue: deque[Numbered] = deque(backlog, maxlen=BEHIND)
        self._lock = threading.Lock()
        self.lost = 0
        self.wake = wake

    def put(self, one: Numbered) -> None:
        with self._lock:
            if len(self._queue) == BEHIND:
                self.lost += 1
            self._queue.append(one)

    def take(self) -> list[Numbered]:
        with self._lock:
            taken = list(self._queue)
            self._queue.clear()
        return taken


class EventHub:
    """Thread-safe: one thread publishes, any thread reads."""

    def __init__(self) -> None:
        self._kept: deque[Numbered] = deque(maxlen=KEPT)
        self._numbers = itertools.count(1)
        self._readers: set[Reader] = set()
        self._lock = threading.Lock()

    def publish(self, record: dict[str, Any]) -> None:
        with self._lock:
            one = Numbered(next(self._numbers), record)
            self._kept.append(one)
            readers = list(self._readers)
        for reader in readers:
            reader.put(one)
            reader.wake()

    def recent(self) -> list[Numbered]:
        with self._lock:
            return list(self._kept)

    def join(self, wake: Callable[[], None], after: int | None = None) -> Reader:
        """``after``: start with the kept events of a higher number; None: only new ones. Raises
        TooManyReaders."""
        with self._lock:
            if len(self._readers) >= MAX_READERS:
                raise TooManyReaders(f"there are {MAX_READERS} readers of events already")
            backlog = deque(one for one in self._kept if after is not None and one.number > after)
            reader = Reader(wake, backlog)
            self._readers.add(reader)
            return reader

    def leave(self, reader: Reader) -> None:
        with self._lock:
            self._readers.discard(reader)
