# SPDX-License-Identifier: Apache-2.0
"""What `run` can be told about OTLP, and what it starts when it was told so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cap_exporter.cli.options import Duration, F, option
from cap_exporter.outputs.otlp_settings import (
    Flags,
    OtlpConfigError,
    OtlpSettings,
    Signal,
    resolve,
)
from cap_exporter.outputs.otlp_stats import OtlpStats

if TYPE_CHECKING:
    from cap_exporter.ledger import Ledger
    from cap_exporter.model import Event, Identity
    from cap_exporter.outputs.otlp_logs import OtlpLogs
    from cap_exporter.outputs.otlp_metrics import OtlpMetrics
    from cap_exporter.outputs.otlp_resource import Resources
    from cap_exporter.outputs.prometheus import Metrics

#: Seconds for sending what waits at the end, and for ending what is under way then.
_STOP, _GRACE = 2.0, 1.0


def otlp_options(function: F) -> F:
    """Where events and metrics go by OTLP; the OTEL_ variables say what these do not."""
    for decorate in reversed(
        (
            option(
                "--otlp-endpoint",
                help="OTLP receiver for events (as log records) and metrics, e.g. "
                "http://collector:4318. OTEL_EXPORTER_OTLP_ENDPOINT and its kin do as well. "
                "Without any, nothing is sent.",
            ),
            option(
                "--otlp-protocol",
                type=click.Choice(["grpc", "http/protobuf"]),
                help="Default: grpc for port 4317, else http/protobuf.",
            ),
            option(
                "--otlp-headers",
                help="Sent with each request, e.g. authorization=Bearer%20x,tenant=a. Other users "
                "can see the command line: the environment is better for secrets.",
            ),
            option("--otlp-timeout", type=Duration(0.1), help="For one export.  [default: 10s]"),
            option("--otlp-compression", type=click.Choice(["none", "gzip", "deflate"])),
            option(
                "--otlp-certificate",
                type=click.Path(dir_okay=False, exists=True, path_type=Path),
                help="PEM file of the authorities the receiver's certificate may come from.",
            ),
            option(
                "--otlp-logs/--no-otlp-logs",
                default=None,
                help="Send events as log records. Default: if there is an endpoint.",
            ),
            option(
                "--otlp-metrics/--no-otlp-metrics",
                default=None,
                help="Push the metrics too. Default: if there is an endpoint.",
            ),
            option(
                "--otlp-interval",
                type=Duration(0.1),
                help="Time between two pushes of metrics.  [default: 60s]",
            ),
        )
    ):
        function = decorate(function)
    return function


def otlp_settings(values: dict[str, Any]) -> OtlpSettings:
    """Takes the OTLP options out of ``values``. Raises click.UsageError."""
    flags = Flags(
        **{
            name.removeprefix("otlp_"): values.pop(name)
            for name in list(values)
            if name.startswith("otlp_")
        }
    )
    try:
        return resolve(flags, os.environ)
    except OtlpConfigError as error:
        raise click.UsageError(str(error)) from error


class Otlp:
    """All that goes out by OTLP. Nothing of it is imported where nothing does."""

    def __init__(
        self,
        settings: OtlpSettings,
        node: str,
        *,
        kubernetes: bool,
        symbol: Callable[[int], str | None],
    ) -> None:
        """node: this host's name, in Kubernetes the node's. To be made before other threads are
        started: it imports, and starts none. Raises click.UsageError."""
        self._settings = settings
        self._symbol = symbol
        self._logs: OtlpLogs | None = None
        self._metrics: OtlpMetrics | None = None
        self._resources: Resources | None = None
        signals = [s for s in Signal if getattr(settings, s) is not None]
        self.stats = OtlpStats(signals)
        if not signals:
            return
        from cap_exporter.outputs.otlp_resource import Resources, parse_resource_attributes
        from cap_exporter.outputs.otlp_transport import load, quieten_sdk

        quieten_sdk()
        for signal in signals:
            load(getattr(settings, signal))
        try:
            given = parse_resource_attributes(os.environ)
            self._resources = Resources(node, kubernetes=kubernetes, given=given)
        except OtlpConfigError as error:
            raise click.UsageError(str(error)) from error

    def publish(self, event: Event, identity: Identity) -> None:
        """An event, from the loop's thread. Never waits."""
        if self._logs:
            self._logs.publish(event, identity)

    def start(self, ledger: Ledger, metrics: Metrics) -> None:
        """Push ``ledger`` and events from now on, and show on the page what was sent. Raises
        click.UsageError."""
        if self._resources is None:
            return
        metrics.own.register(self.stats)
        try:
            if self._settings.logs is not None:
                from cap_exporter.outputs.otlp_logs import OtlpLogs

                self._logs = OtlpLogs(
                    self._settings.logs, self._resources, self.stats, symbol=self._symbol
                )
            if self._settings.metrics is None:
                return
            from cap_exporter.outputs.otlp_metrics import OtlpMetrics

            self._metrics = OtlpMetrics(
                self._settings.metrics,
                self._settings.interval,
                ledger,
                metrics.own,
                self._resources,
                self.stats,
            )
        except OtlpConfigError as error:
            raise click.UsageError(str(error)) from error
        self._metrics.start()

    def stop(self) -> None:
        """Send what is left. Takes 3 seconds at most, whatever the receiver does."""
        ending = [
            threading.Thread(target=part.stop, args=(_STOP, _GRACE), daemon=True)
            for part in (self._logs, self._metrics)
            if part
        ]
        for thread in ending:
            thread.start()
        deadline = time.monotonic() + _STOP + _GRACE + 0.5
        for thread in ending:
            thread.join(max(0.0, deadline - time.monotonic()))
