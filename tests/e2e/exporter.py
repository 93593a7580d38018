# SPDX-License-Identifier: Apache-2.0
"""A running exporter, as a user starts it: the installed command in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

COMMAND = Path(sys.executable).parent / "cap-exporter"


class RunningExporter:
    """Starts with its own free ports; ``metrics_port`` and ``page_port`` are read from its log."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environ: dict[str, str] | None = None,
        before: tuple[str, ...] = (),
        under: tuple[str, ...] = (),
    ) -> None:
        """before: arguments before ``run``. under: a command that executes the exporter."""
        self.log = folder / "exporter.log"
        self._file = self.log.open("w")
        self.process = subprocess.Popen(
            [
                *under,
                COMMAND,
                *before,
                "run",
                "--listen=127.0.0.1:0",
                "--page-listen=127.0.0.1:0",
                "--drain-interval=200ms",
                *arguments,
            ],
            stdout=self._file,
            stderr=self._file,
            env={**os.environ, **(environ or {})},
        )
        try:
            found = self._wait_for(r"metrics on port (\d+), page on port (\d+)")
        except AssertionError:
            self.process.kill()
            self.process.wait()
            self._file.close()
            raise
        self.metrics_port, self.page_port = int(found[1]), int(found[2])

    def _wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 60  # in emulated machines, with others at work
        while time.monotonic() < deadline:
            found = re.search(pattern, self.log.read_text())
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the exporter did not start:\n{self.log.read_text()}")

    def get(self, path: str, port: int | None = None) -> str:
        address = f"http://127.0.0.1:{port or self.metrics_port}{path}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return str(answer.read().decode())

    def samples(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of a metric that have these labels."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def total(self, name: str, **labels: str) -> float:
        return sum(self.samples(name, **labels).values())

    def eventually(self, name: str, value: float, **labels: str) -> None:
        """The sum of these samples becomes this value."""
        deadline = time.monotonic() + 10
        while (total := self.total(name, **labels)) != value and time.monotonic() < deadline:
            time.sleep(0.05)
        assert total == value, self.get("/metrics")

    def stop(self) -> float:
        """SIGTERM; returns how long it took to end, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._file.close()
