# SPDX-License-Identifier: Apache-2.0
"""The SDK's OTLP exporters, made from settings, and what they say of each export.

An exporter answers only SUCCESS or FAILURE. Why it failed, it tells through the SDK's metrics about
itself (semantic conventions 1.44, "OpenTelemetry SDK metrics"): so it gets a meter provider that
listens instead of measuring. gRPC and HTTP libraries are imported when they are used, by protocol.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import (
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    NoOpCounter,
    NoOpHistogram,
    NoOpMeter,
)

from cap_exporter.outputs.otlp_partial import PartialSuccess
from cap_exporter.outputs.otlp_settings import OtlpConfigError, Protocol, Signal, SignalSettings

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter

#: gRPC and HTTP status of what may be taken at another time (OTLP specification 1.9, "OTLP/gRPC
#: Response" and "OTLP/HTTP Response"), and kinds of errors of the network.
_RETRYABLE = frozenset(
    {
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
        "RESOURCE_EXHAUSTED",
        "429",
        "502",
        "503",
        "504",
        "ConnectionError",
        "ConnectTimeout",
        "ReadTimeout",
        "Timeout",
        "SSLError",
        "ProxyError",
    }
)

#: Nobody was there: what is sent can't be the cause, so it is tried for ever.
_AWAY = frozenset(
    {"UNAVAILABLE", "502", "503", "ConnectionError", "ConnectTimeout", "SSLError", "ProxyError"}
)

#: The exporter was told to stop while it waited.
STOPPED = "stopped"


def is_retryable(reason: str) -> bool:
    """Whether the same records may be taken at another time."""
    return reason in _RETRYABLE


def is_throttled(reason: str) -> bool:
    """Whether the receiver asked for fewer requests."""
    return reason in ("429", "RESOURCE_EXHAUSTED")


def is_away(reason: str) -> bool:
    """Whether the receiver was not there to judge the records."""
    return reason in _AWAY


class Listener(MeterProvider):
    """Gets what the SDK would measure about one exporter or processor; keeps the last outcome.

    ``on_queue_full`` is called with the number of records the processor had no room for.
    """

    def __init__(self, on_queue_full: Callable[[int], None] = lambda _records: None) -> None:
        self.on_queue_full = on_queue_full
        self._reason = STOPPED

    def outcome(self, attributes: Mapping[str, Any] | None) -> None:
        """Of one export: the attributes of otel.sdk.exporter.operation.duration."""
        found = attributes or {}
        for name in ("rpc.response.status_code", "http.response.status_code", "error.type"):
            if name in found:
                self._reason = str(found[name])
                return

    def take_reason(self) -> str:
        """Why the last export failed."""
        reason, self._reason = self._reason, STOPPED
        return reason

    def get_meter(self, name: str, *_: Any, **__: Any) -> Meter:
        return _Meter(name, self)


class _Meter(NoOpMeter):
    def __init__(self, name: str, listener: Listener) -> None:
        super().__init__(name)
        self._listener = listener

    def create_histogram(self, name: str, *arguments: Any, **more: Any) -> Histogram:
        if name == "otel.sdk.exporter.operation.duration":
            return _Outcome(name, self._listener)
        return super().create_histogram(name, *arguments, **more)

    def create_counter(self, name: str, *arguments: Any, **more: Any) -> Counter:
        if name == "otel.sdk.processor.log.processed":
            return _Processed(name, self._listener)
        return super().create_counter(name, *arguments, **more)


class _Outcome(NoOpHistogram):
    def __init__(self, name: str, listener: Listener) -> None:
        super().__init__(name)
        self._listener = listener

    def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:  # noqa: ARG002
        self._listener.outcome(attributes)


class _Processed(NoOpCounter):
    def __init__(self, name: str, listener: Listener) -> None:
        super().__init__(name)
        self._listener = listener

    def add(self, amount: float, attributes: Any = None, context: Any = None) -> None:  # noqa: ARG002
        if (attributes or {}).get("error.type") == "queue_full":
            self._listener.on_queue_full(int(amount))


def enable_self_metrics() -> None:
    """The SDK reads this when exporters and processors are made."""
    os.environ["OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"] = "true"


def load(settings: SignalSettings) -> None:
    """Import what sending takes, now. The pod watch's thread imports some of the same (requests):
    two threads that do so at one time meet each other's half of a module."""
    modules = {Signal.LOGS: "_log_exporter", Signal.METRICS: "metric_exporter"}
    name = "grpc" if settings.protocol is Protocol.GRPC else "http"
    if settings.protocol is Protocol.HTTP:
        _import_requests()
    importlib.import_module(f"opentelemetry.exporter.otlp.proto.{name}.{modules[settings.signal]}")


