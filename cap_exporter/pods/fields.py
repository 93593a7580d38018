# SPDX-License-Identifier: Apache-2.0
"""JSON of a Pod (core/v1) → the few fields that are used. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cap_exporter.model import Container, Pod
from cap_exporter.pods.security import container_security, pod_security
from cap_exporter.pods.untrusted import mapping, objects, text
from cap_exporter.pods.workload import static_uid, workload_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_NO_LABELS: Mapping[str, str] = MappingProxyType({})

_IDENTITY = ("uid", "namespace", "name")

# Kind in model.Container, list in spec, list in status.
_CONTAINERS = (
    ("container", "containers", "containerStatuses"),
    ("init", "initContainers", "initContainerStatuses"),
    ("ephemeral", "ephemeralContainers", "ephemeralContainerStatuses"),
)


class InvalidPod(ValueError):
    """Not a pod that could be told from others: it has no uid, namespace or name."""


def pod_from_json(document: object, labels: Collection[str] = ()) -> Pod:
    """What is used of a pod.

    labels: names of the pod's labels to keep. Anything missing or of a wrong type reads as not
    there, so that one odd field does not cost the rest. Raises InvalidPod.
    """
    pod = mapping(document)
    metadata = mapping(pod.get("metadata"))
    spec = mapping(pod.get("spec"))
    uid, namespace, name = (text(metadata.get(field)) for field in _IDENTITY)
    if not (uid and namespace and name):
        missing = [f"metadata.{field}" for field in _IDENTITY if not text(metadata.get(field))]
        raise InvalidPod(f"a pod without {', '.join(missing)}")
    owner = workload_of(pod)
    return Pod(
        uid=uid,
        namespace=namespace,
        name=name,
        workload_kind=owner.kind,
        workload=owner.name,
        labels=_selected(mapping(metadata.get("labels")), labels),
        containers=tuple(_containers(spec, mapping(pod.get("status")))),
        cgroup_uid=static_uid(pod),
        runtime_class=text(spec.get("runtimeClassName")),
        security=pod_security(spec),
    )


def split_container_id(value: object) -> tuple[str, str]:
    """``containerd://1a2b…`` → ("containerd", "1a2b…"); ("", "") where there is none."""
    runtime, separator, container_id = text(value).partition("://")
    return (runtime, container_id) if separator and container_id else ("", "")


def _selected(found: Mapping[str, Any], names: Collection[str]) -> Mapping[str, str]:
    kept = {name: text(found[name]) for name in names if isinstance(found.get(name), str)}
    return kept or _NO_LABELS


def _containers(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Container]:
    """Every container that the spec or the status names, also one that has no id yet."""
    for kind, spec_list, status_list in _CONTAINERS:
        specified = {text(entry.get("name")): entry for entry in objects(spec.get(spec_list))}
        reported = {text(entry.get("name")): entry for entry in objects(status.get(status_list))}
        for name in (*specified, *(name for name in reported if name not in specified)):
            if name:
                yield _container(kind, name, specified.get(name, {}), reported.get(name, {}))


def _container(
    kind: str, name: str, specified: Mapping[str, Any], reported: Mapping[str, Any]
) -> Container:
    # A container that ended keeps its id in the status until the next one starts; only then it
    # moves to lastState. Both are read, since either may be the first that the watch shows.
    ended = mapping(mapping(reported.get("state")).get("terminated"))
    before = mapping(mapping(reported.get("lastState")).get("terminated"))
    found = [split_container_id(place.get("containerID")) for place in (reported, ended, before)]
    known = list(dict.fromkeys(entry for entry in found if entry[1]))
    # Waiting for its next start, a container may have no id of its own but an earlier one.
    current = found[0][1] or found[1][1]
    image = text(reported.get("image"))
    if not image or image.startswith("sha256:"):
        image = text(specified.get("image")) or image
    return Container(
        name=name,
        container_id=current,
        runtime=known[0][0] if known else "",
        image=image,
        kind=kind,
        previous_ids=tuple(container_id for _, container_id in known if container_id != current),
        security=container_security(specified),
    )
