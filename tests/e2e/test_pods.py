# SPDX-License-Identifier: Apache-2.0
"""Real containers under a kubelet's cgroup paths, and an API server that names them: every check
comes out under its pod, whatever happens to the server."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.exporter import RunningExporter
from tests.kernel.containers import Container
from tests.kube.objects import NODE, pod
from tests.kube.server import Handler, KubeServer, Request

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang")]

PACCT = {"capability": "CAP_SYS_PACCT"}
CHECKS = "capability_checks_total"


@pytest.fixture
def start(tmp_path: Path, kube: KubeServer) -> Callable[..., RunningExporter]:
    def make(*arguments: str) -> RunningExporter:
        return RunningExporter(
            tmp_path, f"--kubeconfig={kube.kubeconfig()}", f"--node-name={NODE}", *arguments
        )

    return make


def pod_of(one: Container, name: str, container: str = "app", **more: Any) -> dict[str, Any]:
    return pod(name, "shop", {container: one.container_id}, uid=one.pod_uid, **more)


def in_step(exporter: RunningExporter) -> None:
    exporter.eventually("cap_exporter_pod_watch_synced", 1)


def test_checks_are_published_under_pod_container_and_workload(
    kube: KubeServer, start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    one = container()
    labels = {"pod-template-hash": "6d5f"}
    kube.apply(pod_of(one, "web-6d5f-x", labels=labels, owner=("ReplicaSet", "web-6d5f")))
    with start() as exporter:
        in_step(exporter)
        one.run("checks", "acct", "17")
        where = {"namespace": "shop", "pod": "web-6d5f-x", "container": "app"}
        exporter.eventually(CHECKS, 17, verdict="denied", **where, **PACCT)
        (info,) = exporter.samples("capability_container_info", **where)
        assert {"workload_kind": "Deployment", "workload": "web"}.items() <= dict(info).items()
        assert dict(info)["container_id"] == one.container_id
        assert exporter.total(CHECKS, **PACCT) == 17


def test_a_pod_that_is_gone_at_once_still_has_its_name(
    kube: KubeServer, start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    """The pod is made, lives for less than a drain, and is deleted at once."""
    one = container()
    with start() as exporter:
        in_step(exporter)
        kube.apply(pod_of(one, "short"))
        one.run("checks", "acct", "5")
        kube.delete(one.pod_uid)
        exporter.eventually(CHECKS, 5, namespace="shop", pod="short", container="app", **PACCT)


def test_counts_that_come_before_their_pod_wait_for_it(
    kube: KubeServer, start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    one = container()
    with start() as exporter:
        in_step(exporter)
        one.run("checks", "acct", "9")
        time.sleep(1)
        assert exporter.total(CHECKS, **PACCT) == 0
        kube.apply(pod_of(one, "late"))
        exporter.eventually(CHECKS, 9, namespace="shop", pod="late", container="app", **PACCT)
        assert exporter.total(CHECKS, **PACCT) == 9


def test_a_pod_that_never_comes_is_published_under_the_ids_it_has(
    start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    one = container()
    with start("--pod-patience=500ms") as exporter:
        in_step(exporter)
        one.start("sh", "-c", "checks acct 9; sleep 100")
        exporter.eventually(
            CHECKS, 9, namespace="", pod=one.pod_uid, container=one.container_id[:12], **PACCT
        )
        assert exporter.total("cap_exporter_unresolved_cgroups") == 1


def test_a_restart_neither_doubles_the_series_nor_makes_it_fall(
    kube: KubeServer, start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    first, second = container(), container()
    second.pod_uid = first.pod_uid
    kube.apply(pod_of(first, "api"))
    where = {"namespace": "shop", "pod": "api", "container": "app", **PACCT}
    with start() as exporter:
        in_step(exporter)
        first.run("checks", "acct", "3")
        exporter.eventually(CHECKS, 3, **where)
        kube.apply(pod_of(second, "api"))
        second.start("sh", "-c", "checks acct 4; sleep 100")
        exporter.eventually(CHECKS, 7, **where)
        assert len(exporter.samples(CHECKS, verdict="denied", **where)) == 1
        (info,) = exporter.samples("capability_container_info", pod="api", container="app")
        assert dict(info)["container_id"] == second.container_id


def test_without_the_api_it_works_at_once_says_so_and_picks_up_when_it_comes(
    kube: KubeServer, start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    kube.stop()
    one = container()
    with start() as exporter:
        one.run("checks", "acct", "21")
        answer = exporter.get("/readyz")
        assert answer.startswith("ready")
        assert "pods: " in answer
        kube.apply(pod_of(one, "web"))
        kube.start()
        exporter.eventually(CHECKS, 21, namespace="shop", pod="web", container="app", **PACCT)
        assert "pods: " not in exporter.get("/readyz")


def _gone(kube: KubeServer) -> None:
    kube.stop()
    time.sleep(1)
    kube.compact()
    kube.start()


def _expired(kube: KubeServer) -> None:
    kube.compact()
    kube.cut()


def _token(kube: KubeServer) -> None:
    kube.token = "another"
    kube.cut()
    time.sleep(0.3)
    kube.write_token()


def _garbage(kube: KubeServer) -> None:
    def spoiled(handler: Handler, request: Request) -> bool:
        handler.begin_stream()
        handler.chunk(b"\xff{]garbage\n" * 3)
        handler.end_stream()
        return True

    kube.once(spoiled, times=2)
    kube.cut()


def _half(kube: KubeServer) -> None:
    def half(handler: Handler, request: Request) -> bool:
        if not request.is_watch:
            return False
        handler.begin_stream()
        handler.chunk(b'{"type":"MODIFIED","object":{"metadata":')
        handler.close_connection = True
        return True

    kube.once(half, times=2)
    kube.cut()


def _back(kube: KubeServer) -> None:
    kube.go_back(500)
    kube.cut()


FAULTS = {
    "gone for a while": _gone,
    "410": _expired,
    "another token": _token,
    "garbage": _garbage,
    "reset in the middle of an event": _half,
    "resource versions go back": _back,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_while_the_server_fails_no_check_is_lost_or_misnamed(
    kube: KubeServer,
    start: Callable[..., RunningExporter],
    container: Callable[..., Container],
    fault: str,
) -> None:
    before, during = container(), container()
    kube.apply(pod_of(before, "before"))
    with start() as exporter:
        in_step(exporter)
        before.start("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do checks acct 10; sleep 0.3; done")
        FAULTS[fault](kube)
        kube.apply(pod_of(during, "during"))
        during.run("checks", "acct", "33")
        for name, checks in (("before", 80), ("during", 33)):
            exporter.eventually(
                CHECKS, checks, namespace="shop", pod=name, container="app", **PACCT
            )
        # Only now: nobody can be told of a pod that came and went while its server failed.
        kube.delete(during.pod_uid)
        exporter.eventually("cap_exporter_pods", 1)
        assert exporter.total(CHECKS, **PACCT) == 113


def test_series_can_be_a_workload_s_and_have_pods_labels(
    kube: KubeServer, start: Callable[..., RunningExporter], container: Callable[..., Container]
) -> None:
    replicas = [container(), container()]
    labels = {"pod-template-hash": "6d5f", "team": "a"}
    for i, one in enumerate(replicas):
        owner = ("ReplicaSet", "web-6d5f")
        kube.apply(pod_of(one, f"web-6d5f-{i}", labels=labels, owner=owner))
    with start(
        "--labels=namespace,workload_kind,workload,container", "--pod-labels=team"
    ) as exporter:
        in_step(exporter)
        for one in replicas:
            one.run("checks", "acct", "10")
        where = {"namespace": "shop", "workload": "web", "label_team": "a", **PACCT}
        exporter.eventually(CHECKS, 20, **where)
        (labels_of_it,) = exporter.samples(CHECKS, verdict="denied", **where)
        assert "pod" not in dict(labels_of_it)


def test_the_scope_is_read_again_and_no_count_is_touched(
    kube: KubeServer,
    start: Callable[..., RunningExporter],
    container: Callable[..., Container],
    tmp_path: Path,
) -> None:
    one, other = container(), container()
    kube.apply(pod_of(one, "wanted"))
    kube.apply(pod("other", "elsewhere", {"app": other.container_id}, uid=other.pod_uid))
    config = tmp_path / "config.yaml"
    config.write_text("namespaces: shop\n")
    with RunningExporter(
        tmp_path,
        f"--kubeconfig={kube.kubeconfig()}",
        f"--node-name={NODE}",
        before=(f"--config={config}",),
    ) as exporter:
        in_step(exporter)
        for container_ in (one, other):
            container_.start("sh", "-c", "checks acct 5; sleep 100")
        exporter.eventually(CHECKS, 5, pod="wanted", **PACCT)
        assert exporter.total(CHECKS, pod="other") == 0
        assert exporter.total("cap_exporter_out_of_scope_checks_total") >= 5
        config.write_text("namespaces: [elsewhere, nowhere]\ndrain-interval: 100ms\n")
        exporter.eventually("cap_exporter_config_last_reload_successful", 1)
        for container_ in (one, other):
            container_.exec("checks", "acct", "7")
        exporter.eventually(CHECKS, 7, pod="other", **PACCT)
        assert exporter.total(CHECKS, pod="wanted", **PACCT) == 5
        # Labels that nobody watches can't be asked for; what is wrong changes nothing.
        config.write_text("pod-selector: team=a\n")
        exporter.eventually("cap_exporter_config_last_reload_successful", 0)
        assert "label 'team'" in exporter.log.read_text()
        config.write_text("drain-interval: 150ms\n")
        exporter.eventually("cap_exporter_config_last_reload_successful", 1)
        config.write_text("namespaces: [\n")
        exporter.process.send_signal(signal.SIGHUP)
        exporter.eventually("cap_exporter_config_last_reload_successful", 0)
        assert "the configuration stays as it was" in exporter.log.read_text()
