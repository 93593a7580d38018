# SPDX-License-Identifier: Apache-2.0
"""How much counters grew in a window, exactly, from what a Prometheus has stored of them.

increase() is no count: it extrapolates, and gives nothing for the value with which a series
begins. Here the growth is the sum of the differences, and a value counts in full where its series
began at 0 since the sample before it:

* the value fell;
* counting began anew in between (cap_exporter_counting_start_time_seconds);
* the exporter was scraped in between and did not have the series: it had gone, and came again;
* there is no sample before it, but the exporter was scraped before, or started in the window.

Where none of that is known to hold for a first sample (the exporter is older than the window and
this is the first scrape of it that is stored), the value may hold checks from before the window.
It counts in full all the same, since a container that is there used it; it is *carried*.

Stored samples are many: a week of 5,000 series is a hundred million. So the window is walked in
chunks, and for each the server gives three numbers a series (last value, resets, samples). Those
do for a series that was in every scrape of its exporter, which nearly all are. The samples
themselves are fetched for the others only, and where these are still too many the chunk is halved.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from cap_exporter.fleet.prometheus import Prometheus, Series, TooBig
from cap_exporter.labels import CHOICES

CHUNK = 86400.0

#: Before the window, for what the counters were when it began.
BASELINE = 3600.0

#: A chunk is not made smaller than this, in seconds.
SMALLEST = 300.0

#: The sample before a chunk is looked for so far back, in seconds: longer than scrapes are apart.
_OVERLAP = 600

#: Samples that one query may fetch: about 25 bytes each.
_MOST_SAMPLES = 200_000

#: Samples of one chunk beyond which halving it is cheaper than to fetch them all.
_MANY_SAMPLES = 1_000_000

#: Bytes of one regular expression in a query.
_MOST_REGEX = 4000

Labels: TypeAlias = tuple[tuple[str, str], ...]

#: Who was scraped: the labels that the exporter's own metrics and the containers' have in common.
Target: TypeAlias = Labels

BUILD_INFO = "cap_exporter_build_info"
START_TIME = "cap_exporter_counting_start_time_seconds"

_NOT_TARGETS = frozenset(
    {*CHOICES, "capability", "verdict", "user_namespace", "reason", "version", "python_version"}
    | {"__name__", "container_id", "image", "runtime", "cgroup"}
)


class Growth(NamedTuple):
    """What a series did in one chunk."""

    labels: dict[str, str]
    increase: int
    first: float
    """Seconds since the epoch: its first sample in the chunk, or the chunk's beginning."""
    last: float
    carried: bool


class Seen(NamedTuple):
    """A target in one chunk."""

    scrapes: int
    last: float
    """Seconds since the epoch: the last scrape, to a minute where it was not at the end."""
    start: float | None
    """When the process that was last scraped began; None where Prometheus does not have it."""


class State(NamedTuple):
    """A series at the end of a chunk."""

    value: float
    alive: bool
    """It was in the last scrape of its target."""


@dataclass(slots=True)
class _Counted:
    """The series of a selector, up to the end of a chunk."""

    selector: str
    states: dict[Labels, State] = field(default_factory=dict)
    targets: dict[Target, float | None] = field(default_factory=dict)
    """Those that have been scraped, and when the process began that was scraped last."""


#: A target's scrapes: time, and when its process began.
Scrapes: TypeAlias = list[tuple[float, float | None]]


def target_of(labels: Mapping[str, str]) -> Target:
    """The target's key."""
    return tuple(
        sorted(
            (name, value)
            for name, value in labels.items()
            if name not in _NOT_TARGETS and not name.startswith("label_") and value
        )
    )


