# SPDX-License-Identifier: Apache-2.0
"""A week of a small cluster, as its exporters would have shown it and a Prometheus stored it: each
exporter a real ledger and the real page, in simulated time. What really happened goes into a ledger
of its own, which forgets nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.exposition import Format, write_page
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.self_stats import SelfStats

DAY = 86400.0
INTERVAL = 240.0
"""Between scrapes, in seconds."""

#: A container's series goes before the second scrape after its end.
RETENTION = 60.0


class Node:
    """An exporter and the Prometheus that scrapes it, in one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.containers: dict[CgroupKey, tuple[Identity, Granted]] = {}
        self.start(f"{name}:10838", 0.0)

    def start(self, instance: str, time: float) -> None:
        """A new process, which knows of no count."""
        self.instance, self.started, self.changed = instance, time, True
        self.ledger = Ledger(retention=RETENTION, late=RETENTION)
        self.metrics = Metrics(self.ledger, SelfStats())
        for cgroup, (identity, granted) in self.containers.items():
            self.ledger.observe(cgroup, identity, time, granted)

    def page(self) -> list[str]:
        """Lines without the time."""
        if self.changed:
            text = b"".join(write_page(self.metrics, Format.OPENMETRICS)).decode()
            own = f'job="cap",instance="{self.instance}",cluster="c"'
            self._lines = [f"cap_exporter_counting_start_time_seconds{{{own}}} {self.started}"]
            for line in text.splitlines():
                if line.startswith(("capability_", "cap_exporter_build_info")):
                    name, _, rest = line.partition("{")
                    self._lines.append(f"{name}{{{own},{rest}")
            self.changed = False
        return self._lines


class Week:
    """``at()`` plans, ``run()`` lets it happen. Times are in seconds from the window's beginning;
    the simulation begins three hours before."""

    BEFORE = 3 * 3600.0

    def __init__(self, end: float) -> None:
        self.begin = end - 7 * DAY
        self.end = end
        self.nodes = {name: Node(name) for name in ("a", "b")}
        self.truth = Ledger(retention=1e9)
        self.gaps: list[tuple[float, float]] = []
        self._plan: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self._samples: dict[str, list[str]] = {}

    def at(self, time: float, what: Callable[[float], None]) -> None:
        self._plan.append((self.begin + time, len(self._plan), what))

    def container(
        self, node: str, identity: Identity, begins: float, ends: float | None, bounding: int
    ) -> CgroupKey:
        self._numbers += 1
        cgroup = CgroupKey(0, self._numbers)
        granted = Granted(bounding, bounding, bounding, uids=(0,), no_new_privs=False)

        def create(now: float) -> None:
            self.nodes[node].containers[cgroup] = (identity, granted)
            self.nodes[node].ledger.observe(cgroup, identity, now, granted)
            self.truth.observe(cgroup, identity, max(now, self.begin), granted, began=True)
            self.nodes[node].changed = True

        def remove(now: float) -> None:
            del self.nodes[node].containers[cgroup]
            self.nodes[node].ledger.gone(cgroup, now)
            self.truth.observe(cgroup, identity, now)
            self.truth.gone(cgroup, now)
            self.nodes[node].changed = True

        self.at(begins, create)
        if ends is not None:
            self.at(ends, remove)
        return cgroup

    def checks(
        self,
        node: str,
        cgroup: CgroupKey,
        time: float,
        capability: int,
        n: int = 1,
        verdict: Verdict = Verdict.ALLOWED,
        check_class: CheckClass = CheckClass.MEANINGFUL,
        user_namespace: UserNamespace = UserNamespace.INIT,
    ) -> None:
        key = CheckKey(cgroup, capability, verdict, user_namespace, check_class)

        def count(now: float) -> None:
            identity, _ = self.nodes[node].containers[cgroup]
            self.nodes[node].ledger.apply([(identity, key, n)], now)
            self.nodes[node].changed = True
            if now >= self.begin:
                self.truth.apply([(identity, key, n)], now)

        self.at(time, count)

    def restart(self, node: str, time: float, instance: str | None = None) -> None:
        """The exporter; instance: it has another address then."""
        one = self.nodes[node]
        self.at(time, lambda now: one.start(instance or one.instance, now))

    def run(self) -> None:
        scrapes = int((7 * DAY + self.BEFORE) // INTERVAL)
        times = [self.end - number * INTERVAL for number in range(scrapes, -1, -1)]
        plan = sorted(self._plan)
        for time in times:
            while plan and plan[0][0] <= time:
                when, _, what = plan.pop(0)
                what(when)
            for node in self.nodes.values():
                node.changed |= bool(node.ledger.expire(time))
                if any(begin <= time - self.begin < end for begin, end in self.gaps):
                    continue
                for line in node.page():
                    family = self._samples.setdefault(line.partition("{")[0], [])
                    family.append(f"{line} {time:.3f}\n")
        assert not plan, "planned after the end"
        for node in self.nodes.values():
            for cgroup, (identity, _) in node.containers.items():
                self.truth.observe(cgroup, identity, self.end)

    def store(self, folder: Path) -> None:
        """Blocks of a Prometheus' storage."""
        text = []
        for name, lines in self._samples.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            text += [f"# TYPE {name.removesuffix('_total')} {kind}\n", *lines]
        make_blocks(folder, "".join(text))


def make_blocks(folder: Path, openmetrics: str) -> None:
    """What a Prometheus in this folder finds there."""
    path = folder / "openmetrics.txt"
    path.write_text(openmetrics + "# EOF\n")
    subprocess.run(
        [
            *("promtool", "tsdb", "create-blocks-from", "--max-block-duration=256h"),
            *("openmetrics", "--quiet", path, folder / "tsdb"),
        ],
        check=True,
        capture_output=True,
    )
