# SPDX-License-Identifier: Apache-2.0
"""`profile --kube` through a real kube-apiserver: its log-in, its RBAC and its way of passing a
websocket on to a kubelet. The kubelet itself is tests/kube/portforward.py."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
import yaml

from cap_exporter.fleet.kube import RIGHTS
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.played import USING, write_recording
from tests.k8s.conftest import PERSON, Cluster
from tests.kube.portforward import PortForward

pytestmark = [
    pytest.mark.needs("kube-apiserver", "etcd", "openssl"),
    pytest.mark.timeout(300),
]

NAME = "cap-exporter-x"


class Kubelet(ThreadingHTTPServer):
    """Forwards each port of any pod to one of this machine."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.forward_to = port
        self.asked: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Kubelet

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.server.asked.append(split.path)
        forward = PortForward(self.connection, self.headers.items(), self.path)
        forward.serve(int(parse_qs(split.query)["port"][0]), self.server.forward_to)
        self.close_connection = True


@pytest.fixture
def kubelet(tmp_path: Path, cluster: Cluster) -> Iterator[Kubelet]:
    """Of node-2, which has one exporter's pod."""
    recording = write_recording(tmp_path / "recording", 0.5)
    with RunningExporter(tmp_path, f"--source=replay:{recording}") as exporter:
        exporter.eventually("capability_checks_total", 7, capability="CAP_CHOWN")
        one = Kubelet(exporter.page_port)
        port = one.server_port
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}}
        cluster.request("POST", "/api/v1/nodes", node)
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
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
        one.shutdown()
        one.server_close()


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
