# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md has every metric that a real exporter shows, with its labels, and no other."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.exporter import RunningExporter
from tests.kube.objects import NODE
from tests.kube.server import KubeServer

ROOT = Path(__file__).resolve().parent.parent.parent

#: The parser gives every sample of a histogram with the bucket's label.
NOT_IN_THE_TABLE = {"le"}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels by name."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) \|",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
    return {name: (kind, set(filter(None, labels.split(", ")))) for name, kind, labels in rows}


@pytest.mark.kernel
def test_the_reference_is_what_a_real_exporter_shows(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("drain-interval: 200ms\n")
    kube = KubeServer(tmp_path)
    try:
        with RunningExporter(
            tmp_path,
            f"--kubeconfig={kube.kubeconfig()}",
            f"--node-name={NODE}",
            "--otlp-endpoint=http://127.0.0.1:1",
            "--otlp-protocol=http/protobuf",
            before=("--config", str(config)),
        ) as exporter:
            exporter.eventually("cap_exporter_pod_watch_synced", 1)
            exporter.process.send_signal(signal.SIGHUP)
            exporter.eventually("cap_exporter_config_last_reload_successful", 1)
            page = exporter.get("/metrics")
    finally:
        kube.close()
    reference = documented()
    shown = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(page)
    }
    assert set(shown) == set(reference)
    for name, family in shown.items():
        kind, labels = reference[name]
        assert family.type == kind, name
        for sample in family.samples:
            assert set(sample.labels) - NOT_IN_THE_TABLE == labels, sample
