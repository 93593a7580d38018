# SPDX-License-Identifier: Apache-2.0
"""Ids and their paths over time: from events, from real cgroups, and after they are gone."""

from __future__ import annotations

import errno
import resource
import subprocess
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.cgroups.handles import FileHandles, Handle
from cap_exporter.cgroups.hierarchies import Hierarchies, Hierarchy, Mode
from cap_exporter.cgroups.tree import CgroupTree
from cap_exporter.model import OVERFLOW, CgroupChange, CgroupEvent, CgroupKey
from tests.unit.real_cgroups import EACH_HIERARCHY, V1_HIERARCHIES, cgroup_in, path_in

if TYPE_CHECKING:
    from collections.abc import Iterator

NOWHERE = Hierarchies(Mode.V2, (Hierarchy(0, "", None),))
RETENTION = 600.0
RETRY = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountedHandles(FileHandles):
    """The real calls, counted; ``refuse``: open() fails as without CAP_DAC_READ_SEARCH."""

    def __init__(self, *, refuse: bool = False) -> None:
        super().__init__()
        self.refuse = refuse
        self.opened = 0

    def open(self, mount: int, handle: Handle, flags: int) -> int:
        self.opened += 1
        if self.refuse:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return super().open(mount, handle, flags)


def created(number: int, path: str, hierarchy: int = 0) -> CgroupEvent:
    return CgroupEvent(CgroupChange.CREATED, CgroupKey(hierarchy, number), path)


def removed(number: int, path: str, hierarchy: int = 0) -> CgroupEvent:
    return CgroupEvent(CgroupChange.REMOVED, CgroupKey(hierarchy, number), path)


def renamed(number: int, path: str, hierarchy: int = 0) -> CgroupEvent:
    return CgroupEvent(CgroupChange.RENAMED, CgroupKey(hierarchy, number), path)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tree(clock: Clock) -> CgroupTree:
    """Events only: no file system to look at."""
    return CgroupTree(NOWHERE, clock=clock, retention=RETENTION, retry=RETRY)


def test_a_created_cgroup_has_its_path_at_once(tree: CgroupTree) -> None:
    assert tree.apply([created(7, "/a"), created(8, "/a/b \udcff")]) == []
    assert tree.path(CgroupKey(0, 7)) == "/a"
    assert tree.path(CgroupKey(0, 8)) == "/a/b \udcff"
    assert len(tree) == 2


def test_ids_of_different_hierarchies_are_different_cgroups(tree: CgroupTree) -> None:
    tree.apply([created(7, "/a", 0), created(7, "/b", 8), removed(7, "/a", 0)])
    assert tree.path(CgroupKey(8, 7)) == "/b"
    assert tree.is_removed(CgroupKey(0, 7))
    assert not tree.is_removed(CgroupKey(8, 7))
    assert tree.path(CgroupKey(4, 7)) is None


def test_a_removed_cgroup_keeps_its_path_for_the_retention(tree: CgroupTree, clock: Clock) -> None:
    assert tree.apply([created(7, "/a"), removed(7, "/a")]) == [CgroupKey(0, 7)]
    clock.now += RETENTION - 1
    tree.apply([])
    assert tree.path(CgroupKey(0, 7)) == "/a"
    assert tree.is_removed(CgroupKey(0, 7))
    clock.now += 1
    assert tree.path(CgroupKey(0, 7)) is None
    tree.apply([])
    assert tree.path(CgroupKey(0, 7)) is None
    assert not tree.is_removed(CgroupKey(0, 7))


def test_a_cgroup_whose_creation_was_missed_gets_its_path_from_its_removal(
    tree: CgroupTree,
) -> None:
    assert tree.apply([removed(7, "/short/lived")]) == [CgroupKey(0, 7)]
    assert tree.path(CgroupKey(0, 7)) == "/short/lived"


def test_a_removal_without_a_path_leaves_the_known_one(tree: CgroupTree) -> None:
    tree.apply([created(7, "/a"), removed(7, "")])
    assert tree.path(CgroupKey(0, 7)) == "/a"


def test_each_removal_is_told_once(tree: CgroupTree) -> None:
    assert tree.apply([created(7, "/a"), removed(7, "/a"), removed(7, "/a")]) == [CgroupKey(0, 7)]
    assert tree.apply([removed(7, "/a")]) == []


def test_an_event_that_comes_too_late_brings_no_cgroup_back(tree: CgroupTree) -> None:
    tree.apply([removed(7, "/a"), created(7, "/a")])
    assert tree.is_removed(CgroupKey(0, 7))
    assert len(tree) == 0


