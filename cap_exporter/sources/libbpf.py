# SPDX-License-Identifier: Apache-2.0
"""Counts checks with the compiled CO-RE object through libbpf: the source of choice."""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

from cap_exporter.cgroups.hierarchies import Hierarchies, Mode
from cap_exporter.cgroups.reference import parse
from cap_exporter.granted import merge
from cap_exporter.model import (
    CgroupEvent,
    CgroupKey,
    Drain,
    Event,
    Granted,
    SourceError,
    SourceInfo,
)
from cap_exporter.sources import audit_class, diagnosis, layout, preemption
from cap_exporter.sources.by_key import KeyCounters
from cap_exporter.sources.counters import CounterTable
from cap_exporter.sources.events import EventReader, EventSettings
from cap_exporter.sources.held import read_held
from cap_exporter.sources.kallsyms import Symbols
from cap_exporter.sources.libbpf_binding import BpfError, KernelTypes, LibBpf, Object, Ring
from cap_exporter.sources.overflow import OverflowCounters

log = logging.getLogger(__name__)

#: Counters of one shard of the table, by default: 512 KiB.
SLOTS_PER_SHARD: Final = 32768

#: Slots that may be claimed between two drains without a look at the whole table.
CLAIMS: Final = 8192

#: CPUs share a table from this many on; each shard costs memory.
MAX_SHARDS: Final = 8

_LIFECYCLE: Final = frozenset({"cgroup_created", "cgroup_removed", "cgroup_renamed"})
_PHASE: Final = frozenset({"task_attached", "task_forked", "task_executed", "task_freed"})
_HELD: Final = "held_by_tasks"

#: What processes hold changes rarely, and of entrypoints it is told at once: seconds between two
#: readings of all.
HELD_EVERY: Final = 60.0


class _Extras(NamedTuple):
    """What a kernel may be too old for, while it can count."""

    events: bool
    held: bool


class _Way(NamedTuple):
    """A way to attach: in this order of preference."""

    name: str
    programs: tuple[str, ...]
    """Variants: the table in mapped memory first, then the per-key hash (kernels before 5.12)."""


_NO_TRACEPOINT: Final = "the kernel has no cap_capable tracepoint (Linux 6.14 and later do)"

WAYS: Final = (
    _Way("tp_btf", ("checks_tp_btf",)),
    _Way("fexit", ("checks_fexit", "checks_fexit_by_key")),
    _Way("kprobe", ("checks_kprobe", "checks_kprobe_by_key")),
)


def object_path() -> Path:
    """The compiled object for this machine. Raises SourceError."""
    machine = platform.machine()
    name = {"x86_64": "cap_checks.bpf.o", "aarch64": "cap_checks.arm64.bpf.o"}.get(machine)
    if name is None:
        raise SourceError(
            f"there is no BPF object for {machine} machines, only for x86_64 and aarch64"
        )
    path = Path(str(resources.files("cap_exporter").joinpath("_bpf", name)))
    if not path.is_file():
        raise SourceError(f"the BPF object {path} is missing: run `make build` in the source tree")
    return path


