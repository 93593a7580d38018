# SPDX-License-Identifier: Apache-2.0
"""What a receiver says it threw away of a request that it took (OTLP specification 1.9, "Partial
Success"). The SDK's exporters do not look at such an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cap_exporter.outputs.otlp_settings import Signal
from cap_exporter.terminal import printable

if TYPE_CHECKING:
    import requests

_E = TypeVar("_E")

log = logging.getLogger(__name__)

#: Of a receiver's words, characters.
_LONGEST_MESSAGE = 300


class PartialSuccess:
    """Reads the answers to one exporter's requests; used by that exporter's thread alone."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._rejected = 0
        self._said = ""

    def take(self) -> int:
        """Records, or data points, thrown away since the last call."""
        rejected, self._rejected = self._rejected, 0
        return rejected

    def hear(self, answer: Any) -> None:
        """Export…ServiceResponse of opentelemetry.proto.collector."""
        partial = answer.partial_success
        logs = self._signal is Signal.LOGS
        rejected = partial.rejected_log_records if logs else partial.rejected_data_points
        message = printable(partial.error_message)[:_LONGEST_MESSAGE]
        self._rejected += max(0, rejected)
        # The same words with each request would flood the log.
        if message != self._said or (rejected and not message):
            what = "log records" if logs else "data points"
            if rejected:
                log.error("OTLP: the receiver threw away %d %s: %s", rejected, what, message or "-")
            elif message:
                log.warning("OTLP: the receiver says of the %s: %s", what, message)
        self._said = message

    def hear_http(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """A hook of requests."""
        if response.status_code != 200 or not response.content:
            return
        from google.protobuf.message import DecodeError

        try:
            self.hear(self._answer_type().FromString(response.content))
        except DecodeError:
            log.debug("OTLP: the answer is not what the specification says")

    def _answer_type(self) -> Any:
        if self._signal is Signal.LOGS:
            from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
                ExportLogsServiceResponse,
            )

            return ExportLogsServiceResponse
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
            ExportMetricsServiceResponse,
        )

        return ExportMetricsServiceResponse

    def hear_grpc(self, exporter: _E) -> _E:
        """The exporter, whose stub tells its answers here. Its stub has no public place; the
        SDK's version is pinned to a minor one for such reasons."""
        its: Any = exporter
        stub = its._stub

        def listening(channel: Any) -> Any:
            return _Listening(stub(channel), self.hear)

        its._stub = listening
        its._client = listening(its._channel)
        return exporter


class _Listening:
    def __init__(self, client: Any, hear: Callable[[Any], None]) -> None:
        self._client = client
        self._hear = hear

    def Export(self, **request: Any) -> Any:
        answer = self._client.Export(**request)
        self._hear(answer)
        return answer