def test_a_directory_made_again_is_another_cgroup(tree: CgroupTree) -> None:
    tree.apply([created(7, "/a"), removed(7, "/a"), created(9, "/a")])
    assert tree.is_removed(CgroupKey(0, 7))
    assert not tree.is_removed(CgroupKey(0, 9))
    assert tree.key(0, "/a") == CgroupKey(0, 9)
    tree.apply([removed(9, "/a")])
    assert tree.key(0, "/a") == CgroupKey(0, 9)


def test_a_rename_moves_all_below_and_nothing_else(tree: CgroupTree) -> None:
    tree.apply(
        [
            created(1, "/", 8),
            created(2, "/a", 8),
            created(3, "/a/b", 8),
            created(4, "/a/b/c", 8),
            created(5, "/ab", 8),
            created(6, "/x/a/b", 8),
            created(7, "/a/b", 4),
            renamed(2, "/z", 8),
        ]
    )
    assert [tree.path(CgroupKey(8, number)) for number in range(1, 7)] == [
        "/",
        "/z",
        "/z/b",
        "/z/b/c",
        "/ab",
        "/x/a/b",
    ]
    assert tree.path(CgroupKey(4, 7)) == "/a/b"


def test_a_rename_of_an_unknown_cgroup_tells_its_path(tree: CgroupTree) -> None:
    tree.apply([renamed(2, "/z", 8)])
    assert tree.path(CgroupKey(8, 2)) == "/z"


def test_keys_that_are_no_cgroups_have_no_path(tree: CgroupTree) -> None:
    assert tree.path(OVERFLOW) is None
    assert tree.path(CgroupKey(0, -1)) is None
    assert tree.key(99, "/a") is None


def test_of_too_many_removed_cgroups_the_oldest_are_forgotten(clock: Clock) -> None:
    tree = CgroupTree(NOWHERE, clock=clock, max_removed=3)
    for number in range(5):
        assert tree.apply([removed(number, f"/{number}")]) == [CgroupKey(0, number)]
    assert [tree.path(CgroupKey(0, number)) for number in range(5)] == [
        None,
        None,
        "/2",
        "/3",
        "/4",
    ]


def test_a_storm_of_cgroups_takes_bounded_memory(clock: Clock) -> None:
    """100,000 in ten minutes: 10,000 pods' worth of paths a minute, none old enough to forget."""
    tree = CgroupTree(NOWHERE, clock=clock)
    tail = "kubepods.slice/kubepods-burstable.slice/" + "x" * 160
    tracemalloc.start()
    try:
        for number in range(100_000):
            path = f"/{tail}/{number}"
            tree.apply([created(number, path), removed(number, path)])
            clock.now += 0.006
        used, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tree) == 0
    assert peak < 12e6, f"{used / 1e6:.1f} MB, {peak / 1e6:.1f} MB at most"
    assert tree.path(CgroupKey(0, 99_999)) == f"/{tail}/99999"


def test_live_cgroups_whose_removal_is_never_told_take_bounded_memory(clock: Clock) -> None:
    tree = CgroupTree(NOWHERE, clock=clock, max_live=100)
    tree.apply([created(number, f"/{number}") for number in range(1000)])
    assert len(tree) <= 100
    assert tree.path(CgroupKey(0, 999)) == "/999"


def test_paths_beyond_path_max_are_cut(tree: CgroupTree) -> None:
    tree.apply([created(7, "/" + "x" * 100_000), removed(8, "/" + "y" * 100_000)])
    for number in (7, 8):
        assert len(tree.path(CgroupKey(0, number)) or "") == 4096


def test_nothing_is_opened_before_the_first_use(tmp_path: Path) -> None:
    hierarchies = Hierarchies(Mode.V2, (Hierarchy(0, "", tmp_path / "later"),))
    before = open_files()
    with CgroupTree(hierarchies) as tree:
        assert open_files() == before
        (tmp_path / "later" / "a").mkdir(parents=True)
        tree.scan()
        assert open_files() > before
        assert tree.key(0, "/a") is not None
    assert open_files() == before


def test_a_mount_that_cannot_be_opened_leaves_the_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hierarchies = Hierarchies(Mode.V2, (Hierarchy(0, "", tmp_path / "gone"),))
    with CgroupTree(hierarchies) as tree:
        tree.scan()
        tree.apply([created(7, "/a")])
        assert tree.path(CgroupKey(0, 7)) == "/a"
        assert tree.rescan() == []
        assert tree.path(CgroupKey(0, 7)) == "/a"
    assert str(tmp_path / "gone") in caplog.text


PATHS = st.sampled_from(["/a", "/a/b", "/a/b/c", "/ab", "/d", "/d/a"])
EVENTS = st.builds(
    CgroupEvent,
    st.sampled_from(CgroupChange),
    st.builds(CgroupKey, st.integers(0, 1), st.integers(1, 6)),
    PATHS,
)


