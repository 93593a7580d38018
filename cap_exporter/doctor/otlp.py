# SPDX-License-Identifier: Apache-2.0
"""Whether the OTLP receiver takes what would be sent: name, connection, TLS, then an empty export
by the exporter itself. Headers are sent and never shown."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.outputs.otlp_settings import (
    OtlpConfigError,
    Protocol,
    Signal,
    SignalSettings,
    resolve,
)
from cap_exporter.terminal import printable

if TYPE_CHECKING:
    from cap_exporter.outputs.otlp_transport import Listener

#: Seconds for each of connection, TLS and export.
_PATIENCE: Final = 2.0

_CHECK_ADDRESS: Final = "is the collector running, and the address right (--otlp-endpoint)?"

#: What an export's status means (OTLP specification 1.9), and what to do.
_MEANINGS: Final = {
    "401": ("asks for credentials", "give them: OTEL_EXPORTER_OTLP_HEADERS"),
    "UNAUTHENTICATED": ("asks for credentials", "give them: OTEL_EXPORTER_OTLP_HEADERS"),
    "403": ("refuses these credentials", "look at OTEL_EXPORTER_OTLP_HEADERS"),
    "PERMISSION_DENIED": ("refuses these credentials", "look at OTEL_EXPORTER_OTLP_HEADERS"),
    "404": (
        "has nothing at this path",
        "give the address without a path (--otlp-endpoint); /v1/logs and /v1/metrics are added",
    ),
    "UNIMPLEMENTED": (
        "does not take this signal",
        "turn it on in the collector's pipelines, or off here: --no-otlp-logs, --no-otlp-metrics",
    ),
}


def _otlp(wanted: Wanted) -> Iterator[Finding]:
    try:
        settings = resolve(wanted.otlp, wanted.environ)
    except OtlpConfigError as error:
        yield Finding(
            "otlp", "OTLP", Status.FAILED, printable(str(error)), "mend it: `run` does not start"
        )
        return
    if not settings:
        yield Finding("otlp", "OTLP", Status.INFO, "no endpoint: nothing is sent")
        return
    for signal in Signal:
        found: SignalSettings | None = getattr(settings, signal)
        if found is not None:
            yield _examine(found)


def _examine(settings: SignalSettings) -> Finding:
    slug, title = f"otlp.{settings.signal}", f"OTLP {settings.signal}"
    where = _without_secrets(settings.endpoint)
    problem = _reach(settings)
    if problem is None:
        problem = _export(settings)
    if problem is None:
        return Finding(
            slug, title, Status.OK, f"{where} takes an empty export ({settings.protocol})"
        )
    return Finding(slug, title, Status.FAILED, f"{where} {problem[0]}", problem[1])


def _without_secrets(endpoint: str) -> str:
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = f":{url.port}" if url.port else ""
    scheme = f"{url.scheme}://" if url.scheme else ""
    return printable(f"{scheme}{host}{port}{url.path}")


def _reach(settings: SignalSettings) -> tuple[str, str] | None:
    """What is wrong with name, connection or TLS, and what to do about it."""
    endpoint = settings.endpoint
    url = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    host = url.hostname or ""
    grpc = settings.protocol is Protocol.GRPC
    port = url.port or (443 if url.scheme == "https" or (grpc and not settings.insecure) else 80)
    try:
        connection = socket.create_connection((host, port), timeout=_PATIENCE)
    except socket.gaierror as error:
        return (
            f"cannot be found: {host} is no known name ({error.strerror})",
            "is the name right, and can this host's DNS resolve it?",
        )
    except OSError as error:
        return f"does not answer: {error.strerror or error}", _CHECK_ADDRESS
    with connection:
        if settings.insecure:
            return None
        try:
            with _context(settings).wrap_socket(connection, server_hostname=host):
                return None
        except ssl.SSLCertVerificationError as error:
            return (
                f"has a certificate that is not trusted: {error.verify_message}",
                "give its authority: --otlp-certificate FILE (PEM)",
            )
        except OSError as error:
            words = getattr(error, "reason", None) or error.strerror or str(error)
            return (
                f"does not speak TLS with us: {words}",
                "write http:// if it has none; if it wants a client's certificate: "
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY",
            )


def _context(settings: SignalSettings) -> ssl.SSLContext:
    authorities = str(settings.certificate) if settings.certificate else None
    context = ssl.create_default_context(cafile=authorities)
    if settings.client_certificate:
        context.load_cert_chain(settings.client_certificate, settings.client_key)
    if settings.protocol is Protocol.GRPC:
        context.set_alpn_protocols(["h2"])
    return context


def _export(settings: SignalSettings) -> tuple[str, str] | None:
    from cap_exporter.outputs.otlp_transport import Listener

    listener = Listener()
    with _silent("opentelemetry"), _silent("cap_exporter.outputs.otlp_partial"):
        succeeded = _sent(replace(settings, timeout=_PATIENCE), listener)
    if succeeded:
        return None
    reason = listener.take_reason()
    if reason in _MEANINGS:
        words, remedy = _MEANINGS[reason]
        return f"{words} ({reason})", remedy
    other = Protocol.HTTP if settings.protocol is Protocol.GRPC else Protocol.GRPC
    return (
        f"does not take an empty export by {settings.protocol}: {reason}",
        f"does it speak {other} (--otlp-protocol)? The collector's log may say more",
    )


def _sent(settings: SignalSettings, listener: Listener) -> bool:
    from cap_exporter.outputs.otlp_partial import PartialSuccess
    from cap_exporter.outputs.otlp_transport import (
        load,
        make_log_exporter,
        make_metric_exporter,
    )

    load(settings)
    partial = PartialSuccess(settings.signal)
    if settings.signal is Signal.LOGS:
        logs = make_log_exporter(settings, listener, partial)
        try:
            return logs.export([]).name == "SUCCESS"
        finally:
            logs.shutdown()  # type: ignore[no-untyped-call]
    from opentelemetry.sdk.metrics.export import MetricsData

    metrics = make_metric_exporter(settings, listener, partial)
    try:
        sent = metrics.export(MetricsData([]), timeout_millis=int(_PATIENCE * 1000))
        return sent.name == "SUCCESS"
    finally:
        metrics.shutdown()


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    """The SDK's own words about a failure say less than ours, and may hold the address."""
    log = logging.getLogger(logger)
    before, log.disabled = log.level, False
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


CHECKS: Final = (Check("otlp", "OTLP", _otlp, limit=15.0),)
