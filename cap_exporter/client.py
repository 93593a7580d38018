# SPDX-License-Identifier: Apache-2.0
"""Asks a running exporter."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import urllib3

    from cap_exporter.fleet.http_config import HttpConfig
    from cap_exporter.fleet.site import Site

DEFAULT_URL = "http://127.0.0.1:10839"

_CONFIG = "--http-config names a file with"


class NoAnswer(Exception):
    """There is no exporter at this address, or something else; the text says which."""


class NotLetIn(NoAnswer):
    """There is a server, and TLS or a log-in stand between; the text says what to do."""


def ask_exporter(
    url: str, config: HttpConfig | None = None, timeout: float = 10.0
) -> dict[str, Any]:
    """/api/v1/profiles. Raises NoAnswer."""
    site, address = _site(url, config), "/api/v1/profiles"
    with site.pool, closing(_get(site, address, timeout)) as answer:
        try:
            document = json.loads(_whole(site, address, answer))
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"no answer from {site.url}{address}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("containers"), list):
        raise NoAnswer(f"{site.url}{address} is no cap-exporter: its answer has no containers")
    return document


def follow_events(
    url: str, recent: bool, config: HttpConfig | None = None
) -> Iterator[dict[str, Any]]:
    """Server-sent events of /api/v1/events, for ever: a connection that breaks is made again and
    goes on where it was. Raises NoAnswer where the first one can't be made."""
    from urllib3.exceptions import HTTPError

    site = _site(url, config)
    last = ""
    connected = False
    delay = 1.0
    while True:
        address = "/api/v1/events" + ("?recent=1" if recent else "")
        try:
            with site.pool, closing(_get(site, address, 60.0, last)) as answer:
                connected, delay = True, 1.0
                for raw in answer:
                    line = raw.decode("utf-8", "replace").rstrip("\n")
                    if line.startswith("id: "):
                        last = line[4:]
                    elif line.startswith("data: {"):
                        yield json.loads(line[6:])
        except (HTTPError, OSError, ValueError, RecursionError, NoAnswer) as error:
            if not connected:
                if isinstance(error, NoAnswer):
                    raise
                raise NoAnswer(f"no answer from {site.url}{address}: {error}") from error
        time.sleep(delay)
        delay = min(delay * 2, 30.0)


def _site(url: str, config: HttpConfig | None) -> Site:
    from cap_exporter.fleet.http_config import HttpConfigError
    from cap_exporter.fleet.site import BadUrl, Site

    try:
        return Site(url, config)
    except BadUrl as error:
        raise NoAnswer(f"{url!r} is no address: write e.g. {DEFAULT_URL}") from error
    except HttpConfigError as error:
        raise NotLetIn(str(error)) from error


def _get(site: Site, path: str, timeout: float, last: str = "") -> urllib3.BaseHTTPResponse:
    """An answer of status 200, its body unread."""
    import urllib3
    from urllib3.exceptions import HTTPError, ProtocolError, SSLError

    from cap_exporter.fleet.site import reason_of, words_of

    address = site.url + path
    headers = {**site.headers, **({"Last-Event-ID": last} if last else {})}
    try:
        answer = site.pool.request(
            "GET",
            address,
            headers=headers,
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=10.0, read=timeout),
        )
    except (HTTPError, OSError) as error:
        reason = reason_of(error) if isinstance(error, HTTPError) else error
        if isinstance(reason, SSLError):
            raise _no_tls(site, words_of(reason)) from error
        if site.url.startswith("https:") and isinstance(reason, ProtocolError):
            # Of TLS 1.3's handshake a server refuses the end, when the client takes it for done.
            raise NotLetIn(
                f"{site.url} hangs up ({words_of(reason)}): it may want a certificate. {_CONFIG} "
                "tls_config.cert_file and key_file"
            ) from error
        raise NoAnswer(f"no answer from {address}: {words_of(reason)}") from error
    if answer.status != HTTPStatus.OK:
        with closing(answer):
            raise _refused(site, answer, _whole(site, path, answer))
    return answer


def _whole(site: Site, path: str, answer: urllib3.BaseHTTPResponse) -> str:
    from urllib3.exceptions import HTTPError

    try:
        return answer.data.decode("utf-8", "replace")
    except (HTTPError, OSError) as error:
        raise NoAnswer(f"no answer from {site.url}{path}: {error}") from error


def _no_tls(site: Site, words: str) -> NotLetIn:
    low = words.lower()
    if "wrong_version_number" in low or "record layer failure" in low:
        return NotLetIn(f"{site.url} speaks plain HTTP: write http://")
    if "hostname mismatch" in low or "doesn't match" in low or "not valid for" in low:
        return NotLetIn(
            f"the certificate of {site.url} is for another name ({words}): write that name, or "
            f"{_CONFIG} tls_config.server_name"
        )
    return NotLetIn(
        f"no TLS with {site.url}: {words}. {_CONFIG} tls_config.ca_file, the authority of its "
        "certificate"
    )


def _refused(site: Site, answer: urllib3.BaseHTTPResponse, text: str) -> NoAnswer:
    words = " ".join(text[:300].split())
    if answer.status == HTTPStatus.BAD_REQUEST and "HTTPS" in words:
        return NotLetIn(f"{site.url} speaks TLS: write https://")
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        known = any(name.lower() == "authorization" for name in site.headers)
        given = "does not take" if known else "asks for"
        return NotLetIn(
            f"{site.url} {given} the name and password (HTTP {answer.status}): {_CONFIG} "
            "basic_auth.username and password_file, or the environment variable "
            "CAP_EXPORTER_URL has them: https://NAME:PASSWORD@HOST:PORT"
        )
    if HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        where = answer.headers.get("Location", "elsewhere").partition("?")[0]
        return NoAnswer(f"{site.url} redirects to {where}: a log-in page, or another address")
    if answer.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        return NoAnswer(f"{site.url} cannot answer now (HTTP {answer.status}): {words}")
    if answer.status == HTTPStatus.MISDIRECTED_REQUEST:
        return NotLetIn(f"{site.url}: {words} Write http://localhost:PORT")
    return NoAnswer(f"no answer from {answer.url or site.url}: HTTP {answer.status}")
