# SPDX-License-Identifier: Apache-2.0
"""The counters by push: the same ledger as the metrics page, as OTLP metrics.

Built anew from the ledger for each push, from the SDK's own data classes: observable counters
would keep each pod's attributes for ever (they have no way to forget one). Cumulative, with the
time when each series began at 0; requests stay well below the 4 MiB that gRPC servers take.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import cap_exporter
from cap_exporter.capabilities import name_of
from cap_exporter.labels import LabelScheme, label_value
from cap_exporter.ledger import Ledger, Series
from cap_exporter.model import CheckClass
from cap_exporter.outputs.otlp_attributes import (
    CAPABILITY_NAME,
    REASON,
    USER_NAMESPACE_TYPE,
    VERDICT,
)
from cap_exporter.outputs.otlp_partial import PartialSuccess
from cap_exporter.outputs.otlp_resource import Attributes, Resources, image_attributes
from cap_exporter.outputs.otlp_settings import Signal, SignalSettings
from cap_exporter.outputs.otlp_stats import OtlpStats
from cap_exporter.outputs.otlp_transport import Listener, is_away, make_metric_exporter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as PrometheusMetric
    from prometheus_client.samples import Sample

log = logging.getLogger(__name__)

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SCOPE = InstrumentationScope("cap_exporter", cap_exporter.__version__, SCHEMA_URL)

#: Size of a request, about, bytes. Servers take 4 MiB.
_REQUEST_BYTES = 1 << 20

#: A data point with its attributes, about, bytes.
_POINT_BYTES = 256

_CUMULATIVE = AggregationTemporality.CUMULATIVE

#: Short: each container has them anew. docs/metrics.md tells more.
_CHECKS = "Capability checks the kernel made for the workload itself, and its answer."
_BACKGROUND = "Capability checks that say nothing about what the workload needs, and the reason."
_GRANTED = "Capabilities that the container's processes can have at all; always 1."
_INFO = "The container that these counts are of now; always 1."

#: What prometheus_client's ProcessCollector measures, by the names of the conventions.
_PROCESS = {
    "process_cpu_seconds": ("process.cpu.time", "s"),
    "process_resident_memory_bytes": ("process.memory.usage", "By"),
    "process_virtual_memory_bytes": ("process.memory.virtual", "By"),
    "process_open_fds": ("process.unix.file_descriptor.count", "{file_descriptor}"),
}


def metrics_of(series: Series, start: int, now: int, scheme: LabelScheme) -> Iterator[Metric]:
    """start, now: nanoseconds since the epoch."""
    checks: list[NumberDataPoint] = []
    background: dict[tuple[str, str, str], int] = {}
    for check, n in series.counts().items():
        capability = name_of(check.capability)
        if check.check_class is CheckClass.MEANINGFUL:
            attributes: Attributes = {
                CAPABILITY_NAME: capability,
                VERDICT: str(check.verdict),
                USER_NAMESPACE_TYPE: str(check.user_namespace),
            }
            checks.append(NumberDataPoint(attributes, start, now, n))
        else:
            key = capability, str(check.verdict), str(check.check_class)
            background[key] = background.get(key, 0) + n
    if checks:
        yield _counter("capability.checks", _CHECKS, "{check}", checks)
    if background:
        yield _counter(
            "capability.background_checks",
            _BACKGROUND,
            "{check}",
            [
                NumberDataPoint(
                    {CAPABILITY_NAME: capability, VERDICT: verdict, REASON: reason}, start, now, n
                )
                for (capability, verdict, reason), n in background.items()
            ],
        )
    if series.granted:
        points = [
            NumberDataPoint({CAPABILITY_NAME: name_of(number)}, start, now, 1)
            for number in sorted(series.granted)
        ]
        yield Metric("capability.container.granted", _GRANTED, "{capability}", Gauge(points))
    if series.info is not None and scheme.per_container:
        about: Attributes = image_attributes(series.info.image)
        if series.info.container_id:
            about["container.id"] = label_value(series.info.container_id)
        if series.info.cgroup:
            about["process.linux.cgroup"] = label_value(series.info.cgroup)
        yield Metric(
            "capability.container.info",
            _INFO,
            "{container}",
            Gauge([NumberDataPoint(about, start, now, 1)]),
        )


def _counter(name: str, description: str, unit: str, points: list[NumberDataPoint]) -> Metric:
    return Metric(name, description, unit, Sum(points, _CUMULATIVE, is_monotonic=True))


def containers(ledger: Ledger, resources: Resources, now: int) -> Iterator[ResourceMetrics]:
    """One for each series of the ledger."""
    scheme = ledger.scheme
    for series in ledger.snapshot().series:
        metrics = list(metrics_of(series, round(series.since * 1e9), now, scheme))
        if metrics:
            about = resources.of_series(series.labels, scheme, series.info)
            yield _resource_metrics(about, metrics)


def own(
    registry: CollectorRegistry, resources: Resources, start: int, now: int
) -> Iterator[ResourceMetrics]:
    """What the exporter says about itself on the metrics page."""
    metrics = [
        made for family in registry.collect() if (made := from_prometheus(family, start, now))
    ]
    yield _resource_metrics(resources.own, metrics)


def _resource_metrics(attributes: Attributes, metrics: list[Metric]) -> ResourceMetrics:
    return ResourceMetrics(
        Resource(attributes, SCHEMA_URL), [ScopeMetrics(SCOPE, metrics, SCHEMA_URL)], SCHEMA_URL
    )


def from_prometheus(family: PrometheusMetric, start: int, now: int) -> Metric | None:
    """``cap_exporter_events_total{outcome}`` as ``cap_exporter.events`` with
    ``cap_exporter.outcome``; None for what has no samples, or belongs to somebody else."""
    if family.name in _PROCESS:
        name, unit = _PROCESS[family.name]
    elif family.name.startswith("cap_exporter_"):
        name, unit = "cap_exporter." + family.name.removeprefix("cap_exporter_"), ""
        for suffix, its_unit in (("_seconds", "s"), ("_bytes", "By")):
            if name.endswith(suffix):
                name, unit = name.removesuffix(suffix), its_unit
    else:
        return None
    if family.type == "histogram":
        histograms = list(_histogram_points(family.samples, start, now))
        return Metric(name, family.documentation, unit, Histogram(histograms, _CUMULATIVE))
    points = [
        NumberDataPoint(_attributes(sample.labels), start, now, _number(sample.value, unit))
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    if not points:
        return None
    if family.type == "counter":
        return _counter(name, family.documentation, unit, points)
    return Metric(name, family.documentation, unit, Gauge(points))


def _attributes(labels: Mapping[str, str]) -> Attributes:
    return {f"cap_exporter.{name}": label_value(value) for name, value in labels.items()}


def _number(value: float, unit: str) -> int | float:
    """Numbers of things are whole; durations never change to whole ones when they happen to be."""
    whole = unit != "s" and float(value).is_integer()
    return int(value) if whole else float(value)


def _histogram_points(
    samples: Iterable[Sample], start: int, now: int
) -> Iterator[HistogramDataPoint]:
    """Without labels but ``le``, as the exporter's own are."""
    bounds: list[float] = []
    counts: list[int] = []
    below, total = 0, 0.0
    for sample in samples:
        if sample.name.endswith("_bucket"):
            if sample.labels["le"] != "+Inf":
                bounds.append(float(sample.labels["le"]))
            counts.append(int(sample.value) - below)
            below = int(sample.value)
        elif sample.name.endswith("_sum"):
            total = sample.value
    if counts:
        yield HistogramDataPoint(
            attributes={},
            start_time_unix_nano=start,
            time_unix_nano=now,
            count=below,
            sum=total,
            bucket_counts=counts,
            explicit_bounds=bounds,
            min=None,  # type: ignore[arg-type]  # optional in OTLP
            max=None,  # type: ignore[arg-type]
        )


