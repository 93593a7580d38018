# SPDX-License-Identifier: Apache-2.0
"""What a kubelet does with a port-forward over a websocket: two channels a port, data and errors,
each begun by a frame with the port's number, little endian (kubernetes
staging/src/k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go and
staging/src/k8s.io/apimachinery/pkg/util/httpstream/wsstream/conn.go, v1.34)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Request,
)
from wsproto.utilities import LocalProtocolError

PROTOCOL = "v4.channel.k8s.io"
_DATA, _ERROR = b"\0", b"\1"


class PortForward:
    """One connection that asked for one port."""

    def __init__(self, client: socket.socket, headers: Iterable[tuple[str, str]], path: str):
        self._client = client
        self._lock = threading.Lock()
        self._connection = WSConnection(ConnectionType.SERVER)
        self._connection.initiate_upgrade_connection(
            [(name.lower().encode(), value.encode()) for name, value in headers], path
        )
        (request,) = self._connection.events()
        assert isinstance(request, Request)
        assert PROTOCOL in request.subprotocols, request.subprotocols
        self._send(AcceptConnection(subprotocol=PROTOCOL))

    def _send(self, event: Event) -> None:
        with self._lock:
            self._client.sendall(self._connection.send(event))

    def _message(self, data: bytes) -> None:
        self._send(Message(data=data))

    def serve(self, pod_port: int, port: int | None) -> None:
        """pod_port: as it was asked for. port: where bytes go to, here; None: nobody listens."""
        number = struct.pack("<H", pod_port)
        self._message(_DATA + number)
        self._message(_ERROR + number)
        try:
            if port is None:
                raise ConnectionRefusedError(f"dial tcp4 127.0.0.1:{pod_port}: connection refused")
            with socket.create_connection(("127.0.0.1", port), timeout=10) as exporter:
                arguments = exporter, pod_port
                threading.Thread(target=self._to_client, args=arguments, daemon=True).start()
                for data in self._from_client():
                    exporter.sendall(data)
        except (OSError, LocalProtocolError) as error:
            self._failed(pod_port, error)

    def _failed(self, pod_port: int, error: Exception) -> None:
        with contextlib.suppress(OSError, LocalProtocolError):  # the client may have gone
            self._message(_ERROR + f"error forwarding port {pod_port} to pod x: {error}".encode())
            self._send(CloseConnection(code=1000))

    def _from_client(self) -> Iterator[bytes]:
        while data := self._client.recv(65536):
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, BytesMessage):
                    assert bytes(event.data[:1]) == _DATA
                    yield bytes(event.data[1:])
                elif isinstance(event, Ping):
                    self._send(event.response())
                elif isinstance(event, CloseConnection):
                    return

    def _to_client(self, exporter: socket.socket, pod_port: int) -> None:
        try:
            while data := exporter.recv(65536):
                self._message(_DATA + data)
            self._send(CloseConnection(code=1000))
        except (OSError, LocalProtocolError) as error:
            self._failed(pod_port, error)
