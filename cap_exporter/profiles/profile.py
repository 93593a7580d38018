# SPDX-License-Identifier: Apache-2.0
"""The profile of a container: which capabilities it used, which it was refused, what was noise."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cap_exporter.capabilities import name_of
from cap_exporter.labels import label_value
from cap_exporter.ledger import Account
from cap_exporter.model import CheckClass, UserNamespace, Verdict


def profile_of(account: Account) -> dict[str, Any]:
    """One container as a JSON object. ``used`` and ``denied`` are the checks that mean something,
    over the host's user namespace; those over a namespace of its own are apart, since they need
    no capability of the host. ``background`` is all the rest, by reason."""
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
        "used": _named(used),
        "denied": _named(denied),
        "in_user_namespace": {"used": _named(own_used), "denied": _named(own_denied)},
        "background": {reason: _named(counts) for reason, counts in sorted(background.items())},
        "first_seen": _utc(account.first_seen),
        "last_seen": _utc(account.last_seen),
        "complete": account.overflowed == 0,
    }


def document(accounts: Iterable[Account]) -> dict[str, Any]:
    """All profiles: what `profile -o json` prints and the API answers."""
    profiles = [profile_of(account) for account in accounts]
    profiles.sort(key=lambda p: (p["namespace"], p["pod"], p["container"], p["container_id"]))
    return {"containers": profiles}


def _named(counts: dict[int, int]) -> dict[str, int]:
    return {name_of(number): counts[number] for number in sorted(counts)}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
