# SPDX-License-Identifier: Apache-2.0
"""What the exporter says about itself: the loop writes it, the metrics page shows it."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cap_exporter.model import Drain, SourceInfo


#: Sent to the readers; no room in the ring; beyond the cgroup's rate.
EVENT_OUTCOMES = ("sent", "full", "limited")


class Durations:
    """A histogram of durations. One thread observes, any thread reads."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """bounds: upper bounds of the buckets in seconds, ascending; one for the rest is added."""
        self.bounds = bounds
        # Replaced as a whole, so that a reader never sees a sum without its count.
        self._state = _DurationsState((0,) * (len(bounds) + 1), 0.0)

    def observe(self, seconds: float) -> None:
        counts = list(self._state.counts)
        counts[bisect_left(self.bounds, seconds)] += 1
        self._state = _DurationsState(tuple(counts), self._state.total + seconds)

    def read(self) -> tuple[tuple[int, ...], float]:
        """Observations per bucket (not cumulative; the last one is above all bounds), and the sum
        of all in seconds."""
        return self._state


class _DurationsState(NamedTuple):
    counts: tuple[int, ...]
    total: float


def _drain_durations() -> Durations:
    # A drain of a quiet host takes about a millisecond; the default time between two is 5 s.
    return Durations((0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0))


@dataclass(slots=True)
class SelfStats:
    """Numbers about the exporter. The loop's thread writes single attributes; any thread reads."""

    source: SourceInfo | None = None
    """What counts, once it is attached."""
    counting_since: float = field(default_factory=time.time)
    """When what is published began to be counted; seconds since the epoch. Before this process,
    where it goes on with another's counts."""
    drain_durations: Durations = field(default_factory=_drain_durations)
    """How long drains took: reading the counters, naming the cgroups, adding up."""
    out_of_scope_checks: int = 0
    """Checks of cgroups that the scope leaves out."""
    reload_successful: bool | None = None
    """How reading the configuration again went; None: it was not."""
    reload_time: float = 0.0
    """When that last went well; seconds since the epoch."""
    given_up: int = 0
    """Cgroups whose checks were published without the pod that they should have."""
    missed: Mapping[str, int] = field(default_factory=dict)
    """Checks the kernel did not show us, by reason; cumulative. Replaced, never changed."""
    slots_used: int = 0
    slots_total: int = 0
    events: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(EVENT_OUTCOMES, 0))
    """Events by outcome; cumulative. Replaced, never changed."""
    unresolved_cgroups: int = 0
    """Cgroups with checks whose pod or container is not known yet."""

    def drained(self, drain: Drain, seconds: float) -> None:
        """Take over what a drain says of the source. seconds: how long the drain took in all."""
        self.drain_durations.observe(seconds)
        self.missed = dict(drain.missed)
        self.events = {
            "sent": self.events["sent"] + len(drain.events),
            "full": drain.events_lost.get("full", 0),
            "limited": drain.events_lost.get("limited", 0),
        }
        self.slots_used = drain.slots_used
        self.slots_total = drain.slots_total
