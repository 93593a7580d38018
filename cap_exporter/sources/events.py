# SPDX-License-Identifier: Apache-2.0
"""Which checks are told as events, and what a record of the ring says."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cap_exporter.model import CgroupKey, Event, Process
from cap_exporter.sources import layout

#: include/linux/security.h, 5.1 and later
_NOAUDIT, _INSETID = 1 << 1, 1 << 2

_NO_ID = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """What is told. Times in seconds."""

    denied: bool = True
    allowed: bool = False
    capabilities: int = (1 << 64) - 1
    """Mask of the capabilities whose checks are told."""
    interval: float = 60.0
    """Between two events of equal checks."""
    burst: int = 50
    """Events that one cgroup may send at once."""
    rate: float = 5.0
    """Events per second that one cgroup may send on average."""
    stack: bool = False
    """With the kernel stack."""
    arguments: bool = False
    """With the command line."""
    ring_bytes: int = 1 << 20
    """Room for events that were not read yet; a power of two."""

    def __post_init__(self) -> None:
        if self.ring_bytes < 1 << 16 or self.ring_bytes & (self.ring_bytes - 1):
            raise ValueError(
                f"the ring must be a power of two of 64 KiB or more: {self.ring_bytes}"
            )
        if self.rate <= 0 or self.burst < 1:
            raise ValueError("the rate must be above 0 and the burst at least 1")

    def fill(self, config: layout.Config) -> None:
        """Into the programs' constants."""
        config.events = (
            (layout.EVENTS_DENIED if self.denied else 0)
            | (layout.EVENTS_ALLOWED if self.allowed else 0)
            | (layout.EVENTS_STACK if self.stack else 0)
            | (layout.EVENTS_ARGUMENTS if self.arguments else 0)
        )
        config.event_capabilities = self.capabilities
        config.event_interval = int(self.interval * 1e9)
        config.event_burst = self.burst
        config.event_refill = int(1e9 / self.rate)
        config.event_ticks = self.tick > 0

    @property
    def tick(self) -> float:
        """How often a flood of equal checks is looked at properly, seconds; 0: always."""
        return self.interval / 8


class EventReader:
    """Turns records into events. The clocks are in nanoseconds: ``boot`` is that of processes'
    start times, ``told`` that of an event's own time (bpf_ktime_get_boot_ns() is of 5.8)."""

    def __init__(
        self,
        hierarchy_ids: Sequence[int],
        wall: Callable[[], int] = time.time_ns,
        boot: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        told: Callable[[], int] | None = None,
    ) -> None:
        self._hierarchy_ids = hierarchy_ids
        self._wall = wall
        self._boot = boot
        self._told = told or boot

    def read(self, record: bytes) -> Event:
        """Raises ValueError for a record that is too short, or of no hierarchy or class."""
        raw = layout.CheckEvent.from_buffer_copy(record)
        # Asked anew each time: the wall clock may be set, and jumps with a suspended host.
        wall = self._wall()
        since_boot = wall - self._boot()
        try:
            hierarchy = self._hierarchy_ids[raw.key >> layout.KEY_HIERARCHY_SHIFT & 3]
            cgroup = CgroupKey(hierarchy, raw.key >> layout.KEY_CGROUP_SHIFT)
            check = layout.decode_kind(raw.key, cgroup)
        except IndexError as error:
            raise ValueError(f"an event with the key {raw.key:#x}") from error
        return Event(
            time=(raw.time + wall - self._told()) / 1e9,
            check=check,
            process=_process(raw.process, _names(raw, 0), _names(raw, 1), since_boot),
            parent=_process(raw.parent, _names(raw, 2), _names(raw, 3), since_boot),
            tid=raw.tid,
            container_pid=raw.pid_in_container,
            gid=raw.gid,
            auid=None if raw.auid == _NO_ID else raw.auid,
            return_value=raw.ret,
            suppressed=raw.suppressed,
            target_level=raw.target_level,
            target_uid=raw.target_uid,
            target_gid=raw.target_gid,
            target_inode=raw.target_inode,
            effective=raw.effective,
            permitted=raw.permitted,
            bounding=raw.bounding,
            namespaces={
                name: inode
                for name, inode in zip(layout.NAMESPACES, raw.namespaces, strict=True)
                if inode
            },
            syscall=None if raw.syscall < 0 else raw.syscall,
            audit=not raw.opts & _NOAUDIT if raw.has_opts else None,
            insetid=bool(raw.opts & _INSETID) if raw.has_opts else None,
            stack=tuple(raw.stack[: min(raw.frames, layout.EVENT_FRAMES)]),
            arguments=_arguments(record),
        )


def _names(raw: layout.CheckEvent, which: int) -> bytes:
    """enum event_names: executable and working directory, of the process and of its parent."""
    return bytes(raw.names[which][: raw.names_len[which]])


def _arguments(record: bytes) -> tuple[str, ...]:
    if len(record) < ctypes.sizeof(layout.CheckEventLong):
        return ()
    raw = layout.CheckEventLong.from_buffer_copy(record)
    text = bytes(raw.arguments[: raw.arguments_len])
    # Each ends with a NUL, but for the last of a line that was cut or that its process rewrote.
    parts = text.removesuffix(b"\0").split(b"\0")
    return tuple(_text(part) for part in parts) if text else ()


def _process(raw: layout.EventProcess, executable: bytes, cwd: bytes, since_boot: int) -> Process:
    return Process(
        pid=raw.pid,
        comm=_text(bytes(raw.comm).split(b"\0", 1)[0]),
        executable=path_of(executable),
        cwd=path_of(cwd, root="/"),
        uid=raw.uid,
        start_time=(raw.start + since_boot) / 1e9,
    )


def path_of(names: bytes, root: str = "") -> str:
    """``dmesg\\0bin\\0`` is /bin/dmesg. ``root``: what no names at all mean."""
    parts = names.split(b"\0")[:-1]
    return "/" + "/".join(_text(part) for part in reversed(parts)) if parts else root


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
