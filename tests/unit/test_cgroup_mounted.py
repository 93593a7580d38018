# SPDX-License-Identifier: Apache-2.0
"""Ids and paths as the kernel tells them: real cgroups, in every hierarchy that counts here."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cap_exporter.cgroups.handles import FILEID_KERNFS, FileHandles, Handle
from cap_exporter.cgroups.hierarchies import Hierarchy
from cap_exporter.cgroups.mounted import MAX_PATH, MountedHierarchy, Unanswerable
from tests.unit.real_cgroups import EACH_HIERARCHY, HIERARCHIES, cgroup_in, path_in

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=EACH_HIERARCHY)
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    assert isinstance(request.param, Hierarchy)
    return request.param


@pytest.fixture
def top(hierarchy: Hierarchy) -> Iterator[Path]:
    with cgroup_in(hierarchy) as path:
        yield path


@pytest.fixture
def mounted(hierarchy: Hierarchy) -> Iterator[MountedHierarchy]:
    opened = MountedHierarchy(hierarchy, PROC, FileHandles())
    yield opened
    opened.close()


NAMES = ["plain", "with space", "tab\tand\x7f", "ünï", os.fsdecode(b"not-utf8-\xff\xfe")]
NAMES += ["x (deleted)", r"back\x2dslash", "a:b", "l" * 255]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_every_name_is_told_by_walk_and_by_id(
    hierarchy: Hierarchy, mounted: MountedHierarchy, top: Path, name: str
) -> None:
    inner = top / name / "inner"
    inner.mkdir(parents=True)
    number = inner.stat().st_ino
    expected = path_in(hierarchy, inner)
    found, complete = mounted.walk()
    assert found[number] == expected
    assert found[top.stat().st_ino] == path_in(hierarchy, top)
    assert found[1] == "/"
    assert complete
    assert mounted.path_of(number) == expected
    assert mounted.id_of(expected) == number


def test_the_root_is_told(mounted: MountedHierarchy) -> None:
    assert mounted.path_of(1) == "/"
    assert mounted.id_of("/") == 1


def test_a_removed_cgroup_has_no_path(mounted: MountedHierarchy, top: Path) -> None:
    gone = top / "gone"
    gone.mkdir()
    number = gone.stat().st_ino
    assert mounted.path_of(number) is not None
    gone.rmdir()
    assert mounted.path_of(number) is None
    gone.mkdir()
    assert gone.stat().st_ino != number
    assert mounted.path_of(number) is None


@pytest.mark.parametrize("number", [0, 2**63, 2**64 - 1, 2**64, -1])
def test_ids_that_no_cgroup_has_have_no_path(mounted: MountedHierarchy, number: int) -> None:
    assert mounted.path_of(number) is None


@pytest.mark.parametrize("path", ["", "relative", "/nothing/there", "/../x", "/\x00", "/" * 5000])
def test_paths_that_no_cgroup_has_have_no_id(mounted: MountedHierarchy, path: str) -> None:
    assert mounted.id_of(path) in ({1} if not path.strip("/") and path else {None})


def test_a_control_file_is_no_cgroup(mounted: MountedHierarchy) -> None:
    assert mounted.id_of("/cgroup.procs") is None


def test_deep_trees_are_walked_and_their_paths_cut(
    hierarchy: Hierarchy, mounted: MountedHierarchy, top: Path
) -> None:
    """More levels than open descriptors are allowed, and paths beyond PATH_MAX."""
    levels, name = 300, "d" * 40
    descriptors = [os.open(top, os.O_RDONLY)]
    try:
        numbers = []
        for _ in range(levels):
            os.mkdir(name, dir_fd=descriptors[-1])
            descriptors.append(os.open(name, os.O_RDONLY, dir_fd=descriptors[-1]))
            numbers.append(os.fstat(descriptors[-1]).st_ino)
        before = len(list(Path("/proc/self/fd").iterdir()))
        found, complete = mounted.walk()
        assert complete
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert found[numbers[49]] == path_in(hierarchy, top) + f"/{name}" * 50
        deepest = found[numbers[-1]]
        assert len(deepest) == MAX_PATH
        assert (path_in(hierarchy, top) + f"/{name}" * levels).startswith(deepest)
        told = mounted.path_of(numbers[-1])
        assert told is not None
        assert told.startswith(path_in(hierarchy, top) + f"/{name}" * 90)
    finally:
        for above, below in zip(reversed(descriptors[:-1]), reversed(descriptors[1:]), strict=True):
            os.close(below)
            os.rmdir(name, dir_fd=above)
        os.close(descriptors[0])


CHURN = """
import os, sys
top = sys.argv[1]
print("started", flush=True)
while True:
    for name in ("a", "a/b", "a/b/c", "a/b/c/d"):
        os.mkdir(f"{top}/{name}")
    for name in ("a/b/c/d", "a/b/c", "a/b", "a"):
        os.rmdir(f"{top}/{name}")