@given(st.lists(st.lists(EVENTS, max_size=8), max_size=6))
def test_any_events_in_any_batches_leave_what_was_said_last(
    batches: list[list[CgroupEvent]],
) -> None:
    """Against a table that is updated in the plainest way."""
    live: dict[CgroupKey, str] = {}
    gone: dict[CgroupKey, str] = {}
    told: list[CgroupKey] = []
    tree = CgroupTree(NOWHERE, clock=Clock())
    for batch in batches:
        told += tree.apply(batch)
        for change, key, path in batch:
            if key in gone:
                continue
            if change is CgroupChange.REMOVED:
                gone[key] = path
                live.pop(key, None)
                continue
            if change is CgroupChange.RENAMED and (old := live.get(key)):
                for other, known in live.items():
                    if other.hierarchy == key.hierarchy and known.startswith(old + "/"):
                        live[other] = path + known.removeprefix(old)
            live[key] = path
    assert sorted(told) == sorted(gone)
    for key, path in (live | gone).items():
        assert tree.path(key) == path
        assert tree.is_removed(key) == (key in gone)


# Real cgroups from here on.


@pytest.fixture(params=EACH_HIERARCHY)
def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    assert isinstance(request.param, Hierarchy)
    return request.param


@pytest.fixture
def top(hierarchy: Hierarchy) -> Iterator[Path]:
    with cgroup_in(hierarchy) as path:
        yield path


@pytest.fixture
def handles() -> CountedHandles:
    return CountedHandles()


@pytest.fixture
def real(hierarchy: Hierarchy, clock: Clock, handles: CountedHandles) -> Iterator[CgroupTree]:
    hierarchies = Hierarchies(Mode.HYBRID, (hierarchy,))
    with CgroupTree(
        hierarchies, clock=clock, retention=RETENTION, retry=RETRY, handles=handles
    ) as opened:
        yield opened


def key_of(hierarchy: Hierarchy, directory: Path) -> CgroupKey:
    return CgroupKey(hierarchy.id, directory.stat().st_ino)


def test_a_scan_finds_what_was_there_before(
    hierarchy: Hierarchy, top: Path, real: CgroupTree, handles: CountedHandles
) -> None:
    inner = top / "with space" / "inner"
    inner.mkdir(parents=True)
    real.scan()
    assert real.path(key_of(hierarchy, inner)) == path_in(hierarchy, inner)
    assert real.path(CgroupKey(hierarchy.id, 1)) == "/"
    assert handles.opened == 0


def test_an_id_that_no_event_told_is_asked_of_the_kernel_once(
    hierarchy: Hierarchy, top: Path, real: CgroupTree, handles: CountedHandles
) -> None:
    key = key_of(hierarchy, top)
    for _ in range(3):
        assert real.path(key) == path_in(hierarchy, top)
    assert handles.opened == 1


def test_an_unknown_id_is_asked_again_only_after_a_while(
    hierarchy: Hierarchy, real: CgroupTree, clock: Clock, handles: CountedHandles
) -> None:
    key = CgroupKey(hierarchy.id, 2**40)
    for _ in range(12):
        assert real.path(key) is None
        clock.now += 5
    assert handles.opened == 1
    assert real.path(key) is None
    assert handles.opened == 2


def test_an_event_makes_an_unknown_id_known_at_once(hierarchy: Hierarchy, real: CgroupTree) -> None:
    key = CgroupKey(hierarchy.id, 2**40)
    assert real.path(key) is None
    real.apply([created(key.id, "/late", key.hierarchy)])
    assert real.path(key) == "/late"


def test_a_created_event_without_a_path_is_completed_by_the_kernel(
    hierarchy: Hierarchy, top: Path, real: CgroupTree
) -> None:
    key = key_of(hierarchy, top)
    real.apply([created(key.id, "", key.hierarchy)])
    assert real.path(key) == path_in(hierarchy, top)


def test_a_cgroup_made_again_does_not_get_the_old_ones_id(
    hierarchy: Hierarchy, top: Path, real: CgroupTree
) -> None:
    keys = []
    for _ in range(50):
        directory = top / "again"
        directory.mkdir()
        key = key_of(hierarchy, directory)
        real.apply([created(key.id, path_in(hierarchy, directory), key.hierarchy)])
        directory.rmdir()
        assert real.apply([removed(key.id, path_in(hierarchy, directory), key.hierarchy)]) == [key]
        keys.append(key)
    assert len(set(keys)) == len(keys)
    assert {real.path(key) for key in keys} == {path_in(hierarchy, top / "again")}