def grown(
    before: State | None,
    samples: Iterable[tuple[float, float]],
    scrapes: Scrapes,
    since: float,
    known_before: bool,
    start_before: float | None,
) -> tuple[float, State | None, bool]:
    """Growth, the new state, and whether the first value is carried. samples and scrapes: of one
    chunk, ascending. since: the window's beginning. known_before, start_before: the target was
    scraped before the chunk, and when the process began that was scraped then."""
    times = [time for time, _ in scrapes]
    total, carried = 0.0, False
    value = before.value if before is not None else None
    alive = before is not None and before.alive
    at: float | None = None  # of the sample before, in this chunk
    start = start_before
    for time, now in samples:
        place = bisect_left(times, time)
        new_start = scrapes[place][1] if place < len(times) and times[place] == time else start
        behind = 0 if at is None else bisect_right(times, at)
        missed = place > behind or (at is None and not alive)
        anew = start is not None and new_start is not None and new_start != start
        if value is None:
            began = known_before or place > 0 or (new_start is not None and new_start >= since)
            carried = not began
            total += now
        elif now < value or missed or anew:
            total += now
        else:
            total += now - value
        value, at, start = now, time, new_start
    if value is None:
        return 0.0, None, False
    if at is None:
        return 0.0, State(value, alive and not scrapes), False
    return total, State(value, not times or times[-1] <= at), carried


