# SPDX-License-Identifier: Apache-2.0
"""Where OTLP goes and how: our flags first, then the standard OTEL_ variables, then defaults.

The names and rules are those of the OpenTelemetry specification, "OpenTelemetry Protocol Exporter"
and "Environment Variable Specification" (1.50). Where a value can't be what was meant, it is an
error that names the variable: a collector that silently gets nothing helps nobody. No
opentelemetry package is imported here: without OTLP it costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: IANA's port for OTLP over gRPC. HTTP's is 4318.
GRPC_PORT = 4317

#: The Python SDK reads a time limit in seconds, the specification says milliseconds. Nobody waits
#: for a thousand seconds, nor for less than one.
_MILLISECONDS_FROM = 1000


class OtlpConfigError(ValueError):
    """A setting that cannot be used; the text names it and says what would be right."""


class Signal(StrEnum):
    LOGS = "logs"
    METRICS = "metrics"


class Protocol(StrEnum):
    GRPC = "grpc"
    HTTP = "http/protobuf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What was asked for on the command line; None where nothing was."""

    endpoint: str | None = None
    protocol: str | None = None
    headers: str | None = None
    timeout: float | None = None
    """Seconds."""
    compression: str | None = None
    certificate: Path | None = None
    logs: bool | None = None
    metrics: bool | None = None
    interval: float | None = None
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSettings:
    """How one signal is sent."""

    signal: Signal
    protocol: Protocol
    endpoint: str
    """http/protobuf: the whole URL. grpc: host:port, or a URL."""
    insecure: bool = False
    """grpc: without TLS."""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    """Seconds for one export with its retries."""
    compression: str = "none"
    """none, gzip, or (http/protobuf) deflate."""
    certificate: Path | None = None
    """PEM of the authorities that the server's certificate may come from."""
    client_certificate: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    logs: SignalSettings | None = None
    """None: not sent."""
    metrics: SignalSettings | None = None
    interval: float = 60.0
    """Seconds between two pushes of metrics."""

    def __bool__(self) -> bool:
        return self.logs is not None or self.metrics is not None


def resolve(flags: Flags, environ: Mapping[str, str]) -> OtlpSettings:
    """Raises OtlpConfigError."""
    # The specification: an empty variable is one that is not set.
    env = {name: value.strip() for name, value in environ.items() if value.strip()}
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return OtlpSettings()
    logs, metrics = (
        _signal(signal, flags, env) if _wanted(signal, flags, env) else None for signal in Signal
    )
    return OtlpSettings(logs=logs, metrics=metrics, interval=_interval(flags, env))


def _wanted(signal: Signal, flags: Flags, env: Mapping[str, str]) -> bool:
    chosen = flags.logs if signal is Signal.LOGS else flags.metrics
    if chosen is not None:
        return chosen
    name = f"OTEL_{signal.upper()}_EXPORTER"
    known = {"otlp", "none"}
    if signal is Signal.METRICS:
        known.add("prometheus")  # which is always there
    exporters = {word.strip() for word in env.get(name, "").split(",") if word.strip()}
    if unknown := exporters - known:
        raise OtlpConfigError(
            f"{name}: {', '.join(sorted(unknown))} is not an exporter this program has: use "
            f"{' or '.join(sorted(known))}"
        )
    if exporters:
        return "otlp" in exporters
    return bool(flags.endpoint or _from(signal, "ENDPOINT", env)[1])


def _from(signal: Signal, what: str, env: Mapping[str, str]) -> tuple[str, str | None]:
    """The variable that says it and its value: the signal's own, else the one for all."""
    own, general = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"
    return (own, env[own]) if own in env else (general, env.get(general))


def _signal(signal: Signal, flags: Flags, env: Mapping[str, str]) -> SignalSettings:
    protocol = _protocol(signal, flags, env)
    endpoint, insecure = _endpoint(signal, protocol, flags, env)
    name, headers = _flag_or("--otlp-headers", flags.headers, signal, "HEADERS", env)
    certificate = flags.certificate or _file(signal, "CERTIFICATE", env)
    key, chain = _file(signal, "CLIENT_KEY", env), _file(signal, "CLIENT_CERTIFICATE", env)
    if key and not chain:
        raise OtlpConfigError(
            f"{_from(signal, 'CLIENT_KEY', env)[0]} needs the key's certificate: set "
            f"{_from(signal, 'CLIENT_CERTIFICATE', env)[0]} too"
        )
    return SignalSettings(
        signal=signal,
        protocol=protocol,
        endpoint=endpoint,
        insecure=insecure,
        headers=parse_headers(name, headers or ""),
        timeout=flags.timeout or _timeout(signal, env),
        compression=_compression(signal, protocol, flags, env),
        certificate=certificate,
        client_certificate=chain,
        client_key=key,
    )


