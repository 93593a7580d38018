#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of docs/tour.md on a running demo and writes what they print into it; draws
docs/pictures/top*.svg. As root, after `make demo` has installed what that needs.

    .venv/bin/python tools/make_tour.py [--seconds N]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from demo.__main__ import where_to_look  # noqa: E402
from demo.parts import alone, start  # noqa: E402
from tests.e2e.exporter import COMMAND  # noqa: E402
from tests.e2e.test_top import Terminal  # noqa: E402
from tools.drawing.terminal import svg_of  # noqa: E402

NAME = "cap-exporter-tour"
PORTS = (10838, 10839, 9090)
TOUR = ROOT / "docs/tour.md"
PICTURES = ROOT / "docs/pictures"

_BLOCK = re.compile(r"^```console\n\$ (?P<command>.*)\n(?:.*\n)*?```$", re.MULTILINE)

#: What does not end by itself is ended after so many seconds, and shown to this line.
_STREAMS, _LINES = 10, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", action="store_true", help="only these")
    parser.add_argument("--seconds", type=float, default=60, help="how long the demo runs before")
    options = parser.parse_args()
    os.environ["PATH"] = f"{COMMAND.parent}:{os.environ['PATH']}:{ROOT / '.tools' / 'bin'}"
    folder = Path("/run") / NAME
    with alone(folder) as only, ExitStack() as stack:
        if not only:
            print(f"another one runs: {folder}", file=sys.stderr)
            return 2
        exporter, prometheus = start(stack, folder, NAME)
        ports = exporter.metrics_port, exporter.page_port, prometheus.port
        if ports != PORTS:
            print("ports 10838, 10839 and 9090 must be free: the tour names them", file=sys.stderr)
            return 2
        time.sleep(options.seconds)
        os.environ["CAP_EXPORTER_URL"] = stack.enter_context(_only_the_demo(exporter.page_port))
        demo = where_to_look(exporter, prometheus).lstrip("\n")

        def fill(block: re.Match[str]) -> str:
            command = block["command"]
            said = demo if command == "make demo" else _run(command)
            return f"```console\n$ {command}\n{said.rstrip()}\n```"

        if not options.pictures:
            TOUR.write_text(_BLOCK.sub(fill, TOUR.read_text()))
        _draw()
    return 0


def _run(command: str) -> str:
    streams = command.startswith("cap-exporter events")
    environ = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    if streams:
        command = f"exec {command}"
        del environ["CAP_EXPORTER_URL"]  # it names its container
    done = subprocess.run(
        ["timeout", "--signal=INT", str(_STREAMS if streams else 60), "sh", "-c", command],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    lines = [line.rstrip() for line in _at_its_usual_address(done.stdout).splitlines()]
    if not lines:
        raise SystemExit(f"{command} printed nothing")
    return "\n".join([*lines[:_LINES], "…"] if streams else lines)


def _at_its_usual_address(text: str) -> str:
    address = os.environ["CAP_EXPORTER_URL"].removeprefix("http://")
    return text.replace(address, f"127.0.0.1:{PORTS[1]}")


def _draw() -> None:
    with Terminal(str(COMMAND), "top") as terminal:
        terminal.shows("nosy +[0-9]")
        time.sleep(6)  # rates take two drains
        terminal.read(1)
        _write("top.svg", terminal)
        terminal.press("\r")
        terminal.shows("LAST EVENTS")
        terminal.read(3)
        _write("top-container.svg", terminal)


def _write(name: str, terminal: Terminal) -> None:
    svg = svg_of(terminal.screen, "cap-exporter top")
    (PICTURES / name).write_text(_at_its_usual_address(svg))


@contextmanager
def _only_the_demo(port: int) -> Iterator[str]:
    """The exporter's page without what else runs on this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{self.path}") as answer:
                self.send_response(200)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
                with suppress(OSError):  # the command has ended
                    self._pass_on(answer)

        def _pass_on(self, answer: IO[bytes]) -> None:
            if self.path.startswith("/api/v1/profiles"):
                document = json.load(answer)
                document["containers"] = [
                    one for one in document["containers"] if one["cgroup"].startswith(f"/{NAME}/")
                ]
                self.wfile.write(json.dumps(document).encode())
                return
            while line := answer.readline():
                self.wfile.write(line)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
