# SPDX-License-Identifier: Apache-2.0
"""Both HTTP servers in this process, on ports of their own, with names as bad as a container can
choose them; and a client that sends any bytes."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from cap_exporter.event_hub import EventHub
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.event_record import record_of
from cap_exporter.outputs.event_stream import event_routes
from cap_exporter.outputs.http import HttpServer
from cap_exporter.outputs.page.node import Node
from cap_exporter.outputs.page.routes import page_routes
from cap_exporter.outputs.profile_routes import profile_routes
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.outputs.routes import Readiness, metrics_routes
from cap_exporter.profiles.profile import document
from cap_exporter.self_stats import SelfStats
from tests.otlp.events import event

EVIL = '<script>alert("1")</script>\r\nX: y\udcff'

IDENTITIES = [
    Identity("shop", "api-1", "api", "a" * 64, "uid", workload_kind="Deployment", workload="api"),
    Identity("", "", EVIL, "b" * 64, cgroup=f"/{EVIL}"),
    Identity("", "", "(host)", ""),
]


@dataclass
class Loop:
    """A drain loop that has just drained."""

    stats: SelfStats = field(default_factory=SelfStats)
    interval: float = 5.0

    def seconds_since_drain(self) -> float:
        return 0.0


class Served:
    """``metrics`` and ``page`` are the servers."""

    def __init__(
        self,
        containers: int = 0,
        web_config: Path | None = None,
        page_web_config: Path | None = None,
    ) -> None:
        """containers: more than the few."""
        ledger = Ledger()
        many = [Identity("many", f"pod-{n}", "c", f"{n:064}") for n in range(containers)]
        for number, identity in enumerate([*IDENTITIES, *many], 1):
            cgroup = CgroupKey(0, number)
            for verdict in Verdict:
                key = CheckKey(cgroup, 21, verdict, UserNamespace.INIT, CheckClass.MEANINGFUL)
                ledger.apply([(identity, key, number)], 1.0)
            ledger.observe(cgroup, identity, 1.0, Granted(0b111))
        self.hub = EventHub()
        for identity in IDENTITIES:
            self.hub.publish(record_of(event(), identity, "node"))
        loop, readiness = Loop(), Readiness(lambda: True, list)
        metrics = metrics_routes(
            Metrics(ledger, loop.stats), loop.seconds_since_drain, lambda: 5.0, readiness
        )

        def profiles() -> dict[str, Any]:
            return document(ledger.accounts())

        page = [
            *page_routes(Node(ledger, loop, readiness, name="node"), profiles, self.hub),
            *event_routes(self.hub),
            *profile_routes(profiles),
        ]
        self.metrics = HttpServer("127.0.0.1:0", metrics, web_config)
        self.page = HttpServer("127.0.0.1:0", page, page_web_config)

    def __enter__(self) -> Self:
        self.metrics.start()
        self.page.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Each takes a tenth of a second.
        other = threading.Thread(target=self.metrics.stop)
        other.start()
        self.page.stop()
        other.join()


def shrink(server: HttpServer) -> None:
    """So that little of an answer gets into the kernel when nobody reads it."""
    server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def connect(
    server: HttpServer, tls: ssl.SSLContext | None = None, receive_buffer: int = 0
) -> socket.socket:
    """receive_buffer: bytes that the kernel takes for who does not read; 0: its own choice."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", server.port))
    return tls.wrap_socket(connection, server_hostname="localhost") if tls else connection


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes, or resets."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return b"".join(parts)


def parse(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    names = [field.partition(":")[0].lower() for field in fields]
    assert len(names) == len(set(names)), f"a header twice: {names}"
    headers = {
        name: field.partition(":")[2].strip() for name, field in zip(names, fields, strict=True)
    }
    return Answer(int(line.split()[1]), headers, body)


def send(server: HttpServer, raw: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """What comes back for these bytes until the server closes."""
    with connect(server, tls) as connection:
        connection.sendall(raw)
        return read_all(connection)


def ask(
    server: HttpServer,
    target: str,
    method: str = "GET",
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Answer:
    """A request as it should be, on a connection of its own."""
    fields = {"Host": "localhost", "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return parse(send(server, "\r\n".join([*lines, "", ""]).encode("latin-1"), tls))
