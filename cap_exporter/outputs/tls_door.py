# SPDX-License-Identifier: Apache-2.0
"""A connection until TLS stands: then the protocol behind it takes over."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from cap_exporter.outputs.tls import has_allowed_name

#: First byte of a handshake record (RFC 8446, section 5.1).
_HANDSHAKE = 22

#: How long the other side may take to say that it closes too, seconds.
_SHUTDOWN_TIMEOUT = 2.0

#: As Go's server answers, so that people know it when they see it.
_PLAIN = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)


class Tally(Protocol):
    """Counts open connections, and drops one where there are too many."""

    def add(self, connection: Droppable) -> None: ...
    def remove(self, connection: Droppable) -> None: ...


class Droppable(Protocol):
    @property
    def idle(self) -> bool: ...
    def drop(self) -> None: ...


class TlsDoor(asyncio.Protocol):
    """What goes wrong here is the client's affair, and not logged: it could flood the log."""

    idle = True

    def __init__(
        self,
        context: ssl.SSLContext,
        client_sans: frozenset[str] | None,
        make_inner: Callable[[asyncio.Transport], asyncio.Protocol],
        tally: Tally,
        timeout: float,
    ) -> None:
        """make_inner: gets the connection below TLS. timeout: for the first byte, and for the
        handshake, seconds."""
        self._context = context
        self._client_sans = client_sans
        self._make_inner = make_inner
        self._tally = tally
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._held: list[bytes] = []
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        self._deadline = self._loop.call_later(self._timeout, self.drop)
        self._tally.add(self)

    def data_received(self, data: bytes) -> None:
        if self._task is not None:  # sent right behind the handshake
            self._held.append(data)
        elif data[0] == _HANDSHAKE:
            self._raw.pause_reading()
            self._deadline.cancel()
            self._task = self._loop.create_task(self._shake_hands(data))
        else:
            if data[:1].isalpha():
                self._raw.write(_PLAIN)
            self._raw.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost = True
        self._deadline.cancel()
        self._tally.remove(self)

    def drop(self) -> None:
        self._raw.abort()

    async def _shake_hands(self, first: bytes) -> None:
        # It hands the connection over in two steps; then comes what was read already.
        self._loop.call_soon(self._loop.call_soon, self._feed, first)
        try:
            transport = await self._loop.start_tls(
                self._raw,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
        except OSError:  # TLS errors and timeouts are such
            return
        finally:
            self._tally.remove(self)
        if transport is None or self._lost:
            return
        if self._client_sans is not None:
            certificate = transport.get_extra_info("ssl_object").getpeercert() or {}
            if not has_allowed_name(certificate, self._client_sans):
                transport.abort()
                return
        inner = self._make_inner(self._raw)
        transport.set_protocol(inner)
        inner.connection_made(transport)
        if self._held:
            inner.data_received(b"".join(self._held))

    def _feed(self, data: bytes) -> None:
        protocol = self._raw.get_protocol()
        assert isinstance(protocol, asyncio.BufferedProtocol)
        left = memoryview(data)
        while left and not self._raw.is_closing():
            buffer = memoryview(protocol.get_buffer(len(left)))
            size = min(len(buffer), len(left))
            buffer[:size] = left[:size]
            protocol.buffer_updated(size)
            left = left[size:]
