# SPDX-License-Identifier: Apache-2.0
"""The chart with web configuration files: arguments, mounts, probes and monitors go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_chart import CHART, render

pytestmark = pytest.mark.needs("helm")


def parts(values: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The pod, its container and the monitor's endpoint."""
    found = {one["kind"]: one for one in render(values)}
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0], found["PodMonitor"]["spec"]["podMetricsEndpoints"][0]


def test_the_files_are_where_the_arguments_say() -> None:
    pod, container, _ = parts(CHART / "ci/secured.yaml")
    mounts = {one["name"]: one for one in container["volumeMounts"]}
    secrets = {
        one["name"]: [source["secret"]["name"] for source in one["projected"]["sources"]]
        for one in pod["volumes"]
        if "projected" in one
    }
    assert secrets == {"web-config": ["web", "certificate"], "page-web-config": ["page-web"]}
    for name, argument, key in (
        ("web-config", "--web-config", "web.yml"),
        ("page-web-config", "--page-web-config", "page.yml"),
    ):
        assert f"{argument}={mounts[name]['mountPath']}/{key}" in container["args"]
        assert mounts[name]["readOnly"] is True


def test_probes_and_monitors_speak_tls_where_the_file_does() -> None:
    _, container, endpoint = parts(CHART / "ci/secured.yaml")
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics", "scheme": "HTTPS"}
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "cap-exporter"
    assert endpoint["basicAuth"]["username"] == {"name": "scrape", "key": "username"}


def test_probes_only_connect_where_certificates_are_asked_for(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "ci/secured.yaml").read_text())
    values["webConfig"]["clientCertificates"] = True
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    _, container, _ = parts(path)
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["tcpSocket"] == {"port": "metrics"}
        assert "httpGet" not in container[probe]
