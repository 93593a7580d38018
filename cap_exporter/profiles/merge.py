# SPDX-License-Identifier: Apache-2.0
"""Profiles of single containers → one per workload and container name: replicas, restarts, nodes
together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Profile = Mapping[str, Any]

_LISTS = ("bounding", "permitted", "effective", "ambient", "inheritable")

#: Executables that are named per capability.
_MOST_ASKERS = 8


def by_workload(profiles: Iterable[Profile]) -> list[dict[str, Any]]:
    """Merged profiles, sorted by name. Each has, instead of ``pod`` and ``container_id``, ``pods``
    (names), ``replicas`` (containers that run) and ``restarts`` (containers that came after another
    of the same pod)."""
    groups: dict[tuple[str, ...], list[Profile]] = {}
    for profile in profiles:
        groups.setdefault(_key(profile), []).append(profile)
    return [_merged(groups[key]) for key in sorted(groups)]


def _key(profile: Profile) -> tuple[str, ...]:
    if profile["workload"]:
        name = (profile["workload_kind"], profile["workload"])
    else:
        # No pod, or one that nobody knows: its containers are nobody else's.
        name = ("", profile["pod"])
    return (profile["namespace"], *name, profile["container"], profile.get("kind", "container"))


def _merged(group: list[Profile]) -> dict[str, Any]:
    last = max(group, key=lambda profile: (profile.get("running", True), profile["first_seen"]))
    places = [
        (profile.get("node", ""), profile["namespace"], profile["pod"], profile["container"])
        for profile in group
    ]
    return {
        "namespace": last["namespace"],
        "workload_kind": last["workload_kind"],
        "workload": last["workload"],
        "container": last["container"],
        "kind": last.get("kind", "container"),
        "image": last.get("image", ""),
        "runtime": last.get("runtime", ""),
        "pods": sorted({profile["pod"] for profile in group if profile["pod"]}),
        "replicas": sum(1 for profile in group if profile.get("running", True)),
        "restarts": len(group)
        - len(set(places))
        + sum(profile.get("restarts", 0) for profile in group),
        "used": sums(profile["used"] for profile in group),
        "denied": sums(profile["denied"] for profile in group),
        "in_user_namespace": {
            "used": sums(profile["in_user_namespace"]["used"] for profile in group),
            "denied": sums(profile["in_user_namespace"]["denied"] for profile in group),
        },
        "background": {
            reason: sums(profile["background"].get(reason, {}) for profile in group)
            for reason in sorted({reason for profile in group for reason in profile["background"]})
        },
        "asked_by": _askers(profile.get("asked_by") or {} for profile in group),
        "granted": _granted([p["granted"] for p in group if p.get("granted")]),
        "declared": last.get("declared"),
        "first_seen": min(profile["first_seen"] for profile in group),
        "last_seen": max(profile["last_seen"] for profile in group),
        "start_seen": _any(profile.get("start_seen", False) for profile in group),
        "complete": all(profile["complete"] for profile in group),
    }


def sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Added up by name; names ascending."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def _askers(several: Iterable[Mapping[str, Iterable[str]]]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for askers in several:
        for capability, names in askers.items():
            found.setdefault(capability, {}).update(dict.fromkeys(names))
    return {capability: list(names)[:_MOST_ASKERS] for capability, names in sorted(found.items())}


def _any(several: Iterable[bool | None]) -> bool | None:
    """None: not known, of a profile from Prometheus' history."""
    some = list(several)
    return True if True in some else None if None in some else False


def _granted(several: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What is not known of one of them is not known of all."""
    if not several:
        return None
    merged: dict[str, Any] = {}
    for field in _LISTS:
        lists = [one[field] for one in several]
        known = None not in lists
        merged[field] = list({name: None for some in lists for name in some}) if known else None
    uids = [one["uids"] for one in several]
    merged["uids"] = None if None in uids else sorted({uid for some in uids for uid in some})
    privileges = [one["no_new_privs"] for one in several]
    merged["no_new_privs"] = None if None in privileges else all(privileges)
    merged["user_namespace_is_host"] = _any(one["user_namespace_is_host"] for one in several)
    return merged
