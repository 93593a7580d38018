# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: uvicorn in a thread of its own, with limits that uvicorn does not have."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from cap_exporter.outputs.listen import listen

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

#: A connection must have sent a whole request head within this time, seconds (slowloris).
HEAD_TIMEOUT = 10.0

#: An idle connection is kept this long for the next request: more than a scrape interval.
KEEP_ALIVE = 75

#: Request line and headers together, bytes.
HEAD_LIMIT = 16 * 1024

#: Open connections per address. A new one beyond that takes the place of the one that has been
#: waiting longest without a request.
MAX_CONNECTIONS = 128

_HEADERS = [("X-Content-Type-Options", "nosniff")]


class _Connections:
    """The open connections of one listener, oldest first."""

    def __init__(self) -> None:
        self._open: dict[_Protocol, None] = {}

    def add(self, connection: _Protocol) -> None:
        self._open[connection] = None
        if len(self._open) <= MAX_CONNECTIONS:
            return
        idle = next((c for c in self._open if c.idle and c is not connection), connection)
        self._open.pop(idle, None)
        idle.drop()

    def remove(self, connection: _Protocol) -> None:
        self._open.pop(connection, None)


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for the request's head and a connection limit."""

    tally: _Connections
    _deadline: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        # uvicorn sets it with the first request's head.
        cycle: Any = self.cycle
        return cycle is None or bool(cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._late)
        self.tally.add(self)

    def _late(self) -> None:
        cycle: Any = self.cycle
        if cycle is None:
            self.drop()

    def drop(self) -> None:
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.tally.remove(self)
        super().connection_lost(exc)


class _NotFound:
    """What no route answers: 404, or 405 for a method that no route takes."""

    async def __call__(self, request: Request, _error: Exception) -> Response:
        return PlainTextResponse(
            f"There is nothing at {request.url.path!r}.\n", 404, headers=dict(_HEADERS)
        )


async def _not_allowed(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse(
        "Only GET and HEAD are answered here.\n", 405, headers={"Allow": "GET, HEAD"}
    )


def application(routes: Sequence[Route]) -> Starlette:
    """An ASGI application of these routes, with plain answers for all else."""
    return Starlette(routes=list(routes), exception_handlers={404: _NotFound(), 405: _not_allowed})


class HttpServer:
    """Serves an application on one address, in a daemon thread with its own event loop."""

    def __init__(self, address: str, routes: Sequence[Route]) -> None:
        """Listens at once. Raises ListenError."""
        self._socket = listen(address)
        connections = _Connections()
        protocol = type("Protocol", (_Protocol,), {"tally": connections})
        config = uvicorn.Config(
            application(routes),
            http=protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=HEAD_LIMIT,
            timeout_graceful_shutdown=1,
            headers=_HEADERS,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The real one, also where 0 was asked for."""
        port = self._socket.getsockname()[1]
        assert isinstance(port, int)
        return port

    def start(self) -> None:
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """Ends within about a second, open streams included."""
        self._server.should_exit = True
        self._server.force_exit = True
        if self._thread.is_alive():
            self._thread.join(2)
        self._socket.close()


class _Server(uvicorn.Server):
    """Signals belong to the process's own loop."""

    def install_signal_handlers(self) -> None:
        """Named so by older versions of uvicorn."""

    def capture_signals(self) -> Any:
        import contextlib

        return contextlib.nullcontext()
