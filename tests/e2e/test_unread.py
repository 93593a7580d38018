# SPDX-License-Identifier: Apache-2.0
"""Answers that nobody reads: what they hold in memory is bounded, and others are answered."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from cap_exporter.outputs import http, routes, unread
from cap_exporter.outputs.exposition import write_page
from tests.e2e.served import Served, ask, connect, read_all, shrink

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(unread, "PATIENCE", 0.5)
    monkeypatch.setattr(unread, "PRESSED", 0.3)
    with Served(containers=500) as both:
        shrink(both.metrics)
        yield both


def held(server: http.HttpServer) -> int:
    return sum(reader.unread() for reader in server._connections.readers())


@contextmanager
def deaf(server: http.HttpServer, number: int, requests: int = 1) -> Iterator[list[socket.socket]]:
    """Connections that ask for the metrics and do not read them."""
    with ExitStack() as stack:
        connections = []
        for _ in range(number):
            connection = stack.enter_context(connect(server, receive_buffer=4096))
            connection.sendall(SCRAPE * requests)
            connections.append(connection)
        yield connections


def test_what_is_unread_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    page = len(ask(served.metrics, "/metrics").body)
    monkeypatch.setattr(unread, "LIMIT", 2 * page)
    monkeypatch.setattr(unread, "PRESSED", 60.0)
    with deaf(served.metrics, 40):
        most = 0
        for _ in range(30):
            most = max(most, held(served.metrics))
            time.sleep(0.01)
        assert page < most <= 2 * page + unread._IN_THE_MAKING * page
        # Nobody is cut yet: there is no room, and probes are answered all the same.
        answer = ask(served.metrics, "/metrics")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert ask(served.metrics, "/healthz").status == 200
        assert ask(served.page, "/api/v1/profiles").status == 200


@pytest.mark.parametrize("requests", [1, 3])
def test_who_does_not_read_makes_room_for_who_waits(
    served: Served, monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    """With more requests than one on a connection its later answers are made, and wait."""
    page = len(ask(served.metrics, "/metrics").body)
    monkeypatch.setattr(unread, "LIMIT", page // 2)
    monkeypatch.setattr(unread, "PATIENCE", 5.0)
    with deaf(served.metrics, 6, requests) as connections:
        time.sleep(0.1)
        assert ask(served.metrics, "/metrics").status == 200
        assert len(read_all(connections[0])) < page


def test_who_does_not_read_is_left_alone_while_nobody_waits(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = len(ask(served.metrics, "/metrics").body)
    monkeypatch.setattr(unread, "LIMIT", 10 * page)
    with deaf(served.metrics, 2) as (one, _other):
        time.sleep(0.5)
        assert ask(served.metrics, "/metrics").status == 200
        one.settimeout(0.5)
        raw = b""
        while len(raw) < page:
            raw += one.recv(65536)


def test_many_honest_scrapes_beyond_the_bound_are_all_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "LIMIT", 0)
    monkeypatch.setattr(unread, "PATIENCE", 20.0)
    monkeypatch.setattr(unread, "PRESSED", 20.0)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(served.metrics, "/metrics"), range(40)))
    assert {answer.status for answer in answers} == {200}
    assert held(served.metrics) == 0


def test_nothing_is_made_for_who_has_gone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def write(*arguments: Any) -> Iterator[bytes]:
        made.append(arguments)
        return write_page(*arguments)

    monkeypatch.setattr(routes, "write_page", write)
    monkeypatch.setattr(unread, "PATIENCE", 5.0)
    monkeypatch.setattr(unread, "LIMIT", -1)  # there is no room
    with deaf(served.metrics, 20):
        time.sleep(0.1)
    monkeypatch.setattr(unread, "LIMIT", 1 << 20)
    assert ask(served.metrics, "/metrics").status == 200
    assert len(made) <= 2  # the first in line may have been let in before it was seen to go


def test_the_line_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "_WAITING", 5)
    monkeypatch.setattr(unread, "PATIENCE", 5.0)
    monkeypatch.setattr(unread, "LIMIT", -1)
    with deaf(served.metrics, 5):
        time.sleep(0.1)
        began = time.monotonic()
        assert ask(served.metrics, "/metrics").status == 503
        assert time.monotonic() - began < 1
    monkeypatch.setattr(unread, "LIMIT", 1 << 20)
    time.sleep(0.2)
    assert ask(served.metrics, "/metrics").status == 200


def test_streams_take_no_place_from_pages(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(2 * unread._IN_THE_MAKING):
            connection = stack.enter_context(connect(served.page))
            connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        assert ask(served.page, "/api/v1/profiles").status == 200
        assert time.monotonic() - began < 0.5
