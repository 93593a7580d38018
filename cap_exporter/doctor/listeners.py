# SPDX-License-Identifier: Apache-2.0
"""Which process listens on a TCP port. proc_pid_net(5), proc_pid_fd(5)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_LISTEN: Final = "0A"  # include/net/tcp_states.h


class Owner(NamedTuple):
    pid: int
    name: str


def owner_of(port: int, proc: Path = Path("/proc")) -> Owner | None:
    """None where there is none, or it belongs to somebody else's process and this is not root."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    name = (process / "comm").read_text().strip()
                    return Owner(int(process.name), name)
    return None


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "self/net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
