# SPDX-License-Identifier: Apache-2.0
"""The last hour of each container's counts, for sparklines and rates. Bounded."""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from cap_exporter.capabilities import number_of
from cap_exporter.labels import label_value
from cap_exporter.ledger import Account
from cap_exporter.model import CheckClass, Identity, UserNamespace, Verdict
from cap_exporter.top.model import Key

#: Seconds between two samples.
SPACING = 60.0

#: Samples that are kept.
SAMPLES = 60

#: Series (a container's capability, used or denied) that have a history; later ones have none.
#: At about 0.4 kB each, 2 MB in all.
MOST_SERIES = 4600

#: Counts are kept modulo this: differences are right up to as many checks between two samples.
_MODULUS = 1 << 32


class Totals(NamedTuple):
    """Of the whole exporter, so far."""

    at: float
    """Seconds of the monotonic clock."""
    checks: int
    events: int


class Rates(NamedTuple):
    """Per second, over the last one or two minutes."""

    checks: float
    events: float


class History:
    """One thread adds, any thread reads."""

    def __init__(self, began: float, *, most_series: int = MOST_SERIES) -> None:
        """began: when nothing was counted yet, seconds of the monotonic clock."""
        self._most = most_series
        self._lock = threading.Lock()
        # Cumulative counts by container, then by capability and verdict; the newest last.
        self._tracks: dict[Key, dict[int, array[int]]] = {}
        self._series = 0
        self._samples = 0
        self._left_out = False
        self._totals: deque[Totals] = deque([Totals(began, 0, 0)], maxlen=3)

    def add(self, accounts: Iterable[Account], totals: Totals) -> None:
        """A sample; one each SPACING."""
        with self._lock:
            self._totals.append(totals)
            self._samples = min(self._samples + 1, SAMPLES)
            before, self._tracks = self._tracks, {}
            self._series = 0
            self._left_out = False
            for account in accounts:
                key = _key(account.identity)
                tracks = before.get(key, {})
                if counts := _counts(account):
                    self._tracks[key] = self._sampled(tracks, counts)

    def _sampled(
        self, tracks: dict[int, array[int]], counts: dict[int, int]
    ) -> dict[int, array[int]]:
        for name, count in counts.items():
            track = tracks.get(name)
            if track is None:
                if self._series >= self._most:
                    self._left_out = True
                    continue
                track = tracks[name] = array("I")
            self._series += 1
            track.append(count % _MODULUS)
            if len(track) > SAMPLES + 1:
                del track[0]
        return tracks

    def of(self, key: Key, capability: str, verdict: Verdict, count: int) -> Sequence[int] | None:
        """Checks per minute, the oldest first, at most SAMPLES; the last one is the minute that
        runs. None: there was no room for it. count: the checks until now."""
        with self._lock:
            track = self._tracks.get(key, {}).get(_name(number_of(capability), verdict))
            if track is None:
                if self._left_out:
                    return None
                track = array("I")
            values = [*track, count % _MODULUS]
            samples = self._samples
        if len(values) <= SAMPLES + 1:
            # It began within this time, at 0.
            values.insert(0, 0)
        steps = [(after - before) % _MODULUS for before, after in pairwise(values)]
        padded = [0] * (samples + 1 - len(steps)) + steps
        return padded[-SAMPLES:]

    def rates(self, now: Totals) -> Rates | None:
        """None: it has not been long enough."""
        with self._lock:
            base = next((one for one in reversed(self._totals) if now.at - one.at >= SPACING), None)
            base = base or self._totals[0]
        seconds = now.at - base.at
        if seconds < 1:
            return None
        return Rates((now.checks - base.checks) / seconds, (now.events - base.events) / seconds)


def _key(identity: Identity) -> Key:
    return Key(
        label_value(identity.namespace),
        label_value(identity.pod),
        label_value(identity.container),
        label_value(identity.container_id),
    )


def _name(capability: int, verdict: Verdict) -> int:
    return 2 * capability + (verdict is Verdict.DENIED)


def _counts(account: Account) -> dict[int, int]:
    """Those that a profile has as used and denied."""
    return {
        _name(check.capability, check.verdict): count
        for check, count in account.counts.items()
        if check.check_class is CheckClass.MEANINGFUL and check.user_namespace is UserNamespace.INIT
    }
