# SPDX-License-Identifier: Apache-2.0
"""How costs grow: keys, series, containers and pods, ten times as many at each step. Writes
benchmarks/growth.json, and the plot of it that docs/cost.md shows.

    python -m benchmarks growth            (make bench ARGS=growth)
    python -m benchmarks.bench_growth --quick

Costs in time are CPU time: whatever else runs on the machine delays, and is not counted. Takes
some minutes, so `make bench` leaves it out unless it is named. Needs root.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import plot
from benchmarks.bench_drain import filled_table, median
from benchmarks.bench_footprint import (
    an_exporter,
    checks_in_each,
    containers_of_docker,
    cpu_seconds,
    status,
)
from benchmarks.bench_pods import memory_of, pod_line
from benchmarks.bench_scrape import filled, written
from benchmarks.results import report
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.self_stats import SelfStats

HERE = Path(__file__).parent

#: The most that counts as linear: there is noise.
AT_MOST = 1.1

#: Seconds until what was counted is drained, at the default interval, and named.
SETTLED = 8

#: Points that the exponent is fitted to: the last three steps.
FITTED = 4


class Curve(NamedTuple):
    what: str
    of: str
    unit: str
    points: list[tuple[int, float]]


def main() -> None:
    quick = "--quick" in sys.argv
    most = 3 if quick else 5
    steps = [10**power for power in range(1, most + 1)]
    fewer = steps[:-1] if not quick else steps
    curves = [
        Curve("Reading the counters", "live keys", "ms", _each(steps, drain)),
        Curve("Writing the page", "series", "ms", _each(steps, scrape)),
        *containers(fewer),
        Curve("Memory of the pods", "pods", "MB", _each(fewer, pods)),
    ]
    for curve in curves:
        for number, value in curve.points:
            report("growth", f"{curve.what}, {number:,} {curve.of}", value, curve.unit)
        at_most = None if quick else AT_MOST
        report("growth", f"{curve.what}: exponent", exponent(curve.points), "", at_most)
    if not quick:
        (HERE / "growth.json").write_text(json.dumps(curves, indent=1) + "\n")
        plot.write(curves)


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """k of cost = a·n^k, by least squares over logarithms of the last FITTED points."""
    logs = [(math.log(number), math.log(value)) for number, value in points[-FITTED:]]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def _each(steps: Sequence[int], cost: Callable[[int], float]) -> list[tuple[int, float]]:
    points = []
    for step in steps:
        points.append((step, cost(step)))
        gc.collect()
    return points


def drain(keys: int) -> float:
    """Milliseconds to read so many counters that have all changed."""
    table, grow_all = filled_table(keys)
    table.drain(0.0)
    return median(lambda: table.drain(0.0), before=grow_all, clock=time.thread_time)


def scrape(series: int) -> float:
    """Milliseconds to write the page with so many series."""
    metrics = Metrics(filled(max(series, 8))[0], SelfStats())
    return median(lambda: written(metrics), clock=time.thread_time)


def containers(steps: Sequence[int]) -> list[Curve]:
    """Of the real exporter with so many real cgroups: memory, and time to take some checks in each
    that it knows."""
    memory, taken = [], []
    room = 1 << (8 * max(steps)).bit_length()
    for count in steps:
        with (
            an_exporter(f"--counters={room}") as exporter,
            containers_of_docker(count) as folders,
        ):
            pid = exporter.process.pid
            checks_in_each(folders)
            time.sleep(SETTLED)
            exporter.get("/metrics")
            memory.append((count, status(pid, "VmRSS") / 1024))
            began = cpu_seconds(pid)
            checks_in_each(folders)
            time.sleep(SETTLED)
            taken.append((count, (cpu_seconds(pid) - began) * 1e3))
    return [
        Curve("Memory of the exporter", "containers", "MB", memory),
        Curve("Taking checks in each container", "containers", "ms", taken),
    ]


def pods(count: int) -> float:
    """MB that so many pods of two containers take."""
    return memory_of([pod_line(number) for number in range(count)]) / 2**20


if __name__ == "__main__":
    main()
