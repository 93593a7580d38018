# SPDX-License-Identifier: Apache-2.0
"""What a cgroup path tells by itself: the pod, the container, the systemd unit, or the host.

The way it reads a path, in this order:

1. *Pod*: the first ``pod<uid>`` segment, then the first container id after it. All that lies
   deeper was made by that container and is never looked at, so a container cannot pose as another
   pod. What lies before a pod may itself be a container: kind and minikube run nodes in Docker.
2. *Container*: the first segment that only a container runtime makes.
3. *Unit*: the first segment that is no slice, if it is named like a unit. What a service makes
   below itself belongs to the service. Below a user manager (``user@1000.service``) the same rule
   is applied once more, so a user's service has its own name.
4. *Host*: everything else, also the root and slices.

A 64-digit id right under the root or under ``kubepods`` is nobody's container: without a parent
that a runtime made there is no telling. Whoever may write to the cgroup file system outside of a
container (root, or a user below their own user manager) can make any path there; the caller knows
from the API which pods and containers exist.

Names in the result: a unit is written as systemd and systemctl write it, ``\\x2d`` and all, without
the ``_`` that systemd puts before names the kernel uses too; a machine is unescaped, as machinectl
lists it. ``Reference.runtime`` is what the path shows, so None for the bare ids of the cgroupfs
driver.

Sources: kubelet ``pkg/kubelet/cm`` (cgroup_manager_linux.go, pod_container_manager_linux.go);
runc ``libcontainer/cgroups/systemd`` (``slice:prefix:name``); Podman ``libpod/oci_conmon_linux.go``
(getOCICgroupPath); systemd ``src/basic/cgroup-util.c`` (cg_path_get_unit,
cg_path_get_user_unit, cg_unescape).
"""

from __future__ import annotations

import re
from typing import Final

from cap_exporter.model import Reference, ReferenceKind, Role

_UUID: Final = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"

#: kubelet's name for a pod's cgroup: ``pod<uid>``, ``kubepods-burstable-pod<uid>.slice``.
#: A static pod's uid is an MD5 (kubelet pkg/kubelet/config/common.go, applyDefaults).
_is_pod = re.compile(
    rf"(?:(?P<before>.*)-)?pod(?P<uid>{_UUID}|[0-9a-f]{{32}})(?:\.slice)?"
).fullmatch

_is_container_id = re.compile(r"[0-9a-f]{64}").fullmatch
_CONTAINER_ID_LENGTH: Final = 64

#: Names systemd gives to cgroups that are not slices: systemd.unit(5), systemd.resource-control(5).
_is_unit = re.compile(r"_?([A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap))").fullmatch
_is_user_manager = re.compile(r"(?:user|capsule)@[^/]+\.service").fullmatch

_QOS: Final = {"burstable": "burstable", "besteffort": "besteffort", "guaranteed": "guaranteed"}

#: What runtimes put before the id, and what it means.
_BY_PREFIX: Final[dict[str, tuple[str | None, Role]]] = {
    "docker": ("docker", Role.CONTAINER),
    "cri-containerd": ("containerd", Role.CONTAINER),
    "containerd": ("containerd", Role.CONTAINER),
    "nerdctl": ("containerd", Role.CONTAINER),
    "crio": ("cri-o", Role.CONTAINER),
    "crio-conmon": ("cri-o", Role.HELPER),
    "libpod": ("podman", Role.CONTAINER),
    "libpod-payload": ("podman", Role.CONTAINER),
    "libpod-conmon": ("podman", Role.HELPER),
    "buildkit": ("buildkit", Role.CONTAINER),
    "kata": ("kata", Role.CONTAINER),
    "cri-containerd-kata": ("kata", Role.CONTAINER),
    "crio-kata": ("kata", Role.CONTAINER),
}

#: The directory a bare id lies in, and what it means. Any other directory: a container, but whose
#: is not told (``--cgroup-parent``).
_BY_PARENT: Final[dict[str, tuple[str | None, Role]]] = {
    "docker": ("docker", Role.CONTAINER),
    "actions_job": ("docker", Role.CONTAINER),
    "moby": ("docker", Role.CONTAINER),
    "k8s.io": ("containerd", Role.CONTAINER),
    "default": ("containerd", Role.CONTAINER),
    "buildkit": ("buildkit", Role.CONTAINER),
    "kata_overhead": ("kata", Role.HELPER),
}
_UNTOLD: Final[tuple[str | None, Role]] = (None, Role.CONTAINER)

