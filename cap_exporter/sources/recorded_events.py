# SPDX-License-Identifier: Apache-2.0
"""Events, and what processes hold, as they stand in a recording. Kernel stacks are left out: their
addresses mean nothing on another host, nor after the next boot, and are better not told."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Event,
    Granted,
    Process,
    UserNamespace,
    Verdict,
)

_NUMBERS = (
    "tid",
    "container_pid",
    "gid",
    "suppressed",
    "target_level",
    "target_uid",
    "target_gid",
    "target_inode",
    "effective",
    "permitted",
    "bounding",
)
_FLAGS = ("audit", "insetid")
_MASKS = ("bounding", "permitted", "effective", "ambient", "inheritable")


def number(value: Any) -> float:
    """Raises ValueError for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a number was expected, not {value!r}")
    return float(value)


def count(value: Any, at_most: int = 1 << 64) -> int:
    """Raises ValueError for what is no whole number from 0 up to below ``at_most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < at_most:
        raise ValueError(f"a whole number of 0 or more was expected, not {value!r}")
    return value


def cgroup(hierarchy: Any, its_id: Any) -> CgroupKey:
    if hierarchy == -1:
        return CgroupKey(-1, count(its_id))
    return CgroupKey(count(hierarchy), count(its_id))


def check_key(values: Any) -> CheckKey:
    """Of hierarchy, cgroup, capability, verdict, user namespace and class. Raises ValueError."""
    hierarchy, its_id, capability, verdict, namespace, check_class = values
    return CheckKey(
        cgroup(hierarchy, its_id),
        count(capability, 128),
        Verdict(verdict),
        UserNamespace(namespace),
        CheckClass(check_class),
    )


def event_to_json(event: Event) -> dict[str, Any]:
    """Only what is known."""
    record: dict[str, Any] = {
        "time": event.time,
        "check": [*event.check.cgroup, *event.check[1:]],
        "process": asdict(event.process),
        "parent": asdict(event.parent),
        "return_value": event.return_value,
        "namespaces": dict(event.namespaces),
    }
    for name in (*_NUMBERS, "auid", "syscall", *_FLAGS):
        if (value := getattr(event, name)) is not None:
            record[name] = value
    if event.arguments:
        record["arguments"] = list(event.arguments)
    return record


def event_from_json(record: Any) -> Event:
    """Raises KeyError, TypeError or ValueError where it is not what event_to_json() gives."""
    returned = record["return_value"]
    if isinstance(returned, bool) or not isinstance(returned, int):
        raise ValueError(f"a return value was expected, not {returned!r}")
    numbers: dict[str, Any] = {name: count(record[name]) for name in _NUMBERS}
    return Event(
        time=number(record["time"]),
        check=check_key(record["check"]),
        process=_process(record["process"]),
        parent=_process(record["parent"]),
        return_value=returned,
        namespaces={str(k): count(v) for k, v in dict(record["namespaces"]).items()},
        auid=_optional(record.get("auid")),
        syscall=_optional(record.get("syscall")),
        audit=_flag(record.get("audit")),
        insetid=_flag(record.get("insetid")),
        arguments=tuple(_text(one) for one in list(record.get("arguments", ()))),
        **numbers,
    )


def _optional(value: Any) -> int | None:
    return None if value is None else count(value)


def _flag(value: Any) -> bool | None:
    if not (value is None or isinstance(value, bool)):
        raise ValueError(f"true or false was expected, not {value!r}")
    return value


def _process(record: Any) -> Process:
    return Process(
        pid=count(record["pid"]),
        comm=_text(record["comm"]),
        executable=_text(record["executable"]),
        cwd=_text(record["cwd"]),
        uid=count(record["uid"]),
        start_time=number(record["start_time"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, not {value!r}")
    return value


def granted_to_json(key: CgroupKey, granted: Granted) -> list[Any]:
    return [*key, {**asdict(granted), "uids": list(granted.uids)}]


def granted_from_json(record: Any) -> tuple[CgroupKey, Granted]:
    """Raises KeyError, TypeError or ValueError where it is not what granted_to_json() gives."""
    hierarchy, its_id, held = record
    return cgroup(hierarchy, its_id), Granted(
        **{name: count(held[name]) for name in _MASKS},
        uids=tuple(count(uid) for uid in held["uids"]),
        no_new_privs=_flag(held["no_new_privs"]),
        processes=count(held["processes"]),
        user_namespace_is_host=_flag(held["user_namespace_is_host"]) is not False,
    )
