# SPDX-License-Identifier: Apache-2.0
"""What several processes, or several cgroups of one container, hold together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from cap_exporter.model import CgroupKey, Granted

#: Distinct uids that are kept: a container has one or two, a login server many.
MOST_UIDS: Final = 8


def united(parts: Iterable[Granted]) -> Granted:
    """Raises ValueError for none."""
    some = list(parts)
    if not some:
        raise ValueError("nobody holds anything")
    if len(some) == 1:
        return some[0]
    bounding = permitted = effective = ambient = inheritable = 0
    for part in some:
        bounding |= part.bounding
        permitted |= part.permitted
        effective |= part.effective
        ambient |= part.ambient
        inheritable |= part.inheritable
    return Granted(
        bounding,
        permitted,
        effective,
        ambient,
        inheritable,
        _uids(some),
        all(part.no_new_privs for part in some),
        sum(part.processes for part in some),
        any(part.user_namespace_is_host for part in some),
    )


def read_again(before: Granted | None, now: Granted) -> Granted:
    """What is held now. As whom they run adds up: a server that has gone from root to a user is
    started as root."""
    return now if before is None else replace(now, uids=_uids((before, now)))


def _uids(of: Iterable[Granted]) -> tuple[int, ...]:
    return tuple(sorted({uid for part in of for uid in part.uids})[:MOST_UIDS])


def merge(into: dict[CgroupKey, Granted], more: Mapping[CgroupKey, Granted]) -> None:
    """Unite what two readings say of each cgroup."""
    for cgroup, granted in more.items():
        known = into.get(cgroup)
        into[cgroup] = granted if known is None else united((known, granted))
