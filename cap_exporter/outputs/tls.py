# SPDX-License-Identifier: Apache-2.0
"""The server's side of TLS, as a web configuration file asks for it."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cap_exporter.config import ConfigError

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}

#: Go's names of curves → OpenSSL's.
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}

#: Names as in Go's crypto/tls.CipherSuites() → OpenSSL's. TLS 1.3's are always on, as in Go.
CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}


@dataclass(frozen=True)
class TlsSettings:
    """Certificates and keys are a file's path, or PEM text."""

    cert: Path | str
    key: Path | str
    client_ca: Path | str | None = None
    client_auth: str = "NoClientCert"
    client_sans: frozenset[str] | None = None
    """Names of which a client's certificate must have one; None: any."""
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    ciphers: tuple[str, ...] = ()
    server_order: bool = True
    curve: str | None = None

    def files(self) -> list[Path]:
        return [one for one in (self.cert, self.key, self.client_ca) if isinstance(one, Path)]


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Reads the certificates. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.min_version]
    context.maximum_version = VERSIONS[settings.max_version]
    context.set_alpn_protocols(["http/1.1"])
    if not settings.server_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if settings.curve:
        context.set_ecdh_curve(CURVES[settings.curve])
    if settings.ciphers:
        names = [name for cipher in settings.ciphers if (name := CIPHERS[cipher])]
        if names:
            context.set_ciphers(":".join(names))
        else:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_certificate(context, settings)
    if settings.client_ca is not None:
        try:
            if isinstance(settings.client_ca, Path):
                context.load_verify_locations(cadata=settings.client_ca.read_text("ascii"))
            else:
                context.load_verify_locations(cadata=settings.client_ca)
        except OSError as error:
            raise _problem("client_ca", error, settings.client_ca) from error
        except ValueError as error:  # bytes that are no text
            raise ConfigError(f"client_ca: {settings.client_ca}: is not PEM") from error
    context.verify_mode = CLIENT_AUTH[settings.client_auth]
    return context


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    def encrypted() -> str:  # else OpenSSL would ask at the terminal
        raise ConfigError("key: is encrypted; give one without a passphrase")

    with _as_file("cert", settings.cert) as cert, _as_file("key", settings.key) as key:
        try:
            context.load_cert_chain(cert, key, encrypted)
        except OSError as error:
            raise _problem("cert, key", error, settings.cert, settings.key) from error


@contextmanager
def _as_file(name: str, pem: Path | str) -> Iterator[str]:
    """A path that can be read; a key that is text stays in memory."""
    if isinstance(pem, Path):
        try:
            pem.open("rb").close()
        except OSError as error:
            raise _problem(name, error, pem) from error
        yield str(pem)
        return
    with os.fdopen(os.memfd_create(name), "wb") as file:
        file.write(pem.encode())
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _problem(name: str, error: OSError, *pems: Path | str) -> ConfigError:
    where = ", ".join(str(pem) for pem in pems if isinstance(pem, Path))
    where = f"{name}: {where}:" if where else f"{name}:"
    if not isinstance(error, ssl.SSLError):
        return ConfigError(f"{where} {error.strerror or error}")
    if error.reason == "KEY_VALUES_MISMATCH":
        return ConfigError(f"{where} the key is not that of the certificate")
    return ConfigError(f"{where} is not PEM with what belongs there ({error.reason or error})")


def has_allowed_name(certificate: dict[str, Any], allowed: frozenset[str]) -> bool:
    """Whether one of the subject's alternative names (DNS, e-mail, IP, URI) is allowed.
    certificate: as getpeercert() gives it."""
    for kind, name in certificate.get("subjectAltName", ()):
        try:
            text = str(ipaddress.ip_address(name)) if kind == "IP Address" else name
        except ValueError:
            continue
        if text in allowed:
            return True
    return False