class Walk:
    """Goes through a window, chunk by chunk. Raises PrometheusError from everything."""

    def __init__(
        self,
        server: Prometheus,
        since: float,
        until: float,
        *,
        matchers: Iterable[str] = (),
        on_chunk: Callable[[float], None] = lambda _fraction: None,
    ) -> None:
        """matchers: for every metric, e.g. ``cluster="prod"``. on_chunk: how much is done, 0…1."""
        self._server = server
        self.until = float(int(until))
        self.since = self.until - max(1, round(until - since))
        self._matchers = tuple(matchers)
        self._on_chunk = on_chunk
        self._chunk = CHUNK
        self._jobs = ""
        self._targets: dict[tuple[float, float], dict[Target, Seen]] = {}

    def chunks(self) -> Iterator[tuple[float, float]]:
        """Of the window alone."""
        at = self.since
        while at < self.until:
            end = min(at + self._chunk, self.until)
            yield at, end
            self._on_chunk((end - self.since) / (self.until - self.since))
            at = end

    def vector(self, expr: str, at: float) -> list[Series]:
        return self._server.query(expr, at)

    def selector(self, metric: str, *more: str) -> str:
        return f"{metric}{{{','.join((*self._matchers, *more))}}}"

    def present(self, metric: str, *matchers: str) -> Iterator[dict[str, str]]:
        """Labels that series of this metric had at some time; the same may come again."""
        selector = self.selector(metric, *matchers)
        for begin, end in self.chunks():
            yield from self._present(selector, begin, end)

    def _present(self, selector: str, begin: float, end: float) -> Iterator[dict[str, str]]:
        try:
            found = self._over("last_over_time", selector, begin, end)
        except TooBig:
            if end - begin <= SMALLEST:
                raise
            middle = begin + round((end - begin) / 2)
            yield from self._present(selector, begin, middle)
            yield from self._present(selector, middle, end)
            return
        yield from (one.labels for one in found)

    def grow(self, metric: str, *matchers: str) -> Iterator[Growth]:
        """Each series' growth in each chunk of the window where it was there."""
        counted = _Counted(self.selector(metric, *matchers))
        for _ in self._grow(counted, self.since - BASELINE, self.since):
            pass
        for begin, end in self.chunks():
            yield from self._grow(counted, begin, end)

    def _grow(
        self,
        counted: _Counted,
        begin: float,
        end: float,
        only: set[Labels] | None = None,
    ) -> Iterator[Growth]:
        """only: these series, the others have been counted."""
        selector, states, targets = counted.selector, counted.states, counted.targets
        try:
            seen = self.targets(begin, end)
            counts = {_key(one): one for one in self._over("count_over_time", selector, begin, end)}
            values = self._over("last_over_time", selector, begin, end)
            reset = {_key(one) for one in self._resets(selector, begin, end)}
        except TooBig:
            if end - begin <= SMALLEST:
                raise
            if only is None:
                self._chunk = min(self._chunk, (end - begin) / 2)
            yield from self._halves(counted, begin, end, only)
            return
        unclear: dict[Labels, Series] = {}
        for one in values:
            key = _key(one)
            if only is not None and key not in only:
                continue
            target = target_of(one.labels)
            at, state = seen.get(target), states.get(key)
            n = counts[key].samples[0][1] if key in counts else 0
            value = one.samples[-1][1]
            if (
                at is None
                or state is None
                or not state.alive
                or key in reset
                or n != at.scrapes
                or targets.get(target) != at.start
                or value < state.value
            ):
                unclear[key] = one
                continue
            states[key] = State(value, alive=True)
            yield Growth(one.labels, round(value - state.value), begin, at.last, carried=False)
        present = {_key(one) for one in values}
        for key in list(states):
            if (
                key not in present
                and (only is None or key in only)
                and target_of(dict(key)) in seen
            ):
                del states[key]
        cost = sum(counts[key].samples[0][1] for key in unclear if key in counts)
        if cost > _MANY_SAMPLES and end - begin > SMALLEST * 2:
            yield from self._halves(counted, begin, end, set(unclear))
            return
        yield from self._from_samples(counted, begin, end, unclear, counts, seen)
        targets.update({target: at.start for target, at in seen.items()})

    def _halves(
        self, counted: _Counted, begin: float, end: float, only: set[Labels] | None
    ) -> Iterator[Growth]:
        middle = begin + round((end - begin) / 2)
        yield from self._grow(counted, begin, middle, only)
        yield from self._grow(counted, middle, end, only)

    def _from_samples(
        self,
        counted: _Counted,
        begin: float,
        end: float,
        unclear: Mapping[Labels, Series],
        counts: Mapping[Labels, Series],
        seen: Mapping[Target, Seen],
    ) -> Iterator[Growth]:
        if not unclear:
            return
        scrapes = self._scrapes(begin, end, {target_of(one.labels) for one in unclear.values()})
        weights = {key: counts[key].samples[0][1] if key in counts else 1.0 for key in unclear}
        for matcher in _batches(unclear, weights):
            for one in self._samples(_and(counted.selector, matcher), begin, end):
                key = _key(one)
                if key not in unclear:
                    continue
                target = target_of(one.labels)
                increase, state, carried = grown(
                    counted.states.get(key),
                    one.samples,
                    scrapes.get(target, []),
                    self.since,
                    target in counted.targets,
                    counted.targets.get(target),
                )
                if state is not None:
                    counted.states[key] = state
                yield Growth(
                    one.labels,
                    round(increase),
                    one.samples[0][0],
                    seen[target].last
                    if state and state.alive and target in seen
                    else one.samples[-1][0],
                    carried,
                )

    # What the server is asked

    def targets(self, begin: float, end: float) -> dict[Target, Seen]:
        """The exporters that were scraped."""
        found = self._targets.get((begin, end))
        if found is not None:
            return found
        own = self.selector(BUILD_INFO)
        counts = self._over("count_over_time", own, begin, end)
        length = _range(end - begin)
        last = _by_target(
            self.vector(f"timestamp({own}) or max_over_time(timestamp({own})[{length}:1m])", end),
            max,
        )
        started = self.selector(START_TIME, self._job_matcher(counts))
        starts = _by_target(self._over("last_over_time", started, begin, end), max)
        found = {
            target: Seen(int(n), last.get(target, end), starts.get(target))
            for target, n in _by_target(counts, lambda a, b: a + b).items()
        }
        self._targets[begin, end] = found
        return found

    def _job_matcher(self, of: Iterable[Series]) -> str:
        jobs = sorted({one.labels.get("job", "") for one in of})
        return f"job=~{_one_of(jobs)}"

    def _scrapes(self, begin: float, end: float, of: set[Target]) -> dict[Target, Scrapes]:
        instances = sorted({dict(target).get("instance", "") for target in of})
        found: dict[Target, dict[float, float | None]] = {}
        for part in _parts(instances):
            matcher = f"instance=~{_one_of(part)}"
            own = self._samples(self.selector(BUILD_INFO, matcher), begin, end)
            job = self._job_matcher(own)
            for one in own:
                into = found.setdefault(target_of(one.labels), {})
                into.update(dict.fromkeys(time for time, _ in one.samples))
            if own:
                started = self.selector(START_TIME, matcher, job)
                for one in self._samples(started, begin, end):
                    into = found.get(target_of(one.labels), {})
                    into.update((time, value) for time, value in one.samples if time in into)
        return {target: sorted(times.items()) for target, times in found.items()}

    def _over(self, function: str, selector: str, begin: float, end: float) -> list[Series]:
        return self.vector(f"{function}({selector}[{_range(end - begin)}])", end)

    def _resets(self, selector: str, begin: float, end: float) -> list[Series]:
        # Also one between the last sample before the chunk and its first.
        length = _range(end - begin + _OVERLAP)
        return self.vector(f"resets({selector}[{length}]) > 0", end)

    def _samples(self, selector: str, begin: float, end: float) -> list[Series]:
        try:
            found = self.vector(f"{selector}[{_range(end - begin)}]", end)
        except TooBig:
            if end - begin <= SMALLEST:
                raise
            middle = begin + round((end - begin) / 2)
            joined: dict[Labels, Series] = {}
            for part in ((begin, middle), (middle, end)):
                for one in self._samples(selector, *part):
                    joined.setdefault(_key(one), Series(one.labels, [])).samples.extend(one.samples)
            return list(joined.values())
        # Before Prometheus 3 the beginning is part of a range.
        inside = (
            Series(one.labels, [(time, value) for time, value in one.samples if time > begin])
            for one in found
        )
        return [one for one in inside if one.samples]


