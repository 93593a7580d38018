# SPDX-License-Identifier: Apache-2.0
"""How to log in at an HTTP server: Prometheus' own client configuration file, which promtool takes
as --http.config.file (https://prometheus.io/docs/prometheus/latest/configuration/configuration/,
http_config; prometheus/common config/http_config.go, HTTPClientConfig)."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cap_exporter.config import ConfigError, load_yaml

#: Keys of the format that are not for here, and what to do.
_NOT_HERE = {
    "oauth2": "get a token and give it as authorization.credentials_file",
    "sigv4": "put a signing proxy before it",
}


class HttpConfigError(Exception):
    """The file cannot be used; the text names the file, the key and what would be right."""


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """What goes with each request."""

    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    insecure: bool = False
    proxy: str | None = None


def read_http_config(path: Path) -> HttpConfig:
    """Files that it names are relative to its folder. Raises HttpConfigError."""
    try:
        document = load_yaml(path)
    except ConfigError as error:
        raise HttpConfigError(str(error)) from error
    return _Reader(path).read({} if document is None else document)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, document: object) -> HttpConfig:
        top = self._section(
            document,
            "",
            (
                "basic_auth",
                "authorization",
                "bearer_token",
                "bearer_token_file",
                "tls_config",
                "http_headers",
                "proxy_url",
                "follow_redirects",
                "enable_http2",
            ),
        )
        headers = self._headers(top.get("http_headers"))
        login = [
            value
            for value in (
                self._basic(top.get("basic_auth")),
                self._authorization(top.get("authorization")),
                self._bearer(top),
            )
            if value is not None
        ]
        if len(login) > 1:
            raise self._wrong(
                "at most one of basic_auth, authorization, bearer_token and bearer_token_file"
            )
        if login:
            headers["Authorization"] = login[0]
        tls = self._section(
            top.get("tls_config"),
            "tls_config",
            ("ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"),
        )
        cert, key = self._file(tls, "cert_file"), self._file(tls, "key_file")
        if (cert is None) != (key is None):
            raise self._wrong("tls_config needs both cert_file and key_file, or none")
        insecure = tls.get("insecure_skip_verify", False)
        if not isinstance(insecure, bool):
            raise self._wrong("tls_config.insecure_skip_verify must be true or false")
        return HttpConfig(
            headers,
            self._file(tls, "ca_file"),
            cert,
            key,
            self._text(tls, "server_name"),
            insecure,
            self._text(top, "proxy_url"),
        )

    def _basic(self, section: object) -> str | None:
        if section is None:
            return None
        names = ("username", "username_file", "password", "password_file")
        values = self._section(section, "basic_auth", names)
        user = self._secret(values, "username") or ""
        password = self._secret(values, "password") or ""
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def _authorization(self, section: object) -> str | None:
        if section is None:
            return None
        names = ("type", "credentials", "credentials_file")
        values = self._section(section, "authorization", names)
        kind = self._text(values, "type") or "Bearer"
        if kind.lower() == "basic":
            raise self._wrong('authorization.type must not be "basic": use basic_auth')
        return self._line(f"{kind} {self._secret(values, 'credentials') or ''}", "credentials")

    def _bearer(self, top: Mapping[str, Any]) -> str | None:
        token = self._secret(top, "bearer_token")
        return None if token is None else self._line(f"Bearer {token}", "bearer_token")

    def _headers(self, section: object) -> dict[str, str]:
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise self._wrong("http_headers must be a mapping of names to values, secrets or files")
        found = {}
        for name, value in section.items():
            where = f"http_headers.{name}"
            entry = self._section(value, where, ("values", "secrets", "files"))
            for key, some in entry.items():
                if not isinstance(some, list) or not all(isinstance(one, str) for one in some):
                    raise self._wrong(f"{where}.{key} must be a list of words")
            values = [*entry.get("values", ()), *entry.get("secrets", ())]
            values += [self._read(self._beside(one), where) for one in entry.get("files", ())]
            found[self._line(str(name), where)] = self._line(", ".join(values), where)
        return found

    def _section(self, section: object, where: str, known: Collection[str]) -> dict[str, Any]:
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise self._wrong(f"{where or 'it'} must be a mapping of keys to values")
        for key in section:
            name = f"{where}.{key}" if where else str(key)
            if key in _NOT_HERE:
                raise self._wrong(f"{name} is not supported: {_NOT_HERE[key]}")
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise self._wrong(f"unknown key {name}; {hint}")
        return section

    def _secret(self, values: Mapping[str, Any], key: str) -> str | None:
        """Of ``key`` or of the file that ``key``_file names."""
        text, path = self._text(values, key), self._file(values, f"{key}_file")
        if text is not None and path is not None:
            raise self._wrong(f"either {key} or {key}_file, not both")
        return text if path is None else self._read(path, f"{key}_file")

    def _text(self, values: Mapping[str, Any], key: str) -> str | None:
        value = values.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(f"{key} must be a word in quotes")
        return value

    def _file(self, values: Mapping[str, Any], key: str) -> Path | None:
        text = self._text(values, key)
        return None if text is None else self._beside(text)

    def _beside(self, text: str) -> Path:
        return self._path.parent / text

    def _read(self, path: Path, key: str) -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self._wrong(f"{key}: cannot read {path}: {reason}") from error

    def _line(self, text: str, key: str) -> str:
        if not text.isprintable() or not text.isascii():
            raise self._wrong(f"{key} must be one line of ASCII: it becomes an HTTP header")
        return text

    def _wrong(self, text: str) -> HttpConfigError:
        return HttpConfigError(f"{self._path}: {text}")