"""


def test_cgroups_that_come_and_go_under_a_walk_hide_no_others(
    hierarchy: Hierarchy, mounted: MountedHierarchy, top: Path
) -> None:
    stable = [top / f"{name}{at}" / "inner" for at in range(5) for name in ("_", "z")]
    for each in stable:
        each.mkdir(parents=True)
    expected = {each.stat().st_ino: path_in(hierarchy, each) for each in stable}
    command = [sys.executable, "-c", CHURN, str(top)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as churn:
        try:
            assert churn.stdout is not None
            assert churn.stdout.readline()
            for _ in range(200):
                found, complete = mounted.walk()
                assert expected.items() <= found.items()
                assert complete
        finally:
            churn.kill()


def test_handles_and_inodes_agree_on_this_kernel(hierarchy: Hierarchy, top: Path) -> None:
    """Linux 5.5 and later on 64 bits: fs/kernfs/dir.c."""
    handles = FileHandles()
    descriptor = os.open(top, os.O_RDONLY)
    try:
        assert handles.of(descriptor) == Handle(top.stat().st_ino, FILEID_KERNFS)
    finally:
        os.close(descriptor)


def test_a_file_system_of_another_kind_has_no_handles_for_us() -> None:
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            FileHandles().of(descriptor)
    finally:
        os.close(descriptor)


class NoHandles(FileHandles):
    """Both calls refused, as by a seccomp filter; there is a test with a real one below."""

    def of(self, directory: int, name: bytes = b"") -> Handle:
        raise PermissionError(errno.EPERM, "no", directory, None, name)

    def open(self, mount: int, handle: Handle, flags: int) -> int:
        raise PermissionError(errno.EPERM, "no", (mount, handle, flags))


def test_without_handles_inodes_are_the_ids(hierarchy: Hierarchy, top: Path) -> None:
    (top / "a" / "b").mkdir(parents=True)
    mounted = MountedHierarchy(hierarchy, PROC, NoHandles())
    try:
        found, complete = mounted.walk()
        assert complete
        assert found[(top / "a" / "b").stat().st_ino] == path_in(hierarchy, top / "a" / "b")
        with pytest.raises(Unanswerable):
            mounted.path_of(1)
    finally:
        mounted.close()


def test_a_fake_tree_is_walked_by_inode(tmp_path: Path) -> None:
    (tmp_path / "kubepods" / "pod1").mkdir(parents=True)
    (tmp_path / "kubepods" / "cgroup.procs").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "kubepods")
    mounted = MountedHierarchy(Hierarchy(0, "", tmp_path, "/part"), PROC, NoHandles())
    try:
        found, complete = mounted.walk()
        assert sorted(found.values()) == ["/part", "/part/kubepods", "/part/kubepods/pod1"]
        assert not complete
        assert mounted.id_of("/part/kubepods") == (tmp_path / "kubepods").stat().st_ino
        assert mounted.id_of("/part") == tmp_path.stat().st_ino
        assert mounted.id_of("/parts/kubepods") is None
        assert mounted.id_of("/kubepods") is None
    finally:
        mounted.close()


def test_a_part_whose_place_is_not_known_gives_no_paths(tmp_path: Path) -> None:
    """Its names would look like the root's: a container could pose as anything."""
    (tmp_path / "kubepods").mkdir()
    mounted = MountedHierarchy(Hierarchy(0, "", tmp_path, None), PROC, NoHandles())
    try:
        assert mounted.walk() == ({}, False)
        assert mounted.id_of("/kubepods") is None
    finally:
        mounted.close()


def test_a_mount_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MountedHierarchy(Hierarchy(0, "", tmp_path / "nowhere"), PROC, FileHandles())
    with pytest.raises(FileNotFoundError, match="without a mount"):
        MountedHierarchy(Hierarchy(8, "pids", None), PROC, FileHandles())


def in_child(code: str, *arguments: str) -> str:
    """Run Python code in a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WALK_AND_ASK = """
import sys
from pathlib import Path
from cap_exporter.cgroups.handles import FileHandles
from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.cgroups.mounted import MountedHierarchy, Unanswerable
hierarchy = next(h for h in discover().counted if h.id == int(sys.argv[1]))
mounted = MountedHierarchy(hierarchy, Path("/proc"), FileHandles())
print(ascii(mounted.walk()[0].get(int(sys.argv[2]))))
try:
    print(ascii(mounted.path_of(int(sys.argv[2]))))
except Unanswerable:
    print("unanswerable")
"""

DROP_DAC_READ_SEARCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH = 24, 2
assert libc.prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""


def test_without_the_capability_the_walk_still_names_cgroups(
    hierarchy: Hierarchy, top: Path
) -> None:
    """A process that exec'd with CAP_DAC_READ_SEARCH out of its bounding set."""
    number = str(top.stat().st_ino)
    out = in_child(DROP_DAC_READ_SEARCH, WALK_AND_ASK, str(hierarchy.id), number)
    assert out.splitlines() == [repr(path_in(hierarchy, top)), "unanswerable"]


