# SPDX-License-Identifier: Apache-2.0
"""A day of three small nodes as their exporters would have shown it: real ledgers and the real
page, in simulated time, as blocks that a Prometheus reads, with what the rules record of them."""

from __future__ import annotations

import math
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cap_exporter.capabilities import number_of
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Drain,
    Granted,
    Identity,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.exposition import Format, write_page
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.pod_watch import PodWatchCollector
from cap_exporter.pods.fields import pod_from_json
from cap_exporter.pods.state import WatchState
from cap_exporter.pods.store import PodStore
from cap_exporter.self_stats import SelfStats
from tests.e2e.history import make_blocks
from tests.e2e.prometheus import Prometheus
from tests.kube.objects import pod

RULES = Path(__file__).resolve().parent.parent.parent / "deploy/rules/cap-exporter.rules.yaml"
NODES = ("node-a", "node-b", "node-c")
INTERVAL = 60
"""Between scrapes, in seconds."""

HOURS = 26
DEFAULT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP")
SERVER = (*DEFAULT, "NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP")
ALL = tuple(range(41))


@dataclass(frozen=True, slots=True)
class Workload:
    """used, denied: capability → checks a minute. hours: of the day; None: all."""

    namespace: str
    kind: str
    name: str
    held: Sequence[str | int]
    used: dict[str, float] = field(default_factory=dict)
    denied: dict[str, float] = field(default_factory=dict)
    nodes: Sequence[str] = NODES
    last: float | None = None
    """Denied only in so many last minutes."""
    wave: float = 0.4
    """How much of it comes and goes within hours."""


WORKLOADS = (
    Workload(
        "shop", "Deployment", "web", SERVER, {"NET_BIND_SERVICE": 0.3, "SETUID": 4, "SETGID": 4}
    ),
    Workload("shop", "Deployment", "cart", SERVER, {"CHOWN": 12}, {"SYSLOG": 0.5}, last=40),
    Workload("shop", "Deployment", "worker", DEFAULT, {"DAC_OVERRIDE": 25, "CHOWN": 7}),
    Workload(
        "data", "StatefulSet", "postgres", DEFAULT, {"FOWNER": 9}, {"IPC_LOCK": 2}, ("node-b",)
    ),
    Workload(
        "data", "StatefulSet", "search", SERVER, {"CHOWN": 2}, {"SYS_RESOURCE": 6}, ("node-c",)
    ),
    Workload(
        "monitoring",
        "DaemonSet",
        "node-agent",
        ["SYS_PTRACE", "DAC_READ_SEARCH"],
        {"SYS_PTRACE": 40, "DAC_READ_SEARCH": 18},
        wave=0.1,
    ),
    Workload("monitoring", "DaemonSet", "pinger", ["NET_RAW"], {"NET_RAW": 6}, wave=0.05),
    Workload("storage", "DaemonSet", "csi-node", ALL, {"SYS_ADMIN": 3, "MKNOD": 0.5}),
    Workload(
        "batch", "Job", "report", DEFAULT, {}, {"SYS_ADMIN": 0.2, "NET_ADMIN": 0.1}, ("node-a",)
    ),
    Workload(
        "kube-system",
        "DaemonSet",
        "cni",
        ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"],
        {"NET_ADMIN": 30, "SYS_ADMIN": 1},
    ),
)


class _Watch:
    state = WatchState(synced=True, ever_synced=True, lists=1)


