# SPDX-License-Identifier: Apache-2.0
"""Counts checks with the compiled CO-RE object through libbpf: the source of choice."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import mmap
import os
import platform
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.model import (
    CgroupKey,
    Drain,
    SourceError,
    SourceInfo,
)
from cap_exporter.sources import audit_class, diagnosis, layout, preemption
from cap_exporter.sources.events import EventSettings
from cap_exporter.sources.kallsyms import Symbols
from cap_exporter.sources.kept.left import Left, Unreadable
from cap_exporter.sources.kept.pins import Adopted, PinError, Pins
from cap_exporter.sources.kept.replaced import Replaced
from cap_exporter.sources.kept.saved import SavedText
from cap_exporter.sources.libbpf_binding import BpfError, KernelTypes, LibBpf, Object
from cap_exporter.sources.reading import Attached, Reading, Shape

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

#: Room for news of cgroups until they are read, bytes: 2,048 of them; where programs outlive their
#: process, for the time in between, 16,384.
CGROUP_RING: Final = 512 << 10
CGROUP_RING_KEPT: Final = 4 << 20


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


def object_path(*, before62: bool = False) -> Path:
    """The compiled object for this machine. before62: for kernels without bpf_rdonly_cast().
    Raises SourceError."""
    machine = platform.machine()
    of_machine = {"x86_64": "", "aarch64": ".arm64"}.get(machine)
    if of_machine is None:
        raise SourceError(
            f"there is no BPF object for {machine} machines, only for x86_64 and aarch64"
        )
    name = f"cap_checks{'.before62' if before62 else ''}{of_machine}.bpf.o"
    path = Path(str(resources.files("cap_exporter").joinpath("_bpf", name)))
    if not path.is_file():
        raise SourceError(f"the BPF object {path} is missing: run `make build` in the source tree")
    return path


class LibbpfSource:
    """The Source that loads bpf/cap_checks.bpf.c.

    ``attach`` forces one of tp_btf, fexit, kprobe; None takes the first that this kernel offers
    and permits. ``slots`` counters per shard, a power of two. ``pin``: a folder of a BPF file
    system where programs and maps are kept for the next process.
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
        pin: Path | None = None,
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
        self._shape: Shape
        self._reading: Reading | None = None
        self._pin = pin
        self._pins: Pins | None = None
        self._adopted: Adopted | None = None
        self._replaced: Replaced | None = None
        self._held_link: int | None = None
        self._text: SavedText | None = None
        self._set_id = ""
        self._info = SourceInfo("libbpf", "")
        self.left: Left | None = None
        """What the process before left; for who counts to go on with. Once."""
        self.symbols_restricted = False
        self.lossy = ""
        """Why the way that is attached loses checks on this kernel; empty: it does not."""

    # -- opening ---------------------------------------------------------------------------------

    def open(self) -> SourceInfo:
        bpf = LibBpf()
        try:
            types = KernelTypes(bpf, self._btf)
        except BpfError as error:
            raise SourceError(diagnosis.no_btf(self._btf)) from error
        try:
            old = not types.parameters("bpf_rdonly_cast")
            path = self._path or object_path(before62=old)
            config = self._configure(types)
            symbols = self._read_symbols()
            if self._pin is None:
                self._info = self._attach_new(bpf, path, types, config, symbols)
            else:
                self._set_id = self._name_of_set(path, config)
                self._pins = Pins(bpf, self._pin)
                if not self._go_on(bpf, self._pins):
                    self._info = self._attach_new(bpf, path, types, config, symbols)
                    self._keep(self._pins)
        except BaseException:
            self.close()
            raise
        finally:
            types.close()
        return self._info

    def _attach_new(
        self,
        bpf: LibBpf,
        path: Path,
        types: KernelTypes,
        config: layout.Config,
        symbols: Symbols | None,
    ) -> SourceInfo:
        """Raises SourceError."""
        refused: list[tuple[str, str]] = []
        lossy: list[tuple[_Way, str]] = []
        mode = functools.cache(lambda: preemption.mode_of(bpf, path, symbols))
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
                self._leave()
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
        events = self._event_settings
        cgroup_ring = CGROUP_RING if self._pin is None else CGROUP_RING_KEPT
        probe.set_max_entries("cgroup_events", cgroup_ring)
        probe.set_max_entries("check_events", events.ring_bytes if events else mmap.PAGESIZE)
        if not events:
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
        self._shape = Shape(
            program=program,
            hierarchy_ids=tuple(config.hierarchy_ids),
            slots=self._slots,
            cgroup_ring=cgroup_ring,
            event_ring=events.ring_bytes if events else 0,
            tick=events.tick if events else 0.0,
            held=extras.held,
        )
        # What tells cgroups and phases comes first, so that no check is counted without them.
        # A set that is replaced counts until then.
        for name in sorted(_LIFECYCLE | _PHASE):
            probe.attach(name)
        self._held_link = link = probe.attach_iterator(_HELD) if extras.held else None
        self._reading = self._read(
            probe, bpf, (lambda: probe.read_iterator(link)) if link else None
        )
        if self._replaced:
            self._replaced.stop()
        probe.attach(program)

    def _read(self, maps: Attached, bpf: LibBpf, held: Callable[[], bytes] | None) -> Reading:
        try:
            return Reading(maps, self._hierarchies, self._shape, bpf.possible_cpus, held)
        except OSError as error:
            raise BpfError("the maps can't be read", error.errno or errno.EIO) from error

    # -- what outlives this process --------------------------------------------------------------

    def _name_of_set(self, path: Path, config: layout.Config) -> str:
        """Equal where programs and options are the same."""
        plain = layout.Config.from_buffer_copy(config)
        plain.calibrate_tid = 0
        digest = hashlib.sha256(path.read_bytes())
        digest.update(bytes(plain))
        digest.update(repr((self._attach, self._slots, self._event_settings)).encode())
        return digest.hexdigest()[:16]

    def _go_on(self, bpf: LibBpf, pins: Pins) -> bool:
        """Take over what is there. False: nothing is, or nothing that fits, which is replaced when
        other programs are loaded."""
        found = pins.adopt()
        if found is None:
            return False
        try:
            left = Left.parse(SavedText(found.saved).read())
            self._shape = left.shape
            reading = self._read(found, bpf, found.read_held if found.has_held else None)
        except (Unreadable, BpfError) as error:
            log.warning("%s is replaced, counts begin anew: %s", pins.live, error)
            self._replaced = Replaced(pins, found, None, None)
            return False
        if lost := reading.resume(left.counters, left.overflow, left.news_lost):
            log.error("%d checks can't be named: what was saved does not fit the counters", lost)
        if left.set_id != self._set_id or not pins.is_attached:
            log.warning(
                "the programs in %s are of another version or have other options: they are "
                "replaced, and their counts go on",
                pins.live,
            )
            self._replaced = Replaced(pins, found, reading, left)
            return False
        self._adopted, self._reading = found, reading
        self._text = SavedText(found.saved)
        self._info = SourceInfo("libbpf", left.attach)
        self.lossy = left.lossy
        self.left = left
        log.info("going on with the programs in %s, attached by %s", pins.live, left.attach)
        return True

    def _keep(self, pins: Pins) -> None:
        """Give what was loaded names; where that can't be, it ends with this process."""
        assert self._object is not None
        if self._replaced:
            self.left = self._replaced.left
        try:
            if self._shape.by_key:
                raise PinError("counters are kept where Linux is 5.12 or later")
            self._text = SavedText(pins.build(self._object, self._shape.program, self._held_link))
        except PinError as error:
            log.warning("counting ends with this process: %s", error)
            self._forget_replaced()
            pins.unload()
            pins.close()
            self._pins = None
            return
        self._object.keep_attached()
        before = self.left
        # With this set's names, and nothing read from it yet.
        self.save(before.document if before else None, before)
        pins.publish()
        self._forget_replaced()
        log.info("the programs stay in %s when this process ends", pins.live)

    def _forget_replaced(self) -> None:
        if self._replaced:
            self._replaced.close()
            self._replaced = None

    @property
    def is_kept(self) -> bool:
        """Programs and counts outlive this process: save() before commit()."""
        return self._text is not None

    def save(self, document: object, before: Left | None = None) -> None:
        """Leave this to the next process. ``before``: what of a set before is not in the document
        yet. Raises DoesNotFit."""
        if self._text is None:
            return
        left = Left(
            set_id=self._set_id,
            attach=self._info.attach,
            lossy=self.lossy,
            shape=self._shape,
            increments=before.increments if before else (),
            news=before.news if before else (),
            document=document,
        )
        if before is None and self._reading is not None:
            left.counters, left.overflow, left.news_lost = self._reading.saved()
        self._text.write(left.text())

    @property
    def must_save(self) -> bool:
        """commit() would free something."""
        return self._reading is not None and self._reading.must_commit

    @property
    def counted(self) -> Collection[CgroupKey]:
        """Cgroups that have counters."""
        return self._reading.counters.cgroups if self._reading else ()

    def commit(self) -> None:
        """What was drained is saved: its room may be used again."""
        if self._reading:
            self._reading.commit()

    # -- counting --------------------------------------------------------------------------------

    @property
    def event_fd(self) -> int | None:
        return self._reading.event_fd if self._reading else None

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        if self._reading:
            self._reading.introduce(cgroups)

    @property
    def stack_walks(self) -> int:
        """Checks whose audit class was found by unwinding the stack, the slow way, since open()."""
        return self._opened().stack_walks

    def drain(self) -> Drain:
        reading = self._opened()
        drain = reading.drain()
        if self._text is None:
            reading.commit()
        return drain

    def _opened(self) -> Reading:
        if self._reading is None:
            raise RuntimeError("drain() of a source that is not open")
        return self._reading

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        self._opened().release(cgroups)

    def close(self) -> None:
        self._leave()
        self._forget_replaced()
        if self._pins:
            self._pins.close()
            self._pins = None
        self._text = None

    def _leave(self) -> None:
        if self._reading:
            self._reading.close()
            self._reading = None
        if self._adopted:
            self._adopted.close()
            self._adopted = None
        if self._object:
            self._object.close()
            self._object = None


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
