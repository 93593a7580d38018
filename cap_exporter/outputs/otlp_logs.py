# SPDX-License-Identifier: Apache-2.0
"""Events as OTLP log records: queued, batched and sent by the SDK, each under its container's
resource.

The SDK gives a batch up when its exporter could not send it within the time limit. Here a batch
is tried until the receiver takes or refuses it, and meanwhile the SDK's bounded queue fills up and
drops the oldest: a collector that restarts loses nothing, one that is away for long costs a bounded
amount of memory, and what is dropped is counted.

The pod is a record's resource. A LoggerProvider per pod would leave something behind for each pod
(a fork handler can't be taken back), so records go to the one processor with the resource set.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import cap_exporter
from cap_exporter.model import Event, Identity, Verdict
from cap_exporter.outputs.event_record import EVENT_NAME
from cap_exporter.outputs.otlp_attributes import attributes_of, sentence_of
from cap_exporter.outputs.otlp_partial import PartialSuccess
from cap_exporter.outputs.otlp_resource import Resources
from cap_exporter.outputs.otlp_settings import OtlpConfigError, Signal, SignalSettings
from cap_exporter.outputs.otlp_stats import OtlpStats
from cap_exporter.outputs.otlp_transport import (
    Listener,
    is_away,
    is_retryable,
    is_throttled,
    make_log_exporter,
)

log = logging.getLogger(__name__)

#: Containers whose resource is kept ready; the least recently used one goes first.
_MOST_RESOURCES = 1024

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SCOPE = InstrumentationScope("cap_exporter", cap_exporter.__version__, SCHEMA_URL)


class PatientExporter(LogRecordExporter):
    """Tries a batch again until the receiver takes it, refuses it, or shutdown() is called.

    A receiver that is there and doesn't take a batch (it is slow, or throttles) may never do so:
    after ``patience`` seconds the batch is dropped, so that others get their turn. Where it asked
    to be left alone for longer than the exporter's time limit, it is so for that time at least
    (``throttled_delay``; the exporter keeps to itself what was asked).
    """

    def __init__(
        self,
        exporter: LogRecordExporter,
        reason: Callable[[], str],
        rejected: Callable[[], int],
        stats: OtlpStats,
        *,
        patience: float = 300.0,
        first_delay: float = 1.0,
        longest_delay: float = 30.0,
        throttled_delay: float = 10.0,
    ) -> None:
        self._exporter = exporter
        self._reason = reason
        self._rejected = rejected
        self._stats = stats
        self._patience = patience
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._throttled_delay = throttled_delay
        self._stop = threading.Event()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        began = time.monotonic()
        delay = self._first_delay
        failed = ""
        while not self._stop.is_set():
            if self._exporter.export(batch) is LogRecordExportResult.SUCCESS:
                self._stats.sent(Signal.LOGS, len(batch), self._rejected())
                if failed:
                    log.info("OTLP: the receiver takes log records again")
                return LogRecordExportResult.SUCCESS
            reason = self._reason()
            if self._stop.is_set():
                break
            self._stats.failed(Signal.LOGS, reason)
            if not is_retryable(reason):
                return self._drop("refused", batch, reason)
            if not is_away(reason) and time.monotonic() - began > self._patience:
                return self._drop("expired", batch, reason)
            if not failed:
                log.warning("OTLP: log records can't be sent (%s); they wait", reason)
            failed = reason
            self._stop.wait(max(delay, self._throttled_delay) if is_throttled(reason) else delay)
            delay = min(delay * 2, self._longest_delay)
        self._stats.dropped(Signal.LOGS, "shutdown", len(batch))
        return LogRecordExportResult.FAILURE

    def _drop(
        self, why: str, batch: Sequence[ReadableLogRecord], reason: str
    ) -> LogRecordExportResult:
        self._stats.dropped(Signal.LOGS, why, len(batch))
        log.error(
            "OTLP: %d log records are dropped: the receiver %s (%s)",
            len(batch),
            "refuses them" if why == "refused" else "did not take them for too long",
            reason,
        )
        return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 10_000) -> bool:  # noqa: ARG002
        return True

    def shutdown(self) -> None:
        """End a batch that is being tried. Not twice: the SDK would warn."""
        if not self._stop.is_set():
            self._stop.set()
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class OtlpLogs:
    """Takes events from the loop's thread; sends them on its own."""

    def __init__(
        self,
        settings: SignalSettings,
        resources: Resources,
        stats: OtlpStats,
        *,
        symbol: Callable[[int], str | None] = lambda _address: None,
        patience: float = 300.0,
        first_delay: float = 1.0,
    ) -> None:
        """symbol: names a kernel address of a stack. Raises OtlpConfigError."""
        self._stats = stats
        self._symbol = symbol
        listener = Listener(lambda n: stats.dropped(Signal.LOGS, "queue_full", n))
        partial = PartialSuccess(Signal.LOGS)
        self._exporter = PatientExporter(
            make_log_exporter(settings, listener, partial),
            listener.take_reason,
            partial.take,
            stats,
            patience=patience,
            first_delay=first_delay,
            throttled_delay=settings.timeout,
        )
        try:
            self._limits = LogRecordLimits()
            self._processor = BatchLogRecordProcessor(self._exporter, meter_provider=listener)
        except ValueError as error:
            raise OtlpConfigError(f"OTEL_BLRP_… or OTEL_LOGRECORD_…: {error}") from error

        @functools.lru_cache(_MOST_RESOURCES)
        def resource(identity: Identity) -> Resource:
            return Resource(resources.of(identity), SCHEMA_URL)

        self._resource = resource

    @property
    def resources_kept(self) -> int:
        """Containers whose resource is kept ready."""
        return self._resource.cache_info().currsize

    def publish(self, event: Event, identity: Identity) -> None:
        """Never waits."""
        denied = event.check.verdict is Verdict.DENIED
        record = LogRecord(
            timestamp=round(event.time * 1e9),
            observed_timestamp=time.time_ns(),
            context=Context(),  # of no trace
            severity_number=SeverityNumber.WARN if denied else SeverityNumber.INFO,
            severity_text="WARN" if denied else "INFO",
            body=sentence_of(event, identity),
            attributes=attributes_of(event, identity, self._symbol),
            event_name=EVENT_NAME,
        )
        self._stats.emitted(Signal.LOGS)
        self._processor.on_emit(
            ReadWriteLogRecord(record, self._resource(identity), SCOPE, self._limits)
        )

    def stop(self, timeout: float = 2.0, grace: float = 1.0) -> None:
        """Send what waits, for ``timeout`` seconds; then end what is under way, for ``grace``.

        The SDK's own shutdown takes up to 30 s when the receiver is away. All threads are
        daemons: what does not end within the time ends with the process.
        """
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(timeout)
        if ending.is_alive():
            self._exporter.shutdown()
            ending.join(grace)
        dropped = self._stats.total_dropped(Signal.LOGS).get("shutdown", 0)
        if lost := self._stats.pending(Signal.LOGS) + dropped:
            log.warning("OTLP: %d log records were not sent before the end", lost)
