# SPDX-License-Identifier: Apache-2.0
"""An HTTP server to ask, with what it wants to know of who asks."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError

from cap_exporter.fleet.http_config import HttpConfig, HttpConfigError


class BadUrl(Exception):
    """It is no address of an HTTP server."""


class Site:
    def __init__(self, url: str, config: HttpConfig | None = None) -> None:
        """url: with user:password if it must be. Raises BadUrl, HttpConfigError."""
        config = config or HttpConfig()
        parts = urlsplit(url)
        try:
            right = parts.scheme in ("http", "https") and bool(parts.hostname)
            right = right and parts.port != 0
        except ValueError:
            right = False
        if not right or parts.hostname is None:
            raise BadUrl(url)
        netloc = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        """Without password."""
        self.headers = dict(config.headers)
        if parts.username is not None and "Authorization" not in self.headers:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers |= urllib3.make_headers(basic_auth=login)
        self.pool = _pool(config, parts.scheme, parts.hostname)


def reason_of(error: HTTPError) -> BaseException:
    """What urllib3's error is about."""
    return (error.reason or error) if isinstance(error, MaxRetryError) else error


def words_of(error: object) -> str:
    """Without the object's address that urllib3 puts before."""
    text = str(error)
    return text.partition(">: ")[2] or text.partition("object at")[0] or text


def _pool(config: HttpConfig, scheme: str, host: str) -> urllib3.PoolManager:
    settings: dict[str, Any] = {}
    if scheme == "https":
        settings["ssl_context"] = _tls(config)
        if config.server_name:
            settings |= {"server_hostname": config.server_name}
            if not config.insecure:
                settings |= {"assert_hostname": config.server_name}
        if config.insecure:
            settings["assert_hostname"] = False
            # It was asked for.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    proxy = config.proxy or ("" if proxy_bypass(host) else getproxies().get(scheme, ""))
    if proxy:
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)


def _tls(config: HttpConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise _bad_file("tls_config.ca_file", config.ca_file, error) from error
    if config.cert_file is not None:
        try:
            context.load_cert_chain(config.cert_file, config.key_file)
        except OSError as error:
            raise _bad_file("tls_config.cert_file", config.cert_file, error) from error
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _bad_file(key: str, path: Path | None, error: OSError) -> HttpConfigError:
    return HttpConfigError(f"{key}: cannot use {path}: {error.strerror or error}")
