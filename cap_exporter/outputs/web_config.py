# SPDX-License-Identifier: Apache-2.0
"""A listener's web configuration file: TLS, passwords, headers and rate, as Prometheus' exporters
have them (exporter-toolkit, docs/web-configuration.md)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cap_exporter.config import ConfigError, parse_duration
from cap_exporter.outputs.strict_yaml import Value, read_yaml
from cap_exporter.outputs.tls import (
    CIPHERS,
    CLIENT_AUTH,
    CURVES,
    VERSIONS,
    TlsSettings,
    make_context,
)

_SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")

_TLS_KEYS = (
    "cert_file", "key_file", "cert", "key", "client_auth_type", "client_ca_file", "client_ca",
    "client_allowed_sans", "min_version", "max_version", "cipher_suites",
    "prefer_server_cipher_suites", "curve_preferences",
)  # fmt: skip

#: Headers that can be set → the values they may have; none: any.
_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}

_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


@dataclass(frozen=True)
class RateLimit:
    """A token bucket: one request per ``interval`` seconds, ``burst`` at once."""

    interval: float
    burst: int


@dataclass(frozen=True)
class WebConfig:
    """Of one listener; by default plain HTTP, open to everybody."""

    tls: ssl.SSLContext | None = None
    client_sans: frozenset[str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict)
    """Name → bcrypt hash."""
    rate: RateLimit | None = None
    http2: bool = False
    """Asked for, though it is not spoken here."""
    files: tuple[Path, ...] = ()
    """That it was read from."""


def read_web_config(path: Path) -> WebConfig:
    """Reads the certificates too. Raises ConfigError."""
    sections = read_yaml(path, _SECTIONS)
    tls = context = None
    if found := sections.get("tls_server_config"):
        tls = _tls_settings(found)
    if tls:
        try:
            context = make_context(tls)
        except ConfigError as error:
            raise ConfigError(f"{path}: tls_server_config: {error}") from error
    headers: dict[str, str] = {}
    http2 = False
    if found := sections.get("http_server_config"):
        http = found.mapping(("http2", "headers"))
        http2 = "http2" in http and http["http2"].flag()
        headers = _headers(http["headers"]) if "headers" in http else {}
    users = sections.get("basic_auth_users")
    rate = sections.get("rate_limit")
    return WebConfig(
        tls=context,
        client_sans=tls.client_sans if tls else None,
        headers=headers,
        users=_users(users) if users else {},
        rate=_rate(rate) if rate else None,
        http2=http2,
        files=(path, *(tls.files() if tls else ())),
    )


def _tls_settings(section: Value) -> TlsSettings | None:
    found = section.mapping(_TLS_KEYS)
    if not found:
        return None
    folder = section.path.parent
    pems: dict[str, Path | str] = {}
    for name in ("cert", "key", "client_ca"):
        file = found.get(f"{name}_file")
        if name in found and file:
            raise found[name].error(f"{name}_file is there as well: give one of them")
        if file and file.text():
            pems[name] = folder / file.text()
        elif name in found and found[name].text():
            pems[name] = found[name].text()
        elif name != "client_ca":
            raise section.error(f"{name}_file is missing (or {name}, with PEM text)")
    client_auth = _client_auth(found["client_auth_type"]) if "client_auth_type" in found else ""
    client_auth = client_auth or "NoClientCert"
    if "client_ca" in pems and client_auth == "NoClientCert":
        raise section.error(
            "client_ca without client_auth_type has no effect: add client_auth_type: "
            "RequireAndVerifyClientCert"
        )
    if "client_ca" not in pems and client_auth != "NoClientCert":
        raise section.error(f"client_auth_type {client_auth} needs client_ca_file (or client_ca)")
    sans = None
    if "client_allowed_sans" in found:
        if client_auth != "RequireAndVerifyClientCert":
            raise found["client_allowed_sans"].error(
                "needs client_auth_type: RequireAndVerifyClientCert"
            )
        sans = frozenset(one.text() for one in found["client_allowed_sans"].items())
    lowest = _version(found["min_version"]) if "min_version" in found else "TLS12"
    highest = _version(found["max_version"]) if "max_version" in found else "TLS13"
    if lowest > highest:
        raise section.error(f"min_version {lowest} is above max_version {highest}")
    ciphers = found.get("cipher_suites")
    order = found.get("prefer_server_cipher_suites")
    names = tuple(one.one_of(CIPHERS) for one in ciphers.items()) if ciphers else ()
    if names and not any(CIPHERS[one] for one in names) and highest == "TLS12":
        raise section.error("cipher_suites has only those of TLS 1.3, which max_version excludes")
    curves = found.get("curve_preferences")
    return TlsSettings(
        cert=pems["cert"],
        key=pems["key"],
        client_ca=pems.get("client_ca"),
        client_auth=client_auth,
        client_sans=sans,
        min_version=lowest,
        max_version=highest,
        ciphers=names,
        server_order=order.flag() if order else True,
        curve=_curve(curves) if curves else None,
    )


def _client_auth(value: Value) -> str:
    text = value.text()
    if text in ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert"):
        raise value.error(
            f"{text} takes certificates without verifying them, which Python's TLS cannot: use "
            "RequireAndVerifyClientCert or VerifyClientCertIfGiven"
        )
    return value.one_of(CLIENT_AUTH) if text else ""


def _version(value: Value) -> str:
    text = value.text()
    if text in ("TLS10", "TLS11"):
        raise value.error(f"{text} is not spoken here: use TLS12 or TLS13")
    return value.one_of(VERSIONS)


def _curve(value: Value) -> str | None:
    names = value.items()
    if not names:
        return None
    if len(names) > 1 or names[0].text() == "X25519":
        raise value.error(
            f"Python's TLS takes one curve, of {', '.join(CURVES)}; without this key X25519 and "
            "all of these are offered"
        )
    return names[0].one_of(CURVES)


def _headers(section: Value) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in section.mapping(_HEADERS).items():
        text = value.text()
        if not re.fullmatch(r"[\x20-\x7e]*", text):
            raise value.error("must be one line of ASCII")
        if text and _HEADERS[name]:
            value.one_of(_HEADERS[name])
        if text.strip():
            headers[name] = text.strip()
    return headers


def _users(section: Value) -> dict[bytes, bytes]:
    users: dict[bytes, bytes] = {}
    for name, value in section.mapping().items():
        if ":" in name:
            raise value.error("a user's name cannot have a colon")
        if not _BCRYPT.fullmatch(value.text()):
            raise value.error(
                "is no bcrypt hash: make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`"
            )
        users[name.encode()] = value.text().encode()
    return users


def _rate(section: Value) -> RateLimit | None:
    found = section.mapping(("interval", "burst"))
    if "interval" not in found:
        return None
    text = found["interval"].text()
    try:
        if text.isdigit() and int(text):
            raise ValueError(f"{text} has no unit: write e.g. {text}s")
        interval = parse_duration(text)
    except ValueError as error:
        raise found["interval"].error(str(error)) from error
    if not interval:
        return None
    burst = found["burst"].number() if "burst" in found else 0
    if not burst:
        raise section.error("burst must be 1 at least: with none every request is refused")
    return RateLimit(interval, burst)