def make_log_exporter(
    settings: SignalSettings, listener: Listener, partial: PartialSuccess
) -> LogRecordExporter:
    """Raises OtlpConfigError."""
    enable_self_metrics()
    if settings.protocol is Protocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        return partial.hear_grpc(OTLPLogExporter(meter_provider=listener, **_grpc(settings)))
    from opentelemetry.exporter.otlp.proto.http._log_exporter import (
        OTLPLogExporter as HttpLogExporter,
    )

    return HttpLogExporter(meter_provider=listener, **_http(settings, partial))


def make_metric_exporter(
    settings: SignalSettings, listener: Listener, partial: PartialSuccess
) -> MetricExporter:
    """Raises OtlpConfigError."""
    enable_self_metrics()
    if settings.protocol is Protocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return partial.hear_grpc(OTLPMetricExporter(meter_provider=listener, **_grpc(settings)))
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
        OTLPMetricExporter as HttpMetricExporter,
    )

    return HttpMetricExporter(meter_provider=listener, **_http(settings, partial))


def _grpc(settings: SignalSettings) -> dict[str, Any]:
    from grpc import Compression, ssl_channel_credentials

    credentials = None
    if not settings.insecure:
        credentials = ssl_channel_credentials(
            root_certificates=_pem(settings.certificate),
            private_key=_pem(settings.client_key),
            certificate_chain=_pem(settings.client_certificate),
        )
    gzip = settings.compression == "gzip"
    return {
        "endpoint": settings.endpoint,
        "insecure": settings.insecure,
        "credentials": credentials,
        "headers": dict(settings.headers),
        "timeout": settings.timeout,
        "compression": Compression.Gzip if gzip else Compression.NoCompression,
    }


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise OtlpConfigError(f"cannot read {path}: {error.strerror or error}") from error


def _import_requests() -> None:
    """Without its means to guess an answer's character set, 2 MB that nobody needs here. requests
    does without them (requests/__init__.py, check_compatibility), with a warning."""
    if "requests" in sys.modules or "charset_normalizer" in sys.modules:
        return
    sys.modules["charset_normalizer"] = None  # type: ignore[assignment]  # "can't be imported"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("requests")
    finally:
        del sys.modules["charset_normalizer"]


def _http(settings: SignalSettings, partial: PartialSuccess) -> dict[str, Any]:
    _import_requests()
    from opentelemetry.exporter.otlp.proto.http import Compression

    for path in (settings.certificate, settings.client_certificate, settings.client_key):
        _pem(path)
    return {
        "endpoint": settings.endpoint,
        "certificate_file": _text(settings.certificate),
        "client_key_file": _text(settings.client_key),
        "client_certificate_file": _text(settings.client_certificate),
        "headers": dict(settings.headers),
        "timeout": settings.timeout,
        "compression": Compression(settings.compression),
        "session": _session(settings.certificate, partial),
    }


def _session(authorities: Path | None, partial: PartialSuccess) -> requests.Session:
    """Trusts these and no others: by itself, requests prefers REQUESTS_CA_BUNDLE and
    CURL_CA_BUNDLE, which some base images set, to what its session was told."""
    import requests

    class Session(requests.Session):
        def merge_environment_settings(self, *arguments: Any, **more: Any) -> Any:
            settings = super().merge_environment_settings(*arguments, **more)
            return {**settings, "verify": str(authorities)} if authorities else settings

    session = Session()
    session.hooks["response"].append(partial.hear_http)
    return session


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


class SeldomHandler(logging.Handler):
    """Hands the SDK's messages on, each kind at most once in ``every`` seconds: a collector that
    is away for an hour is worth a few lines."""

    def __init__(self, every: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every = every
        self._clock = clock
        self._last: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        kind = f"{record.name} {record.msg}"
        if now - self._last.get(kind, -self._every) < self._every:
            return
        if len(self._last) < 1000:
            self._last[kind] = now
        logging.getLogger().handle(record)


def quieten_sdk() -> None:
    """Once per process; where debug messages are wanted, all stay."""
    sdk = logging.getLogger("opentelemetry")
    if sdk.handlers or sdk.isEnabledFor(logging.DEBUG):
        return
    sdk.addHandler(SeldomHandler())
    sdk.propagate = False
