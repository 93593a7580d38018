# SPDX-License-Identifier: Apache-2.0
"""A few known workloads in real containers, the exporter, and Prometheus, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from demo.parts import ROOT, alone, start
from demo.workloads import WORKLOADS
from tests.e2e.exporter import RunningExporter
from tests.e2e.prometheus import Prometheus

NAME = "cap-exporter-demo"

#: Usage, or this host cannot do it: as in cap-exporter.
USAGE, CANNOT = 2, 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seconds", type=float, help="end by itself after so long")
    parser.add_argument("--name", default=NAME, help="of its cgroup, and of its folder in /run")
    options = parser.parse_args()
    os.environ["PATH"] += f":/usr/sbin:/sbin:{ROOT / '.tools' / 'bin'}"
    if problem := _what_is_missing():
        print(f"The demo cannot run: {problem}", file=sys.stderr)
        return CANNOT
    end = _end_on_signals()
    folder = Path("/run") / options.name
    with alone(folder) as nobody_else:
        if not nobody_else:
            print(f"Another demo runs already (it holds {folder}/lock).", file=sys.stderr)
            return USAGE
        with ExitStack() as stack:
            try:
                print(where_to_look(*start(stack, folder, options.name)), flush=True)
                end.wait(options.seconds)
            finally:
                print("\nEnding: containers, exporter, Prometheus …", flush=True)
        print("Nothing is left.")
    return 0


def _what_is_missing() -> str:
    if os.geteuid() != 0:
        return "containers and BPF programs take root: sudo make demo"
    if missing := [one for one in ("runc", "busybox", "prometheus") if shutil.which(one) is None]:
        return f"{', '.join(missing)} not found; `make demo` installs what it needs"
    return ""


def _end_on_signals() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; the next ones change nothing, so that all is ended."""
    end = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        end.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return end


def where_to_look(exporter: RunningExporter, prometheus: Prometheus) -> str:
    command = os.path.relpath(Path(sys.executable).parent / "cap-exporter")
    page = f"http://localhost:{exporter.page_port}"
    url = "" if exporter.page_port == 10839 else f" --url {page}"
    return "\n".join(
        (
            "",
            "Running:",
            *(f"  {one.name:8} {one.about}" for one in WORKLOADS),
            "",
            "Look at:",
            f"  {page}/          the page",
            f"  http://localhost:{exporter.metrics_port}/metrics   the metrics",
            f"  {prometheus.url.replace('127.0.0.1', 'localhost')}/graph      Prometheus; ask it:",
            '    sum by (container, capability) (capability_checks_total{verdict="denied"})',
            "",
            "Try, in another terminal:",
            *(
                f"  {command} {arguments}{url}"
                for arguments in (
                    "top",
                    "events --verdict denied",
                    "profile",
                    "advise --container web -o kubernetes",
                )
            ),
            "",
            "Ctrl-C ends all of it and leaves nothing.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
