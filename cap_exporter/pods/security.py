# SPDX-License-Identifier: Apache-2.0
"""What a pod's author declared: the ``securityContext`` of the pod and of each container."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cap_exporter.model import ContainerSecurity, PodSecurity
from cap_exporter.pods.untrusted import boolean, integer, mapping, objects, text, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

# Most containers of a node declare one of a few things: equal records are one object.
_shared_container = lru_cache(maxsize=512)(ContainerSecurity)
_shared_pod = lru_cache(maxsize=512)(PodSecurity)


def container_security(container: Mapping[str, Any]) -> ContainerSecurity:
    """Of an entry of spec.containers, spec.initContainers or spec.ephemeralContainers."""
    context = mapping(container.get("securityContext"))
    capabilities = mapping(context.get("capabilities"))
    return _shared_container(
        capabilities_add=texts(capabilities.get("add")),
        capabilities_drop=texts(capabilities.get("drop")),
        privileged=boolean(context.get("privileged")),
        allow_privilege_escalation=boolean(context.get("allowPrivilegeEscalation")),
        run_as_user=integer(context.get("runAsUser")),
        run_as_non_root=boolean(context.get("runAsNonRoot")),
        proc_mount=text(context.get("procMount")),
        seccomp=text(mapping(context.get("seccompProfile")).get("type")),
    )


def pod_security(spec: Mapping[str, Any]) -> PodSecurity:
    """Of a pod's ``spec``."""
    context = mapping(spec.get("securityContext"))
    return _shared_pod(
        run_as_user=integer(context.get("runAsUser")),
        run_as_non_root=boolean(context.get("runAsNonRoot")),
        seccomp=text(mapping(context.get("seccompProfile")).get("type")),
        sysctls=tuple(
            (text(entry.get("name")), text(entry.get("value")))
            for entry in objects(context.get("sysctls"))
        ),
        host_users=boolean(spec.get("hostUsers")),
        host_network=spec.get("hostNetwork") is True,
        host_pid=spec.get("hostPID") is True,
        host_ipc=spec.get("hostIPC") is True,
    )
