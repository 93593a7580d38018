# SPDX-License-Identifier: Apache-2.0
"""The metrics for Prometheus: names, labels, help texts, and where each value comes from.

Collectors in prometheus_client's sense: they build their samples anew for each scrape. The page
itself is written by exposition.py, which writes the containers' samples faster than
prometheus_client does, byte for byte the same.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

import cap_exporter
from cap_exporter.capabilities import name_of
from cap_exporter.labels import label_value
from cap_exporter.model import CheckClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cap_exporter.labels import LabelScheme
    from cap_exporter.ledger import Ledger, Series, Snapshot
    from cap_exporter.model import Identity
    from cap_exporter.self_stats import SelfStats


class Family(NamedTuple):
    """A metric of the containers: what exposition.py and the collector below both write."""

    name: str
    """As it is exposed; a counter's with ``_total``."""
    help: str
    labels: tuple[str, ...]
    """Behind those that tell series apart (labels.LabelScheme)."""

    def all_labels(self, scheme: LabelScheme) -> tuple[str, ...]:
        """Names of all labels."""
        return (*scheme.names, *(name for name in self.labels if name not in scheme.names))


CHECKS = Family(
    "capability_checks_total",
    "Capability checks the kernel made for the workload itself, and its answer. verdict: allowed "
    "or denied. user_namespace: init for the host's, other for a container's own. All checks that "
    "say nothing about what the workload needs are in capability_background_checks_total.",
    ("capability", "verdict", "user_namespace"),
)
BACKGROUND_CHECKS = Family(
    "capability_background_checks_total",
    "Capability checks that say nothing about what the workload needs, and the reason. setup: the "
    "runtime preparing the container. other: of somebody else's credentials. override: the kernel "
    "under borrowed credentials, as overlayfs does. noaudit: the kernel only probed. alternative: "
    "denied, but another capability that the process holds will do. unclassified: it could not be "
    "told. This and capability_checks_total together are every check made.",
    ("capability", "verdict", "reason"),
)
CONTAINER_INFO = Family(
    "capability_container_info",
    "What is known about the container that has these labels now; always 1. Join it on namespace, "
    "pod and container.",
    (
        "container_id",
        "image",
        "workload_kind",
        "workload",
        "runtime",
        "cgroup",
    ),
)
CONTAINER_GRANTED = Family(
    "capability_container_granted",
    "Capabilities that the processes of the container can have at all (their bounding set); always "
    "1. Containers where nobody has looked have none.",
    ("capability",),
)


def info_values(series: Series, info: Identity, scheme: LabelScheme) -> tuple[str, ...]:
    """Label values of CONTAINER_INFO, in the order of its labels."""
    fields = CONTAINER_INFO.all_labels(scheme)[len(scheme.names) :]
    return (
        *series.labels,
        *(
            # One container's own say nothing of all that share the labels.
            ""
            if not scheme.per_container and field in _OF_ONE_CONTAINER
            else label_value(getattr(info, field))
            for field in fields
        ),
    )


_OF_ONE_CONTAINER = frozenset({"container_id", "cgroup"})


