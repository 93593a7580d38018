# SPDX-License-Identifier: Apache-2.0
"""What cgroup paths say: paths from reports and from runtimes, and what holds for any path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.cgroups.reference import parse
from cap_exporter.model import Reference, ReferenceKind, Role

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "cgroup-paths.json").read_text(encoding="utf-8")
)["cases"]

UID = "019c1fe8-0d92-4aa0-b61c-4df58bdde71c"
UID_ = UID.replace("-", "_")
STATIC_UID = "3e61c214bc3ed9ff81e21474dd6cba17"
A = "a" * 64
B = "0123456789abcdef" * 4
TASK = "158d1c8083dd49d6b527399fd6414f5c"
HOST = Reference(ReferenceKind.HOST)


def pod(
    container_id: str | None,
    runtime: str | None = None,
    qos: str | None = "guaranteed",
    role: Role = Role.CONTAINER,
    uid: str = UID,
) -> Reference:
    return Reference(ReferenceKind.POD, uid, container_id, runtime, qos, role)


def container(
    container_id: str, runtime: str | None = None, role: Role = Role.CONTAINER
) -> Reference:
    return Reference(ReferenceKind.CONTAINER, container_id=container_id, runtime=runtime, role=role)


def unit(name: str) -> Reference:
    return Reference(ReferenceKind.SYSTEMD, unit=name)


@pytest.mark.parametrize("case", CASES, ids=[case["source"] for case in CASES])
def test_each_collected_path_says_what_it_is(case: dict[str, Any]) -> None:
    assert parse(case["path"]) == Reference(
        kind=ReferenceKind(case["kind"]),
        pod_uid=case["pod_uid"],
        container_id=case["container_id"],
        runtime=case["runtime"],
        qos=case["qos"],
        role=Role(case["role"]),
        unit=case["unit"],
    )


PODS = {
    f"/kubepods/burstable/pod{STATIC_UID}/{A}": pod(A, None, "burstable", uid=STATIC_UID),
    f"/kubepods.slice/kubepods-pod{STATIC_UID}.slice/crio-{A}.scope": pod(
        A, "cri-o", uid=STATIC_UID
    ),
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice": pod(
        None, None, "besteffort", Role.POD
    ),
    # CRI-O: the monitor of a container, in the pod's cgroup; crun's cgroup in the container.
    f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{A}.scope": pod(
        A, "cri-o", role=Role.HELPER
    ),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
    f"/crio-{A}.scope/container": pod(A, "cri-o", "burstable"),
    # kind and minikube: the node is a container itself.
    f"/system.slice/docker-{B}.scope/kubelet.slice/kubelet-kubepods.slice"
    f"/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UID_}.slice"
    f"/cri-containerd-{A}.scope": pod(A, "containerd", "besteffort"),
    f"/docker/{B}/kubelet/kubepods/burstable/pod{UID}/{A}": pod(A, None, "burstable"),
    f"/docker/{B}/kubelet/kubepods/pod{UID}/{A}/init.scope": pod(A),
    f"/machine.slice/libpod-{B}.scope/container/kubelet.slice/kubelet-kubepods.slice"
    f"/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{A}.scope": pod(A, "containerd"),
    # The kubelet takes the systemd driver, runc the cgroupfs one.
    f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{A}": pod(
        A, "containerd", "burstable"
    ),
    # Before Kubernetes 1.6: levels in capitals, no kubepods, below the daemon or the root.
    f"/system.slice/docker.service/BestEffort.slice/BestEffort-pod{UID_}.slice/{A}": pod(
        A, None, "besteffort"
    ),
    f"/BestEffort.slice/BestEffort-pod{UID_}.slice/{A}": pod(A, None, "besteffort"),
    f"/Burstable/pod{UID}/{A}": pod(A, None, "burstable"),
    f"/pod{UID}/{A}": pod(A),
    # A cgroup root of the cluster's own, and further levels (--cgroup-root, offline pods).
    f"/cluster.slice/cluster-kubepods.slice/cluster-kubepods-burstable.slice"
    f"/cluster-kubepods-burstable-pod{UID_}.slice/docker-{A}.scope": pod(A, "docker", "burstable"),
    # Kata: only its sandbox is seen.
    f"/kubepods/besteffort/pod{UID}/kata_{A}": pod(A, "kata", "besteffort"),
    # As seen from a sibling in a cgroup namespace: the QoS level is out of sight.
    f"/../../pod{UID}/{A}": pod(A, None, None),
    f"/../kubepods-burstable-pod{UID_}.slice/cri-containerd-{A}.scope": pod(
        A, "containerd", "burstable"
    ),
    # What a container makes below itself is its own.
    f"/kubepods/pod{UID}/{A}/docker/{B}": pod(A),
    f"/kubepods/pod{UID}/{A}/crio-conmon-{B}.scope": pod(A),
    f"/kubepods/pod{UID}/{A}/lxc.payload.x/user.slice": pod(A),
    f"/kubepods/pod{UID}/{A}/kubepods-besteffort-pod{UID_[::-1]}.slice/crio-{B}.scope": pod(A),
}

CONTAINERS = {
    f"/docker/{A}": container(A, "docker"),
    f"/docker/{A}/docker/{B}": container(A, "docker"),
    f"/system.slice/docker.service/docker/{A}": container(A, "docker"),
    f"/system.slice/docker-{A}.scope/init.scope": container(A, "docker"),
    f"/system.slice:docker:{A}": container(A, "docker"),
    f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope": container(
        A, "docker"
    ),
    f"/actions_job/{A}": container(A, "docker"),
    f"/moby/{A}": container(A, "docker"),
    f"/k8s.io/{A}": container(A, "containerd"),
    f"/default/{A}": container(A, "containerd"),
    f"/system.slice/nerdctl-{A}.scope": container(A, "containerd"),
    f"/system.slice/crio-{A}.scope": container(A, "cri-o"),
    f"/system.slice/crio-conmon-{A}.scope": container(A, "cri-o", Role.HELPER),
    f"/some-parent/{A}": container(A),
    f"/../{A}": container(A),
    f"/system.slice/newruntime-{A}.scope": container(A),
    # Podman: systemd and cgroupfs drivers, pods, quadlets, rootless, and before 0.3.
    f"/machine.slice/libpod-{A}.scope": container(A, "podman"),
    f"/machine.slice/libpod-conmon-{A}.scope": container(A, "podman", Role.HELPER),
    f"/libpod_parent/libpod-{A}": container(A, "podman"),
    f"/libpod_parent/libpod-conmon-{A}": container(A, "podman", Role.HELPER),
    f"/libpod_parent/libpod-conmon-{A}/{A}": container(A, "podman"),
    f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container": container(
        A, "podman"
    ),
    f"/libpod_parent/{B}/libpod-{A}": container(A, "podman"),
    f"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-{A}": (
        container(A, "podman")
    ),
    # LXC and what is built on it.
    "/lxc/x1": container("x1", "lxc"),
    "/lxc/101/ns/init.scope": container("101", "lxc"),
    f"/lxc/{A}/docker/{B}": container(A, "lxc"),
    "/lxc.payload/web/system.slice/ssh.service": container("web", "lxc"),
    "/lxc.payload.my.name_1": container("my.name_1", "lxc"),
    "/lxc.monitor/web": container("web", "lxc", Role.HELPER),
    "/lxc.monitor.my.name": container("my.name", "lxc", Role.HELPER),
    "/user.slice/user-1000.slice/session-1.scope/lxc.payload.c1/init.scope": container("c1", "lxc"),
    r"/machine.slice/machine-lxc\x2d4242\x2dweb.scope": container("web", "libvirt-lxc"),
    # systemd-nspawn
    "/machine.slice/machine-debian.scope": container("debian", "systemd-nspawn"),
    r"/machine.slice/machine-my\x2ddebian.scope/payload/init.scope": container(
        "my-debian", "systemd-nspawn"
    ),
    "/machine.slice/machine-debian.scope/supervisor": container(
        "debian", "systemd-nspawn", Role.HELPER
    ),
    "/machine.slice/systemd-nspawn@web.service/payload/system.slice/ssh.service": container(
        "web", "systemd-nspawn"
    ),
    "/machine.slice/systemd-nspawn@web.service/supervisor": container(
        "web", "systemd-nspawn", Role.HELPER
    ),
    # BuildKit, Kata, ECS, Cloud Foundry, Mesos.
    "/docker/buildkit/w0o4u5qzk2kqbz3x4k7mm9yxa": container(
        "w0o4u5qzk2kqbz3x4k7mm9yxa", "buildkit"
    ),
    "/system.slice/buildkit-w0o4u5qzk2kqbz3x4k7mm9yxa.scope": container(
        "w0o4u5qzk2kqbz3x4k7mm9yxa", "buildkit"
    ),
    f"/kata_overhead/{A}": container(A, "kata", Role.HELPER),
    f"/ecs/{TASK}/{A}": container(A),
    f"/ecs/{TASK}/{TASK}-2421896363": container(f"{TASK}-2421896363", "fargate"),
    f"/ecstasks.slice/ecstasks-{TASK}.slice/docker-{A}.scope": container(A, "docker"),
    "/system.slice/garden.service/garden/6f265890-5165-7fab-6b52-18d1": container(
        "6f265890-5165-7fab-6b52-18d1", "garden"
    ),
    f"/mesos/{UID}": container(UID, "mesos"),
}

UNITS = {
    "/system.slice/ssh.service": "ssh.service",
    "/system.slice/system-postfix.slice/postfix@-.service": "postfix@-.service",
    # Escapes stay, as systemctl prints and takes them.
    r"/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service": (
        "serial-getty@ttyS0.service"
    ),
    r"/system.slice/system-getty\x2da.slice/a\x2db@c\x2fd.service": r"a\x2db@c\x2fd.service",
    "/system.slice/dbus.socket": "dbus.socket",
    r"/system.slice/var-lib-my\x2ddata.mount": r"var-lib-my\x2ddata.mount",
    # systemd puts "_" before names that are the kernel's, like cpu.something.
    "/system.slice/_cpu.service": "cpu.service",
    "/system.slice/__own.service": "_own.service",
    # A service's own sub-cgroups, also those that look like units.
    "/system.slice/foo.service/runtime": "foo.service",
    "/system.slice/foo.service/bar.slice/baz.service": "foo.service",
    "/system.slice/foo.service/init.scope": "foo.service",
    # User managers
    "/user.slice/user-1000.slice/user@1000.service": "user@1000.service",
    "/user.slice/user-1000.slice/user@1000.service/init.scope": "user@1000.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice": "user@1000.service",
    "/user.slice/user-1000.slice/user@1000.service/odd/foo.service": "user@1000.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service": "foo.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/sub.service": (
        "foo.service"
    ),
    "/user.slice/user-1000.slice/user@1000.service/session.slice/app-x.slice/a-1.scope": (
        "a-1.scope"
    ),
    "/capsule.slice/capsule@web.service/app.slice/foo.service": "foo.service",
    # A virtual machine's process is the host's.
    r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator": (
        r"machine-qemu\x2d1\x2dweb.scope"
    ),
    "/../system.slice/foo.service": "foo.service",
    "/lxc.slice/lxc@web.service": "lxc@web.service",
    "/system.slice/podman.service": "podman.service",
    f"/{A}.scope": f"{A}.scope",
}

HOSTS = [
    "",
    "//",
    "/.",
    "/..",
    "/user.slice/user-1000.slice",
    r"/system.slice/system-serial\x2dgetty.slice",
    "/podruntime/runtime",
    "/podruntime",
    "/init",
    "/system/dashboard",
    f"/{A}",
    f"/kubepods/{A}",
    f"/kubepods.slice/{A}",
    f"/kubepods/burstable/{A}",
    f"/kubepods.slice/kubepods-besteffort.slice/{A}",
    f"/libpod_parent/{A}",
    "/libpod_parent/conmon",
    "/kubepods",
    "/kubepods.slice/kubepods-burstable.slice",
    "/lxc",
    "/lxc.payload.",
    "/lxc.pivot",
    "/docker",
    f"/ecs/{TASK}",
    "/mycontainer/system.slice/ssh.service",
    "/system.slice/.service",
    "/system.slice/no unit.service",
    f"/kubepods/pod{UID[:-1]}",
    f"/kubepods/pod{UID}x",
    f"/kubepods/xpod{UID}",
    # 63 and 65 digits, other digits, glued to a prefix.
    f"/docker/{A[1:]}",
    f"/docker/{A}a",
    f"/docker/{A[1:]}g",
    f"/docker/docker{A}",
]


@pytest.mark.parametrize("path", PODS)
def test_pods_are_found_in_every_layout(path: str) -> None:
    assert parse(path) == PODS[path]


@pytest.mark.parametrize("path", CONTAINERS)
def test_containers_outside_of_pods_are_found(path: str) -> None:
    assert parse(path) == CONTAINERS[path]


@pytest.mark.parametrize("path", UNITS)
def test_units_have_the_name_that_systemctl_shows(path: str) -> None:
    assert parse(path) == unit(UNITS[path])


@pytest.mark.parametrize("path", HOSTS)
def test_what_is_nobodys_is_the_hosts(path: str) -> None:
    assert parse(path) == HOST


def test_bytes_that_are_not_utf8_stay_in_the_name_as_surrogate_escapes() -> None:
    assert parse(b"/lxc/na\xffme") == container("na\udcffme", "lxc")
    assert parse(rb"/machine.slice/machine-a\xff\xc3\xa4.scope") == container(
        "a\udcffä", "systemd-nspawn"
    )


def test_a_newline_in_a_name_hides_nothing() -> None:
    assert parse(f"/kubepods/pod{UID}/{A}/x\ny") == pod(A)
    assert parse("/lxc/a\nb/c") == container("a\nb", "lxc")
    assert parse(f"/kubepods/x\n/docker-{A}.scope") == container(A, "docker")


SEGMENT = st.one_of(
    st.text(st.characters(codec=None, exclude_characters="/"), max_size=20),
    st.sampled_from(
        [
            "..",
            A,
            B,
            f"docker-{A}.scope",
            f"pod{UID}",
            f"kubepods-burstable-pod{UID_}.slice",
            f"kubepods.slice:cri-containerd:{A}",
            "lxc",
            "lxc.monitor.x",
            "kubepods",
            "burstable",
            "machine-\\x2d\\xff.scope",
            "user@1000.service",
            "a.slice",
            "init.scope",
            "supervisor",
            "::",
        ]
    ),
)
ANY_PATH = st.lists(SEGMENT, max_size=8).map("/".join)


@given(ANY_PATH)
def test_any_text_gives_a_consistent_reference(path: str) -> None:
    reference = parse(path)
    match reference.kind:
        case ReferenceKind.POD:
            assert reference.pod_uid
            assert (reference.role is Role.POD) == (reference.container_id is None)
        case ReferenceKind.CONTAINER:
            assert reference.container_id
            assert reference.pod_uid is reference.qos is reference.unit is None
        case ReferenceKind.SYSTEMD:
            assert reference == unit(reference.unit or "")
            assert reference.unit
        case ReferenceKind.HOST:
            assert reference == HOST


@given(st.binary(max_size=300))
def test_any_bytes_give_a_reference(raw: bytes) -> None:
    assert isinstance(parse(raw), Reference)
    assert parse(raw) == parse(raw.decode("utf-8", "surrogateescape"))


UUIDS = st.uuids().map(str)
UIDS = st.one_of(UUIDS, st.text("0123456789abcdef", min_size=32, max_size=32))
IDS = st.text("0123456789abcdef", min_size=64, max_size=64)
QOS = st.sampled_from(["guaranteed", "burstable", "besteffort"])
OUTSIDE = st.sampled_from(
    ["", f"/docker/{B}/kubelet", f"/system.slice/docker-{B}.scope/kubelet.slice", "/lxc/node"]
)
RUNTIMES = {"": None, "cri-containerd": "containerd", "crio": "cri-o", "docker": "docker"}


@st.composite
def pod_paths(draw: st.DrawFn) -> tuple[str, Reference]:
    """A kubelet's path for a container, and what it must say."""
    uid, container_id, qos = draw(UIDS), draw(IDS), draw(QOS)
    prefix = draw(st.sampled_from(sorted(RUNTIMES)))
    name = f"{prefix}-{container_id}" if prefix else container_id
    level = [] if qos == "guaranteed" else [qos]
    outside = draw(OUTSIDE)
    if draw(st.booleans()):
        root = "kubelet-kubepods" if "kubelet" in outside else "kubepods"
        slices = [f"{root}.slice", *(f"{root}-{each}.slice" for each in level)]
        slices.append("-".join([root, *level, f"pod{uid.replace('-', '_')}.slice"]))
        parts = [*slices, f"{name}.scope"]
    else:
        parts = ["kubepods", *level, f"pod{uid}", name]
    path = "/".join([outside, *parts])
    return path, pod(container_id, RUNTIMES[prefix], qos, uid=uid)


