# SPDX-License-Identifier: Apache-2.0
"""Pods as the API server tells them, for tests."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

NODE = "node-1"

_numbers = itertools.count(1)


def container_status(name: str, container_id: str, runtime: str = "containerd") -> dict[str, Any]:
    status: dict[str, Any] = {
        "name": name,
        "image": "registry.k8s.io/pause:3.9",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        "lastState": {},
    }
    if container_id:
        status["containerID"] = f"{runtime}://{container_id}"
    return status


def pod(
    name: str = "",
    namespace: str = "default",
    containers: Mapping[str, str] | None = None,
    *,
    uid: str = "",
    labels: Mapping[str, str] | None = None,
    owner: tuple[str, str] | None = None,
    node: str = NODE,
    spec: Mapping[str, Any] | None = None,
    init: Mapping[str, str] | None = None,
    padding: int = 0,
) -> dict[str, Any]:
    """containers, init: id by name, "" where there is none yet. owner: kind and name. padding:
    bytes of managedFields, which real pods have some thousands of."""
    containers = containers or {}
    metadata: dict[str, Any] = {
        "name": name or f"pod-{next(_numbers)}",
        "namespace": namespace,
        "uid": uid or str(uuid.uuid4()),
        "labels": dict(labels or {}),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    if owner:
        kind, owner_name = owner
        metadata["ownerReferences"] = [{"kind": kind, "name": owner_name, "controller": True}]
    if padding:
        metadata["managedFields"] = [{"manager": "kubelet", "fieldsV1": {"f:x": "y" * padding}}]
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "containers": _specs(containers),
            "initContainers": _specs(init or {}),
            **(spec or {}),
        },
        "status": {
            "phase": "Running",
            "containerStatuses": _statuses(containers),
            "initContainerStatuses": _statuses(init or {}),
        },
    }


def _specs(containers: Mapping[str, str]) -> Sequence[dict[str, Any]]:
    return [{"name": name, "image": "pause"} for name in containers]


def _statuses(containers: Mapping[str, str]) -> Sequence[dict[str, Any]]:
    return [container_status(name, container_id) for name, container_id in containers.items()]
