# SPDX-License-Identifier: Apache-2.0
"""An event as JSON and as a line for a person: what `events` prints and /api/v1/events sends.

docs/events.md describes each field; schemas/event.schema.json is the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from cap_exporter.capabilities import name_of, names_of
from cap_exporter.labels import label_value
from cap_exporter.model import Event, Identity, Process, UserNamespace, Verdict
from cap_exporter.syscalls import name_of as syscall_name
from cap_exporter.terminal import printable

EVENT_NAME = "cap_exporter.capability.check"


def record_of(
    event: Event,
    identity: Identity,
    node: str = "",
    symbol: Callable[[int], str | None] = lambda _address: None,
) -> dict[str, Any]:
    """One JSON object. What is not known is missing, not zero. ``symbol`` names a kernel address;
    addresses themselves stay inside."""
    process = _process(event.process) | {
        "tid": event.tid,
        "container_pid": event.container_pid,
        "gid": event.gid,
        "capabilities": {
            "effective": names_of(event.effective),
            "permitted": names_of(event.permitted),
            "bounding": names_of(event.bounding),
        },
    }
    if event.auid is not None:
        process["auid"] = event.auid
    if event.arguments:
        process["arguments"] = [label_value(one) for one in event.arguments]
    record: dict[str, Any] = {
        "event": EVENT_NAME,
        "time": utc(event.time),
        "severity": "WARN" if event.check.verdict is Verdict.DENIED else "INFO",
        "capability": {
            "name": name_of(event.check.capability),
            "value": event.check.capability,
        },
        "verdict": str(event.check.verdict),
        "return_value": event.return_value,
        "suppressed": event.suppressed,
        # Only such checks become events.
        "audit": True if event.audit is None else event.audit,
        "phase": "workload",
        "namespace": label_value(identity.namespace),
        "pod": label_value(identity.pod),
        "container": label_value(identity.container),
        "cgroup": label_value(identity.cgroup),
        "process": process,
        "parent": _process(event.parent),
        "user_namespace": {
            "level": event.target_level,
            "uid": event.target_uid,
            "gid": event.target_gid,
            "inode": event.target_inode,
            "is_host": event.check.user_namespace is UserNamespace.INIT,
        },
        "namespaces": dict(event.namespaces),
    }
    for name in ("container_id", "pod_uid", "image", "workload_kind", "workload", "runtime"):
        if value := getattr(identity, name):
            record[name] = label_value(value)
    if identity.pod_labels:
        record["pod_labels"] = {label_value(k): label_value(v) for k, v in identity.pod_labels}
    if node:
        record["node"] = label_value(node)
    if event.insetid is not None:
        record["insetid"] = event.insetid
    if event.syscall is not None:
        record["syscall"] = {"number": event.syscall, "name": syscall_name(event.syscall)}
    if stack := stack_of(event.stack, symbol):
        record["stack"] = stack
    return record


def stack_of(addresses: Sequence[int], symbol: Callable[[int], str | None]) -> list[str]:
    """From cap_capable() on: what lies before is the probe itself."""
    functions = [name for address in addresses if (name := symbol(address))]
    starts = [i for i, name in enumerate(functions) if name.startswith("cap_capable")]
    return functions[starts[0] :] if starts else functions


def _process(process: Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "comm": label_value(process.comm),
        "executable": label_value(process.executable),
        "cwd": label_value(process.cwd),
        "uid": process.uid,
        "start_time": utc(process.start_time),
    }


def utc(seconds: float) -> str:
    """RFC 3339 with microseconds."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def line_of(record: dict[str, Any]) -> str:
    """``12:34:56 DENIED CAP_SYSLOG shop/api-1/api dmesg[4711] syslog``; control characters, which
    a container can put into its names, are replaced."""
    who = "/".join(
        part for part in (record["namespace"], record["pod"], record["container"]) if part
    )
    process = record["process"]
    syscall = record.get("syscall", {}).get("name", "")
    more = f" (+{record['suppressed']} before)" if record["suppressed"] else ""
    text = (
        f"{record['time'][11:19]} {record['verdict'].upper():7} {record['capability']['name']:20} "
        f"{who} {process['executable'] or process['comm']}[{process['pid']}] {syscall}{more}"
    )
    return printable(text)
