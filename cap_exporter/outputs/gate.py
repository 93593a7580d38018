# SPDX-License-Identifier: Apache-2.0
"""What a request must pass before a route sees it, and the headers that every answer has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

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


class Gate:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp, head_limit: int) -> None:
        """head_limit: of request line and headers together, bytes."""
        self._app = app
        self._head_limit = head_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, answer)

    def _refusal(self, request: Request) -> Response | None:
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
