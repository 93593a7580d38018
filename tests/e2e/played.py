# SPDX-License-Identifier: Apache-2.0
"""A recording of containers on a node that is busy for ten minutes, to be played to the page."""

from __future__ import annotations

from pathlib import Path

from cap_exporter.model import (
    CgroupChange,
    CgroupEvent,
    CgroupKey,
    CheckClass,
    CheckKey,
    Drain,
    Granted,
    Process,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.sources.recording import Header, Writer
from tests.otlp.events import event

#: Container ids: one that is denied CAP_SYSLOG again and again, one that uses CAP_CHOWN, one that
#: the kernel only asked about.
DENIED, USING, QUIET = "d" * 64, "e" * 64, "f" * 64

#: What a container of LXC can be called, and what its processes can be.
HOSTILE = "<script>alert(1)<b> \"'&\n\r\x1b[31m\u202egpj.exe\u2028"
LONG = "\u202ex" * 1000  # 4 kB
HOSTILE_PROGRAM = f"/tmp/<img src=x onerror=alert(1)>{'A' * 4000}\u202e"

#: Seconds between two drains of the recording.
SPACING = 0.5

SYSLOG, CHOWN, KILL, NET_RAW = 34, 0, 5, 13
_CGROUPS = {
    f"/docker/{DENIED}": CgroupKey(0, 11),
    f"/docker/{USING}": CgroupKey(0, 12),
    f"/docker/{QUIET}": CgroupKey(0, 13),
    f"/lxc.payload.{HOSTILE}": CgroupKey(0, 14),
    f"/lxc.payload.{LONG}": CgroupKey(0, 15),
}
_BEGAN = 1_700_000_000.0


def write_recording(path: Path, seconds: float = 600.0) -> Path:
    """More denied checks and a new event each SPACING."""
    denied, using, quiet, hostile, long = _CGROUPS.values()

    def check(cgroup: CgroupKey, capability: int, verdict: Verdict, **more: CheckClass) -> CheckKey:
        check_class = more.get("check_class", CheckClass.MEANINGFUL)
        return CheckKey(cgroup, capability, verdict, UserNamespace.INIT, check_class)

    refused = check(denied, SYSLOG, Verdict.DENIED)
    with Writer(path, Header(SourceInfo("libbpf", "tp_btf"), _BEGAN, "6.18")) as writer:
        for number in range(int(seconds / SPACING)):
            first = number == 0
            increments = [(refused, 5 if first else 1)]
            events = [event(number, check=refused, time=_BEGAN + number * SPACING, suppressed=0)]
            if first:
                increments += [
                    (check(using, CHOWN, Verdict.ALLOWED), 7),
                    (check(using, KILL, Verdict.ALLOWED), 2),
                    (check(denied, 21, Verdict.DENIED, check_class=CheckClass.NOAUDIT), 30),
                    (check(quiet, 21, Verdict.DENIED, check_class=CheckClass.NOAUDIT), 40),
                    (check(hostile, NET_RAW, Verdict.DENIED), 1),
                    (check(long, NET_RAW, Verdict.DENIED), 1),
                ]
                events.append(
                    event(
                        check=check(hostile, NET_RAW, Verdict.DENIED),
                        process=Process(7, "x", HOSTILE_PROGRAM, "/", 0, _BEGAN),
                    )
                )
            held = Granted(bounding=1 << CHOWN | 1 << KILL | 1 << NET_RAW, uids=(0,))
            writer.write(
                Drain(
                    time=_BEGAN + number * SPACING,
                    increments=increments,
                    cgroup_events=[
                        CgroupEvent(CgroupChange.CREATED, cgroup, name)
                        for name, cgroup in _CGROUPS.items()
                    ]
                    if first
                    else [],
                    events=events,
                    held=dict.fromkeys((denied, using), held) if first else {},
                )
            )
    return path
