# SPDX-License-Identifier: Apache-2.0
"""Events for tests: the seed's denied dmesg, with what may be changed about it."""

from __future__ import annotations

from typing import Any

from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Event,
    Identity,
    Process,
    UserNamespace,
    Verdict,
)

XWING = Identity(
    namespace="default",
    pod="xwing",
    container="spaceship",
    container_id="cfb961400ff25811d22d139a10f6a62efef53c2ecc11af47bc911a7f9a2ac1f7",
    pod_uid="4f2f9a3c-0c1e-4a53-8f3f-4f9b0b5f3f51",
    image="docker.io/tgraf/netperf:latest",
    runtime="containerd",
    cgroup="/kubepods/burstable/pod4f2f9a3c-0c1e-4a53-8f3f-4f9b0b5f3f51/cfb961400ff2",
    pod_labels=(("class", "xwing"), ("org", "alliance")),
)


def event(number: int = 0, verdict: Verdict = Verdict.DENIED, **fields: Any) -> Event:
    """``number`` is its tid, so that each can be told from the others."""
    values: dict[str, Any] = {
        "time": 1688638413.834882,
        "check": CheckKey(CgroupKey(0, 5), 34, verdict, UserNamespace.INIT, CheckClass.MEANINGFUL),
        "process": Process(73860, "dmesg", "/bin/dmesg", "/", 0, 1688638413.83439),
        "parent": Process(73850, "bash", "/bin/bash", "/", 0, 1688638413.17816),
        "tid": number,
        "container_pid": 171,
        "gid": 0,
        "auid": None,
        "return_value": -1 if verdict is Verdict.DENIED else 0,
        "suppressed": 3,
        "target_level": 0,
        "target_uid": 0,
        "target_gid": 0,
        "target_inode": 4026531837,
        "effective": 1 << 5 | 1 << 29,
        "permitted": 1 << 5 | 1 << 29,
        "bounding": 1 << 5 | 1 << 29,
        "namespaces": {"mnt": 4026534731, "user": 4026531837},
        "syscall": 103,
    }
    return Event(**(values | fields))