#: Ids that are no 64 hex digits, by the directory that only this runtime uses.
_OTHER_IDS: Final = {
    "buildkit": ("buildkit", re.compile(r"[a-z0-9]{25}").fullmatch),
    "garden": ("garden", re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){4}").fullmatch),
    "mesos": ("mesos", re.compile(_UUID).fullmatch),
}
#: Amazon's Fargate: ``/ecs/<task>/<task>-<number>``; the task's own level is no container.
_is_fargate_id = re.compile(r"[0-9a-f]{32}-[0-9]+").fullmatch
_is_buildkit_scope = re.compile(r"buildkit-([a-z0-9]{25})(?:\.scope)?").fullmatch

_LXC_ROLES: Final = {
    "lxc": Role.CONTAINER,
    "lxc.payload": Role.CONTAINER,
    "lxc.monitor": Role.HELPER,
}
_is_lxc = re.compile(r"(lxc\.payload|lxc\.monitor)\.(.+)", re.DOTALL).fullmatch

_is_machine_scope = re.compile(r"machine-(.+)\.scope", re.DOTALL).fullmatch
_is_nspawn_service = re.compile(r"systemd-nspawn@(.+)\.service", re.DOTALL).fullmatch
_is_libvirt_lxc = re.compile(r"lxc-[0-9]+-(.+)", re.DOTALL).fullmatch
_ESCAPES: Final = re.compile(r"(?:\\x[0-9a-f]{2})+")

_HOST: Final = Reference(ReferenceKind.HOST)


def parse(path: str | bytes) -> Reference:
    """What the path is the path of. Takes any string and never raises.

    ``path`` starts at the hierarchy's root, as in /proc/PID/cgroup and in the kernel's tracepoints;
    leading ``..`` (as seen from within a cgroup namespace) are taken too. Bytes that are not UTF-8
    become surrogate escapes.
    """
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    if ":" in path:
        segments = _without_runc_triples(segments)
    return _pod(segments) or _container(segments) or _unit(segments) or _HOST


def _without_runc_triples(segments: list[str]) -> list[str]:
    """``x.slice:cri-containerd:<id>`` is runc's way to say ``x.slice/cri-containerd-<id>.scope``.

    It is found as a directory where the kubelet uses the systemd driver and runc does not.
    """
    result: list[str] = []
    for segment in segments:
        triple = segment.split(":")
        if len(triple) == len(("slice", "prefix", "name")) and triple[0].endswith(".slice"):
            result += [triple[0], f"{triple[1]}-{triple[2]}"]
        else:
            result.append(segment)
    return result


def _pod(segments: list[str]) -> Reference | None:
    for at, segment in enumerate(segments):
        if "pod" not in segment or (found := _is_pod(segment)) is None:
            continue
        parent = segments[at - 1] if at else ""
        uid = found["uid"].replace("_", "-")
        qos = _qos(found["before"], parent)
        for below in range(at + 1, len(segments)):
            named = _runtime_and_id(segments, below)
            if named is None:
                continue
            (runtime, role), container_id = named
            return Reference(ReferenceKind.POD, uid, container_id, runtime, qos, role)
        return Reference(ReferenceKind.POD, uid, qos=qos, role=Role.POD)
    return None


def _qos(before: str | None, parent: str) -> str | None:
    """Burstable and besteffort pods have a level of their own, guaranteed ones none."""
    if before is not None:
        level = before.rpartition("-")[2]
    elif parent == "..":
        # Seen from a sibling in a cgroup namespace: the level is out of sight.
        return None
    else:
        level = parent
    return _QOS.get(level.lower(), "guaranteed")


def _container(segments: list[str]) -> Reference | None:
    """The first segment of the path that a container runtime made."""
    for at, segment in enumerate(segments):
        parent = segments[at - 1] if at else ""
        runtime: str | None
        if (other := _other(segment, parent) or _machine(segments, at)) is not None:
            runtime, container_id, role = other
        elif (named := _runtime_and_id(segments, at)) is not None:
            (runtime, role), container_id = named
            if segment.removesuffix(".scope") == container_id:
                if not parent or parent == "libpod_parent" or _is_kubelet_level(segments, at - 1):
                    continue
                runtime, role = _BY_PARENT.get(parent, _UNTOLD)
        else:
            continue
        return Reference(
            ReferenceKind.CONTAINER, container_id=container_id, runtime=runtime, role=role
        )
    return None


