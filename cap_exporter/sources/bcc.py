# SPDX-License-Identifier: Apache-2.0
"""Counts checks with BCC: for kernels without BTF, and for those who have it anyway.

BCC compiles on each start, in this process (measured: 0.6 s, 130 MB at the peak), and there is one
pair of system calls per live counter and drain; the libbpf source has neither.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from cap_exporter.cgroups.hierarchies import Hierarchies, Mode
from cap_exporter.cgroups.reference import parse
from cap_exporter.model import (
    CgroupEvent,
    CgroupKey,
    Drain,
    Event,
    SourceError,
    SourceInfo,
)
from cap_exporter.sources import audit_class, diagnosis, layout
from cap_exporter.sources.bcc_loader import BccProgram, import_bcc
from cap_exporter.sources.by_key import KeyCounters
from cap_exporter.sources.events import EventReader, EventSettings
from cap_exporter.sources.kallsyms import Symbols
from cap_exporter.sources.libbpf_binding import BpfError
from cap_exporter.sources.overflow import OverflowCounters

log = logging.getLogger(__name__)

#: bpf/cap_checks.bcc.c: CGROUP_EVENTS
RING: Final = 2048

_PATH_BYTES: Final = 1024

#: What the counting program jumps to, in this order, to put an event together.
_TELLERS: Final = ("tell_process", "tell_parent")

_TRACEPOINTS: Final = {
    "cgroup_created": "cgroup_mkdir",
    "cgroup_removed": "cgroup_rmdir",
    "cgroup_renamed": "cgroup_rename",
    "task_attached": "cgroup_attach_task",
    "task_forked": "sched_process_fork",
    "task_executed": "sched_process_exec",
    "task_freed": "sched_process_free",
}

#: How to attach, the better way first.
WAYS: Final = ("raw_tracepoint", "kprobe")


class _Place(ctypes.Structure):
    """struct cgroup_place"""

    _fields_ = (
        ("created", ctypes.c_uint64),
        ("container", ctypes.c_uint64),
        ("topmost", ctypes.c_uint64),
        ("in_pod", ctypes.c_uint32),
        ("below_pod", ctypes.c_uint32),
        ("rank", ctypes.c_uint64),
    )


class _Event(ctypes.Structure):
    """struct cgroup_event_long"""

    _fields_ = (("head", layout.CgroupEventHead), ("path", ctypes.c_char * _PATH_BYTES))


class _EventKey(ctypes.Structure):
    """struct event_key"""

    _fields_ = (("time", ctypes.c_uint64), ("cpu", ctypes.c_uint64))


class BccSource:
    """The Source that has BCC compile bpf/cap_checks.bcc.c. ``attach`` forces raw_tracepoint or
    kprobe."""

    #: News of cgroups are read with each drain.
    event_fd: int | None = None

    def __init__(
        self,
        hierarchies: Hierarchies,
        *,
        attach: str | None = None,
        slots: int = 32768,
        btf: Path | None = None,
        events: EventSettings | None = None,
    ) -> None:
        self._hierarchies = hierarchies
        self._attach = attach
        self._slots = slots
        self._btf = btf
        self._program: BccProgram | None = None
        self._name = ""
        self._overflow = OverflowCounters()
        self._read_events = 0
        self._wanted = events
        self._reader: EventReader | None = None
        self._events_sent = 0

    def open(self) -> SourceInfo:
        if self._attach not in (None, *WAYS):
            raise SourceError(
                f"the bcc source attaches by {' or '.join(WAYS)}, not by {self._attach}"
            )
        missing = diagnosis.missing_capabilities(diagnosis.effective_capabilities())
        if missing:
            raise SourceError(
                f"not permitted: {' and '.join(missing)} missing "
                "(before Linux 5.8 CAP_SYS_ADMIN instead)"
            )
        try:
            program, attach = self._load(self._wanted)
        except _WithoutEvents as error:
            log.warning("there are no events: %s", error)
            program, attach = self._load(None)
        program.free_compiler()
        self._program = program
        ids = tuple(self._ids)
        self._counters = KeyCounters(
            program, "counts_by_key", ids, self._slots, program.possible_cpus
        )
        if self._reader is None and self._wanted and program.no_events:
            log.warning("there are no events: the kernel's BTF lacks %s", program.no_events)
        log.info("counting capability checks through bcc and %s", attach)
        return SourceInfo("bcc", attach)

    def _load(self, events: EventSettings | None) -> tuple[BccProgram, str]:
        room = events.ring_bytes // ctypes.sizeof(layout.CheckEventLong) if events else 0
        program = BccProgram(import_bcc(), btf=self._btf, counters=self._slots, events=room)
        try:
            return program, self._attach_all(program, None if program.no_events else events)
        except BpfError as error:
            program.close()
            raise SourceError(f"the bcc source: {diagnosis.refusal(error)}") from error
        except SourceError:
            program.close()
            raise

    def _attach_all(self, program: BccProgram, events: EventSettings | None) -> str:
        config = layout.Config()
        layout.set_hierarchies(config, self._hierarchies.counted)
        self._ids = list(config.hierarchy_ids)
        config.calibrate_tid = audit_class.this_thread()
        config.ambiguous = audit_class.AMBIGUOUS
        self._configure(program, config)
        self._find_mount_namespace(program)
        refused = []
        for way in WAYS:
            if self._attach not in (None, way):
                continue
            self._name = f"checks_{way}"
            try:
                if way == "raw_tracepoint":
                    # A program that is not attached in the end would make a kprobe's tellers
                    # unfit for the array of tellers.
                    self._see_tracepoint(program)
                    self._calibrate(program, config)
                self._load_checks(program, config, events)
                for name, tracepoint in _TRACEPOINTS.items():
                    program.load(name)
                    program.attach(name, tracepoint)
                if way == "raw_tracepoint":
                    program.attach(self._name, "cap_capable")
                else:
                    program.attach_kprobe(self._name, "cap_capable")
            except BpfError as error:
                if error.errno == errno.ENOENT:
                    reason = "the kernel does not offer it"
                else:
                    reason = diagnosis.refusal(error)
                refused.append((way, reason))
                program.detach()
                continue
            return way
        raise SourceError(diagnosis.nothing_attached(refused))

    def _load_checks(
        self, program: BccProgram, config: layout.Config, events: EventSettings | None
    ) -> None:
        """Raises BpfError; _WithoutEvents where counting may work without them."""
        kprobe = self._name == "checks_kprobe"
        try:
            program.load(self._name, kprobe=kprobe)
            if events is None:
                return
            for number, name in enumerate(_TELLERS):
                program.load(name, kprobe=kprobe)
                program.jump_from("event_programs", number, name)
        except BpfError as error:
            if events is None:
                raise
            raise _WithoutEvents(diagnosis.refusal(error)) from error
        events.fill(config)
        self._configure(program, config)
        self._reader = EventReader(self._ids, told=time.monotonic_ns)

    def _see_tracepoint(self, program: BccProgram) -> None:
        """Raises BpfError with ENOENT where there is none."""
        program.load("calibrate_company")
        program.attach("calibrate_company", "cap_capable")
        program.detach()

    def _configure(self, program: BccProgram, config: layout.Config) -> None:
        program.update("configuration", ctypes.c_uint32(0), config)

    def _calibrate(self, program: BccProgram, config: layout.Config) -> None:
        try:
            symbols = Symbols.read()
        except OSError as error:
            log.warning("cannot read /proc/kallsyms: %s", error)
            return
        if symbols.restricted or not audit_class.set_callers(config, symbols):
            log.warning(audit_class.HIDDEN)
            return
        self._configure(program, config)

        def attach(name: str) -> None:
            program.load(name)
            program.attach(name, "cap_capable")

        try:
            audit_class.measure(
                attach, lambda: program.value("calibrations", layout.Calibration), config
            )
        finally:
            program.detach()
        self._configure(program, config)

    def _find_mount_namespace(self, program: BccProgram) -> None:
        """struct mount is private to the kernel: without BTF its mnt_ns is found by value, above
        the struct vfsmount of this process's own executable."""
        import threading

        if program.structs is not None:
            offset, inode = program.structs.mount_namespace, program.structs.mount_inode
        else:
            program.load("look_at_self")
            program.attach("look_at_self", "sched_process_fork")
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
            program.detach()
            seen = program.value("calibrations", layout.Calibration)
            own = seen.frames[4]
            if not seen.hits or seen.frames[2] != diagnosis.effective_capabilities():
                raise SourceError(
                    "the kernel headers do not fit the running kernel: a task's capabilities are "
                    "not where they say. Install those of exactly this kernel"
                )
            places = [i for i, word in enumerate(seen.words) if word == own]
            if not places:
                raise SourceError(
                    "the mount namespace of an executable could not be found in this kernel's "
                    "struct mount: the runtimes' set-up could not be told from workloads"
                )
            offset = 8 * places[0]
            inode = _inode_offset(seen)
        program.update("mount_offsets", ctypes.c_uint32(0), ctypes.c_uint64(offset))
        program.update("mount_offsets", ctypes.c_uint32(1), ctypes.c_uint64(inode))

    # -- counting --------------------------------------------------------------------------------

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        if self._program is None:
            return
        known = list(cgroups)
        for hierarchy in self._hierarchies.counted:
            number = layout.HIERARCHIES.index(hierarchy.controller)
            ids = {path: key.id for key, path in known if key.hierarchy == hierarchy.id}
            for path, cgroup in ids.items():
                key = ctypes.c_uint64(
                    cgroup << layout.KEY_CGROUP_SHIFT | number << layout.KEY_HIERARCHY_SHIFT
                )
                self._program.update(
                    "cgroup_places", key, _place(path, ids, self._hierarchies.mode), flags=1
                )

    def drain(self) -> Drain:
        if self._program is None:
            raise RuntimeError("drain() of a source that is not open")
        # Counters first: each cgroup counted by now has its creation in the ring already.
        increments = self._counters.drain(time.monotonic())
        self._counters.commit()
        at = time.time()
        state = self._program.value("states", layout.State)
        increments += self._overflow.increments(bytes(state.overflow))
        cgroup_events, lost = self._cgroup_events()
        return Drain(
            time=at,
            increments=increments,
            cgroup_events=cgroup_events,
            cgroup_events_lost=lost,
            events=self._events(state.events_sent),
            events_lost={"full": state.events_full, "limited": state.events_limited},
            missed={"recursion": self._program.recursion_misses(self._name)},
            slots_used=self._counters.used,
            slots_total=self._counters.total,
        )

    def _events(self, sent: int) -> list[Event]:
        assert self._program is not None
        if self._reader is None or sent == self._events_sent:
            return []
        self._events_sent = sent
        read = self._reader.read
        found = {
            (key.time, key.cpu): read(bytes(record))
            for key, record in self._program.items("check_events", _EventKey, layout.CheckEventLong)
        }
        for key in found:
            self._program.delete("check_events", _EventKey(*key))
        return [found[key] for key in sorted(found)]

    def _cgroup_events(self) -> tuple[list[CgroupEvent], int]:
        assert self._program is not None
        events = []
        lost = 0
        written = self._program.number("cgroup_events_written")
        while self._read_events < written:
            if written - self._read_events > RING:
                lost += written - RING - self._read_events
                self._read_events = written - RING
            number = self._read_events
            record = self._program.value("cgroup_events", _Event, number % RING)
            # The writer is one slot ahead of what it has told: the oldest may be half written.
            written = self._program.number("cgroup_events_written")
            if written - number >= RING:
                lost += 1
                self._read_events += 1
                continue
            self._read_events += 1
            change = layout.CHANGES.get(record.head.change)
            if change is None:
                log.warning("a cgroup event of unknown kind %d was left out", record.head.change)
                continue
            path = bytes(record)[ctypes.sizeof(record.head) :][: max(record.head.path_len - 1, 0)]
            key = CgroupKey(record.head.hierarchy, record.head.id)
            events.append(CgroupEvent(change, key, path.decode("utf-8", "surrogateescape")))
        return events, lost

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        self._counters.release(cgroups, time.monotonic())

    def close(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None


class _WithoutEvents(Exception):
    """The kernel refuses the programs that tell events; the text says why."""


def _inode_offset(seen: layout.Calibration) -> int:
    """From this process's own struct mnt_namespace to the inode number; 0: not found."""
    number = Path("/proc/self/ns/mnt").stat().st_ino
    words = bytes(seen.frames)[5 * 8 :]
    return max(words.find(number.to_bytes(4, sys.byteorder)), 0)


_ID = re.compile(r"[0-9a-f]{64}$")
_POD = re.compile(r"pod([0-9a-f][0-9a-f_-]{31}|[0-9a-f][0-9a-f_-]{35})$")


def _place(path: str, ids: dict[str, int], mode: Mode) -> _Place:
    """What the program would have noted, had it been there (note_of() in bpf/cap_checks.bcc.c)."""
    place = _Place()
    here = ""
    for name in path.strip("/").split("/"):
        here += f"/{name}"
        cgroup = ids.get(here, 0)
        if not name or not cgroup:
            continue
        if not place.topmost:
            place.topmost = cgroup
        bare = re.sub(r"\.(scope|slice|service)$", "", name)
        if _ID.search(bare):
            if not place.container or (place.in_pod and not place.below_pod):
                place.container = cgroup
                place.below_pod = place.in_pod
        elif _POD.search(bare):
            place.in_pod = 1
    if mode is not Mode.V2:
        place.rank = layout.RANKS.get(parse(path).kind, layout.RANK_OTHER)
    return place
