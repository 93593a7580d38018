# SPDX-License-Identifier: Apache-2.0
"""Profiles from what a Prometheus has stored: the same document as a running exporter's, of all
nodes and of pods that have gone. What the metrics do not say (users, no_new_privs, whether a start
was seen, what pods declare) is null in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cap_exporter.capabilities import KNOWN
from cap_exporter.fleet.counting import Growth, Target, Walk, one_of, quoted, target_of
from cap_exporter.fleet.prometheus import Prometheus, PrometheusError, TooBig
from cap_exporter.labels import HELPER, OVERFLOW
from cap_exporter.profiles.profile import utc

CHECKS = "capability_checks_total"
BACKGROUND = "capability_background_checks_total"
INFO = "capability_container_info"
GRANTED = "capability_container_granted"
#: kube-state-metrics': the only place in a Prometheus that tells init containers from others.
INIT = "kube_pod_init_container_info"

#: Labels that tell the servers of a highly available pair apart, in Prometheus Operator, Thanos
#: and Mimir: what they scraped is the same.
REPLICA_LABELS = frozenset({"prometheus_replica", "replica", "__replica__"})

#: More pods than this are not named in a query.
_MOST_PODS = 200

_NUMBER = {name: number for number, name in enumerate(KNOWN)}


class Place(NamedTuple):
    """A container's name: of a pod's container, of a unit on all nodes, …"""

    namespace: str
    pod: str
    container: str
    workload_kind: str = ""
    workload: str = ""
    """Only where series have no pod (`run --labels`): then these tell containers apart."""


class Counted(NamedTuple):
    field: str
    capability: str
    """In which part of the profile."""


@dataclass(slots=True)
class _Account:
    first: float
    last: float
    ids: dict[str, float] = field(default_factory=dict)
    """Container ids, and when each was last seen."""
    info: dict[str, str] = field(default_factory=dict)
    #: By the Prometheus that scraped it: see REPLICA_LABELS.
    counts: dict[tuple[str, ...], dict[Counted, int]] = field(default_factory=dict)
    bounding: set[str] = field(default_factory=set)
    targets: set[Target] = field(default_factory=set)
    running: bool = False

    def seen(self, first: float, last: float) -> None:
        self.first, self.last = min(self.first, first), max(self.last, last)


class Wanted(NamedTuple):
    """What profiles are asked for. Empty: all."""

    namespaces: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    matchers: tuple[str, ...] = ()
    """More label matchers of PromQL, e.g. ``cluster="prod"``."""


class History(NamedTuple):
    document: dict[str, Any]
    warnings: list[str]


def profiles(
    server: Prometheus,
    since: float,
    until: float,
    wanted: Wanted,
    *,
    background: bool,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> History:
    """Of this window (seconds since the epoch). background: also count background checks, which
    are most of all series; progress: how much is done, 0…1. Raises PrometheusError."""
    steps = 4 if background else 3
    done = [0]

    def on_chunk(fraction: float) -> None:
        progress(min(1.0, (done[0] + fraction) / steps))

    walk = Walk(server, since, until, matchers=wanted.matchers, on_chunk=on_chunk)
    _check_labels(walk)
    made = _Profiles(walk, wanted)
    made.read_info()
    done[0] += 1
    matchers = made.matchers()
    overflowed = made.count(CHECKS, matchers)
    done[0] += 1
    if background:
        made.count(BACKGROUND, matchers)
        done[0] += 1
    made.read_granted(matchers)
    said = (f"{server.url} says: {one}" for one in sorted(server.warnings))
    return History(made.document(overflowed), [*made.warnings(), *said])


def _check_labels(walk: Walk) -> None:
    """Raises PrometheusError where the containers' labels are not what they should be."""
    if any(True for _ in walk.present(INFO, 'exported_container!=""')):
        raise PrometheusError(
            "the series carry exported_container: Prometheus has put the exporter's own pod where "
            "the container's names belong. Scrape with honor_labels: true (honorLabels in a "
            "PodMonitor)"
        )


