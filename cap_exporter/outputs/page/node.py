# SPDX-License-Identifier: Apache-2.0
"""What the page says of the node and of the exporter itself."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cap_exporter
from cap_exporter.ledger import Ledger
from cap_exporter.outputs.page.history import SPACING, History, Totals
from cap_exporter.outputs.routes import Readiness, is_stuck
from cap_exporter.pods.store import StoreSize
from cap_exporter.self_stats import SelfStats


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    text: str
    is_problem: bool = False


class Loop(Protocol):
    """The part of exporter.Exporter that the page tells of."""

    stats: SelfStats
    interval: float
    """Seconds between two drains."""

    def seconds_since_drain(self) -> float: ...


class Node:
    """The exporter, as far as its page tells of it; keeps the history of its counts."""

    def __init__(
        self,
        ledger: Ledger,
        loop: Loop,
        readiness: Readiness,
        *,
        name: str = "",
        pods: Callable[[], StoreSize] | None = None,
        metrics_port: Callable[[], int] | None = None,
    ) -> None:
        """pods: None: they are not asked for. metrics_port: of this host."""
        self.name = name
        self.history = History(time.monotonic())
        self._ledger = ledger
        self._loop = loop
        self._readiness = readiness
        self._pods = pods
        self._metrics_port = metrics_port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="page-history", daemon=True)

    @property
    def interval(self) -> float:
        """Seconds between two drains."""
        return self._loop.interval

    def start(self) -> None:
        """From now on there is history."""
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _sample(self) -> None:
        while not self._stop.wait(SPACING):
            self.sample()

    def sample(self) -> None:
        self.history.add(self._ledger.accounts(), self._totals())

    def _totals(self) -> Totals:
        checks = sum(
            sum(part.values()) for series in self._ledger.snapshot().series for part in series.parts
        )
        return Totals(time.monotonic(), checks, self._loop.stats.events["sent"])

    def state(self) -> Fact:
        """In a word, and what is missing."""
        if not self._readiness.ready():
            return Fact("State", "Not counting: the probe is not attached yet", is_problem=True)
        since = self._loop.seconds_since_drain()
        if is_stuck(since, self.interval):
            return Fact("State", f"Stuck: no drain for {since:.0f} s", is_problem=True)
        return Fact("State", "Counting")

    def facts(self) -> list[Fact]:
        """The most telling first."""
        stats = self._loop.stats
        totals = self._totals()
        rates = self.history.rates(totals)
        source = stats.source
        attached = "not attached yet"
        if source is not None:
            attached = f"{source.source}, attached by {source.attach or 'nothing'}"
        checks, events = f"{totals.checks:,}", f"{totals.events:,}"
        if rates is not None:
            checks += f" ({rate(rates.checks)} a second)"
            events += f" ({rate(rates.events)} a second)"
        facts = [
            self.state(),
            Fact("Source", attached, source is None),
            Fact(
                "Last drain",
                f"{self._loop.seconds_since_drain():.0f} s ago, one each {self.interval:g} s",
            ),
            Fact("Checks counted", checks),
            Fact("Events sent", events),
            *self._losses(),
            self._pod_watch(),
            Fact("Kernel", platform.release()),
            Fact("Version", cap_exporter.__version__),
        ]
        if self._metrics_port:
            facts.append(Fact("Metrics", f"/metrics on port {self._metrics_port()}"))
        return facts

    def _losses(self) -> list[Fact]:
        stats = self._loop.stats
        missed = {reason: count for reason, count in stats.missed.items() if count}
        full, limited = stats.events["full"], stats.events["limited"]
        overflow = self._ledger.overflow_checks
        lost = []
        if full:
            lost.append(f"{full:,} for want of room")
        if limited:
            lost.append(f"{limited:,} beyond the rate of their cgroup")
        return [
            Fact(
                "Checks not seen",
                ", ".join(f"{count:,} {reason}" for reason, count in missed.items()) or "none",
                bool(missed),
            ),
            Fact("Events left out", ", ".join(lost) or "none", bool(full)),
            Fact(
                "Room for counters",
                f"{stats.slots_used:,} of {stats.slots_total:,} taken"
                + (f"; {overflow:,} checks counted under (overflow)" if overflow else "")
                if stats.slots_total or overflow
                else "enough",
                bool(overflow),
            ),
        ]

    def _pod_watch(self) -> Fact:
        notes = self._readiness.notes()
        if notes:
            return Fact("Pods", "; ".join(note.removeprefix("pods: ") for note in notes), True)
        if self._pods is None:
            return Fact("Pods", "not asked for")
        return Fact("Pods", f"{self._pods().pods:,} of this node known")


def rate(number: float) -> str:
    """Of as many digits as mean something."""
    if number == 0:
        return "0"
    if number < 0.05:
        return "<0.1"
    return f"{number:.1f}" if number < 9.95 else f"{number:,.0f}"
