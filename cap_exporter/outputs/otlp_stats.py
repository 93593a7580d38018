# SPDX-License-Identifier: Apache-2.0
"""What became of what was to be sent by OTLP: counted here, shown on the metrics page."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from cap_exporter.outputs.otlp_settings import Signal

#: Why records were given up: the queue had no room; the receiver will never take them, or threw
#: them away of a request that it took; it did not take them for too long; the exporter ended.
DROP_REASONS = ("queue_full", "refused", "rejected", "expired", "shutdown")


class OtlpStats:
    """Thread-safe. Also a collector for prometheus_client."""

    def __init__(self, signals: Iterable[Signal]) -> None:
        self._signals = tuple(signals)
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._emitted: Counter[str] = Counter()

    def emitted(self, signal: Signal) -> None:
        """One record is to be sent."""
        with self._lock:
            self._emitted[signal] += 1

    def sent(self, signal: Signal, records: int, rejected: int = 0) -> None:
        """A receiver took the request that had them; rejected: so many of them it threw away."""
        rejected = min(rejected, records)
        with self._lock:
            self._sent[signal] += records - rejected
            if rejected:
                self._dropped[signal, "rejected"] += rejected

    def dropped(self, signal: Signal, reason: str, records: int) -> None:
        """They will not be sent any more; one of DROP_REASONS."""
        with self._lock:
            self._dropped[signal, reason] += records

    def failed(self, signal: Signal, reason: str) -> None:
        """An export failed; it may be tried again."""
        with self._lock:
            self._failures[signal, reason] += 1

    def pending(self, signal: Signal) -> int:
        """Records that were neither sent nor dropped yet."""
        with self._lock:
            gone = sum(n for (of, _), n in self._dropped.items() if of == signal)
            # A record that just found room may be counted as one that found none.
            return max(0, self._emitted[signal] - self._sent[signal] - gone)

    def total_sent(self, signal: Signal) -> int:
        with self._lock:
            return self._sent[signal]

    def total_dropped(self, signal: Signal) -> dict[str, int]:
        """By reason."""
        with self._lock:
            return {reason: n for (of, reason), n in self._dropped.items() if of == signal}

    def total_failures(self, signal: Signal) -> dict[str, int]:
        """By reason."""
        with self._lock:
            return {reason: n for (of, reason), n in self._failures.items() if of == signal}

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        sent = CounterMetricFamily(
            "cap_exporter_otlp_export_sent_total",
            "Log records and metric data points that an OTLP receiver took.",
            labels=("signal",),
        )
        dropped = CounterMetricFamily(
            "cap_exporter_otlp_export_dropped_total",
            "Log records that will not be sent, by reason. queue_full: the receiver did not keep "
            "up. refused: it will never take them. rejected: it took a request but these of it. "
            "expired: it did not take them for too long. shutdown: the exporter ended. Their "
            "checks are in the counters all the same. Of metrics the data points that were "
            "rejected.",
            labels=("signal", "reason"),
        )
        failures = CounterMetricFamily(
            "cap_exporter_otlp_export_failures_total",
            "Exports that failed, by the gRPC or HTTP status or the kind of error. What they held "
            "is tried again where that can help; metrics come anew with the next export.",
            labels=("signal", "reason"),
        )
        pending = GaugeMetricFamily(
            "cap_exporter_otlp_export_pending_records",
            "Log records that wait to be sent.",
        )
        for signal in self._signals:
            sent.add_metric((signal,), self.total_sent(signal))
            for reason, n in sorted(self.total_failures(signal).items()):
                failures.add_metric((signal, reason), n)
            gone = self.total_dropped(signal)
            for reason in DROP_REASONS if signal == "logs" else ("rejected",):
                dropped.add_metric((signal, reason), gone.get(reason, 0))
            if signal == "logs":
                pending.add_metric((), self.pending(signal))
        yield from (sent, dropped, failures, pending)
