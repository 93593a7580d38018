# SPDX-License-Identifier: Apache-2.0
"""The profile of a container: which capabilities it used, which it was refused, what it holds and
what its pod declares. schemas/profile.schema.json is the schema of the document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cap_exporter.capabilities import name_of, names_of
from cap_exporter.labels import label_value
from cap_exporter.ledger import Account
from cap_exporter.model import (
    CheckClass,
    Container,
    Granted,
    Identity,
    Pod,
    PodSecurity,
    UserNamespace,
    Verdict,
)


class Declared(NamedTuple):
    """What the API says of a container."""

    pod: Pod
    container: Container


def nothing_declared(_identity: Identity) -> Declared | None:
    """Without the Kubernetes API."""
    return None


def no_askers(_identity: Identity) -> dict[str, list[str]]:
    """Without events."""
    return {}


def profile_of(
    account: Account,
    declared: Declared | None = None,
    asked_by: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    """One container as a JSON object. ``used`` and ``denied`` are the checks that mean something,
    over the host's user namespace; those over a namespace of its own are apart, since they need
    no capability of the host. ``background`` is all the rest, by reason. asked_by: executables by
    capability, from events."""
    used: dict[int, int] = {}
    denied: dict[int, int] = {}
    own_used: dict[int, int] = {}
    own_denied: dict[int, int] = {}
    background: dict[str, dict[int, int]] = {}
    for check, count in account.counts.items():
        if check.check_class is not CheckClass.MEANINGFUL:
            into = background.setdefault(str(check.check_class), {})
        elif check.user_namespace is UserNamespace.INIT:
            into = used if check.verdict is Verdict.ALLOWED else denied
        else:
            into = own_used if check.verdict is Verdict.ALLOWED else own_denied
        into[check.capability] = into.get(check.capability, 0) + count
    who = account.identity
    return {
        "container_id": label_value(who.container_id),
        "namespace": label_value(who.namespace),
        "pod": label_value(who.pod),
        "container": label_value(who.container),
        "cgroup": label_value(who.cgroup),
        "workload_kind": label_value(who.workload_kind),
        "workload": label_value(who.workload),
        "image": label_value(who.image),
        "runtime": label_value(who.runtime),
        "kind": declared.container.kind if declared else "container",
        "used": _named(used),
        "denied": _named(denied),
        "in_user_namespace": {"used": _named(own_used), "denied": _named(own_denied)},
        "background": {reason: _named(counts) for reason, counts in sorted(background.items())},
        "asked_by": {name: list(who) for name, who in sorted((asked_by or {}).items())},
        "granted": _granted(account.granted),
        "declared": _declared(declared),
        "first_seen": utc(account.first_seen),
        "last_seen": utc(account.last_seen),
        "running": account.gone_at is None,
        "start_seen": account.began,
        "complete": account.overflowed == 0,
    }


def document(
    accounts: Iterable[Account],
    declared: Callable[[Identity], Declared | None] = nothing_declared,
    asked_by: Callable[[Identity], dict[str, list[str]]] = no_askers,
) -> dict[str, Any]:
    """All profiles: what `profile -o json` prints and the API answers."""
    profiles = [
        profile_of(account, declared(account.identity), asked_by(account.identity))
        for account in accounts
    ]
    profiles.sort(key=lambda p: (p["namespace"], p["pod"], p["container"], p["container_id"]))
    return {"containers": profiles}


def unused(profile: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Of what its processes hold, what it never used over the user namespace that they hold it
    over; None: nobody has looked."""
    granted = profile.get("granted")
    if not granted:
        return None
    used = set(profile["used"])
    if has_own_users(profile):
        used |= profile["in_user_namespace"]["used"].keys()
    return tuple(name for name in granted["bounding"] if name not in used)


def has_own_users(profile: Mapping[str, Any]) -> bool:
    """Whether its processes are known to be in a user namespace that is not the host's."""
    granted = profile.get("granted")
    return granted is not None and granted.get("user_namespace_is_host") is False


def _granted(granted: Granted | None) -> dict[str, Any] | None:
    if granted is None:
        return None
    return {
        "bounding": names_of(granted.bounding),
        "permitted": names_of(granted.permitted),
        "effective": names_of(granted.effective),
        "ambient": names_of(granted.ambient),
        "inheritable": names_of(granted.inheritable),
        "uids": list(granted.uids),
        "no_new_privs": granted.no_new_privs,
        "user_namespace_is_host": granted.user_namespace_is_host,
    }


def _declared(declared: Declared | None) -> dict[str, Any] | None:
    """The container's own, and its pod's where that counts; what is not said is null or empty."""
    if declared is None or declared.container.security is None:
        return None
    container = declared.container.security
    pod = declared.pod.security or PodSecurity()
    return {
        **{key: _plain(value) for key, value in asdict(container).items()},
        "run_as_user": _first(container.run_as_user, pod.run_as_user),
        "run_as_non_root": _first(container.run_as_non_root, pod.run_as_non_root),
        "seccomp": container.seccomp or pod.seccomp,
        "host_users": pod.host_users,
        "host_network": pod.host_network,
        "host_pid": pod.host_pid,
        "host_ipc": pod.host_ipc,
        "sysctls": dict(pod.sysctls),
        "runtime_class": declared.pod.runtime_class,
    }


def _first(own: Any, pods: Any) -> Any:
    return pods if own is None else own


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _named(counts: dict[int, int]) -> dict[str, int]:
    return {name_of(number): counts[number] for number in sorted(counts)}


def utc(seconds: float) -> str:
    """As the document has times; seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
