# SPDX-License-Identifier: Apache-2.0
"""What a request must pass before a route sees it, and the headers that every answer has."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from cap_exporter.outputs.passwords import Passwords, TooManyPasswords
from cap_exporter.outputs.rate import Bucket
from cap_exporter.outputs.unread import NoRoom, Room
from cap_exporter.outputs.web_config import WebConfig
from cap_exporter.outputs.web_config_file import WebConfigFile

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Pages have no inline script or style: what a container called itself is never one.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


_RETRY = {"Retry-After": "5"}

#: Answered without a password and at any rate: probes of Kubernetes have none.
OPEN_PATHS = ("/healthz", "/readyz")


class Gate:
    """An ASGI application in front of another."""

    def __init__(
        self,
        app: ASGIApp,
        head_limit: int,
        *,
        web: WebConfigFile,
        room: Room,
        loopback: bool,
    ) -> None:
        """head_limit: of request line and headers together, bytes. loopback: whether the address
        is one; then only names of this machine are answered to."""
        self._app = app
        self._head_limit = head_limit
        self._web = web
        self._room = room
        self._loopback = loopback
        self._passwords = Passwords()
        self._rate = Bucket()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        config = self._web.current()
        leave: Callable[[], None] | None = None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, **config.headers}.items():
                    headers[name] = value
            await send(message)
            if message["type"] == "http.response.body" and leave is not None:
                leave()  # a page is whole; a stream goes on in small parts

        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal is None and scope["path"] not in OPEN_PATHS:
            refusal = await self._stranger(request, config)
            if refusal is None:
                try:
                    async with self._room.place() as leave:
                        if not await request.is_disconnected():
                            await self._app(scope, receive, answer)
                except NoRoom:
                    refusal = PlainTextResponse(
                        "Others have not read their answers yet.\n", 503, _RETRY
                    )
                else:
                    return
        await (refusal or self._app)(scope, receive, answer)

    async def _stranger(self, request: Request, config: WebConfig) -> Response | None:
        """The answer to who comes too often, or without a right password."""
        if config.rate and not self._rate.take(config.rate):
            return PlainTextResponse("Too many requests.\n", 429, _RETRY)
        if not config.users:
            return None
        try:
            header = request.headers.get("authorization", "")
            client = request.client.host if request.client else ""
            if await self._passwords.are_right(config.users, header, client):
                return None
        except TooManyPasswords:
            return PlainTextResponse("Too many passwords at one time.\n", 429, _RETRY)
        challenge = {"WWW-Authenticate": 'Basic realm="cap-exporter", charset="UTF-8"'}
        return PlainTextResponse("A user's name and password are asked for.\n", 401, challenge)

    def close(self) -> None:
        self._passwords.close()

    def _refusal(self, request: Request) -> Response | None:
        if self._loopback and not _is_local(request.headers.get("host", "localhost")):
            return PlainTextResponse(
                "This address answers to localhost and to IP addresses only: a page elsewhere "
                "could lead a browser here under a name of its own.\n",
                421,
            )
        if request.scope["http_version"] not in ("1.0", "1.1"):  # h11 takes any
            return PlainTextResponse("HTTP/1.1 is spoken here.\n", 400, {"Connection": "close"})
        # A body is not read: the connection ends, since what follows could not be told from it.
        has_body = (
            request.headers.get("content-length", "0") != "0"
            or "transfer-encoding" in request.headers
        )
        close = {"Connection": "close"} if has_body else {}
        if request.method not in ("GET", "HEAD"):
            headers = {"Allow": "GET, HEAD", **close}
            return PlainTextResponse("Only GET and HEAD are answered here.\n", 405, headers)
        if has_body:
            return PlainTextResponse("A request must have no body here.\n", 413, close)
        if _head_size(request) > self._head_limit:
            return PlainTextResponse(f"The head exceeds {self._head_limit} bytes.\n", 431)
        return None


def _head_size(request: Request) -> int:
    """h11 limits only heads that come in parts."""
    line = len(request.scope["raw_path"]) + len(request.scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in request.headers.raw)


def _is_local(host: str) -> bool:
    """host: as in the header of that name, with or without a port."""
    name = re.sub(r":\d*$", "", host).lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True
