# SPDX-License-Identifier: Apache-2.0
"""Which Pod Security Standard a pod meets, and what stands in the way of the next one.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ and the checks of
k8s.io/pod-security-admission (policy/check_*.go, v0.34), named where each is made. A pod of
Windows is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from cap_exporter.pods.untrusted import mapping, objects, texts


class Level(IntEnum):
    """From the most to the least that a pod may do."""

    PRIVILEGED = 0
    BASELINE = 1
    RESTRICTED = 2

    def __str__(self) -> str:
        return self.name.lower()


class Obstacle(NamedTuple):
    """What keeps a pod from a level."""

    level: Level
    """The level that it keeps the pod from."""
    container: str
    """"" for the pod as a whole."""
    text: str


#: check_capabilities_baseline.go
BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)

#: check_capabilities_restricted.go
RESTRICTED_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})

#: check_sysctls.go, with what 1.27, 1.29 and 1.32 added
_SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)

#: check_restrictedVolumes.go
_RESTRICTED_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)

#: check_seLinuxOptions.go
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t"})

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def level_of(spec: Mapping[str, Any]) -> tuple[Level, list[Obstacle]]:
    """The highest level that a pod's ``spec`` meets, and all that keeps it from higher ones."""
    obstacles = list(_obstacles(spec))
    lowest = min((obstacle.level for obstacle in obstacles), default=None)
    if lowest is None:
        return Level.RESTRICTED, []
    return Level(lowest - 1), obstacles


def _obstacles(spec: Mapping[str, Any]) -> Iterator[Obstacle]:
    pod = mapping(spec.get("securityContext"))
    # check_hostNamespaces.go
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field) is True:
            yield Obstacle(Level.BASELINE, "", f"{field}: true")
    yield from _of_volumes(spec)
    # check_sysctls.go
    for sysctl in objects(pod.get("sysctls")):
        if sysctl.get("name") not in _SAFE_SYSCTLS:
            yield Obstacle(Level.BASELINE, "", f"sysctl {sysctl.get('name')}")
    # check_windowsHostProcess.go
    if mapping(pod.get("windowsOptions")).get("hostProcess") is True:
        yield Obstacle(Level.BASELINE, "", "windowsOptions.hostProcess: true")
    yield from _of_labels(pod, "")
    if pod.get("runAsNonRoot") is False:
        yield Obstacle(Level.RESTRICTED, "", "runAsNonRoot: false")
    if pod.get("runAsUser") == 0:  # check_runAsUser.go
        yield Obstacle(Level.RESTRICTED, "", "runAsUser: 0")
    own_users = spec.get("hostUsers") is False
    for place in CONTAINER_LISTS:
        for container in objects(spec.get(place)):
            yield from _of_container(container, pod, own_users)


def _of_volumes(spec: Mapping[str, Any]) -> Iterator[Obstacle]:
    for volume in objects(spec.get("volumes")):
        kinds = sorted(key for key in volume if key != "name")
        if "hostPath" in kinds:  # check_hostPathVolumes.go
            yield Obstacle(Level.BASELINE, "", f"volume {volume.get('name')}: hostPath")
        elif kinds and not _RESTRICTED_VOLUMES.issuperset(kinds):
            yield Obstacle(Level.RESTRICTED, "", f"volume {volume.get('name')}: {kinds[0]}")


def _of_labels(context: Mapping[str, Any], name: str) -> Iterator[Obstacle]:
    """SELinux, AppArmor and seccomp, of a pod's or a container's context."""
    selinux = mapping(context.get("seLinuxOptions"))
    if str(selinux.get("type") or "") not in _SELINUX_TYPES:
        yield Obstacle(Level.BASELINE, name, f"seLinuxOptions.type: {selinux.get('type')}")
    for field in ("user", "role"):
        if selinux.get(field):
            yield Obstacle(Level.BASELINE, name, f"seLinuxOptions.{field} is set")
    # check_appArmorProfile.go, check_seccompProfile_baseline.go
    for field in ("appArmorProfile", "seccompProfile"):
        if mapping(context.get(field)).get("type") == "Unconfined":
            yield Obstacle(Level.BASELINE, name, f"{field}: Unconfined")


def _of_container(
    container: Mapping[str, Any], pod: Mapping[str, Any], own_users: bool
) -> Iterator[Obstacle]:
    name = str(container.get("name") or "")
    context = mapping(container.get("securityContext"))
    capabilities = mapping(context.get("capabilities"))
    added = {_bare(capability) for capability in texts(capabilities.get("add"))}
    dropped = {_bare(capability) for capability in texts(capabilities.get("drop"))}
    if context.get("privileged") is True:  # check_privileged.go
        yield Obstacle(Level.BASELINE, name, "privileged: true")
    for capability in sorted(added - BASELINE_CAPABILITIES):
        yield Obstacle(Level.BASELINE, name, f"adds {capability}")
    for port in objects(container.get("ports")):  # check_hostPorts.go
        if port.get("hostPort"):
            yield Obstacle(Level.BASELINE, name, f"hostPort {port.get('hostPort')}")
    # check_procMount.go: relaxed with user namespaces
    if context.get("procMount") not in (None, "", "Default") and not own_users:
        yield Obstacle(Level.BASELINE, name, f"procMount: {context.get('procMount')}")
    yield from _of_labels(context, name)
    if context.get("allowPrivilegeEscalation") is not False:  # check_allowPrivilegeEscalation.go
        yield Obstacle(Level.RESTRICTED, name, "allowPrivilegeEscalation is not false")
    if "ALL" not in dropped:
        yield Obstacle(Level.RESTRICTED, name, "does not drop ALL capabilities")
    for capability in sorted((added & BASELINE_CAPABILITIES) - RESTRICTED_CAPABILITIES):
        yield Obstacle(Level.RESTRICTED, name, f"adds {capability}")
    if not own_users:
        # check_runAsNonRoot.go: not asked of pods with user namespaces since 1.33
        non_root = context.get("runAsNonRoot", pod.get("runAsNonRoot"))
        if non_root is not True:
            yield Obstacle(Level.RESTRICTED, name, "runAsNonRoot is not true")
        if context.get("runAsUser") == 0:
            yield Obstacle(Level.RESTRICTED, name, "runAsUser: 0")
    # check_seccompProfile_restricted.go
    profile = mapping(context.get("seccompProfile")) or mapping(pod.get("seccompProfile"))
    if profile.get("type") not in ("RuntimeDefault", "Localhost", "Unconfined"):
        yield Obstacle(Level.RESTRICTED, name, "no seccompProfile")
    elif profile.get("type") == "Unconfined" and not mapping(context.get("seccompProfile")):
        yield Obstacle(Level.RESTRICTED, name, "seccompProfile: Unconfined")


def _bare(capability: str) -> str:
    return capability.removeprefix("CAP_")
