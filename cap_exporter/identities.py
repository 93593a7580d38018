# SPDX-License-Identifier: Apache-2.0
"""Whose checks a cgroup's are: path → reference → pod and container.

Checks that come before their pod is known wait, bounded in time and number, so that they are
published under the right name or, when the pod never comes, under the ids they have. Nothing
that waits is ever dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from cap_exporter.cgroups.reference import parse
from cap_exporter.model import (
    OVERFLOW,
    CgroupKey,
    CheckKey,
    Container,
    Identity,
    Pod,
    Reference,
    ReferenceKind,
    Role,
)

HOST = "(host)"
UNKNOWN = "(unknown)"
SHORT_ID = 12

#: Checks for which a cgroup's path never became known, after this time, seconds.
PATH_PATIENCE = 15.0

#: The same where the cgroup is gone: only news that are on their way may still tell it, seconds.
LAST_NEWS = 2.0


class Paths(Protocol):
    """The part of a cgroup tree that is needed here."""

    def path(self, key: CgroupKey) -> str | None: ...


class FoundContainer(Protocol):
    @property
    def pod(self) -> Pod: ...
    @property
    def container(self) -> Container: ...


class Pods(Protocol):
    """The part of a pod store that is needed here."""

    @property
    def generation(self) -> int: ...
    def by_container_id(self, container_id: str) -> FoundContainer | None: ...
    def by_uid(self, uid: str) -> Pod | None: ...


class _Answer(NamedTuple):
    identity: Identity
    settled: bool
    """Nothing that may still come would change it."""
    generation: int
    """Of the pods when it was found out."""


class Row(NamedTuple):
    identity: Identity
    key: CheckKey
    checks: int


class Identities:
    """Names cgroups, and keeps the checks of those that have no name yet.

    ``patience``: seconds that checks wait for their pod. ``max_waiting``: cgroups that may wait
    at one time; the longest waiting are given up first. ``name_of`` may know the name of a
    container that is in no pod (a container engine), by its id: "" where it knows none, None
    where it does not know yet.
    """

    def __init__(
        self,
        paths: Paths,
        pods: Pods | None = None,
        *,
        patience: float = 60.0,
        max_waiting: int = 1000,
        name_of: Callable[[str], str | None] = lambda _container_id: "",
    ) -> None:
        self._paths = paths
        self._pods = pods
        self.patience = patience
        self._max_waiting = max_waiting
        self._name_of = name_of
        self._answers: dict[CgroupKey, _Answer] = {}
        # Oldest first: a dict keeps the order in which cgroups began to wait.
        self._waiting: dict[CgroupKey, tuple[float, dict[CheckKey, int]]] = {}
        #: That wait, and are gone.
        self._forgotten: set[CgroupKey] = set()
        self.given_up = 0
        """Cgroups whose checks were published without the name they should have."""

    @property
    def unresolved(self) -> int:
        """Cgroups with checks whose pod, container or path is not known."""
        return sum(1 for answer in self._answers.values() if not answer.settled)

    def rows(self, increments: Iterable[tuple[CheckKey, int]], now: float) -> Iterator[Row]:
        """Checks under their names: those of ``increments`` that have one, and those that waited
        and have one now, or waited long enough. ``now``: monotonic seconds."""
        for key, count in increments:
            identity = self.identity(key.cgroup)
            if identity is not None:
                yield Row(identity, key, count)
                continue
            self.keep_waiting([(key, count)], now)
        yield from self._ripe(now)

    def _ripe(self, now: float) -> Iterator[Row]:
        excess = len(self._waiting) - self._max_waiting
        for cgroup, (since, held) in list(self._waiting.items()):
            identity = self.identity(cgroup)
            if identity is None:
                path = self._paths.path(cgroup)
                patience = self.patience
                if path is None:
                    patience = LAST_NEWS if cgroup in self._forgotten else PATH_PATIENCE
                if now - since < patience and excess <= 0:
                    continue
                excess -= 1
                self.given_up += 1
                identity = self._give_up(cgroup, path)
            del self._waiting[cgroup]
            for key, count in held.items():
                yield Row(identity, key, count)
            if cgroup in self._forgotten:
                self._forgotten.remove(cgroup)
                self._answers.pop(cgroup, None)

    def assume(self, cgroups: Iterable[CgroupKey], identity: Identity) -> None:
        """Who they were to another process, until something better is known."""
        for cgroup in cgroups:
            self._answers[cgroup] = _Answer(identity, False, -1)

    def waiting(self) -> list[tuple[CheckKey, int]]:
        """Checks that have no name yet."""
        return [(key, n) for _, held in self._waiting.values() for key, n in held.items()]

    def keep_waiting(self, increments: Iterable[tuple[CheckKey, int]], now: float) -> None:
        """Checks of another process that had no name yet; as rows() takes them."""
        for key, count in increments:
            _, held = self._waiting.setdefault(key.cgroup, (now, {}))
            held[key] = held.get(key, 0) + count

    def flush(self) -> Iterator[Row]:
        """All that still waits, under what is known of it: at the end."""
        for cgroup, (_, held) in list(self._waiting.items()):
            identity = self.identity(cgroup) or self._give_up(cgroup, self._paths.path(cgroup))
            del self._waiting[cgroup]
            for key, count in held.items():
                yield Row(identity, key, count)

    def forget(self, cgroups: Iterable[CgroupKey]) -> None:
        """These cgroups are gone for good and counted to the end."""
        for cgroup in cgroups:
            if cgroup in self._waiting:
                self._forgotten.add(cgroup)
            else:
                self._answers.pop(cgroup, None)

    def identity(self, cgroup: CgroupKey) -> Identity | None:
        """Who it is; None: not known yet, its checks had better wait."""
        generation = self._pods.generation if self._pods else 0
        answer = self._answers.get(cgroup)
        if answer is not None and (answer.settled or answer.generation == generation):
            return answer.identity
        found = self._find(cgroup)
        if found is not None:
            self._answers[cgroup] = _Answer(found, True, generation)
            return found
        # Given up before: it keeps that name until the pod comes.
        return answer.identity if answer is not None else None

    def best(self, cgroup: CgroupKey) -> Identity:
        """Who it is as far as is known now."""
        return self.identity(cgroup) or self._give_up(cgroup, self._paths.path(cgroup))

    def _give_up(self, cgroup: CgroupKey, path: str | None) -> Identity:
        """The name that it gets when waiting is over."""
        if path is None:
            identity = Identity(container=UNKNOWN)
        else:
            reference = parse(path)
            pod = self._pods.by_uid(reference.pod_uid or "") if self._pods else None
            if pod is not None:
                # Its pod is known, but no status names this id: the pod's own sandbox (pause).
                identity = in_pod(pod, None, reference, path)
            else:
                identity = without_pod(reference, path)
                if reference.kind is ReferenceKind.POD:
                    identity = _by_uid(identity, reference)
        generation = self._pods.generation if self._pods else 0
        self._answers[cgroup] = _Answer(identity, False, generation)
        return identity

    def _find(self, cgroup: CgroupKey) -> Identity | None:
        if cgroup == OVERFLOW:
            return Identity(container="(overflow)")
        path = self._paths.path(cgroup)
        if path is None:
            return None
        reference = parse(path)
        if reference.kind is ReferenceKind.CONTAINER:
            return self._find_container(reference, path)
        if self._pods is None or reference.kind is not ReferenceKind.POD:
            return without_pod(reference, path)
        if reference.container_id:
            found = self._pods.by_container_id(reference.container_id)
            # The path's pod and the API's must be the same: ids are unique, but a container
            # chooses the names below its own cgroup.
            if found is not None and _same_pod(reference, found.pod):
                return in_pod(found.pod, found.container, reference, path)
        pod = self._pods.by_uid(reference.pod_uid or "")
        if pod is not None and reference.role is Role.POD:
            return in_pod(pod, None, reference, path)
        return None

    def _find_container(self, reference: Reference, path: str) -> Identity | None:
        """One whose path tells of no pod: of an engine, or a pod's by its id alone."""
        container_id = reference.container_id or ""
        if self._pods is not None and container_id:
            found = self._pods.by_container_id(container_id)
            if found is not None:
                return in_pod(found.pod, found.container, reference, path)
            if not reference.runtime:
                return None
        name = self._name_of(container_id) if container_id else ""
        return None if name is None else without_pod(reference, path, name)


