# SPDX-License-Identifier: Apache-2.0
"""Asking an exporter that dies while it answers, or that is something else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cap_exporter.client import NoAnswer, ask_exporter, follow_events


@pytest.fixture
def server() -> Iterator[Callable[[bytes], str]]:
    """Gives the address of one that answers this, and hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads = []

    def start(answer: bytes) -> str:
        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    with listening:
        yield start
        for thread in threads:
            thread.join(10)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_what_is_no_answer_is_told_as_such(server: Callable[[bytes], str], answer: bytes) -> None:
    with pytest.raises(NoAnswer, match=r"api/v1/profiles"):
        ask_exporter(server(answer))


def test_neither_is_one_to_who_follows_events(server: Callable[[bytes], str]) -> None:
    with pytest.raises(NoAnswer, match=r"api/v1/events"):
        next(follow_events(server(b"SSH-2.0-OpenSSH_9.2\r\n"), recent=True))
