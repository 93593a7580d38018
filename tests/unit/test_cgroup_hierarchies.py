# SPDX-License-Identifier: Apache-2.0
"""Which hierarchies count: made-up /proc trees of the hosts there are, and this host's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cap_exporter.cgroups.hierarchies import Hierarchy, Mode, discover

HYBRID_CGROUPS = """#subsys_name\thierarchy\tnum_cgroups\tenabled
cpuset\t3\t1\t1
memory\t4\t14\t1
net_cls\t0\t1\t1
pids\t8\t1\t1
"""
V2_CGROUPS = (
    HYBRID_CGROUPS.replace("\t3\t", "\t0\t").replace("\t4\t", "\t0\t").replace("\t8\t", "\t0\t")
)


class FakeHost:
    """A /proc and mount points below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        (self.proc / "self" / "ns").mkdir(parents=True)
        self.namespace(0xEFFFFFFB)
        self.lines = ["23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"]
        self.write("cgroups", V2_CGROUPS)
        self.write("self/cgroup", "0::/\n")

    def write(self, name: str, text: str) -> None:
        (self.proc / name).write_text(text, encoding="utf-8")

    def namespace(self, inode: int) -> None:
        link = self.proc / "self" / "ns" / "cgroup"
        link.unlink(missing_ok=True)
        link.symlink_to(f"cgroup:[{inode}]")

    def mount(
        self, name: str, options: str | None = None, *, root: str = "/", hidden: bool = False
    ) -> Path:
        """A line of mountinfo; ``options`` None: cgroup2."""
        point = self.root / name
        point.mkdir(parents=True, exist_ok=True)
        device = point.stat().st_dev + hidden
        kind = "cgroup2 cgroup2 rw" if options is None else f"cgroup cgroup rw,{options}"
        shown = str(point).replace("\\", r"\134").replace(" ", r"\040")
        self.lines.append(
            f"31 23 {os.major(device)}:{os.minor(device)} {root} {shown} rw shared:9 - {kind}"
        )
        return point

    def finish(self) -> Path:
        self.write("self/mountinfo", "".join(f"{line}\n" for line in self.lines))
        return self.proc


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_a_v2_host_has_one_hierarchy(host: FakeHost) -> None:
    point = host.mount("sys/fs/cgroup")
    found = discover(host.finish())
    assert (found.mode, found.counted) == (Mode.V2, (Hierarchy(0, "", point, "/"),))
    assert found.warnings == ()


def test_a_hybrid_host_has_v2_and_the_v1_hierarchies_of_pids_and_memory(host: FakeHost) -> None:
    host.write("cgroups", HYBRID_CGROUPS)
    host.mount("sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct")
    memory = host.mount("sys/fs/cgroup/memory", "memory")
    pids = host.mount("sys/fs/cgroup/pids", "pids")
    unified = host.mount("sys/fs/cgroup/unified")
    host.mount("sys/fs/cgroup/systemd", "xattr,name=systemd")
    found = discover(host.finish())
    assert found.mode is Mode.HYBRID
    assert found.counted == (
        Hierarchy(0, "", unified),
        Hierarchy(8, "pids", pids),
        Hierarchy(4, "memory", memory),
    )
    assert found.warnings == ()


def test_a_v1_host_has_no_v2_hierarchy(host: FakeHost) -> None:
    host.write("cgroups", HYBRID_CGROUPS)
    host.write("self/cgroup", "8:pids:/\n4:memory:/\n3:cpuset:/\n")
    host.mount("sys/fs/cgroup/memory", "memory")
    host.mount("sys/fs/cgroup/pids", "pids")
    found = discover(host.finish())
    assert found.mode is Mode.V1
    assert [hierarchy.id for hierarchy in found.counted] == [8, 4]


def test_v1_controllers_that_do_not_count_leave_a_host_v2(host: FakeHost) -> None:
    host.write("cgroups", V2_CGROUPS.replace("net_cls\t0", "net_cls\t2"))
    host.mount("sys/fs/cgroup")
    host.mount("sys/fs/cgroup/net_cls", "net_cls,net_prio")
    found = discover(host.finish())
    assert found.mode is Mode.V2
    assert [hierarchy.id for hierarchy in found.counted] == [0]


def test_controllers_mounted_together_are_one_hierarchy(host: FakeHost) -> None:
    host.write("cgroups", "memory\t4\t1\t1\npids\t4\t1\t1\n")
    host.write("self/cgroup", "4:memory,pids:/\n")
    point = host.mount("cg", "memory,pids")
    assert discover(host.finish()).counted == (Hierarchy(4, "pids", point),)


def test_without_proc_cgroups_the_ids_come_from_the_process(host: FakeHost) -> None:
    (host.proc / "cgroups").unlink()
    host.write("self/cgroup", "7:pids:/x:y\n0::/\n")
    host.mount("cg", "pids")
    found = discover(host.finish())
    assert found.mode is Mode.HYBRID
    assert [(h.id, h.controller) for h in found.counted] == [(0, ""), (7, "pids")]
    assert any("cgroups" in warning for warning in found.warnings)