SECCOMP = """
import ctypes, os, platform, struct, sys
calls = {"x86_64": (303, 304), "aarch64": (264, 265)}[platform.machine()]
# struct sock_filter: load the call's number; either of the two: EPERM; else allow.
steps = [(0x20, 0, 0, 0), (0x15, 1, 0, calls[0]), (0x15, 0, 1, calls[1]),
         (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0
"""


@pytest.mark.skipif(
    os.uname().machine not in {"x86_64", "aarch64"}, reason="call numbers are not known here"
)
def test_under_a_seccomp_filter_against_handles_the_walk_goes_by_inode(
    hierarchy: Hierarchy, top: Path
) -> None:
    number = str(top.stat().st_ino)
    out = in_child(SECCOMP + WALK_AND_ASK, str(hierarchy.id), number)
    assert out.splitlines() == [repr(path_in(hierarchy, top)), "unanswerable"]


NARROW = """
import ctypes, os, subprocess, sys
from pathlib import Path
from cap_exporter.cgroups.handles import FileHandles
from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.cgroups.mounted import MountedHierarchy
number, part, point, *ids = sys.argv[1:]
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_BIND = 0x00020000, 0x4000, 1 << 18, 4096
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(CLONE_NEWNS) == 0
assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
assert libc.mount(part.encode(), point.encode(), None, MS_BIND, None) == 0
found = discover(cgroup_root=Path(point))
hierarchy = next(h for h in found.counted if h.id == int(number))
print(hierarchy.mount, hierarchy.root)
mounted = MountedHierarchy(hierarchy, Path("/proc"), FileHandles())
paths, complete = mounted.walk()
print(complete)
for each in ids:
    print(paths.get(int(each)))
for _ in range(100):
    again, complete = mounted.walk()
    assert complete
    assert all(again[int(each)] == paths[int(each)] for each in ids)
print(mounted.id_of(hierarchy.root))
"""


def test_where_only_a_part_is_mounted_all_is_seen_through_the_roots_handle(
    hierarchy: Hierarchy, top: Path, tmp_path: Path
) -> None:
    """A pod without the host's /sys/fs/cgroup: its own part is what it has."""
    (top / "part" / "in").mkdir(parents=True)
    (top / "out" / "deep").mkdir(parents=True)
    directories = [top / "part" / "in", top / "out" / "deep", top / "part", top]
    numbers = [str(each.stat().st_ino) for each in directories]
    with subprocess.Popen(
        [sys.executable, "-c", CHURN, str(top)], stdout=subprocess.DEVNULL
    ) as churn:
        try:
            out = in_child(NARROW, str(hierarchy.id), str(top / "part"), str(tmp_path), *numbers)
        finally:
            churn.kill()
    part = path_in(hierarchy, top / "part")
    assert out.splitlines() == [
        f"{tmp_path} {part}",
        "True",
        *(path_in(hierarchy, each) for each in directories),
        numbers[2],
    ]


NAMESPACE = """
import ctypes, os, sys
from pathlib import Path
from cap_exporter.cgroups.handles import FileHandles
from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.cgroups.mounted import MountedHierarchy
part, point, *ids = sys.argv[1:]
(Path(part) / "cgroup.procs").write_text(str(os.getpid()))
CLONE_NEWNS, CLONE_NEWCGROUP, MS_REC, MS_PRIVATE = 0x00020000, 0x02000000, 0x4000, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(CLONE_NEWNS | CLONE_NEWCGROUP) == 0
assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
assert libc.mount(b"none", point.encode(), b"cgroup2", 0, None) == 0
for root in (Path(point), None):
    hierarchy = next(h for h in discover(cgroup_root=root).counted if h.id == 0)
    print(hierarchy.mount == root, hierarchy.root)
    mounted = MountedHierarchy(hierarchy, Path("/proc"), FileHandles())
    paths, complete = mounted.walk()
    print(complete, *(paths.get(int(each)) for each in ids))
"""


@pytest.mark.skipif(
    not any(each.id == 0 for each in HIERARCHIES), reason="takes root and a writable cgroup v2"
)
def test_in_a_cgroup_namespace_paths_are_still_from_the_hierarchys_root(tmp_path: Path) -> None:
    """As in a container: its own mount shows its own part as the root; the host's, if it is
    mounted too, shows everything."""
    unified = next(each for each in HIERARCHIES if each.id == 0)
    with cgroup_in(unified) as top:
        (top / "part" / "in").mkdir(parents=True)
        (top / "out").mkdir()
        directories = [top / "part" / "in", top / "out"]
        numbers = [str(each.stat().st_ino) for each in directories]
        out = in_child(NAMESPACE, str(top / "part"), str(tmp_path), *numbers)
        expected = f"True {' '.join(path_in(unified, each) for each in directories)}"
        assert out.splitlines() == ["True None", expected, "False /", expected]


def test_the_libc_has_both_calls() -> None:
    libc = ctypes.CDLL(None)
    assert hasattr(libc, "name_to_handle_at")
    assert hasattr(libc, "open_by_handle_at")
