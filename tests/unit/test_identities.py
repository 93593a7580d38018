# SPDX-License-Identifier: Apache-2.0
"""Whose checks they are, and what happens to those that come before their pod is known."""

from __future__ import annotations

from cap_exporter.identities import LAST_NEWS, PATH_PATIENCE, UNKNOWN, Identities
from cap_exporter.model import (
    OVERFLOW,
    CgroupKey,
    CheckClass,
    CheckKey,
    Container,
    Identity,
    Pod,
    UserNamespace,
    Verdict,
)
from cap_exporter.pods.store import PodStore

UID = "4a163a05-439d-484b-8e53-2968bc15824f"
ID = "cde6dfaf5007ed65aad2d6aed72af91b0f3d95813492f773286e29ae145d20f4"
PATH = f"/kubepods/burstable/pod{UID}/{ID}"
CGROUP = CgroupKey(0, 5)


class Paths:
    def __init__(self, paths: dict[CgroupKey, str]) -> None:
        self.paths = paths

    def path(self, key: CgroupKey) -> str | None:
        return self.paths.get(key)


def key(cgroup: CgroupKey = CGROUP, capability: int = 21) -> CheckKey:
    return CheckKey(cgroup, capability, Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL)


def pod(*containers: Container) -> Pod:
    return Pod(UID, "shop", "api-1", "Deployment", "api", containers=containers)


def labels(identity: Identity | None) -> tuple[str, str, str] | None:
    return None if identity is None else (identity.namespace, identity.pod, identity.container)


def test_a_host_without_kubernetes_names_everything_at_once() -> None:
    paths = {
        CgroupKey(0, 1): "/",
        CgroupKey(0, 2): "/system.slice/ssh.service",
        CgroupKey(0, 3): f"/docker/{ID}",
        CgroupKey(0, 4): PATH,
        CgroupKey(0, 5): "/lxc.payload.focal/init.scope",
    }
    identities = Identities(Paths(paths))
    named = {cgroup.id: labels(identities.identity(cgroup)) for cgroup in paths}
    assert named == {
        1: ("", "", "(host)"),
        2: ("", "", "ssh.service"),
        3: ("", "", ID[:12]),
        4: ("", "", ID[:12]),
        5: ("", "", "focal"),
    }
    assert labels(identities.identity(OVERFLOW)) == ("", "", "(overflow)")
    assert identities.unresolved == 0


def test_checks_wait_for_their_pod_and_come_out_under_it_with_nothing_lost() -> None:
    store = PodStore()
    identities = Identities(Paths({CGROUP: PATH}), store)
    assert list(identities.rows([(key(), 3)], 0.0)) == []
    assert list(identities.rows([(key(), 4), (key(capability=1), 1)], 5.0)) == []
    store.apply(pod(Container("api", ID, "containerd", "image:1")))
    rows = list(identities.rows([(key(), 2)], 6.0))
    assert {labels(row.identity) for row in rows} == {("shop", "api-1", "api")}
    assert sum(row.checks for row in rows if row.key.capability == 21) == 9
    assert sum(row.checks for row in rows) == 10
    assert identities.unresolved == 0


def test_a_pod_that_never_comes_leaves_its_checks_under_the_ids_they_have() -> None:
    identities = Identities(Paths({CGROUP: PATH}), PodStore(), patience=60)
    assert list(identities.rows([(key(), 3)], 0.0)) == []
    assert list(identities.rows([], 59.0)) == []
    (row,) = identities.rows([], 60.0)
    assert labels(row.identity) == ("", UID, ID[:12])
    assert row.checks == 3
    assert identities.given_up == 1
    assert identities.unresolved == 1
    # What comes later goes there at once.
    assert [row.checks for row in identities.rows([(key(), 2)], 61.0)] == [2]


def test_a_pod_that_comes_after_all_gets_the_checks_from_then_on() -> None:
    store = PodStore()
    identities = Identities(Paths({CGROUP: PATH}), store, patience=0)
    list(identities.rows([(key(), 1)], 0.0))
    store.apply(pod(Container("api", ID)))
    (row,) = identities.rows([(key(), 1)], 1.0)
    assert labels(row.identity) == ("shop", "api-1", "api")
    assert identities.unresolved == 0


