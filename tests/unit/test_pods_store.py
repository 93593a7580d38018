# SPDX-License-Identifier: Apache-2.0
"""Pods by container id and uid, also for a while after they are gone."""

from __future__ import annotations

from cap_exporter.model import Container, Pod
from cap_exporter.pods.store import PodStore


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def one(uid: str, *ids: str, cgroup_uid: str = "") -> Pod:
    containers = tuple(Container(f"c{i}", container_id) for i, container_id in enumerate(ids))
    return Pod(uid, "default", f"name-{uid}", containers=containers, cgroup_uid=cgroup_uid)


def test_a_deleted_pod_is_found_until_its_time_is_over() -> None:
    clock = Clock()
    store = PodStore(retention=60, monotonic=clock)
    store.apply(one("u", "id"))
    store.remove("u")
    assert store.pods() == []
    assert store.by_container_id("id") is not None
    clock.now += 59
    found = store.by_uid("u")
    assert found is not None
    assert found.deleted_at is not None
    clock.now += 2
    assert store.by_container_id("id") is None
    assert store.by_uid("u") is None
    assert store.size().container_ids == 0


def test_a_restarted_container_is_found_under_both_ids_for_a_while() -> None:
    clock = Clock()
    store = PodStore(retention=60, monotonic=clock)
    store.apply(one("u", "old"))
    store.apply(one("u", "new"))
    old, new = store.by_container_id("old"), store.by_container_id("new")
    assert old is not None
    assert new is not None
    assert (old.current, new.current) == (False, True)
    clock.now += 61
    assert store.by_container_id("old") is None
    assert store.by_container_id("new") is not None


def test_an_id_that_comes_back_before_its_time_is_over_stays() -> None:
    clock = Clock()
    store = PodStore(retention=60, monotonic=clock)
    for ids in ("a", "b", "a"):
        store.apply(one("u", ids))
    clock.now += 61
    assert store.by_container_id("a") is not None


def test_a_complete_list_removes_who_is_not_in_it() -> None:
    store = PodStore()
    for uid in "xyz":
        store.apply(one(uid))
    store.keep_only({"y"})
    assert [pod.uid for pod in store.pods()] == ["y"]
    assert store.size().deleted == 2


def test_the_generation_grows_with_changes_only() -> None:
    store = PodStore()
    store.apply(one("u", "id"))
    before = store.generation
    store.apply(one("u", "id"))
    store.remove("unknown")
    assert store.generation == before
    store.apply(one("u", "id", "id2"))
    assert store.generation > before


def test_room_is_bounded_and_what_is_refused_is_counted() -> None:
    store = PodStore(max_pods=3)
    for uid in "abcde":
        store.apply(one(uid, f"id-{uid}"))
    assert store.size().pods == 3
    assert store.size().refused == 2
    # Deleted ones make room.
    store.remove("a")
    store.apply(one("f", "id-f"))
    assert store.by_uid("a") is None
    assert store.by_container_id("id-f") is not None


def test_a_static_pod_is_found_by_its_hash_and_nobody_takes_that_over() -> None:
    store = PodStore()
    store.apply(one("real", cgroup_uid="hash"))
    store.apply(one("thief", cgroup_uid="hash"))
    found = store.by_uid("hash")
    assert found is not None
    assert found.uid == "real"
    # Its next copy in the API takes it over when it is gone.
    store.remove("real")
    found = store.by_uid("hash")
    assert found is not None
    assert found.uid == "thief"
