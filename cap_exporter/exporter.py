# SPDX-License-Identifier: Apache-2.0
"""The loop: drain the source, name the cgroups, count in the ledger."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cap_exporter.event_names import EventNames
from cap_exporter.granted import merge
from cap_exporter.identities import HOST, Identities, Row
from cap_exporter.keeper import Keeper
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupEvent,
    CgroupKey,
    Drain,
    Event,
    Granted,
    Identity,
    Source,
    SourceError,
    SourceInfo,
)
from cap_exporter.scope import Scope
from cap_exporter.self_stats import SelfStats
from cap_exporter.wall_clock import WallClock

log = logging.getLogger(__name__)

#: News of cgroups wake the loop; no more often than this, seconds.
NEWS_SPACING = 0.25

#: Containers that came and went between two of these are named by their events alone, seconds.
_EXPIRE_EVERY = 15.0

#: Entrypoints that wait for the name of their container, at most.
_MOST_BEGAN = 1000


class Tree(Protocol):
    """The part of cgroups.tree.CgroupTree that the loop drives."""

    def scan(self) -> None: ...
    def items(self) -> Sequence[tuple[CgroupKey, str]]: ...
    def apply(self, events: Sequence[CgroupEvent]) -> Sequence[CgroupKey]: ...
    def rescan(self) -> Sequence[CgroupKey]: ...
    def path(self, key: CgroupKey) -> str | None: ...
    def is_removed(self, key: CgroupKey) -> bool: ...
    @property
    def must_rescan(self) -> bool: ...


class Exporter:
    """Owns the source and the one thread that counts.

    open() and run() belong to the same thread. ``on_event`` gets every event with the name of its
    container, on that thread.
    """

    def __init__(
        self,
        source: Source,
        tree: Tree,
        identities: Identities,
        ledger: Ledger,
        stats: SelfStats | None = None,
        *,
        interval: float = 5.0,
        patience: float = 60.0,
        on_event: Callable[[Event, Identity], None] | None = None,
        scope: Scope | None = None,
        keeper: Keeper | None = None,
        wall_clock: WallClock | None = None,
    ) -> None:
        self._source = source
        self._tree = tree
        self._identities = identities
        self._ledger = ledger
        self.stats = stats or SelfStats()
        self.interval = interval
        """Seconds between two drains."""
        self.scope = scope or Scope()
        """Whose checks are counted from now on. What was counted stays."""
        self.before_drain: Callable[[], None] = lambda: None
        """Called by the loop before each drain."""
        self._on_event = on_event
        self._event_names = EventNames(identities.identity, identities.best, patience)
        self._keeper = keeper
        self._wall_clock = wall_clock or WallClock()
        #: Removed while no process read the source.
        self._removed_before: set[CgroupKey] = set()
        self._stop = threading.Event()
        self._waker, self._wake = _pipe()
        self._last_drain = time.monotonic()
        self._next_expiry = 0.0
        self._began: dict[CgroupKey, Granted] = {}
        self.opened = threading.Event()

    def open(self) -> SourceInfo:
        """Counting has begun when this returns. Raises SourceError."""
        info = self._source.open()
        self.stats.source = info
        # After attaching: what is created from now on is told by events, what was there is found.
        self._tree.scan()
        if self._keeper:
            self._removed_before = self._keeper.restore()
            self.stats.counting_since = self._keeper.since
        self._source.introduce(self._tree.items())
        self._last_drain = time.monotonic()
        self.opened.set()
        return info

    @property
    def patience(self) -> float:
        """Seconds that checks and events wait for their pod."""
        return self._identities.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._identities.patience = self._event_names.patience = seconds

    def wake(self) -> None:
        """Let run() go on with the next drain now. From any thread or a signal handler."""
        self._wake()

    def stop(self) -> None:
        """End run() soon, after one more drain. From any thread or a signal handler."""
        self._stop.set()
        self._wake()

    def seconds_since_drain(self) -> float:
        """How long ago the last drain ended: the loop is stuck when this grows."""
        return time.monotonic() - self._last_drain

    def run(self) -> None:
        """Drain until stop(), then drain once more and close the source."""
        try:
            while not self._stop.is_set():
                self.before_drain()
                self.step()
                self._wait()
            self.step()
            self._flush()
        finally:
            self._source.close()

    def play_to_end(self) -> None:
        """Drain once, take what waits, close: for a recording that is to be read as a whole."""
        try:
            self.step()
            self._flush()
        finally:
            self._source.close()

    def _flush(self) -> None:
        """Checks and events that wait for a name, under what is known: at the end. Checks wait on
        where the next process goes on."""
        if self._keeper and self._keeper.is_active:
            self._keeper.keep(None)
        else:
            self._count(list(self._identities.flush()), time.time())
        self._tell((), math.inf)

    def step(self) -> Drain:
        """One drain, all the way into the ledger. Returns what the source gave."""
        began = time.monotonic()
        if by := self._wall_clock.moved():
            log.warning("the wall clock was set by %+.0f s: times so far move along", by)
            self._ledger.clock_moved(by)
        drain = self._source.drain()
        removed = list(self._tree.apply(drain.cgroup_events))
        self._count(list(self._identities.rows(drain.increments, began)), drain.time)
        if drain.cgroup_events_lost:
            log.warning(
                "%d cgroup events were lost (the ring was full): reading the cgroup file system",
                drain.cgroup_events_lost,
            )
        if drain.cgroup_events_lost or self._tree.must_rescan:
            # After counting, which asks for what no event told: also of those it says who is gone.
            removed += self._tree.rescan()
        self._observe(drain)
        self._tell(drain.events, began)
        # A dying process may be counted after its cgroup was removed: its slots go now.
        removed += {
            key.cgroup for key, _ in drain.increments if self._tree.is_removed(key.cgroup)
        }.difference(removed)
        if self._removed_before:
            removed += self._removed_before.difference(removed)
            self._removed_before = set()
        if self._keeper:
            # What is freed now must be safe.
            self._keeper.keep(drain)
        if removed:
            for cgroup in removed:
                self._ledger.gone(cgroup, drain.time)
            self._source.release(removed)
            self._identities.forget(removed)
        if began >= self._next_expiry:
            self._ledger.expire(drain.time)
            self._next_expiry = began + _EXPIRE_EVERY
        self.stats.unresolved_cgroups = self._identities.unresolved
        self.stats.given_up = self._identities.given_up
        self._last_drain = time.monotonic()
        self.stats.drained(drain, self._last_drain - began)
        return drain

    def _observe(self, drain: Drain) -> None:
        """Containers that are there, and what they hold, also those that make no checks."""
        merge(self._began, drain.entered)
        for cgroup, granted in list(self._began.items()):
            if self._observed(cgroup, granted, drain.time, began=True):
                del self._began[cgroup]
        # One whose pod never comes is met again when all are read, if it lives.
        while len(self._began) > _MOST_BEGAN:
            del self._began[next(iter(self._began))]
        for cgroup, granted in drain.held.items():
            self._observed(cgroup, granted, drain.time, began=False)

    def _observed(self, cgroup: CgroupKey, granted: Granted, at: float, *, began: bool) -> bool:
        """False where it has no name yet."""
        identity = self._identities.identity(cgroup)
        if identity is None:
            return False
        if identity.container != HOST and not identity.helper and self.scope.includes(identity):
            self._ledger.observe(cgroup, identity, at, granted, began=began)
        return True

    def _tell(self, events: Iterable[Event], now: float) -> None:
        if self._on_event:
            for event, identity in self._event_names.name(events, now):
                if self.scope.includes(identity):
                    self._on_event(event, identity)

    def _count(self, rows: Sequence[Row], at: float) -> None:
        wanted = rows
        if not self.scope.is_everything:
            # An identity is the same object as long as nothing changes: asked once each.
            asked: dict[int, bool] = {}
            for row in rows:
                if id(row.identity) not in asked:
                    asked[id(row.identity)] = self.scope.includes(row.identity)
            wanted = [row for row in rows if asked[id(row.identity)]]
            self.stats.out_of_scope_checks += sum(
                row.checks for row in rows if not asked[id(row.identity)]
            )
        self._ledger.apply(((row.identity, row.key, row.checks) for row in wanted), at)

    def _wait(self) -> None:
        """Until the next drain is due, sooner when cgroups came or went or stop() was called."""
        deadline = self._last_drain + self.interval
        event_fd = getattr(self._source, "event_fd", None)
        if event_fd is not None and self.interval > NEWS_SPACING:
            if self._ready([], NEWS_SPACING):
                return
            self._ready([event_fd], deadline - time.monotonic())
        else:
            self._ready([], deadline - time.monotonic())

    def _ready(self, fds: Sequence[int], timeout: float) -> bool:
        """Wait for one of ``fds`` or for stop(). True: stop() was called."""
        select.select([*fds, self._waker], [], [], max(timeout, 0))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._waker, 64):
                pass
        return self._stop.is_set()


def _pipe() -> tuple[int, Callable[[], None]]:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake() -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b".")

    return reader, wake


__all__ = ["Exporter", "SourceError", "Tree"]