def test_a_hierarchy_that_is_not_mounted_here_counts_and_is_said(host: FakeHost) -> None:
    host.write("cgroups", HYBRID_CGROUPS)
    found = discover(host.finish())
    assert [(h.id, h.mount) for h in found.counted] == [(0, None), (8, None), (4, None)]
    assert [warning.partition(" hierarchy")[0] for warning in found.warnings] == [
        "the cgroup v2",
        "the cgroup v1 pids",
        "the cgroup v1 memory",
    ]


def test_a_mount_that_another_one_hides_is_not_used(host: FakeHost) -> None:
    host.mount("sys/fs/cgroup", hidden=True)
    assert discover(host.finish()).counted == (Hierarchy(0, "", None),)


def test_a_mount_point_that_is_not_there_is_not_used(host: FakeHost) -> None:
    host.mount("sys/fs/cgroup").rmdir()
    assert discover(host.finish()).counted == (Hierarchy(0, "", None),)


def test_of_two_views_the_wider_is_taken(host: FakeHost) -> None:
    """A pod on v1 without a cgroup namespace: its own part, and the host's directory."""
    host.mount("sys/fs/cgroup", root="/kubepods/pod1/c1")
    wide = host.mount("host/cgroup", root="/")
    host.mount("other", root="/kubepods")
    assert discover(host.finish()).counted == (Hierarchy(0, "", wide, "/"),)


def test_in_a_cgroup_namespace_the_view_from_further_up_is_taken(host: FakeHost) -> None:
    """There the pod's own part has the root ``/``, the host's directory one of ``..``."""
    host.namespace(0xF0000001)
    host.mount("sys/fs/cgroup", root="/")
    wide = host.mount("host/cgroup", root="/../../..")
    host.mount("other", root="/..")
    (found,) = discover(host.finish()).counted
    assert found.mount == wide


def test_a_part_of_a_hierarchy_is_told_with_its_place(host: FakeHost) -> None:
    point = host.mount("sys/fs/cgroup", root="/kubepods/pod1")
    found = discover(host.finish())
    assert found.counted == (Hierarchy(0, "", point, "/kubepods/pod1"),)
    assert "part of the cgroup v2 hierarchy" in found.warnings[0]


def test_in_a_cgroup_namespace_the_place_of_a_part_is_not_known(host: FakeHost) -> None:
    """mountinfo says ``/`` there and means the namespace's root."""
    host.namespace(0xF0000001)
    point = host.mount("sys/fs/cgroup", root="/")
    assert discover(host.finish()).counted == (Hierarchy(0, "", point, None),)


def test_a_given_root_leaves_out_the_mounts_elsewhere(host: FakeHost) -> None:
    host.mount("sys/fs/cgroup")
    given = host.mount("host/sys/fs/cgroup")
    host.mount("host/sys/fs/cgroup-not")
    found = discover(host.finish(), cgroup_root=given)
    assert found.counted == (Hierarchy(0, "", given),)
    assert found.warnings == ()


def test_a_given_root_without_mounts_is_said_by_name(host: FakeHost) -> None:
    host.mount("sys/fs/cgroup")
    found = discover(host.finish(), cgroup_root=host.root / "nowhere")
    assert found.counted == (Hierarchy(0, "", None),)
    assert str(host.root / "nowhere") in found.warnings[0]


def test_mount_points_with_spaces_and_backslashes_are_found(host: FakeHost) -> None:
    point = host.mount("my cgroup\\fs")
    assert discover(host.finish()).counted == (Hierarchy(0, "", point),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "nonsense",
        "31 23 0:28 / /x - cgroup2",
        "31 23 028 / /x rw - cgroup2 cgroup2 rw",
        "31 23 a:b / /x rw - cgroup2 cgroup2 rw",
        "- cgroup2 cgroup2 rw",
        "31 23 99999999999999999999:1 / /x rw - cgroup2 cgroup2 rw",
        "31 23 0:28 / /x\x00y rw - cgroup2 cgroup2 rw",
    ],
)
def test_odd_lines_are_skipped(host: FakeHost, text: str) -> None:
    host.finish()
    host.write("self/mountinfo", text)
    host.write("cgroups", text + "\npids\nmemory x 1 1\n#subsys\t1\t1\t1\n")
    host.write("self/cgroup", text + "\n::\nx:pids:/\n")
    found = discover(host.proc)
    assert (found.mode, found.counted) == (Mode.V2, (Hierarchy(0, "", None),))


def test_without_any_file_v2_is_assumed_and_each_missing_one_named(tmp_path: Path) -> None:
    found = discover(tmp_path)
    assert (found.mode, found.counted) == (Mode.V2, (Hierarchy(0, "", None),))
    for name in ("self/mountinfo", "self/cgroup", "cgroups"):
        assert any(f"cannot read {tmp_path / name}" in warning for warning in found.warnings)


def test_this_hosts_hierarchies_are_those_of_its_processes() -> None:
    found = discover()
    ids = {
        int(line.split(":", 1)[0]) for line in Path("/proc/self/cgroup").read_text().splitlines()
    }
    assert {hierarchy.id for hierarchy in found.counted} <= ids
    for hierarchy in found.counted:
        if hierarchy.mount is not None and hierarchy.root == "/":
            assert hierarchy.mount.stat().st_ino == 1
