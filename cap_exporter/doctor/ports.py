# SPDX-License-Identifier: Apache-2.0
"""Whether `run` could listen where it is told to, and who does so already."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cap_exporter.config import ConfigError
from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.listeners import owner_of
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.outputs.listen import ListenError, listen, parse_address
from cap_exporter.terminal import printable

#: Seconds for a question to who listens there.
_PATIENCE: Final = 1.5


def _metrics(wanted: Wanted) -> Iterator[Finding]:
    yield _address("listen", "--listen", wanted.listen)
    yield from _web_config("web_config", "--web-config", wanted.web_config)


def _page(wanted: Wanted) -> Iterator[Finding]:
    yield _address("page_listen", "--page-listen", wanted.page_listen)
    yield from _web_config("page_web_config", "--page-web-config", wanted.page_web_config)


def _address(slug: str, option: str, text: str) -> Finding:
    title = f"{option} {text}"
    try:
        host, port = parse_address(text)
        listen(text).close()
    except ListenError as error:
        if "in use" not in str(error):
            return Finding(
                slug, title, Status.FAILED, str(error), f"give another address: {option}"
            )
        return _in_use(slug, title, option, host, port)
    return Finding(slug, title, Status.OK, "free")


def _in_use(slug: str, title: str, option: str, host: str, port: int) -> Finding:
    owner = owner_of(port)
    known = _is_exporter("127.0.0.1" if host in ("", "::", "0.0.0.0") else host, port)
    by = f"process {owner.pid} ({printable(owner.name)})" if owner else "another process"
    if known:
        return Finding(
            slug,
            title,
            Status.INFO,
            f"a cap-exporter listens here already: {by}, {known}",
            f"look at that one; a second one needs another address ({option})",
        )
    return Finding(
        slug,
        title,
        Status.FAILED,
        f"in use by {by}",
        f"stop that, or give another address: {option} HOST:PORT",
    )


def _is_exporter(host: str, port: int) -> str:
    """What the cap-exporter there says of its health; empty: it is none."""
    for secure in (False, True):
        try:
            status, body, challenge = _get(host, port, "/", secure=secure)
            if "cap-exporter" not in body + challenge:
                continue
            health = "healthy"
            if "/healthz" in body:
                status, said, _ = _get(host, port, "/healthz", secure=secure)
                health = "healthy" if status == http.HTTPStatus.OK else said.strip()
            return health if status != http.HTTPStatus.UNAUTHORIZED else "which asks for a password"
        except (OSError, http.client.HTTPException):
            continue
    return ""


def _get(host: str, port: int, path: str, *, secure: bool) -> tuple[int, str, str]:
    """Status, the beginning of the body, and the log-in asked for."""
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    if secure:
        # Who it is, is all the question: nothing is sent that must be kept secret.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(65_536).decode("utf-8", "replace")
        return answer.status, body, answer.headers.get("WWW-Authenticate", "")
    finally:
        connection.close()


def _web_config(slug: str, option: str, path: Path | None) -> Iterator[Finding]:
    if path is None:
        return
    from cap_exporter.outputs.web_config import read_web_config

    title = f"{option} {path}"
    try:
        found = read_web_config(path)
    except ConfigError as error:
        yield Finding(slug, title, Status.FAILED, str(error), "mend the file: docs/security.md")
        return
    has = [words for words, given in (("TLS", found.tls), ("passwords", found.users)) if given] or [
        "neither TLS nor passwords"
    ]
    yield Finding(slug, title, Status.OK, f"can be used: {' and '.join(has)}")


CHECKS: Final = (
    Check("listen", "--listen", _metrics),
    Check("page_listen", "--page-listen", _page),
)
