# SPDX-License-Identifier: Apache-2.0
"""What `run` imports before it starts a thread that imports some of the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from click.testing import CliRunner
from cap_exporter.cli import run

class Started(Exception):
    pass

def make_pod_watch(*_arguments):
    names = ("requests", "grpc", "opentelemetry.sdk.metrics.export")
    print(*(name for name in names if name in sys.modules))
    raise Started

run.make_pod_watch = make_pod_watch
result = CliRunner().invoke(
    run.command, ["--kubernetes=on", "--node-name=n", *sys.argv[1:]], catch_exceptions=True
)
assert isinstance(result.exception, Started), result.output
sys.stdout.write(result.output)
"""


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [
        ((), ""),
        (("--otlp-endpoint=http://localhost:4318", "--no-otlp-metrics"), "requests"),
        (
            ("--otlp-endpoint=http://localhost:4318", "--no-otlp-logs"),
            "requests opentelemetry.sdk.metrics.export",
        ),
        (
            ("--otlp-endpoint=http://localhost:4317", "--no-otlp-metrics"),
            "grpc opentelemetry.sdk.metrics.export",
        ),
    ],
)
def test_otlp_s_libraries_are_there_before_the_pod_watch_starts(
    arguments: tuple[str, ...], imported: str
) -> None:
    """The thread that reads a kubeconfig imports requests too: at one time, that ended in half a
    module for one of them and no exporter."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == imported
