# SPDX-License-Identifier: Apache-2.0
"""Documents of profiles → rows with rates, sorted and filtered. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from cap_exporter.profiles.profile import unused
from cap_exporter.terminal import printable

Profile = dict[str, Any]
Counts = Mapping[str, int]

#: Rates are over about this time, seconds: two drains of an exporter that makes one each 5 s.
WINDOW = 12.0


class Key(NamedTuple):
    """Which container."""

    namespace: str
    pod: str
    container: str
    container_id: str


def key_of(one: Mapping[str, Any]) -> Key:
    """Of a profile or an event's record."""
    return Key(one["namespace"], one["pod"], one["container"], one.get("container_id", ""))


@dataclass(frozen=True, slots=True)
class Use:
    """One capability that a container used or was denied. Rates are per second; None: not known
    yet."""

    name: str
    used: int
    denied: int
    used_rate: float | None
    denied_rate: float | None
    granted: bool | None
    """None: nobody has looked what the container holds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One container."""

    key: Key
    place: str
    """``shop/web-6d5f-x2x7q/web``, fit for a terminal."""
    profile: Profile
    uses: tuple[Use, ...]
    """Denied ones first, then by how many."""
    used: int
    denied: int
    used_rate: float | None
    denied_rate: float | None
    unused: tuple[str, ...] | None
    """Granted and never used; None: nobody has looked."""

    @property
    def has_checks(self) -> bool:
        """It made checks that mean something, if only over user namespaces of its own."""
        inner = self.profile["in_user_namespace"]
        return bool(self.uses or inner["used"] or inner["denied"])


class _Sample(NamedTuple):
    at: float
    counts: dict[Key, tuple[Counts, Counts]]
    """Used and denied."""
    after_drain: bool
    """It was the first look after a drain."""


class History:
    """The last documents, as far as rates need them.

    An exporter's counts change with its drains, every 5 s by default: a look in between tells
    nothing, and a rate over less than a drain is nothing, then double. So rates are from drain to
    drain, which are seen by their changes.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._samples: deque[_Sample] = deque()

    def add(self, containers: Iterable[Profile], at: float) -> list[Row]:
        """``at``: seconds of a monotonic clock. The first document has no rates."""
        profiles = list(containers)
        counts = {key_of(one): (one["used"], one["denied"]) for one in profiles}
        last = self._samples[-1] if self._samples else None
        # Without a change for long, there was none to make.
        if last is None or counts != last.counts or at - last.at >= self._window:
            self._samples.append(_Sample(at, counts, after_drain=last is not None))
        # The last two stay, however far apart: there may have been no answer in between.
        while len(self._samples) > 2 and not (
            self._samples[0].after_drain
            and self._samples[0].at >= self._samples[-1].at - self._window
        ):
            self._samples.popleft()
        base, seconds = None, 0.0
        if len(self._samples) > 1:
            base = self._samples[0].counts
            seconds = self._samples[-1].at - self._samples[0].at
        return [_row(one, base, seconds) for one in profiles]


def _row(one: Profile, base: Mapping[Key, tuple[Counts, Counts]] | None, seconds: float) -> Row:
    key = key_of(one)
    used, denied = one["used"], one["denied"]
    used_before, denied_before = (base or {}).get(key, ({}, {}))
    if _went_back(used, used_before) or _went_back(denied, denied_before):
        # The exporter began anew: all it has is since then.
        used_before, denied_before = {}, {}

    def rate(now: int, before: int) -> float | None:
        return (now - before) / seconds if seconds > 0 else None

    granted = one.get("granted")
    held = granted["bounding"] if granted else None
    uses = [
        Use(
            name,
            used.get(name, 0),
            denied.get(name, 0),
            rate(used.get(name, 0), used_before.get(name, 0)),
            rate(denied.get(name, 0), denied_before.get(name, 0)),
            None if held is None else name in held,
        )
        for name in dict.fromkeys((*denied, *used))
    ]
    uses.sort(key=lambda u: (-(u.denied_rate or 0), -u.denied, -(u.used_rate or 0), -u.used))
    return Row(
        key,
        printable("/".join(part for part in key[:3] if part)),
        one,
        tuple(uses),
        sum(used.values()),
        sum(denied.values()),
        rate(sum(used.values()), sum(used_before.values())),
        rate(sum(denied.values()), sum(denied_before.values())),
        unused(one),
    )


def _went_back(now: Counts, before: Counts) -> bool:
    return any(now.get(name, 0) < count for name, count in before.items())


class Sort(StrEnum):
    DENIED = "denied"
    USED = "used"
    NAME = "name"

    def next(self) -> Sort:
        orders = list(Sort)
        return orders[(orders.index(self) + 1) % len(orders)]


def arrange(rows: Iterable[Row], sort: Sort, words: str = "", everything: bool = True) -> list[Row]:
    """Those that have all of these words in their names or their capabilities', in this order.
    everything: also those without a check that means something."""
    wanted = words.lower().split()
    chosen = [
        row for row in rows if (everything or row.has_checks) and (not wanted or _has(row, wanted))
    ]

    def rank(row: Row) -> tuple[float | str, ...]:
        denied = (-(row.denied_rate or 0), -row.denied)
        used = (-(row.used_rate or 0), -row.used)
        name = (row.place, row.key.container_id)
        if sort is Sort.NAME:
            return name
        return (*denied, *used, *name) if sort is Sort.DENIED else (*used, *denied, *name)

    return sorted(chosen, key=rank)


def _has(row: Row, words: Sequence[str]) -> bool:
    one = row.profile
    names = (row.place, one["workload_kind"], one["workload"], *(use.name for use in row.uses))
    text = " ".join(names).lower()
    return all(word in text for word in words)


def total(rates: Iterable[float | None]) -> float | None:
    """None where none is known."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None