class ContainerCollector:
    """The containers' metrics, from the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        return self.families(self._ledger.snapshot())

    def families(self, snapshot: Snapshot) -> Iterator[Metric]:
        """The metrics of one snapshot. exposition.py writes the same samples in this order."""
        scheme = self._ledger.scheme
        checks = CounterMetricFamily(CHECKS.name, CHECKS.help, labels=CHECKS.all_labels(scheme))
        for series in snapshot.series:
            for check, n in series.counts().items():
                if check.check_class is CheckClass.MEANINGFUL:
                    capability = name_of(check.capability)
                    checks.add_metric(
                        (*series.labels, capability, check.verdict, check.user_namespace), n
                    )
        yield checks

        background = CounterMetricFamily(
            BACKGROUND_CHECKS.name,
            BACKGROUND_CHECKS.help,
            labels=BACKGROUND_CHECKS.all_labels(scheme),
        )
        for series in snapshot.series:
            sums: dict[tuple[str, ...], int] = {}
            for check, n in series.counts().items():
                if check.check_class is not CheckClass.MEANINGFUL:
                    rest = (name_of(check.capability), check.verdict, check.check_class)
                    sums[rest] = sums.get(rest, 0) + n
            for values, n in sums.items():
                background.add_metric((*series.labels, *values), n)
        yield background

        info = GaugeMetricFamily(
            CONTAINER_INFO.name, CONTAINER_INFO.help, labels=CONTAINER_INFO.all_labels(scheme)
        )
        for series in snapshot.series:
            if series.info is not None:
                info.add_metric(info_values(series, series.info, scheme), 1)
        yield info

        granted = GaugeMetricFamily(
            CONTAINER_GRANTED.name,
            CONTAINER_GRANTED.help,
            labels=CONTAINER_GRANTED.all_labels(scheme),
        )
        for series in snapshot.series:
            for number in sorted(series.granted or ()):
                granted.add_metric((*series.labels, name_of(number)), 1)
        yield granted


class SelfCollector:
    """The exporter's metrics about itself."""

    def __init__(self, stats: SelfStats, ledger: Ledger) -> None:
        self._stats = stats
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        build = GaugeMetricFamily(
            "cap_exporter_build_info",
            "Version of cap-exporter and of the Python that runs it; always 1.",
            labels=("version", "python_version"),
        )
        build.add_metric((cap_exporter.__version__, platform.python_version()), 1)
        yield build

        source = GaugeMetricFamily(
            "cap_exporter_source_info",
            "What counts the checks and how it is attached to the kernel; always 1. Missing until "
            "it is attached.",
            labels=("source", "attach"),
        )
        if stats.source is not None:
            source.add_metric(stats.source, 1)
        yield source

        yield GaugeMetricFamily(
            "cap_exporter_counting_start_time_seconds",
            "When what is published began to be counted, since the epoch. Before the process's own "
            "start where it goes on with another's counts (--pin).",
            value=stats.counting_since,
        )

        counts, total = stats.drain_durations.read()
        buckets, so_far = [], 0
        bounds = [*map(str, stats.drain_durations.bounds), "+Inf"]
        for bound, n in zip(bounds, counts, strict=True):
            so_far += n
            buckets.append((bound, so_far))
        yield HistogramMetricFamily(
            "cap_exporter_drain_duration_seconds",
            "Time taken to read the kernel's counters, name their cgroups and add them up.",
            buckets=buckets,
            sum_value=total,
        )

        slots = GaugeMetricFamily(
            "cap_exporter_map_slots",
            "Room for counters in the kernel, by state: used or free. Without a free one, new "
            'containers are counted under container="(overflow)".',
            labels=("state",),
        )
        slots.add_metric(("used",), stats.slots_used)
        slots.add_metric(("free",), max(0, stats.slots_total - stats.slots_used))
        yield slots

        yield CounterMetricFamily(
            "cap_exporter_overflow_checks_total",
            'Checks counted under container="(overflow)" because there was no room, in the kernel '
            "or in the exporter, to tell whose they are.",
            value=self._ledger.overflow_checks,
        )

        missed = CounterMetricFamily(
            "cap_exporter_missed_checks_total",
            "Checks that the kernel made but did not show to the exporter, by reason: they are in "
            "no other number.",
            labels=("reason",),
        )
        for reason, n in stats.missed.items():
            missed.add_metric((label_value(reason),), n)
        yield missed

        events = CounterMetricFamily(
            "cap_exporter_events_total",
            "Sampled events by outcome. sent: to whoever listens. full: the ring had no room. "
            "limited: beyond the rate of their cgroup. The checks are counted in any case.",
            labels=("outcome",),
        )
        for outcome, n in stats.events.items():
            events.add_metric((outcome,), n)
        yield events

        yield CounterMetricFamily(
            "cap_exporter_out_of_scope_checks_total",
            "Checks of what --scope, --namespaces, --exclude-namespaces and --pod-selector leave "
            "out: they are in no other number.",
            value=stats.out_of_scope_checks,
        )
        yield CounterMetricFamily(
            "cap_exporter_given_up_cgroups_total",
            "Cgroups whose pod did not become known in time (--pod-patience): their checks were "
            "published under the ids they have.",
            value=stats.given_up,
        )
        if stats.reload_successful is not None:
            yield GaugeMetricFamily(
                "cap_exporter_config_last_reload_successful",
                "1 where the last reading of the configuration file went well.",
                value=stats.reload_successful,
            )
            yield GaugeMetricFamily(
                "cap_exporter_config_last_reload_success_timestamp_seconds",
                "When the configuration file was last read well, since the epoch.",
                value=stats.reload_time,
            )

        yield GaugeMetricFamily(
            "cap_exporter_unresolved_cgroups",
            "Cgroups with checks whose pod or container is not known (yet).",
            value=stats.unresolved_cgroups,
        )


class Metrics:
    """All metrics of the exporter, on registries of its own.

    ``own`` is for metrics about the exporter itself: other parts register their collectors there.
    ``all`` is ``own`` and the containers' metrics, for prometheus_client's own writers.
    """

    def __init__(self, ledger: Ledger, stats: SelfStats) -> None:
        self.ledger = ledger
        self.containers = ContainerCollector(ledger)
        self.own = CollectorRegistry()
        self.own.register(SelfCollector(stats, ledger))
        ProcessCollector(registry=self.own)
        self.all = CollectorRegistry()
        self.all.register(self.containers)
        self.all.register(self.own)
