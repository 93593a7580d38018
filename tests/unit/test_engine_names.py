# SPDX-License-Identifier: Apache-2.0
"""Names of containers from an engine's socket."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cap_exporter.engine_names import EngineNames

ANSWERS = {
    "a" * 64: (200, b'{"Id":"x","Name":"/web"}'),
    "b" * 64: (404, b'{"message":"No such container"}'),
    "c" * 64: (500, b"oops"),
    "d" * 64: (200, b"not json"),
    "e" * 64: (200, b'["Name"]'),
}


class _Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = ANSWERS[self.path.split("/")[2]]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "engine.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), _Engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def eventually(ask: Callable[[], str | None]) -> str | None:
    deadline = time.monotonic() + 5
    while (found := ask()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_names_and_what_has_none(engine: Path) -> None:
    names = EngineNames(engine)
    try:
        assert names.name("a" * 64) is None  # not yet
        assert eventually(lambda: names.name("a" * 64)) == "web"
        for one in "bcde":
            assert eventually(lambda one=one: names.name(one * 64)) == ""  # type: ignore[misc]
        assert eventually(lambda: names.name("../../secrets")) == ""
    finally:
        names.close()


def test_no_engine_is_said_and_costs_names_only(tmp_path: Path) -> None:
    names = EngineNames(tmp_path / "absent.sock")
    try:
        assert eventually(lambda: names.name("a" * 64)) == ""
        assert "absent.sock" in names.problem
    finally:
        names.close()
