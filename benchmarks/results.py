# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found: printed as a line, and kept for benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

#: Where `python -m benchmarks` collects what the single benchmarks report.
COLLECT = "CAP_EXPORTER_BENCH_RESULTS"


class Result(NamedTuple):
    topic: str
    what: str
    value: str
    target: str = ""
    """What it should be at most, as text; empty: just to know."""
    met: bool | None = None


def report(topic: str, what: str, value: float, unit: str, at_most: float | None = None) -> Result:
    """One number. ``at_most``: the target, in the same unit."""
    met = None if at_most is None else value <= at_most
    target = "" if at_most is None else f"≤ {_text(at_most)} {unit}".rstrip()
    result = Result(topic, what, f"{_text(value)} {unit}".rstrip(), target, met)
    mark = {None: " ", True: "✓", False: "✗"}[met]
    print(f"{mark} {topic}: {what}: {result.value}  {target}", flush=True)
    if where := os.environ.get(COLLECT):
        with Path(where).open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    return result


def _text(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
