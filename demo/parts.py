# SPDX-License-Identifier: Apache-2.0
"""What a demo consists of, and that there is one at a time."""

from __future__ import annotations

import fcntl
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.containers import running
from demo.workloads import WORKLOADS
from tests.e2e.exporter import RunningExporter
from tests.e2e.prometheus import Prometheus
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent

#: What is started ends with the demo, however that ends.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other demo has this folder. It goes at the end."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            shutil.rmtree(folder)


def start(stack: ExitStack, folder: Path, name: str) -> tuple[RunningExporter, Prometheus]:
    """All of it; the stack ends it."""
    print("Starting the exporter …", flush=True)
    exporter = stack.enter_context(
        RunningExporter(
            folder,
            "--scope=containers",
            "--event-verdicts=all",
            "--event-interval=10s",
            "--drain-interval=2s",
            f"--listen=127.0.0.1:{_port(10838)}",
            f"--page-listen=127.0.0.1:{_port(10839)}",
            under=ENDS_WITH_US,
        )
    )
    print("Starting the containers …", flush=True)
    stack.enter_context(running(folder, name, WORKLOADS))
    print("Starting Prometheus …", flush=True)
    prometheus = stack.enter_context(
        Prometheus(
            folder,
            [exporter.metrics_port],
            interval="5s",
            under=ENDS_WITH_US,
            port=_port(9090),
            rule_files=[str(ROOT / "deploy/rules/*.yaml")],
        )
    )
    return exporter, prometheus


def _port(usual: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            return free_port()
    return usual
