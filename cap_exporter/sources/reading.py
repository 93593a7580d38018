# SPDX-License-Identifier: Apache-2.0
"""Drains the programs of bpf/cap_checks.bpf.c that are attached, through their maps."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from cap_exporter.cgroups.hierarchies import Hierarchies, Mode
from cap_exporter.cgroups.reference import parse
from cap_exporter.granted import merge
from cap_exporter.model import CgroupEvent, CgroupKey, CheckKey, Drain, Event, Granted
from cap_exporter.sources import layout
from cap_exporter.sources.by_key import KeyCounters, Maps
from cap_exporter.sources.counters import CounterTable, SavedCounters
from cap_exporter.sources.events import EventReader
from cap_exporter.sources.held import read_held
from cap_exporter.sources.libbpf_binding import BpfError
from cap_exporter.sources.overflow import OverflowCounters
from cap_exporter.sources.ring import Ring

log = logging.getLogger(__name__)

#: What processes hold changes rarely, and of entrypoints it is told at once: seconds between two
#: readings of all.
HELD_EVERY: Final = 60.0

_T = TypeVar("_T", bound=ctypes.Structure)


class Attached(Maps, Protocol):
    """Loaded programs and their maps."""

    def struct(self, name: str, kind: type[_T]) -> _T: ...
    def map_memory(self, name: str) -> memoryview: ...
    def map_fd(self, name: str) -> int: ...
    def update(self, name: str, key: Any, value: Any, flags: int = 0) -> bool: ...
    def recursion_misses(self, program: str) -> int: ...
    def close(self) -> None: ...


class Shape(NamedTuple):
    """How programs were loaded; as JSON it is kept with those that outlive their process."""

    program: str
    """That counts."""
    hierarchy_ids: tuple[int, ...]
    slots: int
    """Counters of the per-key hash, where there is no table."""
    cgroup_ring: int
    event_ring: int
    """Bytes; 0: no events."""
    tick: float
    """EventSettings.tick"""
    held: bool
    """There is an iterator over what processes hold."""

    @property
    def by_key(self) -> bool:
        return self.program.endswith("_by_key")


class Reading:
    """drain(), then commit() when all that it gave is safe: only then is its room given back."""

    def __init__(
        self,
        maps: Attached,
        hierarchies: Hierarchies,
        shape: Shape,
        cpus: int,
        read_held_records: Callable[[], bytes] | None,
    ) -> None:
        """cpus: possible ones. read_held_records: one run of the iterator. Raises OSError."""
        self._maps = maps
        self._hierarchies = hierarchies
        self._shape = shape
        self._read_held_records = read_held_records
        self._state = maps.struct(".bss.state", layout.State)
        ids = shape.hierarchy_ids
        self.counters: CounterTable | KeyCounters
        if shape.by_key:
            self.counters = KeyCounters(maps, "counts_by_key", ids, shape.slots, cpus)
        else:
            self.counters = CounterTable(
                maps.map_memory("counters"),
                maps.map_memory("claims"),
                lambda: self._state.claims,
                ids,
                synchronize,
            )
        self.overflow = OverflowCounters()
        self._told: list[Event] = []
        self._entered: dict[CgroupKey, Granted] = {}
        self._news: list[CgroupEvent] = []
        self.news_lost = 0
        """Of cgroup events, until the last drain."""
        self._next_tick = self._next_held = 0.0
        self._rings: list[Ring] = []
        self._ring = Ring(maps.map_fd("cgroup_events"), shape.cgroup_ring, self._on_cgroup_event)
        self._rings.append(self._ring)
        if shape.event_ring:
            reader = EventReader(ids)
            fd = maps.map_fd("check_events")
            self._rings.append(
                Ring(fd, shape.event_ring, lambda record: self._told.append(reader.read(record)))
            )

    @property
    def event_fd(self) -> int:
        """Readable when cgroups came or went: drain soon, so that the ring does not fill up.
        Events alone wait for the next drain."""
        return self._ring.fd

    @property
    def stack_walks(self) -> int:
        """Checks whose audit class was found by unwinding the stack, the slow way."""
        return int(self._state.stack_walks)

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        """Where a task is in several hierarchies, the kernel side picks the cgroup that tells
        most; of new ones it knows itself."""
        if self._hierarchies.mode is Mode.V2:
            return
        numbers = {h.id: layout.HIERARCHIES.index(h.controller) for h in self._hierarchies.counted}
        for cgroup, path in cgroups:
            rank = layout.RANKS.get(parse(path).kind, layout.RANK_OTHER)
            if rank != layout.RANK_OTHER and cgroup.hierarchy in numbers:
                key = ctypes.c_uint64(
                    cgroup.id << layout.KEY_CGROUP_SHIFT
                    | numbers[cgroup.hierarchy] << layout.KEY_HIERARCHY_SHIFT
                )
                # Not over what the kernel side noted meanwhile.
                self._maps.update("cgroup_notes", key, layout.CgroupNote(0, rank), flags=1)
        # What was chosen until now was chosen without this.
        self._state.epoch += 1

    def drain(self) -> Drain:
        now = time.monotonic()
        # Counters first: each cgroup counted by now has its creation in the ring already.
        increments: list[tuple[CheckKey, int]] = self.counters.drain(now)
        at = time.time()
        increments += self.overflow.increments(bytes(self._state.overflow))
        for ring in self._rings:
            ring.consume()
        if self._shape.tick and now >= self._next_tick:
            self._state.event_tick += 1
            self._next_tick = now + self._shape.tick
        news, self._news = self._news, []
        told, self._told = self._told, []
        entered, self._entered = self._entered, {}
        lost = self._state.events_lost
        newly_lost, self.news_lost = lost - self.news_lost, lost
        return Drain(
            time=at,
            increments=increments,
            cgroup_events=news,
            cgroup_events_lost=newly_lost,
            missed={"recursion": self._maps.recursion_misses(self._shape.program)},
            events=told,
            events_lost={
                "full": self._state.events_full,
                "limited": self._state.events_limited,
            },
            entered=entered,
            held=self._read_held(now),
            slots_used=self.counters.used,
            slots_total=self.counters.total,
        )

    def commit(self) -> None:
        """What was drained is safe."""
        for ring in self._rings:
            ring.commit()
        self.counters.commit()

    def fingerprint(self) -> bytes:
        """Another one after each check."""
        return self.counters.fingerprint() + bytes(self._state.overflow)

    @property
    def must_commit(self) -> bool:
        """commit() would free counters."""
        return self.counters.must_commit

    def saved(self) -> tuple[SavedCounters, list[tuple[int, int]], int]:
        """How far was read: counters, overflow, news that were lost. After drain()."""
        assert isinstance(self.counters, CounterTable)
        return self.counters.saved(), self.overflow.saved(), self.news_lost

    def resume(
        self, counters: SavedCounters, overflow: Iterable[tuple[int, int]], news_lost: int
    ) -> int:
        """Go on from there. Returns checks that can't be told apart any more."""
        assert isinstance(self.counters, CounterTable)
        self.overflow.resume(overflow)
        self.news_lost = news_lost
        return self.counters.resume(counters, time.monotonic())

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        self.counters.release(cgroups, time.monotonic())

    def _read_held(self, now: float) -> Mapping[CgroupKey, Granted]:
        if self._read_held_records is None or now < self._next_held:
            return {}
        self._next_held = now + HELD_EVERY
        try:
            records = self._read_held_records()
        except (BpfError, OSError) as error:
            log.warning("what processes hold could not be read this time: %s", error)
            return {}
        return read_held(records, self._shape.hierarchy_ids)

    def _on_cgroup_event(self, record: bytes) -> None:
        head = layout.CgroupEventHead.from_buffer_copy(record)
        start = ctypes.sizeof(head)
        if head.change == layout.ENTERED:
            merge(self._entered, read_held(record[start:], self._shape.hierarchy_ids))
            return
        change = layout.CHANGES.get(head.change)
        if change is None:
            log.warning("a cgroup event of unknown kind %d was left out", head.change)
            return
        path = record[start : start + max(head.path_len - 1, 0)]
        self._news.append(
            CgroupEvent(
                change, CgroupKey(head.hierarchy, head.id), path.decode("utf-8", "surrogateescape")
            )
        )

    def close(self) -> None:
        """The maps stay open: they are the caller's."""
        for ring in self._rings:
            ring.close()
        self._rings.clear()
        # Views of the maps' memory.
        self.__dict__.pop("_state", None)
        self.__dict__.pop("counters", None)


def synchronize() -> None:
    """Return when every BPF program that runs now has ended: they run as RCU readers, and
    MEMBARRIER_CMD_GLOBAL is synchronize_rcu() (kernel/sched/membarrier.c, 6.18). Where it is
    refused (nohz_full) the grace period alone must do."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_MEMBARRIER.get(platform.machine(), -1), 1, 0, 0) < 0:
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise OSError(code, os.strerror(code))


_SYS_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283}
