# SPDX-License-Identifier: Apache-2.0
"""Writing the metrics page: ours against prometheus_client's of the same families, same bytes; and
whether a scrape holds up a drain.

    python -m benchmarks.bench_scrape
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from benchmarks.results import report
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Identity,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.exposition import Format, write_page
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.self_stats import SelfStats

#: Samples of one container: eight capabilities.
PER_CONTAINER = 8
ROUNDS = 5


def main() -> None:
    for samples in (10_000, 100_000):
        _compare(samples)
        gc.collect()


def _compare(samples: int) -> None:
    ledger, increments = filled(samples)
    metrics = Metrics(ledger, SelfStats())
    # Nothing but the containers' families: that is what is compared.
    metrics.own = CollectorRegistry()
    stock = CollectorRegistry()
    stock.register(metrics.containers)
    assert written(metrics) == generate_latest(stock), "not the same bytes"
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(_time(lambda: written(metrics)))
        theirs.append(_time(lambda: generate_latest(stock)))
    mine, other = statistics.median(ours), statistics.median(theirs)
    report("scrape", f"{samples:,} samples", mine * 1e3, "ms")
    report(
        "scrape",
        f"… against prometheus_client's encoding, {samples:,} samples, same bytes",
        mine / other,
        "x",
        0.25,
    )
    alone, beside = _drains(ledger, increments, metrics)
    report("scrape", f"adding up a drain, {samples:,} samples there: median", alone * 1e3, "ms")
    report("scrape", "… while pages are written without a pause", beside * 1e3, "ms", 50)


def filled(samples: int) -> tuple[Ledger, list[tuple[Identity, CheckKey, int]]]:
    """A ledger with so many samples, and the checks that it has."""
    ledger = Ledger(max_series=10 * samples)
    rows = []
    for number in range(samples // PER_CONTAINER):
        identity = Identity(
            f"namespace-{number % 20}",
            f"workload-{number % 300}-5d4f8c7b9-{number:05}",
            f"container-{number % 3}",
            f"{number:064x}",
        )
        for capability in range(PER_CONTAINER):
            key = CheckKey(
                CgroupKey(0, number + 2),
                capability,
                Verdict.ALLOWED,
                UserNamespace.INIT,
                CheckClass.MEANINGFUL,
            )
            rows.append((identity, key, number % 1000 + 1))
    ledger.apply(rows, 1.0)
    return ledger, rows


def written(metrics: Metrics) -> bytes:
    """The page."""
    return b"".join(write_page(metrics, Format.TEXT))


def _time(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _drains(
    ledger: Ledger, rows: list[tuple[Identity, CheckKey, int]], metrics: Metrics
) -> tuple[float, float]:
    """Seconds that adding up a drain takes, alone and while pages are written; medians. The two
    share one interpreter, which changes threads every 5 ms."""
    few = rows[:8]

    def median(seconds: float) -> float:
        taken, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            taken.append(_time(lambda: ledger.apply(few, 2.0)))
            time.sleep(0.005)
        return statistics.median(taken)

    alone = median(1.0)
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            written(metrics)

    thread = threading.Thread(target=scrape)
    thread.start()
    beside = median(2.0)
    stop.set()
    thread.join()
    return alone, beside


if __name__ == "__main__":
    main()