class _Profiles:
    def __init__(self, walk: Walk, wanted: Wanted) -> None:
        self._walk = walk
        self._wanted = wanted
        self._accounts: dict[Place, _Account] = {}
        self._init: set[Place] = set()
        self._carried: set[Place] = set()
        self._knows_init = False

    def read_info(self) -> None:
        for growth in self._walk.grow(INFO, *self._by_name()):
            labels = growth.labels
            account = self._account(growth)
            container_id = labels.get("container_id", "")
            known = account.ids.get(account.info.get("container_id", ""), 0.0)
            account.ids[container_id] = max(growth.last, account.ids.get(container_id, 0.0))
            if not account.info or growth.last >= known:
                account.info = labels
        if not self._accounts and not any(True for _ in self._walk.present(INFO)):
            raise PrometheusError(
                f"there is no {INFO} in this time: is cap-exporter scraped by this Prometheus, and "
                "does it keep data for so long?"
            )
        walk = self._walk
        for one in walk.vector(walk.selector(INFO, *self._by_name()), walk.until):
            place = _place(one.labels)
            if place in self._accounts:
                self._accounts[place].running = True
                self._accounts[place].last = walk.until
        # Of all pods' where no name is asked for: better without than not at all.
        with contextlib.suppress(TooBig):
            for labels in walk.present(INIT, *self._by_name()):
                self._knows_init = True
                self._init.add(_place(labels))

    def _by_name(self) -> Iterator[str]:
        if self._wanted.namespaces:
            yield one_of("namespace", self._wanted.namespaces)
        if self._wanted.pods:
            yield one_of("pod", self._wanted.pods)

    def matchers(self) -> list[str]:
        """For the counters: the pods of the workloads, where they are few."""
        found = list(self._by_name())
        if self._wanted.workloads and not self._wanted.pods:
            pods = {
                place.pod
                for place, account in self._accounts.items()
                if _is_of(place, account, self._wanted.workloads)
            }
            if "" not in pods and len(pods) <= _MOST_PODS:
                found.append(one_of("pod", sorted(pods)))
        return found

    def count(self, metric: str, matchers: Collection[str]) -> set[Target]:
        """Adds a counter up. Returns the exporters that had no room for all of it."""
        overflowed = set()
        for growth in self._walk.grow(metric, *matchers):
            labels = growth.labels
            if labels.get("container") == OVERFLOW and growth.increase:
                overflowed.add(target_of(labels))
            account = self._account(growth)
            if growth.carried and growth.increase:
                self._carried.add(_place(labels))
            if growth.increase:
                replica = tuple(labels.get(name, "") for name in sorted(REPLICA_LABELS))
                counts = account.counts.setdefault(replica, {})
                what = Counted(_field(labels), labels.get("capability", ""))
                counts[what] = counts.get(what, 0) + growth.increase
        if metric == CHECKS and self._wanted != Wanted():
            # Its labels are empty: a choice of names leaves it out.
            for growth in self._walk.grow(metric, f"container={quoted(OVERFLOW)}"):
                if growth.increase:
                    overflowed.add(target_of(growth.labels))
        return overflowed

    def read_granted(self, matchers: Collection[str]) -> None:
        for labels in self._walk.present(GRANTED, *matchers):
            account = self._accounts.get(_place(labels))
            if account is not None:
                account.bounding.add(labels.get("capability", ""))

    def _account(self, growth: Growth) -> _Account:
        place = _place(growth.labels)
        account = self._accounts.get(place)
        if account is None:
            account = self._accounts[place] = _Account(growth.first, growth.last)
        account.seen(growth.first, growth.last)
        account.targets.add(target_of(growth.labels))
        return account

    def document(self, overflowed: set[Target]) -> dict[str, Any]:
        found = [
            self._profile(place, account, overflowed)
            for place, account in sorted(self._accounts.items())
            if place.container not in (OVERFLOW, HELPER) and place.container
        ]
        return {"containers": found}

    def _profile(self, place: Place, account: _Account, overflowed: set[Target]) -> dict[str, Any]:
        info = account.info
        parts: dict[str, dict[str, int]] = {}
        for what, n in _once(account.counts.values()).items():
            parts.setdefault(what.field, {})[what.capability] = n
        parts = {field: _by_number(counts) for field, counts in parts.items()}
        return {
            "container_id": info.get("container_id", ""),
            "namespace": place.namespace,
            "pod": place.pod,
            "container": place.container,
            **{name: info.get(name, "") for name in ("cgroup", "image", "runtime")},
            "workload_kind": place.workload_kind or info.get("workload_kind", ""),
            "workload": place.workload or info.get("workload", ""),
            "kind": "init" if place in self._init else "container",
            "used": parts.get("used", {}),
            "denied": parts.get("denied", {}),
            "in_user_namespace": {
                "used": parts.get("inner used", {}),
                "denied": parts.get("inner denied", {}),
            },
            "background": {
                field.removeprefix("background "): counts
                for field, counts in sorted(parts.items())
                if field.startswith("background ")
            },
            "asked_by": {},
            "granted": _granted(account.bounding),
            "declared": None,
            "first_seen": utc(account.first),
            "last_seen": utc(account.last),
            "running": account.running,
            "restarts": max(0, len(account.ids) - 1),
            "start_seen": None,
            "complete": not account.targets & overflowed,
        }

    def warnings(self) -> Iterator[str]:
        if self._carried:
            names = ", ".join(
                "/".join(filter(None, place[:3])) for place in sorted(self._carried)[:3]
            )
            more = f" and {len(self._carried) - 3} more" if len(self._carried) > 3 else ""
            yield (
                f"counts of {names}{more} may be older than the window: their exporter ran before "
                "it, and Prometheus has no earlier scrape of it"
            )
        if self._accounts and not self._knows_init and any(place.pod for place in self._accounts):
            yield (
                "init containers cannot be told from others, since there is no "
                f"{INIT} (kube-state-metrics): look at the names before a patch is applied"
            )


def _place(labels: dict[str, str]) -> Place:
    names = Place._fields[: 3 if labels.get("pod") else 5]
    return Place(*(labels.get(name, "") for name in names))


def _is_of(place: Place, account: _Account, workloads: Iterable[str]) -> bool:
    info = account.info
    name = f"{info.get('workload_kind', '')}/{info.get('workload', '')}".lower()
    return any(one.lower() in (name, f"{place.namespace}/{name}") for one in workloads)


def _field(labels: dict[str, str]) -> str:
    if "reason" in labels:
        return f"background {labels['reason']}"
    field = "used" if labels.get("verdict") == "allowed" else "denied"
    return field if labels.get("user_namespace") == "init" else f"inner {field}"


def _once(several: Iterable[dict[Counted, int]]) -> dict[Counted, int]:
    """What several Prometheus saw of the same: the one that saw most."""
    found: dict[Counted, int] = {}
    for counts in several:
        for what, n in counts.items():
            found[what] = max(n, found.get(what, 0))
    return found


def _by_number(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda one: (_NUMBER.get(one[0], 64), one[0])))


def _granted(bounding: set[str]) -> dict[str, Any] | None:
    if not bounding:
        return None
    return {
        "bounding": sorted(bounding, key=lambda name: (_NUMBER.get(name, 64), name)),
        "permitted": None,
        "effective": None,
        "ambient": None,
        "inheritable": None,
        "uids": None,
        "no_new_privs": None,
        "user_namespace_is_host": None,
    }
