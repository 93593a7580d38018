# SPDX-License-Identifier: Apache-2.0
"""The pods of this node, found by container id and by uid, also for a while after they are gone."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set

    from cap_exporter.model import Container, Pod


class Found(NamedTuple):
    """Whose container id it is."""

    pod: Pod
    container: Container
    current: bool
    """False for a container that has ended and been replaced under the same name."""


class StoreSize(NamedTuple):
    """How much a store holds."""

    pods: int
    """Pods that are there."""
    deleted: int
    """Pods that are gone and still found."""
    container_ids: int
    refused: int
    """Pods that were not taken for want of room, since the store was made."""


class PodStore:
    """Pods by uid and by container id. Thread-safe: one thread writes, any may read.

    A deleted pod, and a container id that its pod no longer names, are found for `retention`
    seconds more, so that the last counts of a container find their pod. At most `max_pods` pods
    are held: beyond, the deleted ones go first, then new ones are refused and counted.

    `clock` gives seconds since the epoch for Pod.deleted_at; `monotonic` gives seconds of a clock
    that never jumps, for the retention.
    """

    def __init__(
        self,
        *,
        retention: float = 600.0,
        max_pods: int = 20_000,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retention = retention
        self._max_pods = max_pods
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._uid_of_cgroup_uid: dict[str, str] = {}
        self._containers: dict[str, tuple[str, Container]] = {}
        # Both in the order of their deadlines, which are in monotonic seconds.
        self._deleted: OrderedDict[str, float] = OrderedDict()
        self._retired_ids: deque[tuple[float, str, str]] = deque()
        self._refused = 0
        self._generation = 0

    # Reading

    @property
    def generation(self) -> int:
        """Grows with each change: while it stays, looking up again gives the same answers."""
        with self._lock:
            return self._generation

    def by_container_id(self, container_id: str) -> Found | None:
        """The pod and container of an id without the ``containerd://`` prefix."""
        with self._lock:
            self._expire()
            uid, container = self._containers.get(container_id, (None, None))
            pod = self._pods.get(uid) if uid is not None else None
            if pod is None or container is None:
                return None
            current = container.container_id == container_id and container in pod.containers
            return Found(pod, container, current)

    def by_uid(self, uid: str) -> Pod | None:
        """The pod of an API uid or, for a static pod, of the uid in its cgroup's path."""
        with self._lock:
            self._expire()
            # A pod's own uid comes first: the other form is an annotation, which people can write.
            return self._pods.get(uid) or self._pods.get(self._uid_of_cgroup_uid.get(uid, ""))

    def pods(self) -> list[Pod]:
        """The pods that are there, without the deleted ones."""
        with self._lock:
            return [pod for pod in self._pods.values() if pod.deleted_at is None]

    def size(self) -> StoreSize:
        with self._lock:
            self._expire()
            return StoreSize(
                pods=len(self._pods) - len(self._deleted),
                deleted=len(self._deleted),
                container_ids=len(self._containers),
                refused=self._refused,
            )

    # Writing

    def apply(self, pod: Pod) -> None:
        """Take a pod that is there: a new one, or one that was known, as it is now."""
        with self._lock:
            self._expire()
            self._apply(pod)

    def remove(self, uid: str) -> None:
        """The pod is gone. It is found for a while more. Unknown uids are ignored."""
        with self._lock:
            self._expire()
            self._remove(uid)

    def keep_only(self, uids: Set[str]) -> None:
        """A complete list of pods had these uids: all others are gone."""
        with self._lock:
            self._expire()
            for uid in [uid for uid in self._pods if uid not in uids]:
                self._remove(uid)

    def expire(self) -> None:
        """Forget what has been gone for long enough. Every other call does that too."""
        with self._lock:
            self._expire()

    def _apply(self, pod: Pod) -> None:
        known = self._pods.get(pod.uid)
        if known == pod:
            return
        if known is None and not self._make_room():
            self._refused += 1
            return
        self._generation += 1
        self._pods[pod.uid] = pod
        self._deleted.pop(pod.uid, None)
        if known is not None and known.cgroup_uid != pod.cgroup_uid:
            self._release_claim(known)
        if pod.cgroup_uid:
            self._claim(pod)
        for container_id, container in _ids(pod):
            self._containers[container_id] = (pod.uid, container)
        if known is not None:
            named = {container_id for container_id, _ in _ids(pod)}
            deadline = self._monotonic() + self._retention
            for container_id, _ in _ids(known):
                if container_id not in named:
                    self._retired_ids.append((deadline, container_id, pod.uid))

    def _make_room(self) -> bool:
        if len(self._pods) < self._max_pods:
            return True
        if not self._deleted:
            return False
        uid, _ = self._deleted.popitem(last=False)
        self._forget(uid)
        return True

    def _remove(self, uid: str) -> None:
        pod = self._pods.get(uid)
        if pod is None or pod.deleted_at is not None:
            return
        self._generation += 1
        self._pods[uid] = replace(pod, deleted_at=self._clock())
        self._deleted[uid] = self._monotonic() + self._retention
        if pod.cgroup_uid:
            # A list shows a static pod's new copy in the API before it is known that the old one
            # is gone.
            for other in self._pods.values():
                if other.cgroup_uid == pod.cgroup_uid and other.deleted_at is None:
                    self._claim(other)

    def _expire(self) -> None:
        now = self._monotonic()
        while self._deleted:
            uid, deadline = next(iter(self._deleted.items()))
            if deadline > now:
                break
            del self._deleted[uid]
            self._forget(uid)
        # A container that restarts all the time retires ids faster than any real node does.
        while self._retired_ids and (
            self._retired_ids[0][0] <= now or len(self._retired_ids) > 4 * self._max_pods
        ):
            _, container_id, uid = self._retired_ids.popleft()
            pod = self._pods.get(uid)
            if pod is None or all(container_id != named for named, _ in _ids(pod)):
                self._drop_id(container_id, uid)

    def _forget(self, uid: str) -> None:
        pod = self._pods.pop(uid)
        self._generation += 1
        self._release_claim(pod)
        for container_id, _ in _ids(pod):
            self._drop_id(container_id, uid)

    def _claim(self, pod: Pod) -> None:
        """While a pod that is there has the cgroup uid it keeps it: nobody takes a static pod's
        counts by copying its annotation."""
        holder = self._pods.get(self._uid_of_cgroup_uid.get(pod.cgroup_uid, ""))
        if holder is None or holder.deleted_at is not None:
            self._uid_of_cgroup_uid[pod.cgroup_uid] = pod.uid

    def _release_claim(self, pod: Pod) -> None:
        if self._uid_of_cgroup_uid.get(pod.cgroup_uid) == pod.uid:
            del self._uid_of_cgroup_uid[pod.cgroup_uid]

    def _drop_id(self, container_id: str, uid: str) -> None:
        entry = self._containers.get(container_id)
        if entry is not None and entry[0] == uid:
            del self._containers[container_id]
            self._generation += 1


def _ids(pod: Pod) -> Iterator[tuple[str, Container]]:
    for container in pod.containers:
        if container.container_id:
            yield container.container_id, container
        for container_id in container.previous_ids:
            yield container_id, container
