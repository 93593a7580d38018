# SPDX-License-Identifier: Apache-2.0
"""Reads the counters that the BPF programs keep in memory this process maps (bpf/counters.bpf.h).

No system call per key: what is new is read from the log of claimed slots, what grew is found by
comparing one list of numbers with the last one.
"""

from __future__ import annotations

import gc
import hashlib
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cap_exporter.model import CgroupKey, CheckKey
from cap_exporter.sources import layout

_LOWER_HALF = (1 << 32) - 1

#: A slot is freed no sooner than this after its cgroup is gone, seconds. The programs that may
#: have matched its key run for microseconds; ``synchronize`` covers those that were preempted.
GRACE = 1.0


class SavedCounters(NamedTuple):
    """What a table has given so far, for the process that goes on with it."""

    given: tuple[tuple[int, int, int], ...]
    """Slot, key, and how much of its count was given."""
    final: tuple[int, ...]
    """Slots that were given for the last time, and are to be free."""


class CounterTable:
    """The mapped table: gives increments, frees the slots of removed cgroups.

    drain() changes nothing that the next process could not tell from what saved() said before;
    commit() does, so saved() must be safe by then. Each slot that release() retires was in a
    saved() before.

    ``counters`` and ``claims`` are the two maps' memory, ``head`` tells how many slots were
    claimed so far, ``hierarchy_ids`` are cgroup hierarchy ids by ``enum hierarchy``.
    ``synchronize`` returns when every BPF program that ran when it was called has ended.
    """

    def __init__(
        self,
        counters: memoryview,
        claims: memoryview,
        head: Callable[[], int],
        hierarchy_ids: Sequence[int],
        synchronize: Callable[[], None],
    ) -> None:
        self._words = counters.cast("B").cast("Q")
        self._claims = claims.cast("B").cast("Q")
        self._claims_mask = len(self._claims) - 1
        self._head = head
        self._hierarchy_ids = hierarchy_ids
        self._synchronize = synchronize
        self._tail = 0
        # The live slots: parallel lists, and one getter that reads all their counts.
        self._slots: list[int] = []
        self._known: set[int] = set()
        self._raw: list[int] = []
        self._keys: list[CheckKey] = []
        self._counts: list[int] = []
        self._read: Callable[[memoryview], tuple[int, ...]] | None = None
        self._by_cgroup: dict[CgroupKey, list[int]] = defaultdict(list)
        self._retired: list[tuple[float, list[int]]] = []
        self._final: list[int] = []
        self._zeroed: list[int] = []
        self.total = len(self._words) * 8 // layout.SLOT_BYTES

    @property
    def used(self) -> int:
        """Slots that hold a key, or are not free again yet."""
        return len(self._slots) + len(self._final) + len(self._zeroed)

    @property
    def cgroups(self) -> Collection[CgroupKey]:
        """Whose checks are in slots that were not released."""
        return self._by_cgroup.keys()

    def fingerprint(self) -> bytes:
        """Another one after each check."""
        return hashlib.blake2b(self._words).digest()

    @property
    def must_commit(self) -> bool:
        """There is something to free."""
        return bool(self._final)

    def release(self, cgroups: Sequence[CgroupKey], now: float) -> None:
        """Retire the slots of removed cgroups; drain() frees them when that is safe."""
        slots = [slot for cgroup in cgroups for slot in self._by_cgroup.pop(cgroup, ())]
        if not slots:
            return
        for slot in slots:
            # No program matches it from here on; a late check makes a new slot.
            self._words[2 * slot] = layout.SLOT_RETIRED
        self._retired.append((now, slots))

    def saved(self) -> SavedCounters:
        """After the last drain."""
        return SavedCounters(
            tuple(zip(self._slots, self._raw, self._counts, strict=True)), tuple(self._final)
        )

    def resume(self, saved: SavedCounters, now: float) -> int:
        """Go on where another process was. Returns checks that can't be told apart any more:
        slots that were retired without having been saved, which does not happen unless what was
        saved is gone."""
        # First: what is claimed from here on is in the log behind it.
        head = self._head()
        retired: list[int] = []
        for slot, key, given in saved.given:
            if slot * 2 >= len(self._words):
                continue
            here = self._words[2 * slot]
            if here in (key, layout.SLOT_RETIRED):
                self._track(slot, key, given)
                if here != key:
                    retired.append(slot)
        self._retired.append((now, retired))
        self._final += saved.final
        unknown = [
            slot
            for slot, key in enumerate(self._words[::2].tolist())
            if key == layout.SLOT_RETIRED and slot not in self._known
        ]
        lost = sum(self._words[2 * s + 1] for s in unknown if s not in saved.final)
        self._final = unknown
        self._look_at_all()
        self._tail = head
        return int(lost)

    def drain(self, now: float) -> list[tuple[CheckKey, int]]:
        """What was counted since the last drain."""
        # Zeroed a drain ago, so that no CPU can see the freed key before the zeroed count.
        for slot in self._zeroed:
            self._words[2 * slot] = layout.SLOT_EMPTY
        self._zeroed.clear()
        over = []
        if self._retired and now - self._retired[0][0] >= GRACE:
            self._synchronize()
            while self._retired and now - self._retired[0][0] >= GRACE:
                over += self._retired.pop(0)[1]
        self._take_claims()
        increments = self._increments()
        if over:
            self._drop(over)
        return increments

    def commit(self) -> None:
        """What was drained is safe: free what was read for the last time."""
        for slot in self._final:
            self._words[2 * slot + 1] = 0
        self._zeroed += self._final
        self._final.clear()

    def _take_claims(self) -> None:
        head = self._head()
        if head - self._tail > self._claims_mask:
            # The log was overrun: more slots were claimed since the last drain than it holds.
            self._look_at_all()
            self._tail = head
            return
        while self._tail != head:
            claimed = self._claims[self._tail & self._claims_mask]
            if claimed >> 32 != self._tail & _LOWER_HALF or not claimed & _LOWER_HALF:
                break  # being written right now: next time
            self._tail += 1
            self._take((claimed & _LOWER_HALF) - 1)

    def _look_at_all(self) -> None:
        for slot, key in enumerate(self._words[::2].tolist()):
            if key not in (layout.SLOT_EMPTY, layout.SLOT_RETIRED):
                self._take(slot)

    def _take(self, slot: int) -> None:
        if slot not in self._known:
            self._track(slot, self._words[2 * slot], 0)

    def _track(self, slot: int, key: int, given: int) -> None:
        self._known.add(slot)
        hierarchy = self._hierarchy_ids[key >> layout.KEY_HIERARCHY_SHIFT & 3]
        cgroup = CgroupKey(hierarchy, key >> layout.KEY_CGROUP_SHIFT)
        self._slots.append(slot)
        self._raw.append(key)
        self._keys.append(layout.decode_kind(key, cgroup))
        self._counts.append(given)
        self._by_cgroup[cgroup].append(slot)
        self._read = None

    def _increments(self) -> list[tuple[CheckKey, int]]:
        if not self._slots:
            return []
        if self._read is None:
            # A second index, never used, so that the result is a tuple for one slot too.
            self._read = operator.itemgetter(*(2 * slot + 1 for slot in self._slots), 0)
        counts = list(self._read(self._words))
        counts.pop()
        before = self._counts
        self._counts = counts
        if counts == before:
            return []
        with _collector_paused():
            return [
                (key, new - old)
                for key, new, old in zip(self._keys, counts, before, strict=True)
                if new != old
            ]

    def _drop(self, slots: Sequence[int]) -> None:
        """They were read for the last time."""
        gone = set(slots)
        self._known -= gone
        keep = [i for i, slot in enumerate(self._slots) if slot not in gone]
        self._slots = [self._slots[i] for i in keep]
        self._raw = [self._raw[i] for i in keep]
        self._keys = [self._keys[i] for i in keep]
        self._counts = [self._counts[i] for i in keep]
        self._read = None
        self._final += slots


@contextmanager
def _collector_paused() -> Iterator[None]:
    """While as many objects are made as there are keys, without a cycle among them: the collector
    would look through all of them again and again, and take longer than the reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
