# SPDX-License-Identifier: Apache-2.0
"""`profile --kube` through a real kube-apiserver (its log-in, its RBAC, its way of passing a
websocket on) and the kubelet's own code for port-forward. No pod and no container runtime: all
ports lead to an exporter on this machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import yaml

from cap_exporter.fleet.kube import RIGHTS
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.played import USING, write_recording
from tests.k8s.conftest import PERSON, Cluster

pytestmark = [
    pytest.mark.needs("kube-apiserver", "kubelet-port-forward", "etcd", "openssl"),
    pytest.mark.timeout(300),
]

NAME = "cap-exporter-x"


class Kubelet:
    """tests/k8s/apiserver/kubelet"""

    def __init__(self, folder: Path, port: int) -> None:
        self._log = folder / "kubelet.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["kubelet-port-forward", str(port)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    @property
    def asked(self) -> list[str]:
        """Paths of the requests."""
        return re.findall("/portForward/.*", self._log.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def kubelet(tmp_path: Path, cluster: Cluster) -> Iterator[Kubelet]:
    """Of node-2, which has one exporter's pod."""
    recording = write_recording(tmp_path / "recording", 0.5)
    with (
        RunningExporter(tmp_path, f"--source=replay:{recording}") as exporter,
        Kubelet(tmp_path, exporter.page_port) as one,
    ):
        exporter.eventually("capability_checks_total", 7, capability="CAP_CHOWN")
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}}
        cluster.request("POST", "/api/v1/nodes", node)
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": one.port}},
        }
        path = "/api/v1/nodes/node-2/status"
        cluster.request("PATCH", path, {"status": status}, "strategic-merge-patch")
        namespace = {"metadata": {"name": "monitoring"}}
        cluster.request("POST", "/api/v1/namespaces", namespace)
        pods = "/api/v1/namespaces/monitoring/pods"
        labels = {"app.kubernetes.io/name": "cap-exporter"}
        spec = {"nodeName": "node-2", "containers": [{"name": "cap-exporter", "image": "x"}]}
        cluster.request("POST", pods, {"metadata": {"name": NAME, "labels": labels}, "spec": spec})
        running = {"status": {"phase": "Running"}}
        cluster.request("PATCH", f"{pods}/{NAME}/status", running, "strategic-merge-patch")
        yield one


def test_the_rights_that_are_named_are_enough_and_none_is_said(
    cluster: Cluster, kubelet: Kubelet
) -> None:
    def profile(*more: str) -> subprocess.CompletedProcess[str]:
        config = f"--kubeconfig={cluster.kubeconfig(PERSON)}"
        return subprocess.run(
            [COMMAND, "profile", "--kube", config, "-ojson", *more],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    done = profile()
    assert done.returncode == 1
    assert "does not let you list pods" in done.stderr
    assert 'User "person" cannot list resource "pods"' in done.stderr
    rights = yaml.safe_load(RIGHTS)["rules"]
    cluster.grant("person", rights[:1])
    done = profile()
    assert done.returncode == 1
    assert f"node-2 (monitoring/{NAME}): you may not forward ports to its pod" in done.stderr
    assert kubelet.asked == []
    rules = {"rules": rights}
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/person"
    cluster.request("PATCH", path, rules, "merge-patch")
    done = profile("--kube-namespace=monitoring")
    assert (done.returncode, done.stderr) == (0, "")
    found = {one["container_id"]: one for one in json.loads(done.stdout)["containers"]}
    assert found[USING]["used"] == {"CAP_CHOWN": 7, "CAP_KILL": 2}
    assert found[USING]["node"] == "node-2"
    assert kubelet.asked == [f"/portForward/monitoring/{NAME}"]