@given(pod_paths())
def test_what_the_kubelet_writes_is_read_back(case: tuple[str, Reference]) -> None:
    path, expected = case
    assert parse(path) == expected


@given(pod_paths(), ANY_PATH)
def test_nothing_below_a_pods_container_changes_whose_it_is(
    case: tuple[str, Reference], below: str
) -> None:
    path, expected = case
    assert parse(f"{path}/{below}") == expected


@given(st.sampled_from(sorted(CONTAINERS)), st.lists(SEGMENT, min_size=1, max_size=6))
def test_no_container_becomes_another_by_names_below_it(path: str, below: list[str]) -> None:
    reference = parse(f"{path}/{'/'.join(below)}")
    if reference.kind is ReferenceKind.CONTAINER:
        assert reference.container_id == CONTAINERS[path].container_id
    else:
        # Only a pod: a node in a container (kind) has its pods there.
        assert reference.kind is ReferenceKind.POD


@given(
    st.sampled_from(["/system.slice/web.service", "/system.slice/a-1.scope"]),
    st.lists(st.text("abcdefg.-_@", min_size=1, max_size=12), max_size=5),
)
def test_what_a_service_makes_below_itself_is_the_services(path: str, below: list[str]) -> None:
    assert parse("/".join([path, *below])) == parse(path)
