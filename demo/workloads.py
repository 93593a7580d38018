# SPDX-License-Identifier: Apache-2.0
"""What runs in the demo: containers that behave like workloads everybody knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cap_exporter.capabilities import CONTAINERD_DEFAULT, number_of


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    granted: tuple[str, ...]
    command: str
    """For a shell in the container."""
    user_namespace: bool = False
    every: float | None = None
    """Ends by itself, and is started again after so many seconds."""


def _what_may_be_granted(*names: str) -> tuple[str, ...]:
    """Nobody can grant what this machine itself may not have (proc(5), CapBnd)."""
    held = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    return tuple(name for name in names if held >> number_of(name) & 1)


WORKLOADS = (
    Workload(
        "web",
        "binds port 80 as root, then goes on as uid 101; granted the usual 14",
        _what_may_be_granted(*sorted(CONTAINERD_DEFAULT)),
        "exec httpd -f -p 80 -u 101:101 -h /home",
    ),
    Workload(
        "pinger",
        "pings every second; granted NET_RAW, NET_ADMIN and SYS_PTRACE",
        _what_may_be_granted("NET_RAW", "NET_ADMIN", "SYS_PTRACE"),
        "while :; do ping -c 1 127.0.0.1; sleep 1; done",
    ),
    Workload(
        "nosy",
        "granted nothing; tries dmesg, mount and chown again and again",
        (),
        # -c: refused whatever kernel.dmesg_restrict says.
        "touch /tmp/nosy; while :; do dmesg -c; mount -t tmpfs x /tmp; chown 1 /tmp/nosy; "
        "sleep 3; done",
    ),
    Workload(
        "sandbox",
        "is root in a user namespace of its own, where it mounts a tmpfs",
        _what_may_be_granted("SYS_ADMIN"),
        "while :; do mount -t tmpfs x /tmp; umount /tmp; sleep 3; done",
        user_namespace=True,
    ),
    Workload(
        "job",
        "lives for a moment, every ten seconds: chown, and gone",
        _what_may_be_granted("CHOWN", "FOWNER"),
        "touch /tmp/job; chown 1 /tmp/job; rm -f /tmp/job",
        every=10,
    ),
)