def requests(
    parts: Iterable[ResourceMetrics], request_bytes: int = _REQUEST_BYTES
) -> Iterator[MetricsData]:
    """Packed so that no request is much larger than ``request_bytes``; one series, which holds
    some hundred points at most, is never split."""
    packed: list[ResourceMetrics] = []
    size = 0
    for part in parts:
        its_size = _size(part)
        if packed and size + its_size > request_bytes:
            yield MetricsData(packed)
            packed, size = [], 0
        packed.append(part)
        size += its_size
    if packed:
        yield MetricsData(packed)


def points_in(data: ResourceMetrics | MetricsData) -> int:
    if isinstance(data, MetricsData):
        return sum(points_in(part) for part in data.resource_metrics)
    return sum(len(m.data.data_points) for s in data.scope_metrics for m in s.metrics)


def _size(part: ResourceMetrics) -> int:
    """About what it takes as protobuf, rather more."""
    attributes = sum(len(k) + 4 * len(str(v)) + 16 for k, v in part.resource.attributes.items())
    texts = sum(
        len(m.name) + len(m.description or "") + 64 for s in part.scope_metrics for m in s.metrics
    )
    infos = sum(
        4 * len(str(point.attributes))
        for s in part.scope_metrics
        for m in s.metrics
        if m.name == "capability.container.info"
        for point in m.data.data_points
    )
    return attributes + texts + infos + _POINT_BYTES * points_in(part)


