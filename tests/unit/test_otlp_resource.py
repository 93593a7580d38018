# SPDX-License-Identifier: Apache-2.0
"""What a record is about, in the words of OpenTelemetry's conventions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cap_exporter.labels import LabelScheme
from cap_exporter.model import Identity
from cap_exporter.outputs.otlp_resource import (
    Resources,
    image_attributes,
    parse_resource_attributes,
)
from cap_exporter.outputs.otlp_settings import OtlpConfigError
from tests.otlp.events import XWING

RESOURCES = Resources("node-1", kubernetes=True)
SCHEME = LabelScheme()


def test_a_container_of_a_pod() -> None:
    assert RESOURCES.of(replace(XWING, workload_kind="Deployment", workload="xwing")) == {
        "host.name": "node-1",
        "os.type": "linux",
        "k8s.node.name": "node-1",
        "cap_exporter.subject": "container",
        "k8s.namespace.name": "default",
        "k8s.pod.name": "xwing",
        "k8s.pod.uid": XWING.pod_uid,
        "k8s.deployment.name": "xwing",
        "k8s.container.name": "spaceship",
        "container.id": XWING.container_id,
        "container.image.name": "docker.io/tgraf/netperf",
        "container.image.tags": ("latest",),
        "container.runtime.name": "containerd",
        "k8s.pod.label.class": "xwing",
        "k8s.pod.label.org": "alliance",
        "service.namespace": "default",
        "service.name": "xwing",
        "service.instance.id": "default.xwing.spaceship",
    }


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (
            Identity(container="sshd.service", cgroup="/system.slice/sshd.service"),
            {
                "cap_exporter.subject": "unit",
                "cap_exporter.unit": "sshd.service",
                "service.name": "sshd.service",
                "service.instance.id": "node-1.sshd.service",
            },
        ),
        (
            Identity(container="web", container_id="a" * 64, runtime="docker"),
            {
                "cap_exporter.subject": "container",
                "container.name": "web",
                "container.id": "a" * 64,
                "container.runtime.name": "docker",
                "service.name": "web",
                "service.instance.id": "node-1.web",
            },
        ),
        *(
            (
                Identity(container=name),
                {
                    "cap_exporter.subject": name.strip("()"),
                    "service.name": "cap-exporter",
                    "service.instance.id": f"node-1.{name}",
                },
            )
            for name in ("(host)", "(overflow)", "(unknown)")
        ),
        (
            Identity(namespace="shop", pod="db-0", workload_kind="StatefulSet", workload="db"),
            {
                "cap_exporter.subject": "pod",
                "k8s.namespace.name": "shop",
                "k8s.pod.name": "db-0",
                "k8s.statefulset.name": "db",
                "service.namespace": "shop",
                "service.name": "db",
                "service.instance.id": "shop.db-0",
            },
        ),
        (
            Identity(
                namespace="shop", pod="r-1", container="app", workload_kind="Rollout", workload="r"
            ),
            {
                "cap_exporter.subject": "container",
                "k8s.namespace.name": "shop",
                "k8s.pod.name": "r-1",
                "k8s.container.name": "app",
                "cap_exporter.workload.kind": "Rollout",
                "cap_exporter.workload.name": "r",
                "service.namespace": "shop",
                "service.name": "r",
                "service.instance.id": "shop.r-1.app",
            },
        ),
    ],
)
def test_what_is_no_container_of_a_pod(identity: Identity, expected: dict[str, Any]) -> None:
    host = {"host.name": "node-1", "os.type": "linux"}
    assert Resources("node-1").of(identity) == host | expected


def test_what_is_said_of_the_node_holds_for_its_pods_not_what_is_said_of_the_exporter() -> None:
    given = parse_resource_attributes(
        {
            "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=prod,k8s.pod.name=cap-exporter-x,"
            "deployment.environment.name=live%2C1, host.name=real,service.name=agent,,",
        }
    )
    resources = Resources("node-1", kubernetes=True, given=given)
    pod = resources.of(XWING)
    assert (pod["k8s.cluster.name"], pod["deployment.environment.name"]) == ("prod", "live,1")
    assert (pod["host.name"], pod["k8s.pod.name"]) == ("real", "xwing")
    assert pod["service.name"] == "xwing"
    own = resources.own
    assert (own["service.name"], own["k8s.pod.name"]) == ("agent", "cap-exporter-x")
    assert own["k8s.cluster.name"] == "prod"
    assert parse_resource_attributes({"OTEL_SERVICE_NAME": "x"}) == {"service.name": "x"}
    with pytest.raises(OtlpConfigError, match=r"OTEL_RESOURCE_ATTRIBUTES: 'nonsense'"):
        parse_resource_attributes({"OTEL_RESOURCE_ATTRIBUTES": "a=b,nonsense"})


def test_a_series_keeps_its_resource_when_its_container_is_restarted_with_another_image() -> None:
    labels = SCHEME.of(XWING)
    again = replace(XWING, container_id="b" * 64, image="netperf:2", cgroup="/other")
    assert RESOURCES.of_series(labels, SCHEME, XWING) == RESOURCES.of_series(labels, SCHEME, again)
    assert RESOURCES.of_series(labels, SCHEME, XWING)["k8s.pod.uid"] == XWING.pod_uid


def test_series_of_a_workload_say_nothing_of_one_of_its_pods() -> None:
    scheme = LabelScheme(("namespace", "workload_kind", "workload", "container"), ("org",))
    one = replace(XWING, workload_kind="DaemonSet", workload="xwing")
    found = RESOURCES.of_series(scheme.of(one), scheme, one)
    assert found["k8s.daemonset.name"] == "xwing"
    assert found["k8s.pod.label.org"] == "alliance"
    assert not {"k8s.pod.name", "k8s.pod.uid", "container.id"} & found.keys()
    assert found["service.instance.id"] == "default.xwing.spaceship"


def test_all_series_of_one_ledger_have_resources_of_their_own() -> None:
    everybody = [
        XWING,
        replace(XWING, container=""),
        replace(XWING, helper=True),
        replace(XWING, container="other"),
        Identity(container="(host)"),
        Identity(container="(overflow)"),
        Identity(container="(unknown)"),
        Identity(container="x", helper=True),
        Identity(container="x"),
    ]
    found = [
        tuple(sorted(map(str, RESOURCES.of_series(SCHEME.of(one), SCHEME, None).items())))
        for one in everybody
    ]
    assert len(set(found)) == len(everybody)


@pytest.mark.parametrize(
    ("image", "name", "tags", "digests"),
    [
        ("nginx", "nginx", None, None),
        ("r:5000/a/b", "r:5000/a/b", None, None),
        ("r:5000/a/b:1.2", "r:5000/a/b", ("1.2",), None),
        ("r/a@sha256:ab", "r/a", None, ("r/a@sha256:ab",)),
        ("r/a:1@sha256:ab", "r/a", ("1",), ("r/a@sha256:ab",)),
    ],
)
def test_images_are_taken_apart(image: str, name: str, tags: object, digests: object) -> None:
    found = image_attributes(image)
    assert found.get("container.image.name") == name
    assert found.get("container.image.tags") == tags
    assert found.get("container.image.repo_digests") == digests
    assert image_attributes("") == {}
