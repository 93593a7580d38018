# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: uvicorn in a thread of its own, with limits that uvicorn does not have."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from cap_exporter.outputs.gate import Gate
from cap_exporter.outputs.listen import is_loopback, listen
from cap_exporter.outputs.tls_door import Droppable, TlsDoor
from cap_exporter.outputs.unread import Room
from cap_exporter.outputs.web_config_file import WebConfigFile

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

log = logging.getLogger(__name__)

#: A request's head must have come as a whole within this time from its first byte, or from the
#: connection's begin, seconds (slowloris).
HEAD_TIMEOUT = 10.0

#: Who does not read its answer for this time is cut off, seconds: it holds the page in memory.
SEND_TIMEOUT = 30.0

#: An idle connection is kept this long for the next request: more than a scrape interval.
KEEP_ALIVE = 75

#: Request line and headers together, bytes.
HEAD_LIMIT = 16 * 1024

#: Open connections per address. A new one beyond that takes the place of the one that has been
#: waiting longest without a request.
MAX_CONNECTIONS = 128

#: Connections that wait to be accepted. asyncio tries so many at one time, also in vain.
_BACKLOG = 128


class _Connections:
    """The open connections of one listener, oldest first."""

    def __init__(self) -> None:
        self._open: dict[Droppable, None] = {}

    def add(self, connection: Droppable) -> None:
        self._open[connection] = None
        if len(self._open) <= MAX_CONNECTIONS:
            return
        idle = next((c for c in self._open if c.idle and c is not connection), connection)
        self._open.pop(idle, None)
        idle.drop()

    def remove(self, connection: Droppable) -> None:
        self._open.pop(connection, None)

    def drop_all(self) -> None:
        for one in list(self._open):
            one.drop()

    def readers(self) -> list[_Protocol]:
        return [one for one in self._open if isinstance(one, _Protocol)]


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with deadlines for heads and readers, and a connection limit."""

    tally: _Connections
    clock: Callable[[], None]
    below: asyncio.Transport | None = None
    """What carries TLS."""
    unread_since: float | None = None
    _head_deadline: asyncio.TimerHandle | None = None
    _reader_watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_deadline = self.loop.call_later(HEAD_TIMEOUT, self.drop)
        self.tally.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_deadline, self._reader_watch):
            if timer is not None:
                timer.cancel()
        self.tally.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # TLS hands over what came before
        self.clock()
        super().data_received(data)
        self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_head()
        self._watch_reader()

    def _expect_head(self) -> None:
        """A head that has begun has a deadline; where none has, uvicorn's keep-alive counts."""
        begun = self.idle and bool(self.conn.trailing_data[0])
        if begun and self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_TIMEOUT, self.drop)
        elif not begun and self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread_since = None

    def unread(self) -> int:
        """What waits to be sent, bytes. TLS hands on all it gets and knows of none of it."""
        below = self.below.get_write_buffer_size() if self.below else 0
        return self.transport.get_write_buffer_size() + below

    def _watch_reader(self) -> None:
        """While an answer is unread: cuts off who takes too long. The transport's own signals do
        not tell of a page that TLS has handed on."""
        if not self.unread():
            self.unread_since = self._reader_watch = None
            return
        now = time.monotonic()
        if self.unread_since is None:
            self.unread_since = now
        if now - self.unread_since >= SEND_TIMEOUT:
            self.drop()
        elif self._reader_watch is None or self._reader_watch.when() <= self.loop.time():
            pause = min(1.0, SEND_TIMEOUT / 4)
            self._reader_watch = self.loop.call_later(pause, self._watch_reader)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own has no date, and is an error of its own once an answer has begun."""
        if self.idle:
            headers = b"".join(b"%b: %b\r\n" % one for one in self.server_state.default_headers)
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\n%bContent-Type: text/plain; charset=utf-8\r\n"
                b"Connection: close\r\n\r\n%b\n" % (headers, msg.encode())
            )
        else:
            self.cycle.disconnected = True
        self.transport.close()

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        # uvicorn sets it with the first request's head.
        cycle: Any = self.cycle
        return cycle is None or bool(cycle.response_complete)

    def drop(self) -> None:
        self.transport.abort()


async def _not_found(request: Request, _error: Exception) -> Response:
    return PlainTextResponse(f"There is nothing at {request.url.path!r}.\n", 404)


def application(routes: Sequence[Route]) -> Starlette:
    """An ASGI application of these routes, with a plain answer for all else."""
    found = Starlette(routes=list(routes), exception_handlers={404: _not_found})
    # It would lead to wherever the Host header says.
    found.router.redirect_slashes = False
    return found


class HttpServer:
    """Serves an application on one address, in a daemon thread with its own event loop."""

    def __init__(
        self, address: str, routes: Sequence[Route], web_config: Path | None = None
    ) -> None:
        """Listens at once. web_config: a file with TLS, passwords and headers. Raises ListenError,
        ConfigError."""
        self._web = WebConfigFile(web_config)
        self._socket = listen(address)
        self._connections = _Connections()
        self._gate = Gate(
            application(routes),
            HEAD_LIMIT,
            web=self._web,
            room=Room(self._connections.readers),
            loopback=is_loopback(self._socket),
        )
        config = uvicorn.Config(
            self._gate,
            http=self._make_protocol,  # type: ignore[arg-type]
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            # Below are warnings of what clients send: who floods us must not flood the log.
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=HEAD_LIMIT,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._say_again = 0.0
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The real one, also where 0 was asked for."""
        port = self._socket.getsockname()[1]
        assert isinstance(port, int)
        return port

    def start(self) -> None:
        self._thread.start()

    def _make_protocol(self, **uvicorn_has: Any) -> asyncio.Protocol:
        """For a new connection."""

        def make(below: asyncio.Transport | None) -> _Protocol:
            protocol = _Protocol(**uvicorn_has)
            protocol.tally = self._connections
            protocol.clock = self._server.set_date
            protocol.below = below
            return protocol

        web = self._web.current()
        if web.tls is None:
            return make(None)
        return TlsDoor(web.tls, web.client_sans, make, self._connections, HEAD_TIMEOUT)

    def _serve(self) -> None:
        asyncio.run(self._serve_to_the_end())

    async def _serve_to_the_end(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        await self._server.serve(sockets=[self._socket])
        # In a handshake, or waiting for TLS to say goodbye.
        self._connections.drop_all()
        await asyncio.sleep(0)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Without file descriptors asyncio has an error for each connection it may accept, once a
        second."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._say_again:
            self._say_again = loop.time() + 60
            log.warning("new connections wait: %s", error.strerror)

    def stop(self) -> None:
        """Ends within about a second, open streams included."""
        self._server.end()
        if self._thread.is_alive():
            self._thread.join(2)
        self._gate.close()
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
            self.server_state.default_headers = [(b"date", date)]

    def install_signal_handlers(self) -> None:
        """Named so by older versions of uvicorn."""

    def capture_signals(self) -> Any:
        import contextlib

        return contextlib.nullcontext()