class _Node:
    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self._chance = name, chance
        self._ledger, self._stats = Ledger(), SelfStats(source=SourceInfo("libbpf", "tp_btf"))
        self._metrics = Metrics(self._ledger, self._stats)
        store = PodStore()
        self._metrics.own.register(PodWatchCollector(_Watch(), store))  # type: ignore[arg-type]
        self._cpu = 0.0
        self._running: list[tuple[CgroupKey, Identity, Workload]] = []
        for workload in WORKLOADS:
            if name not in workload.nodes:
                continue
            number = len(self._running) + 1
            suffix = f"{workload.name}-{chance.randrange(16**5):05x}"
            one = pod_from_json(pod(suffix, workload.namespace, {workload.name: f"{number:064x}"}))
            store.apply(one)
            identity = Identity(
                workload.namespace,
                suffix,
                workload.name,
                f"{number:064x}",
                f"uid-{suffix}",
                image=f"registry.example/{workload.name}:1.4.2",
                runtime="containerd",
                workload_kind=workload.kind,
                workload=workload.name,
            )
            self._running.append((CgroupKey(0, number), identity, workload))

    def minute(self, now: float, left: float) -> list[str]:
        """What a scrape finds, without its time. left: minutes to the end."""
        batch = []
        for cgroup, identity, workload in self._running:
            held = sum(
                1 << (one if isinstance(one, int) else number_of(one)) for one in workload.held
            )
            granted = Granted(held, held, held, uids=(0,))
            self._ledger.observe(cgroup, identity, now, granted)
            wave = 1 + workload.wave * math.sin(now / 5000 + cgroup.id)
            rates = [(name, Verdict.ALLOWED, rate) for name, rate in workload.used.items()]
            if workload.last is None or left <= workload.last:
                rates += [(name, Verdict.DENIED, rate) for name, rate in workload.denied.items()]
            for name, verdict, rate in rates:
                key = CheckKey(
                    cgroup,
                    number_of(name),
                    verdict,
                    UserNamespace.INIT,
                    CheckClass.MEANINGFUL,
                )
                batch.append((identity, key, self._some(rate * wave)))
            for kind, rate in ((CheckClass.NOAUDIT, 90), (CheckClass.OVERRIDE, 30)):
                key = CheckKey(
                    cgroup, number_of("SYS_ADMIN"), Verdict.DENIED, UserNamespace.INIT, kind
                )
                batch.append((identity, key, self._some(rate * wave)))
        self._ledger.apply([one for one in batch if one[2]], now)
        self._drained(now)
        return self._page(now)

    def _some(self, rate: float) -> int:
        return int(rate + self._chance.random() * (1 + rate / 3))

    def _drained(self, now: float) -> None:
        for _ in range(INTERVAL // 5):
            drain = Drain(now, slots_used=40 + len(self._running) * 6, slots_total=8192)
            self._stats.drained(drain, 0.0006 + self._chance.random() * 0.0006)
        sent = self._stats.events["sent"] + self._some(3)
        self._stats.events = {**self._stats.events, "sent": sent}
        self._stats.unresolved_cgroups = int(self._chance.random() * 1.01)
        self._cpu += 0.02 + self._chance.random() * 0.02

    def _page(self, now: float) -> list[str]:
        own = f'job="cap-exporter",instance="{self.name}:10838",cluster="prod"'
        memory = 47e6 + len(self._running) * 1e5 + self._chance.random() * 5e5
        lines = [
            f"process_cpu_seconds_total{{{own}}} {self._cpu}",
            f"process_resident_memory_bytes{{{own}}} {memory}",
            f"process_start_time_seconds{{{own}}} {now - 9e5}",
        ]
        for line in b"".join(write_page(self._metrics, Format.OPENMETRICS)).decode().splitlines():
            if not line.startswith(("#", "process_")):
                name, brace, rest = line.partition("{")
                if not brace:
                    name, _, rest = line.partition(" ")
                    rest = "} " + rest
                lines.append(f"{name}{{{own}{',' if brace else ''}{rest}")
        return lines


def write_history(folder: Path, end: float) -> None:
    """Blocks in folder/tsdb of the hours before ``end``, those of the recording rules included."""
    nodes = [_Node(name, random.Random(number)) for number, name in enumerate(NODES)]
    families: dict[str, list[str]] = {}
    scrapes = HOURS * 3600 // INTERVAL
    for number in range(scrapes, -1, -1):
        now = end - number * INTERVAL
        for node in nodes:
            for line in node.minute(now, number * INTERVAL / 60):
                name = line.partition("{")[0]
                families.setdefault(name, []).append(f"{line} {now:.3f}\n")
    text = []
    for name, lines in families.items():
        # Buckets and sums of histograms are counters to whoever asks.
        kind = "counter" if name.endswith("_total") else "gauge"
        text += [f"# TYPE {name.removesuffix('_total')} {kind}\n", *lines]
    make_blocks(folder, "".join(text))
    _record(folder, end)


def _record(folder: Path, end: float) -> None:
    """What the recording rules would have stored: those that need others' records after these."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    todo = [rule for group in groups for rule in group["rules"]]
    while todo:
        missing = {rule["record"] for rule in todo}
        ready = [rule for rule in todo if not any(name in rule["expr"] for name in missing)]
        assert ready, "rules that need each other"
        todo = [rule for rule in todo if rule not in ready]
        path = folder / "ready.yaml"
        path.write_text(
            yaml.safe_dump({"groups": [{"name": "ready", "interval": "1m", "rules": ready}]})
        )
        with Prometheus(folder, []) as prometheus:
            subprocess.run(
                [
                    *("promtool", "tsdb", "create-blocks-from", "rules"),
                    *("--start", f"{end - (HOURS - 1) * 3600:.0f}", "--end", f"{end:.0f}"),
                    *("--url", prometheus.url, "--output-dir", folder / "tsdb", path),
                ],
                check=True,
                capture_output=True,
            )
