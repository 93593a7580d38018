# SPDX-License-Identifier: Apache-2.0
"""Resource attributes: what a record or a data point is about, by OpenTelemetry's conventions.

The observed container is the resource, as if its own SDK had sent it, so that a backend shows it
beside the pod's other telemetry (semantic conventions 1.44: k8s, container, host, service). What
OTEL_RESOURCE_ATTRIBUTES says about the node (a cluster's name, a cloud's zone, an environment)
holds for all on it; what it says about the exporter's own pod does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import cap_exporter
from cap_exporter.labels import HELPER, OVERFLOW, Labels, LabelScheme, label_value
from cap_exporter.model import Identity
from cap_exporter.outputs.otlp_settings import OtlpConfigError

#: Attribute values are texts or lists of texts here.
Attributes = dict[str, str | tuple[str, ...]]

#: What describes one process or pod: the exporter's, not those it observes.
_OF_THE_EXPORTER = (
    "service.",
    "telemetry.",
    "process.",
    "container.",
    "k8s.namespace.",
    "k8s.pod.",
    "k8s.container.",
    "k8s.deployment.",
    "k8s.replicaset.",
    "k8s.statefulset.",
    "k8s.daemonset.",
    "k8s.job.",
    "k8s.cronjob.",
)

_WORKLOADS = {
    "Deployment": "k8s.deployment.name",
    "ReplicaSet": "k8s.replicaset.name",
    "StatefulSet": "k8s.statefulset.name",
    "DaemonSet": "k8s.daemonset.name",
    "Job": "k8s.job.name",
    "CronJob": "k8s.cronjob.name",
    "ReplicationController": "k8s.replicationcontroller.name",
}

#: What kind of thing made the checks; with it, no two of them have equal resources.
SUBJECT = "cap_exporter.subject"


def parse_resource_attributes(environ: Mapping[str, str]) -> dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. Raises OtlpConfigError."""
    found = {}
    for part in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise OtlpConfigError(
                f"OTEL_RESOURCE_ATTRIBUTES: {part.strip()!r} is not NAME=VALUE; write e.g. "
                "k8s.cluster.name=prod,deployment.environment.name=live with %2C for a comma"
            )
        found[unquote(name.strip())] = unquote(value.strip())
    if service := environ.get("OTEL_SERVICE_NAME", "").strip():
        found["service.name"] = service
    return found


class Resources:
    """Attributes of the exporter, and of what it observes."""

    def __init__(
        self, node: str, *, kubernetes: bool = False, given: Mapping[str, str] | None = None
    ) -> None:
        """node: this host's name, in Kubernetes the node's. given: OTEL_RESOURCE_ATTRIBUTES."""
        given = given or {}
        self._node = label_value(node)
        host: Attributes = {"host.name": self._node, "os.type": "linux"}
        if kubernetes:
            host["k8s.node.name"] = self._node
        self._host = host | {
            name: value for name, value in given.items() if not name.startswith(_OF_THE_EXPORTER)
        }
        own: Attributes = {
            "service.name": "cap-exporter",
            "service.version": cap_exporter.__version__,
            "service.instance.id": self._node,
        }
        self.own: Attributes = host | own | dict(given)
        """The exporter's."""

    def of(self, identity: Identity) -> Attributes:
        """A container's, unit's or the host's, with all that is known."""
        found = self._named(
            identity.namespace,
            identity.pod,
            HELPER if identity.helper else identity.container,
            identity.workload_kind,
            identity.workload,
            is_container=bool(identity.container_id),
        )
        if identity.container_id:
            found["container.id"] = label_value(identity.container_id)
        found |= image_attributes(identity.image)
        return found | _pod_attributes(identity)

    def of_series(self, labels: Labels, scheme: LabelScheme, info: Identity | None) -> Attributes:
        """What a series of counts is about: only what stays over a container's restarts, so that
        the restarted one goes on with the same series."""
        value = dict(zip(scheme.names, labels, strict=True))
        if scheme.per_container and info is not None:
            value |= {"workload_kind": info.workload_kind, "workload": info.workload}
        found = self._named(
            value.get("namespace", ""),
            value.get("pod", ""),
            value["container"],
            value.get("workload_kind", ""),
            value.get("workload", ""),
            is_container=bool(info and info.container_id),
        )
        if scheme.per_container and info is not None:
            return found | _pod_attributes(info)
        # Series of many pods: only the labels that tell them apart.
        chosen = labels[len(scheme.fields) :]
        return found | {
            f"k8s.pod.label.{name}": text
            for name, text in zip(scheme.pod_labels, chosen, strict=True)
            if text
        }

    def _named(
        self,
        namespace: str,
        pod: str,
        container: str,
        kind: str,
        workload: str,
        *,
        is_container: bool,
    ) -> Attributes:
        namespace, pod, container = label_value(namespace), label_value(pod), label_value(container)
        kind, workload = label_value(kind), label_value(workload)
        in_pod = bool(namespace or pod or workload)
        subject = _subject(container, in_pod=in_pod, is_container=is_container)
        found = dict(self._host)
        found[SUBJECT] = subject
        if namespace:
            found["k8s.namespace.name"] = namespace
        if pod:
            found["k8s.pod.name"] = pod
        if workload:
            if kind in _WORKLOADS:
                found[_WORKLOADS[kind]] = workload
            else:
                found["cap_exporter.workload.kind"] = kind
                found["cap_exporter.workload.name"] = workload
        if subject == "container":
            found["k8s.container.name" if in_pod else "container.name"] = container
        elif subject == "unit":
            found["cap_exporter.unit"] = container
        # As the conventions for Kubernetes say what a service is called whose SDK doesn't tell.
        parts = (namespace, pod or workload, container) if in_pod else (self._node, container)
        if in_pod:
            found["service.namespace"] = namespace
            found["service.name"] = workload or pod
        elif subject in ("container", "unit"):
            found["service.name"] = container
        else:
            found["service.name"] = "cap-exporter"
        found["service.instance.id"] = ".".join(part for part in parts if part)
        return found


def _subject(container: str, *, in_pod: bool, is_container: bool) -> str:
    if container in (OVERFLOW, HELPER, "(unknown)"):
        return container.strip("()")
    if container == "(host)":
        return "host"
    if in_pod:
        return "container" if container else "pod"
    return "container" if is_container else "unit"


def _pod_attributes(identity: Identity) -> Attributes:
    found: Attributes = {}
    if identity.pod_uid:
        found["k8s.pod.uid"] = label_value(identity.pod_uid)
    if identity.runtime:
        found["container.runtime.name"] = label_value(identity.runtime)
    for name, value in identity.pod_labels:
        found[f"k8s.pod.label.{label_value(name)}"] = label_value(value)
    return found


def image_attributes(image: str) -> Attributes:
    """``registry:5000/a/b:1.2@sha256:…`` as name, tags and repository digests."""
    image = label_value(image)
    if not image:
        return {}
    rest, at, digest = image.partition("@")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # a registry's port
        name, tag = rest, ""
    found: Attributes = {"container.image.name": name}
    if tag:
        found["container.image.tags"] = (tag,)
    if at:
        found["container.image.repo_digests"] = (f"{name}@{digest}",)
    return found
