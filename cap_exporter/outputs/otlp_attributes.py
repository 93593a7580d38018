# SPDX-License-Identifier: Apache-2.0
"""An event's attributes as a log record: OpenTelemetry's names where there are some (semantic
conventions 1.44: process, thread), ``cap_exporter.`` before all others. docs/opentelemetry.md
lists them. What is not known is missing, never zero."""

from __future__ import annotations

from collections.abc import Callable

from cap_exporter.capabilities import name_of, names_of
from cap_exporter.labels import label_value
from cap_exporter.model import Event, Identity, Process, Verdict
from cap_exporter.outputs.event_record import stack_of, utc
from cap_exporter.syscalls import name_of as syscall_name
from cap_exporter.terminal import printable

Value = str | int | bool | tuple[str, ...]

CAPABILITY_NAME = "cap_exporter.capability.name"
VERDICT = "cap_exporter.verdict"
USER_NAMESPACE_TYPE = "cap_exporter.user_namespace.type"
REASON = "cap_exporter.reason"


def attributes_of(
    event: Event,
    identity: Identity,
    symbol: Callable[[int], str | None] = lambda _address: None,
) -> dict[str, Value]:
    """``symbol`` names a kernel address; addresses themselves stay inside."""
    process = event.process
    executable = label_value(process.executable)
    found: dict[str, Value] = {
        CAPABILITY_NAME: name_of(event.check.capability),
        "cap_exporter.capability.value": event.check.capability,
        VERDICT: str(event.check.verdict),
        "cap_exporter.return_value": event.return_value,
        "cap_exporter.suppressed": event.suppressed,
        # Only such checks become events.
        "cap_exporter.audit": True if event.audit is None else event.audit,
        "cap_exporter.phase": "workload",
        USER_NAMESPACE_TYPE: str(event.check.user_namespace),
        "cap_exporter.user_namespace.is_host": event.check.user_namespace == "init",
        "cap_exporter.user_namespace.level": event.target_level,
        "cap_exporter.user_namespace.uid": event.target_uid,
        "cap_exporter.user_namespace.gid": event.target_gid,
        "cap_exporter.user_namespace.inode": event.target_inode,
        "process.pid": process.pid,
        "process.vpid": event.container_pid,
        "process.parent_pid": event.parent.pid,
        "process.user.id": process.uid,
        "process.creation.time": utc(process.start_time),
        "process.working_directory": label_value(process.cwd),
        "thread.id": event.tid,
        "thread.name": label_value(process.comm),
        "cap_exporter.process.gid": event.gid,
        "cap_exporter.process.capabilities.effective": tuple(names_of(event.effective)),
        "cap_exporter.process.capabilities.permitted": tuple(names_of(event.permitted)),
        "cap_exporter.process.capabilities.bounding": tuple(names_of(event.bounding)),
    }
    if executable:
        found["process.executable.path"] = executable
        found["process.executable.name"] = executable.rpartition("/")[2]
    if event.arguments:
        found["process.command_args"] = tuple(label_value(one) for one in event.arguments)
    if event.auid is not None:
        found["cap_exporter.process.auid"] = event.auid
    if identity.cgroup:
        found["process.linux.cgroup"] = label_value(identity.cgroup)
    for name, inode in event.namespaces.items():
        found[f"cap_exporter.namespace.{name}.inode"] = inode
    found |= _parent(event.parent)
    if event.insetid is not None:
        found["cap_exporter.insetid"] = event.insetid
    if event.syscall is not None:
        found["cap_exporter.syscall.number"] = event.syscall
        found["cap_exporter.syscall.name"] = syscall_name(event.syscall)
    if stack := stack_of(event.stack, symbol):
        found["cap_exporter.kernel_stack"] = tuple(stack)
    return found


def _parent(parent: Process) -> dict[str, Value]:
    found: dict[str, Value] = {
        "cap_exporter.parent.comm": label_value(parent.comm),
        "cap_exporter.parent.uid": parent.uid,
        "cap_exporter.parent.working_directory": label_value(parent.cwd),
        "cap_exporter.parent.creation_time": utc(parent.start_time),
    }
    if parent.executable:
        found["cap_exporter.parent.executable.path"] = label_value(parent.executable)
    return found


def sentence_of(event: Event, identity: Identity) -> str:
    """For a person who reads a list of log lines."""
    process = event.process
    who = "/".join(
        label_value(part) for part in (identity.namespace, identity.pod, identity.container) if part
    )
    call = f" in {syscall_name(event.syscall)}()" if event.syscall is not None else ""
    denied = event.check.verdict is Verdict.DENIED
    text = (
        f"{label_value(process.executable or process.comm)} (pid {process.pid}) of {who} was "
        f"{'denied' if denied else 'allowed'} {name_of(event.check.capability)}{call}"
    )
    if event.suppressed:
        text += f"; {event.suppressed} equal checks since the last record"
    return printable(text)
