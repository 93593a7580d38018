# SPDX-License-Identifier: Apache-2.0
"""Gives events the name of their container, in the order in which they came; those whose pod is
not known yet wait, bounded, like counts do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from cap_exporter.model import CgroupKey, Event, Identity

#: Events that may wait at one time; the oldest go out under what is known of them.
MAX_WAITING = 1000


class Named(NamedTuple):
    event: Event
    identity: Identity


class EventNames:
    """``identity`` tells who a cgroup is (None: not known yet), ``fallback`` what is known of it
    when waiting is over."""

    def __init__(
        self,
        identity: Callable[[CgroupKey], Identity | None],
        fallback: Callable[[CgroupKey], Identity],
        patience: float = 60.0,
    ) -> None:
        self._identity = identity
        self._fallback = fallback
        self.patience = patience
        self._waiting: deque[tuple[float, Event]] = deque()

    def name(self, events: Iterable[Event], now: float) -> Iterator[Named]:
        """Those that have a name, or have waited for too long. ``now``: monotonic seconds."""
        self._waiting.extend((now, event) for event in events)
        for _ in range(len(self._waiting)):
            since, event = self._waiting.popleft()
            cgroup = event.check.cgroup
            identity = self._identity(cgroup)
            if identity is None:
                if now - since < self.patience and len(self._waiting) < MAX_WAITING:
                    self._waiting.append((since, event))
                    continue
                identity = self._fallback(cgroup)
            yield Named(event, identity)