class OtlpMetrics:
    """Pushes from a thread of its own."""

    def __init__(
        self,
        settings: SignalSettings,
        interval: float,
        ledger: Ledger,
        registry: CollectorRegistry,
        resources: Resources,
        stats: OtlpStats,
    ) -> None:
        """interval: seconds between two pushes. registry: of the exporter's own metrics."""
        self._interval = interval
        self._ledger = ledger
        self._registry = registry
        self._resources = resources
        self.stats = stats
        self._start = time.time_ns()
        self._listener = Listener()
        self._partial = PartialSuccess(Signal.METRICS)
        self._exporter = make_metric_exporter(settings, self._listener, self._partial)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._failing = False
        self._complete = False
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0, grace: float = 1.0) -> None:
        """Push once more, for ``timeout`` seconds; then end what is under way, for ``grace``."""
        self._stop.set()
        self._thread.join(timeout)
        self._ended.set()
        self._exporter.shutdown()  # ends the exporter's wait for another try
        self._thread.join(grace)
        if not self._complete:
            log.warning("OTLP: the last metrics were not sent before the end")

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.push()
        if not self._ended.is_set():
            self._complete = self.push()

    def push(self) -> bool:
        """Everything once. False: the receiver did not take it all."""
        now = time.time_ns()
        failed = False
        try:
            for data in requests(self._parts(now)):
                if self._exporter.export(data) is MetricExportResult.SUCCESS:
                    self.stats.sent(Signal.METRICS, points_in(data), self._partial.take())
                    continue
                reason = self._listener.take_reason()
                if self._ended.is_set():
                    return False
                self.stats.failed(Signal.METRICS, reason)
                if not self._failing:
                    log.warning(
                        "OTLP: metrics can't be sent (%s); they come anew with each push", reason
                    )
                self._failing = failed = True
                # What is refused says nothing of the rest; where nobody is, the rest can wait.
                if is_away(reason):
                    return False
        except Exception:
            log.exception("OTLP: metrics could not be made")
            return False
        if self._failing and not failed:
            log.info("OTLP: the receiver takes metrics again")
        self._failing = failed
        return not failed

    def _parts(self, now: int) -> Iterator[ResourceMetrics]:
        yield from containers(self._ledger, self._resources, now)
        yield from own(self._registry, self._resources, self._start, now)
