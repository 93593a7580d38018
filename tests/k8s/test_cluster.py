# SPDX-License-Identifier: Apache-2.0
"""Real containers, named by a real kube-apiserver."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.exporter import RunningExporter
from tests.k8s.conftest import Cluster
from tests.kernel.containers import Container

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("kube-apiserver", "etcd", "openssl", "runc", "clang"),
    pytest.mark.timeout(300),
]

CHECKS = "capability_checks_total"
PACCT = {"capability": "CAP_SYS_PACCT"}


def test_from_no_rights_to_names_and_over_a_restart_of_the_server(
    cluster: Cluster, container: Callable[..., Container], tmp_path: Path
) -> None:
    first, second, third, bulk = container(), container(), container(), container()
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-6d5f",
        "uid": "x",
        "controller": True,
    }
    first.pod_uid = cluster.create_pod("web-6d5f-a", "web", owner=owner)
    cluster.running("web-6d5f-a", "web", first.container_id)
    with RunningExporter(
        tmp_path, f"--kubeconfig={cluster.kubeconfig()}", "--node-name=node-1"
    ) as exporter:
        # RBAC has no rights for it yet.
        deadline = time.monotonic() + 20
        while "forbidden" not in exporter.get("/readyz"):
            assert time.monotonic() < deadline, exporter.get("/readyz")
            time.sleep(0.2)
        first.run("checks", "acct", "11")
        cluster.grant()
        where = {"namespace": "shop", "pod": "web-6d5f-a", "container": "web"}
        deadline = time.monotonic() + 90
        while not exporter.total(CHECKS, **where, **PACCT):
            assert time.monotonic() < deadline, exporter.log.read_text()
            time.sleep(0.5)
        exporter.eventually(CHECKS, 11, **where, **PACCT)
        (info,) = exporter.samples("capability_container_info", **where)
        assert dict(info)["workload"] == "web"

        # Made, run for a moment and deleted.
        second.pod_uid = cluster.create_pod("short", "c")
        cluster.running("short", "c", second.container_id)
        second.run("checks", "acct", "5")
        cluster.delete_pod("short")
        exporter.eventually(CHECKS, 5, namespace="shop", pod="short", **PACCT)

        # The server goes, and comes back.
        cluster.stop()
        time.sleep(1)
        cluster.start()
        third.pod_uid = cluster.create_pod("after", "c")
        cluster.running("after", "c", third.container_id)
        third.run("checks", "acct", "9")
        deadline = time.monotonic() + 60
        while not exporter.total(CHECKS, pod="after", **PACCT):
            assert time.monotonic() < deadline, exporter.log.read_text()
            time.sleep(0.5)
        exporter.eventually(CHECKS, 9, namespace="shop", pod="after", container="c", **PACCT)

        # Many pods at once: as many as the server is told of.
        before = exporter.total("cap_exporter_pods")
        for i in range(300):
            cluster.create_pod(f"bulk-{i}", "c")
        bulk.pod_uid = cluster.create_pod("bulk-last", "c")
        cluster.running("bulk-last", "c", bulk.container_id)
        bulk.run("checks", "acct", "3")
        exporter.eventually(CHECKS, 3, namespace="shop", pod="bulk-last", **PACCT)
        assert exporter.total("cap_exporter_pods") == before + 301
        assert exporter.total(CHECKS, pod="web-6d5f-a", **PACCT) == 11
