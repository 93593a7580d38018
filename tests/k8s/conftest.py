# SPDX-License-Identifier: Apache-2.0
"""A real kube-apiserver with a real etcd, and containers as in the kernel tests."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import busybox_root, checks, container, fresh_cgroup
from tests.ports import free_port

__all__ = ["busybox_root", "checks", "container", "fresh_cgroup"]

ADMIN, READER, PERSON = "admin-token", "reader-token", "person-token"
NEWCOMER = "newcomer-token"


class Cluster:
    """``start()`` and ``stop()`` the API server; etcd goes on. Objects by plain requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.etcd_port = free_port()
        peer = free_port()
        etcd = f"http://127.0.0.1:{self.etcd_port}"
        self._etcd = self._popen(
            [
                "etcd",
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
            ],
            "etcd",
        )
        # Tokens with their users and groups: kube-apiserver --token-auth-file.
        (folder / "tokens.csv").write_text(
            f'{ADMIN},admin,1,"system:masters"\n{READER},cap-exporter,2,\n{PERSON},person,3,\n'
            f"{NEWCOMER},newcomer,4,\n"
        )
        subprocess.run(
            ["openssl", "genrsa", "-out", folder / "key.pem", "2048"],
            check=True,
            capture_output=True,
        )
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def _popen(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def start(self) -> None:
        folder, key = self.folder, self.folder / "key.pem"
        self._server = self._popen(
            [
                "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
                f"--secure-port={self.port}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={folder / 'certs'}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--disable-admission-plugins=ServiceAccount",
                "--v=1",
            ],
            "kube-apiserver",
        )
        deadline = time.monotonic() + 90
        while True:
            try:
                self.request("GET", "/readyz")
                return
            except OSError:
                assert self._server.poll() is None, (folder / "kube-apiserver.log").read_text()
                assert time.monotonic() < deadline, (folder / "kube-apiserver.log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        if self._server is not None:
            # Asked politely it waits for its watches to end, for a minute.
            self._server.kill()
            self._server.wait(30)
            self._server = None

    def close(self) -> None:
        self.stop()
        self._etcd.terminate()
        self._etcd.wait(20)

    def request(self, method: str, path: str, body: object = None, kind: str = "json") -> Any:
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {ADMIN}",
                "Content-Type": "application/json"
                if kind == "json"
                else f"application/{kind}+json",
            },
        )
        with urllib.request.urlopen(request, timeout=10, context=self._trusting()) as answer:
            data = answer.read()
        return json.loads(data) if data.startswith(b"{") else data

    def _trusting(self) -> ssl.SSLContext:
        path = self.folder / "certs/apiserver.crt"
        return ssl.create_default_context(cafile=str(path) if path.exists() else None)

    def grant(self, user: str = "cap-exporter", rules: Sequence[object] = ()) -> None:
        """These rights; else the chart's."""
        api = "/apis/rbac.authorization.k8s.io/v1"
        rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
        role = {"metadata": {"name": user}, "rules": rules or [rule]}
        self.request("POST", f"{api}/clusterroles", role)
        group = "rbac.authorization.k8s.io"
        binding = {
            "metadata": {"name": user},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        self.request("POST", f"{api}/clusterrolebindings", binding)

    def kubeconfig(self, token: str = READER) -> Path:
        path = self.folder / "kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.folder / "certs/apiserver.crt"),
        }
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                }
            )
        )
        return path

    # Pods, as the controllers and the kubelet make them

    def create_pod(self, name: str, container: str, *, owner: dict[str, Any] | None = None) -> str:
        """Returns its uid, which the server chooses."""
        metadata: dict[str, Any] = {"name": name, "labels": {"pod-template-hash": "6d5f"}}
        if owner:
            metadata["ownerReferences"] = [owner]
        spec = {
            "nodeName": "node-1",
            "containers": [{"name": container, "image": "pause"}],
            "terminationGracePeriodSeconds": 0,
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        created = self.request("POST", "/api/v1/namespaces/shop/pods", body)
        return str(created["metadata"]["uid"])

    def running(self, name: str, container: str, container_id: str) -> None:
        """What the kubelet reports."""
        status = {
            "name": container,
            "image": "pause",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "containerID": f"containerd://{container_id}",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }
        body = {"status": {"phase": "Running", "containerStatuses": [status]}}
        path = f"/api/v1/namespaces/shop/pods/{name}/status"
        self.request("PATCH", path, body, "strategic-merge-patch")

    def delete_pod(self, name: str) -> None:
        body = {"gracePeriodSeconds": 0}
        self.request("DELETE", f"/api/v1/namespaces/shop/pods/{name}", body)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        one.request("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
        yield one
    finally:
        one.close()