def _flag_or(
    flag: str, value: str | None, signal: Signal, what: str, env: Mapping[str, str]
) -> tuple[str, str | None]:
    return (flag, value) if value else _from(signal, what, env)


def _protocol(signal: Signal, flags: Flags, env: Mapping[str, str]) -> Protocol:
    name, value = _flag_or("--otlp-protocol", flags.protocol, signal, "PROTOCOL", env)
    if value is not None:
        try:
            return Protocol(value.lower())
        except ValueError:
            raise OtlpConfigError(
                f"{name}: {value!r} is not a protocol this program has: use grpc or http/protobuf"
            ) from None
    # The specification's default is http/protobuf. But an endpoint with gRPC's own port and no
    # protocol can only mean gRPC: HTTP would never get an answer there.
    _, endpoint = _flag_or("--otlp-endpoint", flags.endpoint, signal, "ENDPOINT", env)
    if endpoint and _port_of(endpoint) == GRPC_PORT:
        return Protocol.GRPC
    return Protocol.HTTP


def _port_of(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").port
    except ValueError:
        return None


def _endpoint(
    signal: Signal, protocol: Protocol, flags: Flags, env: Mapping[str, str]
) -> tuple[str, bool]:
    """For the exporter's constructor, and whether it is without TLS."""
    name, value = _flag_or("--otlp-endpoint", flags.endpoint, signal, "ENDPOINT", env)
    if value is None:
        value = "http://localhost:4317" if protocol is Protocol.GRPC else "http://localhost:4318"
    wrong = OtlpConfigError(
        f"{name}: {value!r} is not an endpoint: write e.g. "
        + ("http://collector:4317" if protocol is Protocol.GRPC else "http://collector:4318")
    )
    try:
        url = urlsplit(value if "//" in value else f"//{value}")
        host, scheme = url.hostname, url.scheme
        _ = url.port  # raises where it is no number
    except ValueError:
        raise wrong from None
    if not host or scheme not in ("http", "https", ""):
        raise wrong
    if protocol is Protocol.GRPC:
        if scheme:
            return value, scheme == "http"
        return value, (_from(signal, "INSECURE", env)[1] or "").lower() == "true"
    if not scheme:
        raise wrong
    # Only a signal's own variable is used as it stands.
    if name.startswith(f"OTEL_EXPORTER_OTLP_{signal.upper()}_"):
        return value, scheme == "http"
    return f"{value.rstrip('/')}/v1/{signal}", scheme == "http"


def parse_headers(name: str, text: str) -> dict[str, str]:
    """``key=value,key2=value2``, values percent-encoded (W3C Baggage, without properties). Values
    may be secrets: an error never shows them. Raises OtlpConfigError."""
    headers = {}
    for number, part in enumerate(text.split(","), start=1):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        key, value = unquote(key.strip()).lower(), unquote(value.strip())
        if not equals or not key or not key.isascii() or any(c.isspace() for c in key):
            raise OtlpConfigError(
                f"{name}: its entry {number} is not NAME=VALUE; write name=value,name2=value2 with "
                "%2C for a comma"
            )
        if not value.isascii() or not value.isprintable():
            raise OtlpConfigError(f"{name}: the value of {key!r} has characters no header may have")
        headers[key] = value
    return headers


def _timeout(signal: Signal, env: Mapping[str, str]) -> float:
    name, value = _from(signal, "TIMEOUT", env)
    if value is None:
        return 10.0
    number = _positive(name, value)
    return number / 1000 if number >= _MILLISECONDS_FROM else number


def _interval(flags: Flags, env: Mapping[str, str]) -> float:
    if flags.interval is not None:
        return flags.interval
    value = env.get("OTEL_METRIC_EXPORT_INTERVAL")
    return _positive("OTEL_METRIC_EXPORT_INTERVAL", value) / 1000 if value else 60.0


def _positive(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise OtlpConfigError(f"{name}: {value!r} is not a number above 0")
    return number


def _compression(signal: Signal, protocol: Protocol, flags: Flags, env: Mapping[str, str]) -> str:
    name, value = _flag_or("--otlp-compression", flags.compression, signal, "COMPRESSION", env)
    value = (value or "none").lower()
    known = ("none", "gzip") if protocol is Protocol.GRPC else ("none", "gzip", "deflate")
    if value not in known:
        raise OtlpConfigError(
            f"{name}: {value!r} is not a compression {protocol} has: use {' or '.join(known)}"
        )
    return value


def _file(signal: Signal, what: str, env: Mapping[str, str]) -> Path | None:
    name, value = _from(signal, what, env)
    if value is None:
        return None
    path = Path(value)
    try:
        path.read_bytes()
    except OSError as error:
        raise OtlpConfigError(
            f"{name}: cannot read {value}: {error.strerror or error}; a PEM file is needed"
        ) from None
    return path
