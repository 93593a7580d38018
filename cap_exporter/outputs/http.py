# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: uvicorn in a thread of its own, with limits that uvicorn does not have."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
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
    clock: Callable[[], None]
    _deadline: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self.clock()
        super().data_received(data)

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
        protocol = type(
            "Protocol", (_Protocol,), {"tally": connections, "clock": staticmethod(self._set_date)}
        )
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

    def _set_date(self) -> None:
        self._server.set_date()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def stop(self) -> None:
        """Ends within about a second, open streams included."""
        self._server.end()
        if self._thread.is_alive():
            self._thread.join(2)
        self._socket.close()


class _Server(uvicorn.Server):
    """Sleeps until it is told to end, where uvicorn looks ten times a second whether it should
    and what time it is: on an idle node that was most of the exporter's CPU time. Signals belong
    to the process's own loop."""

    _dated = 0
    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._ending = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.set_date()
        if not self.should_exit:
            await self._ending.wait()

    def end(self) -> None:
        """From any thread."""
        self.should_exit = True
        self.force_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)

    def set_date(self) -> None:
        """The Date header of the answers from now on (RFC 9110, section 6.6.1)."""
        now = int(time.time())
        if now != self._dated:
            self._dated = now
            date = formatdate(now, usegmt=True).encode()
            self.server_state.default_headers = [(b"date", date), *self.config.encoded_headers]

    def install_signal_handlers(self) -> None:
        """Named so by older versions of uvicorn."""

    def capture_signals(self) -> Any:
        import contextlib

        return contextlib.nullcontext()
