# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a cluster, one thing after the other."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.e2e.exporter import RunningExporter
from tests.kube.server import KubeServer


class Faults:
    """A thread that goes on until stop(). ``made``: how often, by what."""

    def __init__(
        self, exporter: RunningExporter, kube: KubeServer, config: Path, seed: int
    ) -> None:
        self._exporter, self._kube, self._config = exporter, kube, config
        self._choose = random.Random(seed)
        self.made: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        faults: list[Callable[[], None]] = [
            self.stopped,
            self.no_api_server,
            self.watch_cut,
            self.configuration_read_again,
            self.silent_connections,
            self.slow_scraper,
            self.events_not_read,
        ]
        while not self._stop.wait(self._choose.uniform(2, 8)):
            fault = self._choose.choice(faults)
            self.made[fault.__name__.replace("_", " ")] += 1
            fault()

    def _for(self, shortest: float, longest: float) -> None:
        self._stop.wait(self._choose.uniform(shortest, longest))

    def stopped(self) -> None:
        self._exporter.process.send_signal(signal.SIGSTOP)
        self._for(1, 6)
        self._exporter.process.send_signal(signal.SIGCONT)

    def no_api_server(self) -> None:
        self._kube.stop()
        self._for(1, 10)
        self._kube.start()

    def watch_cut(self) -> None:
        self._kube.cut()

    def configuration_read_again(self) -> None:
        good = self._choose.random() < 0.7
        level = self._choose.choice(("info", "warning"))
        self._config.write_text(f"log-level: {level}\n" if good else "log-level: [loud\n")
        self._exporter.process.send_signal(signal.SIGHUP)

    def silent_connections(self) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    stack.enter_context(self._connected())
            self._for(1, 4)

    def slow_scraper(self) -> None:
        with contextlib.suppress(OSError), self._connected() as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for _ in range(20):
                if self._stop.wait(0.2) or not client.recv(100):
                    return

    def events_not_read(self) -> None:
        with contextlib.suppress(OSError), self._connected(self._exporter.page_port) as client:
            client.sendall(b"GET /api/v1/events?recent=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self._for(1, 5)

    def _connected(self, port: int | None = None) -> socket.socket:
        address = ("127.0.0.1", port or self._exporter.metrics_port)
        return socket.create_connection(address, timeout=10)