def _same_pod(reference: Reference, pod: Pod) -> bool:
    return reference.pod_uid in (None, pod.uid, pod.cgroup_uid or None)


def in_pod(pod: Pod, container: Container | None, reference: Reference, path: str) -> Identity:
    """A container of a pod; ``container`` None: the pod itself, or its sandbox."""
    return Identity(
        namespace=pod.namespace,
        pod=pod.name,
        container=container.name if container else "",
        container_id=reference.container_id or "",
        pod_uid=pod.uid,
        image=container.image if container else "",
        workload_kind=pod.workload_kind,
        workload=pod.workload,
        runtime=(container.runtime if container else "") or reference.runtime or "",
        cgroup=path,
        helper=reference.role is Role.HELPER,
        pod_labels=tuple(sorted(pod.labels.items())),
    )


def without_pod(reference: Reference, path: str, name: str = "") -> Identity:
    """What the path tells by itself: a unit, a container by its id (or the name that its engine
    knows), or the host."""
    container_id = reference.container_id or ""
    if reference.unit:
        container = reference.unit
    elif container_id:
        container = name or _short(container_id)
    elif reference.kind is ReferenceKind.POD:
        container = _short(reference.pod_uid or "")
    else:
        container = HOST
    return Identity(
        container=container,
        container_id=container_id,
        pod_uid=reference.pod_uid or "",
        runtime=reference.runtime or "",
        cgroup=path,
        helper=reference.role is Role.HELPER,
    )


def _by_uid(identity: Identity, reference: Reference) -> Identity:
    from dataclasses import replace

    return replace(identity, pod=reference.pod_uid or "", container=_short(identity.container_id))


def _short(container_id: str) -> str:
    """As `docker ps` and `crictl ps` show ids; names of LXC and Podman stay whole."""
    is_id = len(container_id) >= 32 and all(c in "0123456789abcdef" for c in container_id)
    return container_id[:SHORT_ID] if is_id else container_id
