# SPDX-License-Identifier: Apache-2.0
"""A Pod's JSON → the fields that are used, and whose pod it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.pods.fields import InvalidPod, pod_from_json, split_container_id
from cap_exporter.pods.workload import workload_of
from tests.kube.objects import container_status, pod

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_every_kind_of_container_is_read_with_its_runtime() -> None:
    document = pod("api-1", "shop", {"api": A}, init={"migrate": B})
    document["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox"}]
    document["status"]["ephemeralContainerStatuses"] = [container_status("debug", C, "cri-o")]
    one = pod_from_json(document)
    assert [(c.name, c.kind, c.container_id, c.runtime) for c in one.containers] == [
        ("api", "container", A, "containerd"),
        ("migrate", "init", B, "containerd"),
        ("debug", "ephemeral", C, "cri-o"),
    ]


def test_a_pod_without_statuses_yet_names_its_containers() -> None:
    document = pod("new", containers={"api": ""})
    del document["status"]
    assert [(c.name, c.container_id) for c in pod_from_json(document).containers] == [("api", "")]


def test_ids_of_ended_containers_are_kept_under_their_name() -> None:
    document = pod("api-1", containers={"api": B})
    status = document["status"]["containerStatuses"][0]
    status["lastState"] = {"terminated": {"containerID": f"containerd://{A}"}}
    (container,) = pod_from_json(document).containers
    assert (container.container_id, container.previous_ids) == (B, (A,))


def test_a_container_that_waits_for_its_next_start_has_its_last_id() -> None:
    document = pod("api-1", containers={"api": ""})
    status = document["status"]["containerStatuses"][0]
    status["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    status["lastState"] = {"terminated": {"containerID": f"containerd://{A}"}}
    (container,) = pod_from_json(document).containers
    assert A in (container.container_id, *container.previous_ids)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (f"containerd://{A}", ("containerd", A)),
        (f"cri-o://{A}", ("cri-o", A)),
        (f"docker://{A}", ("docker", A)),
        ("", ("", "")),
        (A, ("", "")),
        ("docker://", ("", "")),
        (None, ("", "")),
        (7, ("", "")),
    ],
)
def test_container_ids(value: object, parts: tuple[str, str]) -> None:
    assert split_container_id(value) == parts


OWNERS = {
    "deployment": (
        pod("web-6d5f-x", labels={"pod-template-hash": "6d5f"}, owner=("ReplicaSet", "web-6d5f")),
        ("Deployment", "web"),
    ),
    "a replica set of its own": (
        pod("rs-x", owner=("ReplicaSet", "rs")),
        ("ReplicaSet", "rs"),
    ),
    "a replica set whose name only looks like it": (
        pod("rs-x", labels={"pod-template-hash": "other"}, owner=("ReplicaSet", "rs-6d5f")),
        ("ReplicaSet", "rs-6d5f"),
    ),
    "stateful set": (pod("db-0", owner=("StatefulSet", "db")), ("StatefulSet", "db")),
    "daemon set": (pod("agent-x", owner=("DaemonSet", "agent")), ("DaemonSet", "agent")),
    # 2026-01-01T00:00:00Z is minute 29453760
    "cron job": (pod("backup-x", owner=("Job", "backup-29453760")), ("CronJob", "backup")),
    "a job with a number in its name": (
        pod("import-x", owner=("Job", "import-20260101")),
        ("Job", "import-20260101"),
    ),
    "a job with a minute of another year": (
        pod("old-x", owner=("Job", "old-25000000")),
        ("Job", "old-25000000"),
    ),
    "job": (pod("once-x", owner=("Job", "once")), ("Job", "once")),
    "custom": (pod("r-x", owner=("Rollout", "r")), ("Rollout", "r")),
    "bare": (pod("alone"), ("Pod", "alone")),
}


@pytest.mark.parametrize("which", OWNERS)
def test_the_workload_is_told_from_owner_references_alone(which: str) -> None:
    document, expected = OWNERS[which]
    assert workload_of(document) == expected


def test_a_static_pod_is_one_workload_on_all_nodes_and_is_found_by_its_hash() -> None:
    document = pod("kube-apiserver-node-1", "kube-system", owner=("Node", "node-1"))
    document["metadata"]["annotations"] = {
        "kubernetes.io/config.mirror": "f" * 32,
        "kubernetes.io/config.hash": "f" * 32,
    }
    one = pod_from_json(document)
    assert (one.workload_kind, one.workload) == ("StaticPod", "kube-apiserver")
    assert one.cgroup_uid == "f" * 32


@pytest.mark.parametrize("missing", ["uid", "namespace", "name"])
def test_what_cannot_be_told_from_others_is_no_pod(missing: str) -> None:
    document = pod("x")
    del document["metadata"][missing]
    with pytest.raises(InvalidPod, match=missing):
        pod_from_json(document)


def test_only_labels_that_were_asked_for_are_kept() -> None:
    document = pod(labels={"app": "x", "secret": "y"})
    assert dict(pod_from_json(document, ("app", "absent")).labels) == {"app": "x"}


def test_declared_security_is_read() -> None:
    document = pod(containers={"a": A}, spec={"hostUsers": False, "hostPID": True})
    document["spec"]["securityContext"] = {"runAsNonRoot": True, "runAsUser": 5}
    document["spec"]["containers"][0]["securityContext"] = {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]},
    }
    one = pod_from_json(document)
    assert one.security is not None
    assert (one.security.host_users, one.security.host_pid, one.security.run_as_user) == (
        False,
        True,
        5,
    )
    security = one.containers[0].security
    assert security is not None
    assert (security.capabilities_add, security.capabilities_drop) == (("NET_RAW",), ("ALL",))
    assert security.allow_privilege_escalation is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.data())
def test_odd_fields_cost_themselves_only(data: st.DataObject) -> None:
    """One field of a good pod becomes anything: it is read as absent, or the pod as none."""
    document: dict[str, Any] = pod(
        "api-1", "shop", {"api": A}, labels={"x": "y"}, owner=("Job", "backup-29453760")
    )
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    try:
        one = pod_from_json(document, ("x",))
    except InvalidPod:
        return
    assert one.uid
    assert one.name
    assert one.namespace