def test_a_rescan_tells_what_went_unseen_and_finds_what_came(
    hierarchy: Hierarchy, top: Path, real: CgroupTree, clock: Clock
) -> None:
    for name in ("stays", "goes", "goes/too"):
        (top / name).mkdir()
    real.scan()
    stays, goes, too = (key_of(hierarchy, top / name) for name in ("stays", "goes", "goes/too"))
    (top / "goes" / "too").rmdir()
    (top / "goes").rmdir()
    (top / "comes").mkdir()
    assert sorted(real.rescan()) == sorted([goes, too])
    assert real.path(goes) == path_in(hierarchy, top / "goes")
    assert real.is_removed(too)
    assert real.path(stays) == path_in(hierarchy, top / "stays")
    assert real.path(key_of(hierarchy, top / "comes")) == path_in(hierarchy, top / "comes")
    assert real.rescan() == []
    # The events that were only late, not lost, change nothing.
    late = [created(goes.id, "/x", goes.hierarchy), removed(goes.id, "/x", goes.hierarchy)]
    assert real.apply(late) == []
    assert real.path(goes) == path_in(hierarchy, top / "goes")
    clock.now += RETENTION
    assert real.path(goes) is None


def test_a_rescan_also_tells_ids_that_nothing_ever_named(
    hierarchy: Hierarchy, top: Path, real: CgroupTree
) -> None:
    """Created and removed while events were lost, but counted: its room can be given back."""
    directory = top / "unseen"
    directory.mkdir()
    key = key_of(hierarchy, directory)
    directory.rmdir()
    assert real.path(key) is None
    assert real.rescan() == [key]
    assert real.rescan() == []


def test_a_rescan_that_lacks_descriptors_takes_none_for_gone_and_must_be_done_again(
    hierarchy: Hierarchy, top: Path, real: CgroupTree
) -> None:
    (top / "stays").mkdir()
    real.scan()
    (top / "comes").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert real.rescan() == []
        meanwhile = real.must_rescan
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert real.rescan() == []
    assert (meanwhile, real.must_rescan) == (True, False)
    assert {path for _, path in real.items()} >= {
        path_in(hierarchy, top / name) for name in ("stays", "comes")
    }


@pytest.mark.parametrize("hierarchy", V1_HIERARCHIES, indirect=True)  # v2 has no rename
def test_a_rescan_follows_a_rename(hierarchy: Hierarchy, top: Path, real: CgroupTree) -> None:
    (top / "old" / "inner").mkdir(parents=True)
    real.scan()
    (top / "old").rename(top / "new")
    inner = key_of(hierarchy, top / "new" / "inner")
    assert real.path(inner) == path_in(hierarchy, top / "old" / "inner")
    assert real.rescan() == []
    assert real.path(inner) == path_in(hierarchy, top / "new" / "inner")


def test_without_the_capability_one_walk_serves_all_ids(
    hierarchy: Hierarchy, top: Path, clock: Clock
) -> None:
    handles = CountedHandles(refuse=True)
    hierarchies = Hierarchies(Mode.HYBRID, (hierarchy,))
    with CgroupTree(hierarchies, clock=clock, retry=RETRY, handles=handles) as tree:
        first, second = top / "first", top / "second"
        for directory in (first, second):
            directory.mkdir()
        assert tree.path(key_of(hierarchy, first)) == path_in(hierarchy, first)
        assert tree.path(key_of(hierarchy, second)) == path_in(hierarchy, second)
        later = top / "later"
        later.mkdir()
        assert tree.path(key_of(hierarchy, later)) is None
        assert handles.opened == 1
        clock.now += RETRY
        assert tree.path(key_of(hierarchy, later)) == path_in(hierarchy, later)
        assert handles.opened == 1
        gone = key_of(hierarchy, later)
        later.rmdir()
        assert tree.rescan() == [gone]
        assert handles.opened == 1


def test_after_close_known_paths_stay_and_nothing_is_asked(
    hierarchy: Hierarchy, top: Path, real: CgroupTree
) -> None:
    real.scan()
    real.close()
    real.close()
    assert real.path(key_of(hierarchy, top)) == path_in(hierarchy, top)
    assert real.path(CgroupKey(hierarchy.id, 2**40)) is None
    assert real.rescan() == []


def test_a_processes_cgroups_have_their_keys(
    hierarchy: Hierarchy, top: Path, real: CgroupTree
) -> None:
    container = top / f"docker-{'a' * 64}.scope" / "in side"
    container.mkdir(parents=True)
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            (container / "cgroup.procs").write_text(str(process.pid))
            best, *others = real.of_pid(process.pid)
        finally:
            process.kill()
    assert (best.path, best.key) == (path_in(hierarchy, container), key_of(hierarchy, container))
    assert best.reference.container_id == "a" * 64
    assert all(other.key is None for other in others)
    assert real.key(hierarchy.id, path_in(hierarchy, container)) == best.key
