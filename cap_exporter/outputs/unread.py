# SPDX-License-Identifier: Apache-2.0
"""A bound for what answers hold in memory until their clients have read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

#: Bytes that all clients of a listener together may leave unread before the next must wait.
LIMIT = 16 << 20

#: Answers that are being made at one time. Those count nowhere until they are written.
_IN_THE_MAKING = 2

#: How long a request waits for room, seconds: less than a scrape takes at most by default (10 s).
PATIENCE = 8.0

#: While a request waits, who has not read its answer in this time is cut off, seconds.
PRESSED = 3.0

_LOOK = 0.05

#: Requests that wait, those of clients that have gone among them.
_WAITING = 256


class NoRoom(Exception):
    """Others have not read their answers."""


class Reader(Protocol):
    def unread(self) -> int:
        """Bytes."""

    unread_since: float | None
    """When it began, by the monotonic clock."""

    def drop(self) -> None: ...


class Room:
    """Of one listener."""

    def __init__(self, readers: Callable[[], Iterable[Reader]]) -> None:
        self._readers = readers
        self._making = asyncio.Semaphore(_IN_THE_MAKING)
        self._first_in_line = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], None]]:
        """Waits until an answer may be made; what is given ends that before the block does.
        Raises NoRoom."""
        if self._waiting >= _WAITING:
            raise NoRoom
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE), self._first_in_line:
                while self._making.locked() or self._unread() > LIMIT:
                    self._press()
                    await asyncio.sleep(_LOOK)
                await self._making.acquire()
        except TimeoutError as error:
            raise NoRoom from error
        finally:
            self._waiting -= 1
        done = False

        def leave() -> None:
            nonlocal done
            if not done:
                done = True
                self._making.release()

        try:
            yield leave
        finally:
            leave()

    def _unread(self) -> int:
        return sum(one.unread() for one in self._readers())

    def _press(self) -> None:
        now = time.monotonic()
        for one in list(self._readers()):
            if one.unread_since is not None and now - one.unread_since > PRESSED:
                one.drop()
