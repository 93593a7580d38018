# SPDX-License-Identifier: Apache-2.0
"""A real denial in a real container, through exporter, Prometheus and rules, to Alertmanager; and
every query of every panel on what Prometheus has then."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cap_exporter.capabilities import CONTAINERD_DEFAULT
from tests.e2e.exporter import RunningExporter
from tests.e2e.prometheus import Alertmanager, Prometheus, eventually
from tests.kernel.containers import Container
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("runc", "clang", "prometheus", "prometheus-alertmanager"),
    pytest.mark.timeout(180),
]

#: What the rules take minutes for, takes seconds here.
FASTER = 100
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

#: Empty in the demo: nothing of the kind happens, and the panels have a text for that.
EMPTY = {
    "High-risk capabilities in use, last hour",
    "Workloads with high-risk use",
    "Out of step with the API",
}


def faster(text: str) -> str:
    """Rules with all durations a hundredth, and without asking for hours of history."""

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(found[2]) * SECONDS[found[3]] * 1000 // FASTER
        return f"{found[1]}{max(milliseconds, 1000)}ms"

    text = re.sub(r"(\[|offset |for: |interval: )(\d+)([smhd])\b", shorter, text)
    return text.replace("> 360", "> 0")


def as_asked(expr: str) -> str:
    """A panel's query, as Grafana would send it here."""
    expr = faster(re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", "10s")))
    return re.sub(r":5m\]", ":1s]", expr)


def test_a_denial_reaches_alertmanager_and_every_panel_has_data(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    rules = []
    for path in (ROOT / "deploy/rules").glob("*.yaml"):
        rules.append(tmp_path / path.name)
        rules[-1].write_text(faster(path.read_text()))
    server = KubeServer(tmp_path)
    one = container(*CONTAINERD_DEFAULT)
    labels = {"pod-template-hash": "6d5f"}
    server.apply(
        pod(
            "web-6d5f-x",
            "shop",
            {"web": one.container_id},
            uid=one.pod_uid,
            labels=labels,
            owner=("ReplicaSet", "web-6d5f"),
        )
    )
    try:
        with (
            Alertmanager(tmp_path) as alertmanager,
            RunningExporter(
                tmp_path, f"--kubeconfig={server.kubeconfig()}", f"--node-name={NODE}"
            ) as exporter,
            Prometheus(
                tmp_path,
                [exporter.metrics_port],
                rule_files=[str(path) for path in rules],
                alerting={
                    "alertmanagers": [
                        {"static_configs": [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]}
                    ]
                },
            ) as prometheus,
        ):
            exporter.eventually("cap_exporter_pod_watch_synced", 1)
            # A while without denials: what is new is told from what was.
            one.start("sh", "-c", "checks serve 101; sleep 1000")
            eventually(
                lambda: bool(prometheus.query("cap_exporter_build_info offset 26s")),
                "26 s of history",
                60,
            )

            def alerted() -> bool:
                return any(
                    alert["labels"]["alertname"] == "CapExporterNewDenial"
                    and alert["labels"]["capability"] == "CAP_SYSLOG"
                    and alert["labels"]["workload"] == "web"
                    and "shop/web" in alert["annotations"]["description"]
                    for alert in alertmanager.alerts()
                )

            deadline = time.monotonic() + 40
            while not alerted():
                assert time.monotonic() < deadline, prometheus.query("ALERTS")
                one.exec("sh", "-c", "dmesg; true")
                time.sleep(0.5)
            empty = set()
            for path in sorted((ROOT / "dashboards").glob("*.json")):
                for panel in json.loads(path.read_text())["panels"]:
                    found = [
                        prometheus.query(as_asked(target["expr"]))
                        for target in panel.get("targets", [])
                    ]
                    if found and not any(found):
                        empty.add(panel["title"])
            assert empty <= EMPTY
    finally:
        server.close()
