# SPDX-License-Identifier: Apache-2.0
"""What an OTLP receiver got, and how it is told to fail: shared by the gRPC and the HTTP one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import trustme
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

if TYPE_CHECKING:
    import grpc
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


@dataclass(frozen=True)
class Fault:
    """How the next request is answered."""

    status: grpc.StatusCode | int | None = None
    """gRPC's or HTTP's; None: OK."""
    retry_after: float | None = None
    """Seconds, as RetryInfo or Retry-After."""
    delay: float = 0.0
    """Seconds before the answer."""
    silent: bool = False
    """No answer at all."""
    rejected: int | None = None
    """OK, and so many records or data points were thrown away."""

    def answer(self, request: ExportLogsServiceRequest | ExportMetricsServiceRequest) -> Any:
        """To what was taken."""
        answer: Any
        if isinstance(request, ExportLogsServiceRequest):
            answer, name = ExportLogsServiceResponse(), "rejected_log_records"
        else:
            answer, name = ExportMetricsServiceResponse(), "rejected_data_points"
        if self.rejected is not None:
            setattr(answer.partial_success, name, self.rejected)
            answer.partial_success.error_message = "not\x1b[2J all of it"
        return answer


class Log(NamedTuple):
    """A log record that was taken."""

    resource: dict[str, Any]
    record: LogRecord

    @property
    def attributes(self) -> dict[str, Any]:
        return attributes(self.record.attributes)


class Point(NamedTuple):
    """A data point that was taken."""

    resource: dict[str, Any]
    metric: Metric
    attributes: dict[str, Any]
    point: Any


class Received:
    """Thread-safe."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.faults: deque[Fault] = deque()
        """For the next requests, one each; then all is well."""
        self.always: Fault | None = None
        """For every request behind those."""
        self.attempts: list[float] = []
        """Monotonic seconds of each request, refused ones too."""
        self.headers: list[dict[str, str]] = []
        self.log_requests: list[ExportLogsServiceRequest] = []
        self.metric_requests: list[ExportMetricsServiceRequest] = []
        self.closing = threading.Event()

    def next_fault(self, headers: Mapping[str, str]) -> Fault:
        """Counts the request; waits as long as its answer shall take."""
        with self.changed:
            self.attempts.append(time.monotonic())
            self.headers.append(dict(headers))
            fault = self.faults.popleft() if self.faults else self.always or Fault()
            self.changed.notify_all()
        if fault.silent:
            self.closing.wait()
        elif fault.delay:
            self.closing.wait(fault.delay)
        return fault

    def take(self, request: ExportLogsServiceRequest | ExportMetricsServiceRequest) -> None:
        with self.changed:
            if isinstance(request, ExportLogsServiceRequest):
                self.log_requests.append(request)
            else:
                self.metric_requests.append(request)
            self.changed.notify_all()

    @property
    def logs(self) -> list[Log]:
        with self.changed:
            return [
                Log(attributes(of.resource.attributes), record)
                for request in self.log_requests
                for of in request.resource_logs
                for scope in of.scope_logs
                for record in scope.log_records
            ]

    @property
    def points(self) -> list[Point]:
        with self.changed:
            return [
                Point(attributes(of.resource.attributes), metric, attributes(p.attributes), p)
                for request in self.metric_requests
                for of in request.resource_metrics
                for scope in of.scope_metrics
                for metric in scope.metrics
                for p in getattr(metric, metric.WhichOneof("data") or "gauge").data_points
            ]

    def wait(self, ready: Callable[[], bool], timeout: float = 10.0) -> None:
        """Until ``ready()``; an assertion error when it takes longer."""
        with self.changed:
            assert self.changed.wait_for(ready, timeout), (
                f"{len(self.attempts)} requests, {len(self.logs)} log records"
            )

    def wait_for_logs(self, number: int, timeout: float = 10.0) -> list[Log]:
        self.wait(lambda: len(self.logs) >= number, timeout)
        return self.logs

    def wait_for_attempts(self, number: int, timeout: float = 10.0) -> None:
        self.wait(lambda: len(self.attempts) >= number, timeout)


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in pairs}


def value_of(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, which) if which else None


@dataclass
class Certificates:
    """An authority, and a server's certificate of it for localhost."""

    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.server = self.authority.issue_cert("localhost", "127.0.0.1")

    @property
    def pem(self) -> bytes:
        return self.authority.cert_pem.bytes()