def _key(one: Series) -> Labels:
    return tuple(sorted((n, v) for n, v in one.labels.items() if n != "__name__"))


def _by_target(
    several: Iterable[Series], join: Callable[[float, float], float]
) -> dict[Target, float]:
    # A new version is another series of the same target.
    found: dict[Target, float] = {}
    for one in several:
        target, value = target_of(one.labels), one.samples[-1][1]
        found[target] = join(found[target], value) if target in found else value
    return found


def quoted(text: str) -> str:
    """A string of PromQL (its escapes are Go's, of which JSON's are a part)."""
    return json.dumps(text, ensure_ascii=False)


def _one_of(values: Iterable[str]) -> str:
    return quoted("|".join(re.escape(value) for value in values))


def one_of(name: str, values: Iterable[str]) -> str:
    """A matcher for any of these values."""
    return f"{name}=~{_one_of(values)}"


def _parts(values: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for value in values:
        if part and size + len(value) > _MOST_REGEX:
            yield part
            part, size = [], 0
        part.append(value)
        size += len(value) + 1
    if part:
        yield part


def _batches(unclear: Mapping[Labels, Series], weights: Mapping[Labels, float]) -> Iterator[str]:
    """Matchers that together have all of these series, few samples each."""
    # What is in no pod is told apart by its container label.
    costs: dict[str, dict[str, float]] = {"pod": {}, "container": {}}
    for key, one in unclear.items():
        name = "pod" if one.labels.get("pod") else "container"
        cost, value = costs[name], one.labels.get(name, "")
        cost[value] = cost.get(value, 0.0) + weights[key]
    for name, cost in costs.items():
        first = "" if name == "pod" else 'pod="",'
        part: list[str] = []
        size = total = 0.0
        for value, n in cost.items():
            if part and (size + len(value) > _MOST_REGEX or total + n > _MOST_SAMPLES):
                yield first + one_of(name, part)
                part, size, total = [], 0.0, 0.0
            part.append(value)
            size += len(value) + 1
            total += n
        if part:
            yield first + one_of(name, part)


def _and(selector: str, matcher: str) -> str:
    inner = selector.removesuffix("}")
    return f"{inner}{'' if inner.endswith('{') else ','}{matcher}}}"


def _range(seconds: float) -> str:
    return f"{max(1, round(seconds))}s"
