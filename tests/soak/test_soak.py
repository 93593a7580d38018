# SPDX-License-Identifier: Apache-2.0
"""The exporter for a long time: pods, units and floods of cgroups, scrapes at the same time, and
faults. At the end every count is exact and memory is flat. `make soak`"""

from __future__ import annotations

import os
import random
import re
import statistics
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.exporter import RunningExporter
from tests.kube.objects import NODE
from tests.kube.server import KubeServer
from tests.soak.expected import PATIENCE, UNKNOWN, Expected, Key, published
from tests.soak.faults import Faults
from tests.soak.load import BOOT, FLOODED, PACCT, Load

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))

#: Others make floods of cgroups on this host at the same time.
SHARED = os.environ.get("SOAK_SHARED", "") == "1"

#: Series of containers that are gone stay for so long: memory cannot be flat before.
RETENTION = 60.0

#: Growth over the time that is measured, that is no growth.
NOISE = 6 << 20

#: Where more than one check of a flood is published.
NOT_FLOODED = {"(overflow)", UNKNOWN, FLOODED[:12]}

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(0), pytest.mark.needs("runc", "clang")]


class Memory(NamedTuple):
    time: float
    bytes: int


class Scrapers:
    """Whoever else asks, again and again."""

    PATHS = ("/metrics", "/metrics", "/", "/api/v1/profiles", "/api/v1/advice", "/healthz")

    def __init__(self, exporter: RunningExporter) -> None:
        self._exporter = exporter
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(3)]
        self.answers = 0
        self.refused = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        choose = random.Random(seed)
        while not self._stop.wait(choose.uniform(0, 1)):
            path = choose.choice(self.PATHS)
            on_page = path.startswith("/api") or path == "/"
            port = self._exporter.page_port if on_page else self._exporter.metrics_port
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", headers={"Accept-Encoding": "gzip"}
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
                self.answers += 1
            except OSError:
                # Connections are bounded: the silent ones may have taken the place.
                self.refused += 1