def test_the_sandbox_of_a_known_pod_has_no_container_name() -> None:
    store = PodStore()
    store.apply(pod(Container("api", "f" * 64)))
    identities = Identities(Paths({CGROUP: PATH}), store, patience=10)
    assert list(identities.rows([(key(), 1)], 0.0)) == []
    (row,) = identities.rows([], 10.0)
    assert labels(row.identity) == ("shop", "api-1", "")


def test_a_container_cannot_pose_as_another_pod_s_by_its_id() -> None:
    """Its path says which pod it is in, and that is not the pod that has the id."""
    store = PodStore()
    store.apply(pod(Container("api", ID)))
    other = f"/kubepods/pod6bd2a4d3-a55a-4450-b6fd-2a7ecc72c904/{ID}"
    identities = Identities(Paths({CGROUP: other}), store)
    assert identities.identity(CGROUP) is None


def test_too_many_that_wait_are_given_up_oldest_first() -> None:
    cgroups = [CgroupKey(0, number) for number in range(2, 7)]
    paths = {c: f"/kubepods/pod{UID}/{c.id:064x}" for c in cgroups}
    identities = Identities(Paths(paths), PodStore(), max_waiting=3)
    rows = [
        row.key.cgroup.id
        for now, cgroup in enumerate(cgroups)
        for row in identities.rows([(key(cgroup), 1)], float(now))
    ]
    assert rows == [2, 3]


def test_a_cgroup_without_a_path_waits_a_little_and_is_then_unknown() -> None:
    identities = Identities(Paths({}))
    assert list(identities.rows([(key(), 2)], 0.0)) == []
    (row,) = identities.rows([], PATH_PATIENCE)
    assert (row.identity.container, row.checks) == (UNKNOWN, 2)


def test_at_the_end_what_waits_comes_out() -> None:
    identities = Identities(Paths({CGROUP: PATH}), PodStore())
    list(identities.rows([(key(), 7)], 0.0))
    assert [row.checks for row in identities.flush()] == [7]
    assert list(identities.flush()) == []


def test_a_removed_cgroup_that_waits_keeps_its_checks() -> None:
    store = PodStore()
    identities = Identities(Paths({CGROUP: PATH}), store)
    list(identities.rows([(key(), 7)], 0.0))
    identities.forget([CGROUP])
    store.apply(pod(Container("api", ID)))
    assert [labels(row.identity) for row in identities.rows([], 1.0)] == [("shop", "api-1", "api")]


def test_what_is_removed_while_it_waits_leaves_nothing_behind() -> None:
    identities = Identities(Paths({}))
    assert list(identities.rows([(key(), 5)], 0.0)) == []
    identities.forget([CGROUP])
    assert [row.checks for row in identities.rows([], LAST_NEWS)] == [5]
    assert identities.unresolved == 0


def test_checks_wait_for_the_name_that_an_engine_is_asked_for() -> None:
    cgroup = CgroupKey(0, 7)
    names: dict[str, str] = {}
    paths = Paths({cgroup: f"/docker/{'a' * 64}"})
    identities = Identities(paths, name_of=names.get)
    key = CheckKey(cgroup, 13, Verdict.ALLOWED, UserNamespace.INIT, CheckClass.MEANINGFUL)
    assert list(identities.rows([(key, 5)], 0.0)) == []
    names["a" * 64] = "web"
    (row,) = identities.rows([], 1.0)
    assert (row.identity.container, row.checks) == ("web", 5)


def test_an_engine_that_knows_no_name_leaves_the_short_id() -> None:
    cgroup = CgroupKey(0, 7)
    identities = Identities(Paths({cgroup: f"/docker/{'a' * 64}"}), name_of=lambda _id: "")
    identity = identities.identity(cgroup)
    assert identity is not None
    assert identity.container == "a" * 12
