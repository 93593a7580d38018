# SPDX-License-Identifier: Apache-2.0
"""What was done, held against what is published while it goes on."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

UNKNOWN = "(unknown)"

#: Seconds that a number may take to become right: longer than the longest fault.
PATIENCE = 120.0


class Key(NamedTuple):
    """Whose checks, and of what."""

    namespace: str
    pod: str
    container: str
    capability: str


@dataclass
class _Series:
    at_most: int = 0
    exact_since: float | None = None
    """None: checks are being made now."""
    on_exact: Callable[[], None] | None = None
    published: float = 0
    is_right: bool = False


@dataclass
class Expected:
    """Thread-safe. ``errors`` are sentences; none of them is meant to come."""

    errors: list[str] = field(default_factory=list)
    exact: dict[Key, int] = field(default_factory=dict)
    """Checks of containers that are over, and came out exact."""
    shared: bool = False
    """Others make cgroups on this host too, so many that the ring may be full: a container that
    comes and goes then is counted as (unknown)."""
    nameless: dict[Key, float] = field(default_factory=dict)
    """What is missing of such containers."""

    unknown: Counter[str] = field(default_factory=Counter)
    """Checks that were (unknown) at any time, by capability: that series goes too."""

    def __post_init__(self) -> None:
        self._unknown: Counter[str] = Counter()
        self._series: dict[Key, _Series] = {}
        self._lock = threading.Lock()

    def error(self, text: str) -> None:
        with self._lock:
            self.errors.append(text)

    def begin(self, key: Key, checks: int) -> None:
        """So many more may be published from now on."""
        with self._lock:
            one = self._series.setdefault(key, _Series())
            one.at_most += checks
            one.exact_since, one.is_right = None, False

    def done(self, key: Key, on_exact: Callable[[], None] | None = None) -> None:
        """So many must be published soon. on_exact: the container is over; called once, when they
        are, from who compares."""
        with self._lock:
            one = self._series.setdefault(key, _Series())
            one.exact_since, one.on_exact = time.monotonic(), on_exact

    def compare(self, published: Mapping[Key, float]) -> None:
        now = time.monotonic()
        over: list[Callable[[], None]] = []
        unknown = Counter(
            {key.capability: int(n) for key, n in published.items() if key.container == UNKNOWN}
        )
        self.unknown += unknown - self._unknown
        self._unknown = unknown
        with self._lock:
            for key, one in list(self._series.items()):
                value = published.get(key, 0)
                done = one.exact_since is not None
                late = one.exact_since is not None and now - one.exact_since > PATIENCE
                problem = ""
                if value > one.at_most:
                    problem = f"{value} published, {one.at_most} made"
                elif late and value < one.at_most and self.shared:
                    missing = one.at_most - max(value, one.published)
                    self.nameless[key] = self.nameless.get(key, 0) + missing
                    one.at_most -= int(missing)
                elif value < one.published and not self.shared:
                    problem = f"fell from {one.published} to {value}"
                elif late and value < one.at_most:
                    problem = f"{value} published, {one.at_most} made, long ago"
                elif done and value == one.at_most:
                    one.is_right = True
                one.published = max(value, one.published)
                if problem:
                    self.errors.append(f"{key}: {problem}")
                elif one.on_exact and one.is_right:
                    self.exact[key] = one.at_most
                if problem or (one.on_exact and (one.is_right or key in self.nameless)):
                    del self._series[key]
                    over.append(one.on_exact or (lambda: None))
        for call in over:
            call()

    def waiting(self) -> list[Key]:
        """Not right yet."""
        with self._lock:
            return [key for key, one in self._series.items() if not one.is_right]


_LINE = re.compile(r"capability_checks_total\{(.*)\} ([0-9.e+]+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def published(page: str, capabilities: tuple[str, ...]) -> dict[Key, float]:
    """Denied checks of these capabilities."""
    found: dict[Key, float] = {}
    for line in page.splitlines():
        if not any(name in line for name in capabilities) or (match := _LINE.match(line)) is None:
            continue
        labels = dict(_LABEL.findall(match[1]))
        if labels["verdict"] == "denied":
            key = Key(*(labels[name] for name in ("namespace", "pod", "container", "capability")))
            found[key] = found.get(key, 0) + float(match[2])
    return found