def _runtime_and_id(segments: list[str], at: int) -> tuple[tuple[str | None, Role], str] | None:
    """``<prefix>-<64 hex digits>.scope``, with or without prefix and suffix."""
    name = segments[at].removesuffix(".scope")
    container_id = name[-_CONTAINER_ID_LENGTH:]
    if _is_container_id(container_id) is None:
        return None
    prefix = name[:-_CONTAINER_ID_LENGTH]
    if not prefix:
        return _UNTOLD, container_id
    if prefix[-1] not in "-_:":
        return None
    meaning = _BY_PREFIX.get(prefix[:-1].replace("_", "-"), _UNTOLD)
    # Early Podman put the container below its monitor: libpod-conmon-<id>/<id>.
    if meaning[1] is Role.HELPER and at + 1 < len(segments) and segments[at + 1] == container_id:
        meaning = (meaning[0], Role.CONTAINER)
    return meaning, container_id


def _is_kubelet_level(segments: list[str], at: int) -> bool:
    """Whether this is ``kubepods`` or a QoS level in it: pods lie there, containers do not."""
    name = segments[at].removesuffix(".slice").lower()
    if name in _QOS:
        name = segments[at - 1].removesuffix(".slice").lower() if at else "kubepods"
    level = name.rpartition("-")[2]
    return level == "kubepods" or (level in _QOS and "kubepods-" in name)


def _other(segment: str, parent: str) -> tuple[str, str, Role] | None:
    """Runtimes with names or ids of their own: (runtime, id, role)."""
    if parent in _LXC_ROLES:
        return ("lxc", segment, _LXC_ROLES[parent]) if segment != ".." else None
    if segment.startswith("lxc.") and (lxc := _is_lxc(segment)) is not None:
        return "lxc", lxc[2], _LXC_ROLES[lxc[1]]
    if parent in _OTHER_IDS:
        runtime, is_id = _OTHER_IDS[parent]
        if is_id(segment):
            return runtime, segment, Role.CONTAINER
    if (build := _is_buildkit_scope(segment)) is not None:
        return "buildkit", build[1], Role.CONTAINER
    if _is_fargate_id(segment) and segment.startswith(f"{parent}-"):
        return "fargate", segment, Role.CONTAINER
    return None


def _machine(segments: list[str], at: int) -> tuple[str, str, Role] | None:
    """systemd-nspawn and what else registers with systemd-machined: (runtime, name, role)."""
    segment = segments[at]
    found = _is_machine_scope(segment) or _is_nspawn_service(segment)
    if found is None:
        return None
    name = _unescape(found[1])
    if name.startswith("qemu-"):
        # A virtual machine's process is the host's; what runs in it asks another kernel.
        return None
    if (libvirt := _is_libvirt_lxc(name)) is not None:
        return "libvirt-lxc", libvirt[1], Role.CONTAINER
    # nspawn splits its unit in two: itself, and what it runs.
    helper = segments[at + 1 : at + 2] == ["supervisor"]
    return "systemd-nspawn", name, Role.HELPER if helper else Role.CONTAINER


def _unit(segments: list[str]) -> Reference | None:
    unit, rest = _first_unit(segments)
    if unit is None:
        return None
    if _is_user_manager(unit):
        deeper, _ = _first_unit(rest)
        # The manager's own init.scope is the manager, and must not look like PID 1's.
        if deeper is not None and deeper != "init.scope":
            unit = deeper
    return Reference(ReferenceKind.SYSTEMD, unit=unit)


def _first_unit(segments: list[str]) -> tuple[str | None, list[str]]:
    """The first segment that is no slice, if it is a unit, and what comes after it."""
    for at, segment in enumerate(segments):
        if segment == ".." or segment.endswith(".slice"):
            continue
        found = _is_unit(segment)
        return (None, []) if found is None else (found[1], segments[at + 1 :])
    return None, []


def _unescape(name: str) -> str:
    r"""Undo systemd's ``\xNN`` (systemd.unit(5)); what is not UTF-8 becomes surrogate escapes."""
    return _ESCAPES.sub(
        lambda run: bytes.fromhex(run[0].replace(r"\x", "")).decode("utf-8", "surrogateescape"),
        name,
    )