class LibbpfSource:
    """The Source that loads bpf/cap_checks.bpf.c.

    ``attach`` forces one of tp_btf, fexit, kprobe; None takes the first that this kernel offers
    and permits. ``slots`` counters per shard, a power of two.
    """

    def __init__(
        self,
        hierarchies: Hierarchies,
        *,
        attach: str | None = None,
        slots: int = SLOTS_PER_SHARD,
        btf: Path | None = None,
        bpf_object: Path | None = None,
        events: EventSettings | None = None,
    ) -> None:
        if slots < layout.BUCKET_SLOTS * 2 or slots & (slots - 1):
            raise ValueError(f"the number of counters must be a power of two, not {slots}")
        self._hierarchies = hierarchies
        self._attach = attach
        self._slots = slots
        self._btf = btf
        self._path = bpf_object
        self._object: Object | None = None
        self._event_settings = events
        self._ring: Ring | None = None
        self._event_ring: Ring | None = None
        self._told: list[Event] = []
        self._next_tick = 0.0
        self._held_link: int | None = None
        self._next_held = 0.0
        self._entered: dict[CgroupKey, Granted] = {}
        self._hierarchy_ids: tuple[int, ...] = ()
        self._counters: CounterTable | KeyCounters
        self._state: layout.State
        self._program = ""
        self._overflow = OverflowCounters()
        self._events: list[CgroupEvent] = []
        self._events_lost = 0
        self.symbols_restricted = False
        self.lossy = ""
        """Why the way that is attached loses checks on this kernel; empty: it does not."""

    # -- opening ---------------------------------------------------------------------------------

    def open(self) -> SourceInfo:
        path = self._path or object_path()
        bpf = LibBpf()
        try:
            types = KernelTypes(bpf, self._btf)
        except BpfError as error:
            raise SourceError(diagnosis.no_btf(self._btf)) from error
        config = self._configure(types)
        symbols = self._read_symbols()
        refused: list[tuple[str, str]] = []
        lossy: list[tuple[_Way, str]] = []
        mode = functools.cache(lambda: preemption.mode_of(bpf, path, symbols))
        try:
            for way in WAYS:
                if self._attach not in (None, way.name):
                    continue
                if way.name == "tp_btf" and not types.has_tracepoint("cap_capable"):
                    refused.append((way.name, _NO_TRACEPOINT))
                    continue
                if reason := _why_lossy(way, types, mode):
                    lossy.append((way, reason))
                    if self._attach is None:
                        refused.append((way.name, reason))
                elif info := self._try(way, bpf, path, config, symbols, refused):
                    return info
            for way, reason in lossy:
                # Better than nothing: what is lost is counted.
                if info := self._try(way, bpf, path, config, symbols, refused):
                    self.lossy = reason
                    log.warning("checks may be lost: %s", reason)
                    return info
        finally:
            types.close()
        raise SourceError(diagnosis.nothing_attached(refused))

    def _try(
        self,
        way: _Way,
        bpf: LibBpf,
        path: Path,
        config: layout.Config,
        symbols: Symbols | None,
        refused: list[tuple[str, str]],
    ) -> SourceInfo | None:
        """Attach in this way; None, and why in ``refused``, where the kernel does not let it."""
        if way.name == "tp_btf":
            self._calibrate(bpf, path, config, symbols)
        for program in way.programs:
            reason = self._load_what_goes(bpf, path, config, program)
            if not reason:
                log.info("counting capability checks through %s", way.name)
                for name, why in refused:
                    log.info("not through %s: %s", name, why)
                return SourceInfo("libbpf", way.name)
            refused.append((way.name, reason))
        return None

    def _configure(self, types: KernelTypes) -> layout.Config:
        config = layout.Config()
        shards = _shards(os.cpu_count() or 1)
        buckets = self._slots // layout.BUCKET_SLOTS
        config.bucket_mask = buckets - 1
        config.bucket_bits = buckets.bit_length() - 1
        config.shard_mask = shards - 1
        config.claims_mask = min(shards * self._slots, CLAIMS) - 1
        layout.set_hierarchies(config, self._hierarchies.counted)
        parameters = types.parameters("cap_capable")
        # Asked by name, since vendors brought the change of 5.1 to older kernels.
        config.audit_argument = 1 if "opts" in parameters else 2 if "audit" in parameters else 0
        config.calibrate_tid = audit_class.this_thread()
        if self._event_settings:
            self._event_settings.fill(config)
        return config

    def _read_symbols(self) -> Symbols | None:
        try:
            symbols = Symbols.read()
        except OSError as error:
            log.warning("cannot read /proc/kallsyms: %s", error)
            return None
        self.symbols_restricted = symbols.restricted
        return None if symbols.restricted else symbols

    def _calibrate(
        self, bpf: LibBpf, path: Path, config: layout.Config, symbols: Symbols | None
    ) -> None:
        if symbols is None or not audit_class.set_callers(config, symbols):
            config.ambiguous = audit_class.AMBIGUOUS
            log.warning(audit_class.HIDDEN)
            return
        probe = Object(bpf, path, self._btf)
        try:
            probe.only(audit_class.programs())
            probe.set_initial(".rodata.config", config)
            _drop_unused_maps(probe, keep={"calibration"})
            probe.load()
            audit_class.measure(
                probe.attach, lambda: probe.struct("calibration", layout.Calibration), config
            )
        except BpfError as error:
            log.debug("the stack's layout was not measured: %s", error)
        finally:
            probe.close()

    def _load_what_goes(self, bpf: LibBpf, path: Path, config: layout.Config, program: str) -> str:
        """Load and attach, without what this kernel refuses beside the counting. Returns why not
        even that goes, "" where it does."""
        wanted = self._event_settings
        first: BpfError | None = None
        for extras in dict.fromkeys(
            (
                _Extras(wanted is not None, held=True),
                _Extras(wanted is not None, held=False),
                _Extras(False, held=False),
            )
        ):
            if not extras.events:
                self._event_settings = None
                config.events = 0
            try:
                self._load(bpf, path, config, program, extras)
            except BpfError as error:
                self._give_up()
                first = first or error
                if error.errno == errno.EPERM:
                    break  # nothing that less of it would mend
                continue
            if first is not None:
                missing = [] if extras.held else ["what containers are granted is not read"]
                missing += ["there are no events"] if wanted and not extras.events else []
                log.warning(
                    "checks are counted, but %s: %s",
                    " and ".join(missing),
                    diagnosis.refusal(first),
                )
            return ""
        self._event_settings = wanted
        if wanted:
            wanted.fill(config)
        assert first is not None
        return diagnosis.refusal(first)

    def _load(
        self, bpf: LibBpf, path: Path, config: layout.Config, program: str, extras: _Extras
    ) -> None:
        by_key = program.endswith("_by_key")
        total = (config.shard_mask + 1) * self._slots
        self._object = probe = Object(bpf, path, self._btf)
        programs = frozenset({program}) | _LIFECYCLE | _PHASE
        probe.only(programs | {_HELD} if extras.held else programs)
        probe.set_initial(".rodata.config", config)
        ring = self._event_settings.ring_bytes if self._event_settings else mmap.PAGESIZE
        probe.set_max_entries("check_events", ring)
        if not self._event_settings:
            # Nothing uses them then: as small as can be.
            probe.set_max_entries("samples", 1)
            probe.set_max_entries("event_tokens", 1)
        if by_key:
            probe.set_max_entries("counts_by_key", self._slots)
            _drop_unused_maps(probe, keep={"counts_by_key"})
        else:
            probe.set_max_entries("counters", total // layout.BUCKET_SLOTS)
            probe.set_max_entries("claims", config.claims_mask + 1)
            _drop_unused_maps(probe, keep={"counters", "claims"})
        probe.load()
        self._state = probe.struct(".bss.state", layout.State)
        self._hierarchy_ids = ids = tuple(config.hierarchy_ids)
        if by_key:
            self._counters = KeyCounters(
                probe, "counts_by_key", ids, self._slots, bpf.possible_cpus
            )
        else:
            state = self._state
            self._counters = CounterTable(
                probe.map_memory("counters"),
                probe.map_memory("claims"),
                lambda: state.claims,
                ids,
                synchronize,
            )
        if self._event_settings:
            reader = EventReader(ids)
            self._event_ring = Ring(
                bpf, probe.map_fd("check_events"), lambda r: self._told.append(reader.read(r))
            )
        self._ring = Ring(bpf, probe.map_fd("cgroup_events"), self._on_cgroup_event)
        # What tells cgroups and phases comes first, so that no check is counted without them.
        for name in sorted(_LIFECYCLE | _PHASE):
            probe.attach(name)
        if extras.held:
            self._held_link = probe.attach_iterator(_HELD)
        probe.attach(program)
        self._program = program
        self._next_held = 0.0

    def _give_up(self) -> None:
        for ring in (self._ring, self._event_ring):
            if ring:
                ring.close()
        self._ring = self._event_ring = None
        self._held_link = None
        if self._object:
            self._drop_views()
            self._object.close()
            self._object = None

    def _drop_views(self) -> None:
        for name in ("_state", "_counters"):
            self.__dict__.pop(name, None)

    # -- counting --------------------------------------------------------------------------------

    @property
    def event_fd(self) -> int | None:
        """Readable when cgroups came or went: drain soon, so that the ring does not fill up.
        Events alone wait for the next drain."""
        return self._ring.fd if self._ring else None

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        """Where a task is in several hierarchies, the kernel side picks the cgroup that tells
        most; of new ones it knows itself."""
        if self._object is None or self._hierarchies.mode is Mode.V2:
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
                self._object.update("cgroup_notes", key, layout.CgroupNote(0, rank), flags=1)
        # What was chosen until now was chosen without this.
        self._state.epoch += 1

    @property
    def stack_walks(self) -> int:
        """Checks whose audit class was found by unwinding the stack, the slow way, since open()."""
        return int(self._state.stack_walks)

    def drain(self) -> Drain:
        if self._object is None or self._ring is None:
            raise RuntimeError("drain() of a source that is not open")
        now = time.monotonic()
        # Counters first: each cgroup counted by now has its creation in the ring already.
        increments = self._counters.drain(now)
        at = time.time()
        increments += self._overflow.increments(bytes(self._state.overflow))
        self._ring.consume()
        events, self._events = self._events, []
        if self._event_ring and self._event_settings:
            self._event_ring.consume()
            if now >= self._next_tick:
                self._state.event_tick += 1
                self._next_tick = now + self._event_settings.tick
        told, self._told = self._told, []
        entered, self._entered = self._entered, {}
        lost = self._state.events_lost
        newly_lost, self._events_lost = lost - self._events_lost, lost
        return Drain(
            time=at,
            increments=increments,
            cgroup_events=events,
            cgroup_events_lost=newly_lost,
            missed=self._missed(),
            events=told,
            events_lost={
                "full": self._state.events_full,
                "limited": self._state.events_limited,
            },
            entered=entered,
            held=self._read_held(now),
            slots_used=self._counters.used,
            slots_total=self._counters.total,
        )

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        self._counters.release(cgroups, time.monotonic())

    def _read_held(self, now: float) -> Mapping[CgroupKey, Granted]:
        if self._object is None or self._held_link is None or now < self._next_held:
            return {}
        self._next_held = now + HELD_EVERY
        try:
            records = self._object.read_iterator(self._held_link)
        except (BpfError, OSError) as error:
            log.warning("what processes hold could not be read this time: %s", error)
            return {}
        return read_held(records, self._hierarchy_ids)

    def _missed(self) -> Mapping[str, int]:
        assert self._object is not None
        return {"recursion": self._object.recursion_misses(self._program)}

    def _on_cgroup_event(self, record: bytes) -> None:
        head = layout.CgroupEventHead.from_buffer_copy(record)
        if head.change == layout.ENTERED:
            merge(self._entered, read_held(record[ctypes.sizeof(head) :], self._hierarchy_ids))
            return
        change = layout.CHANGES.get(head.change)
        if change is None:
            log.warning("a cgroup event of unknown kind %d was left out", head.change)
            return
        start = ctypes.sizeof(head)
        path = record[start : start + max(head.path_len - 1, 0)]
        self._events.append(
            CgroupEvent(
                change, CgroupKey(head.hierarchy, head.id), path.decode("utf-8", "surrogateescape")
            )
        )

    def close(self) -> None:
        self._give_up()


def _why_lossy(way: _Way, types: KernelTypes, mode: Callable[[], str | None]) -> str:
    """Why checks may be lost in this way on this kernel; empty: none are."""
    if way.name == "tp_btf":
        return preemption.why_not_tracepoint(types, mode)
    return preemption.why_not_fexit(mode()) if way.name == "fexit" else ""


def _shards(cpus: int) -> int:
    shards = 1
    while shards < cpus and shards < MAX_SHARDS:
        shards *= 2
    return shards


def _drop_unused_maps(probe: Object, keep: set[str]) -> None:
    """Big maps that no loaded program uses: not created, so that they cost nothing."""
    for name in {"counters", "claims", "counts_by_key"} - keep:
        probe.without_map(name)


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