def memory_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def test_counts_are_exact_and_memory_is_flat(
    tmp_path: Path, kube: KubeServer, busybox_root: Path, checks: Path
) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 100_000))
    print(f"\nSoaking for {MINUTES:g} minutes (SOAK_SEED={seed})", flush=True)
    config = tmp_path / "config.yaml"
    config.write_text("log-level: info\n")
    expected = Expected(shared=SHARED)
    load = Load(tmp_path, busybox_root, checks, kube, expected, seed)
    with RunningExporter(
        tmp_path,
        f"--kubeconfig={kube.kubeconfig()}",
        f"--node-name={NODE}",
        f"--retention={RETENTION:g}s",
        f"--pod-patience={PATIENCE / 2:g}s",
        before=(f"--config={config}",),
    ) as exporter:
        until_in_step(exporter)
        scrapers, faults = Scrapers(exporter), Faults(exporter, kube, config, seed)
        for part in (load, scrapers, faults):
            part.start()
        memory: list[Memory] = []
        seen: set[str] = set()
        slowest = 0.0
        began = time.monotonic()
        next_word = 60.0
        try:
            while (passed := time.monotonic() - began) < MINUTES * 60 and not expected.errors:
                time.sleep(1)
                page, took = scrape(exporter)
                slowest = max(slowest, took)
                look(page, expected, seen)
                memory.append(Memory(passed, memory_of(exporter.process.pid)))
                if passed > next_word:
                    next_word += 60
                    print(
                        f"{passed / 60:5.1f} min  {len(expected.exact)} pods exact, {load.cgroups} "
                        f"cgroups, {memory[-1].bytes / 2**20:.1f} MiB",
                        flush=True,
                    )
        finally:
            for part in (faults, load, scrapers):
                part.stop()
        deadline = time.monotonic() + PATIENCE + 30
        look(scrape(exporter)[0], expected, seen)
        while expected.waiting() and not expected.errors and time.monotonic() < deadline:
            time.sleep(1)
            look(scrape(exporter)[0], expected, seen)
        missed = exporter.total("cap_exporter_missed_checks_total")
        assert exporter.stop() < 10
    growth, per_minute = trend(memory)
    pods = [made for key, made in expected.exact.items() if key.pod]
    units = [made for key, made in expected.exact.items() if key.container.endswith(".service")]
    flooded = expected.exact.get(Key("", "", FLOODED[:12], BOOT), 0)
    rows = {
        "Time": f"{MINUTES:g} min",
        "Pods": f"{len(pods)} exact, {load.restarts} restarts, {sum(pods)} checks",
        "Units": f"{len(units)} exact, {sum(units)} checks",
        "Short cgroups": f"{load.cgroups} below a container, {flooded} checks exact",
        "Short containers": f"{len(load.containers)}, {len(load.containers & seen)} of them exact",
        "Without a name": f"{len(expected.nameless)} pods, "
        f"{len(load.containers - seen)} containers",
        "Scrapes": f"{scrapers.answers + len(memory)}, {scrapers.refused} refused, the slowest "
        f"{slowest:.2f} s (stopped meanwhile)",
        "Faults": ", ".join(f"{n} {name}" for name, n in sorted(faults.made.items())),
        "Missed checks": f"{missed:g}",
        "Memory": f"{memory[0].bytes / 2**20:.1f} MiB at the start, "
        f"{memory[-1].bytes / 2**20:.1f} MiB at the end; after {RETENTION * 1.5:g} s "
        f"{growth / 2**20:+.2f} MiB by the trend, {per_minute / 2**10:+.1f} KiB a minute",
        "Errors": f"{len(expected.errors)}",
    }
    print("\n".join(f"{name:18}{text}" for name, text in rows.items()), flush=True)
    log = exporter.log.read_text()
    said = Counter(
        re.sub(r"\d+", "N", line.partition(" ")[2])
        for line in log.splitlines()
        if " INFO " not in line
    )
    for line, times in said.most_common(10):
        print(f"{times:5} times: {line[:150]}", flush=True)
    assert not expected.errors, "\n".join(expected.errors[:20])
    assert not expected.waiting()
    if SHARED or "cgroup events were lost" in log:
        # While it was stopped the ring was full. Their checks are not lost: they have no name of
        # their own (docs/reliability.md).
        missing = dict.fromkeys((PACCT, BOOT), 0.0)
        for key, checks_missing in expected.nameless.items():
            missing[key.capability] += checks_missing
        missing[BOOT] += len(load.containers - seen)
        assert all(n <= expected.unknown[name] for name, n in missing.items()), missing
    else:
        assert load.containers <= seen
    assert missed == 0
    assert "Traceback" not in log, log
    assert growth < NOISE


def until_in_step(exporter: RunningExporter) -> None:
    """With the API server; on an emulated machine that takes a while."""
    deadline = time.monotonic() + 120
    while not exporter.total("cap_exporter_pod_watch_synced"):
        assert time.monotonic() < deadline, exporter.log.read_text()
        time.sleep(0.2)


def scrape(exporter: RunningExporter) -> tuple[str, float]:
    """And how long it took, seconds."""
    began = time.monotonic()
    for _ in range(10):
        try:
            page = exporter.get("/metrics")
        except OSError:  # no connection was free
            time.sleep(0.2)
        else:
            return page, time.monotonic() - began
    raise AssertionError("ten scrapes in a row failed")


def look(page: str, expected: Expected, seen: set[str]) -> None:
    found = published(page, (PACCT, BOOT))
    expected.compare(found)
    for key, value in found.items():
        if key.capability == BOOT and key.container not in NOT_FLOODED:
            seen.add(key.container)
            if value != 1:
                expected.error(f"{key}: {value} published, 1 made")


def trend(memory: list[Memory]) -> tuple[float, float]:
    """Growth in bytes by the straight line through what comes after the start; and per minute."""
    late = [one for one in memory if one.time > RETENTION * 1.5]
    if len(late) < 10:
        return 0.0, 0.0
    slope = statistics.linear_regression([o.time for o in late], [o.bytes for o in late]).slope
    return slope * (late[-1].time - late[0].time), slope * 60
