# SPDX-License-Identifier: Apache-2.0
"""Reading the table: what is new, what grew, and when a slot may be used again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.model import CgroupKey, CheckClass, CheckKey, UserNamespace, Verdict
from cap_exporter.sources import layout
from cap_exporter.sources.counters import GRACE, CounterTable, SavedCounters

HIERARCHIES = (0, 8, 4)
SLOTS = 64


class Kernel:
    """The memory as the programs write it."""

    def __init__(self, claims: int = SLOTS) -> None:
        self.counters = memoryview(bytearray(SLOTS * layout.SLOT_BYTES))
        self.claims = memoryview(bytearray(claims * 8))
        self.head = 0
        self.synchronized = 0
        self.table = self.read_anew()

    def read_anew(self) -> CounterTable:
        return CounterTable(
            self.counters, self.claims, lambda: self.head, HIERARCHIES, self._synchronize
        )

    def drain(self, now: float) -> list[tuple[CheckKey, int]]:
        found = self.table.drain(now)
        self.table.commit()
        return found

    def _synchronize(self) -> None:
        self.synchronized += 1

    @property
    def words(self) -> memoryview:
        return self.counters.cast("Q")

    def claim(self, slot: int, key: int, *, logged: bool = True) -> None:
        assert self.words[2 * slot] == layout.SLOT_EMPTY, "the slot is not free"
        self.words[2 * slot] = key
        if logged:
            self.log(slot)

    def log(self, slot: int) -> None:
        self.claims.cast("Q")[self.head % (len(self.claims) // 8)] = self.head << 32 | slot + 1
        self.head += 1

    def count(self, slot: int, n: int = 1) -> None:
        self.words[2 * slot + 1] += n


def key_of(cgroup: int, capability: int = 21, *, flags: int = 0, hierarchy: int = 0) -> int:
    return (
        cgroup << layout.KEY_CGROUP_SHIFT
        | hierarchy << layout.KEY_HIERARCHY_SHIFT
        | flags
        | capability
    )


def test_a_claimed_slot_is_decoded_and_its_growth_told_once() -> None:
    kernel = Kernel()
    flags = layout.KEY_DENIED | layout.KEY_OTHER_NS | 4 << layout.KEY_CLASS_SHIFT
    kernel.claim(5, key_of(77, 41, flags=flags, hierarchy=1))
    kernel.count(5, 3)
    ((key, n),) = kernel.drain(0.0)
    assert key == (
        CgroupKey(8, 77),
        41,
        Verdict.DENIED,
        UserNamespace.OTHER,
        CheckClass.NOAUDIT,
    )
    assert n == 3
    assert kernel.drain(1.0) == []
    kernel.count(5)
    assert [n for _, n in kernel.drain(2.0)] == [1]


def test_a_claim_that_is_being_written_is_taken_the_next_time() -> None:
    kernel = Kernel()
    kernel.claim(1, key_of(10), logged=False)
    kernel.count(1, 2)
    kernel.head += 1
    assert kernel.drain(0.0) == []
    kernel.claims.cast("Q")[0] = 1 + 1
    assert [n for _, n in kernel.drain(1.0)] == [2]


def test_two_slots_of_one_key_are_both_told() -> None:
    kernel = Kernel()
    for slot in (1, 2):
        kernel.claim(slot, key_of(10))
        kernel.count(slot, slot)
    assert sorted(n for _, n in kernel.drain(0.0)) == [1, 2]


def test_a_removed_cgroup_s_slots_are_free_after_grace_a_synchronization_and_a_last_read() -> None:
    kernel = Kernel()
    kernel.claim(1, key_of(10))
    kernel.count(1)
    kernel.drain(0.0)
    kernel.table.release([CgroupKey(0, 10)], 0.0)
    assert kernel.words[2] == layout.SLOT_RETIRED
    kernel.count(1, 4)  # a program that had matched the key before
    assert [n for _, n in kernel.drain(GRACE / 2)] == [4]
    assert kernel.synchronized == 0
    kernel.count(1, 5)
    assert [n for _, n in kernel.drain(GRACE)] == [5]
    assert kernel.synchronized == 1
    assert kernel.words[2] == layout.SLOT_RETIRED, "zeroed, but not free before the next drain"
    kernel.drain(GRACE + 0.1)
    assert (kernel.words[2], kernel.words[3]) == (layout.SLOT_EMPTY, 0)
    assert kernel.table.used == 0


def test_a_late_check_of_a_removed_cgroup_is_counted_and_can_be_released_too() -> None:
    kernel = Kernel()
    gone = CgroupKey(0, 10)
    kernel.claim(1, key_of(10))
    kernel.count(1)
    kernel.drain(0.0)
    kernel.table.release([gone], 0.0)
    kernel.claim(2, key_of(10))
    kernel.count(2)
    assert kernel.drain(0.1) == [(layout.decode_kind(21, gone), 1)]
    kernel.table.release([gone], 0.1)
    for now in (GRACE + 0.1, GRACE + 0.2):
        kernel.drain(now)
    assert kernel.table.used == 0


def test_more_claims_than_the_log_holds_lead_to_a_look_at_all_slots() -> None:
    kernel = Kernel(claims=8)
    for slot in range(20):
        kernel.claim(slot, key_of(slot + 2))
        kernel.count(slot)
    assert sum(n for _, n in kernel.drain(0.0)) == 20
    # What is logged late was seen already.
    kernel.log(5)
    kernel.count(5)
    assert [n for _, n in kernel.drain(1.0)] == [1]
    kernel.claim(30, key_of(99))
    kernel.count(30)
    assert [n for _, n in kernel.drain(2.0)] == [1]


@pytest.mark.parametrize("claims", [SLOTS, 4])
@given(st.data())
def test_nothing_is_lost_or_told_twice_whatever_comes_and_goes(
    claims: int, data: st.DataObject
) -> None:
    kernel = Kernel(claims)
    made: dict[int, int] = {}
    told: dict[int, int] = {}
    slots: dict[int, int] = {}
    now, cgroup = 0.0, 1
    for _ in range(data.draw(st.integers(1, 40))):
        act = data.draw(st.sampled_from(["claim", "count", "drain", "release"]))
        free = [s for s in range(SLOTS) if kernel.words[2 * s] == layout.SLOT_EMPTY]
        if act == "claim" and free:
            cgroup += 1
            slot = data.draw(st.sampled_from(free))
            kernel.claim(slot, key_of(cgroup))
            kernel.count(slot)
            made[cgroup] = 1
            slots[cgroup] = slot
        elif act == "count" and slots:
            one = data.draw(st.sampled_from(sorted(slots)))
            kernel.count(slots[one])
            made[one] += 1
        elif act == "release" and slots:
            one = data.draw(st.sampled_from(sorted(slots)))
            for key, n in kernel.drain(now):
                told[key.cgroup.id] = told.get(key.cgroup.id, 0) + n
            kernel.table.release([CgroupKey(0, one)], now)
            del slots[one]
        else:
            now += data.draw(st.floats(0, 2 * GRACE))
            for key, n in kernel.drain(now):
                told[key.cgroup.id] = told.get(key.cgroup.id, 0) + n
    for key, n in kernel.drain(now):
        told[key.cgroup.id] = told.get(key.cgroup.id, 0) + n
    assert told == made


class Keeping:
    """A process that saves what it was told before it lets the table free anything, and that may
    die between any two of these steps."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.gone: set[int] = set()
        self.told: dict[int, int] = {}
        self.saved: tuple[SavedCounters, dict[int, int]] = (SavedCounters((), ()), {})
        self.now = 0.0
        self.behind: set[int] = set()

    def step(self, removed: set[int], steps: int) -> None:
        """steps: it is killed after so many of them; 5 is all."""
        table = self.kernel.table
        for done, act in enumerate((self._drain, self._save, table.commit, None)):
            if done == steps:
                return self.die()
            if act is not None:
                act()
        self.gone |= removed
        table.release([CgroupKey(0, one) for one in removed | self.behind], self.now)
        self.behind = set()
        return self.die() if steps == 4 else None

    def _drain(self) -> None:
        for key, n in self.kernel.table.drain(self.now):
            self.told[key.cgroup.id] = self.told.get(key.cgroup.id, 0) + n

    def _save(self) -> None:
        self.saved = (self.kernel.table.saved(), dict(self.told))

    def die(self) -> None:
        counters, told = self.saved
        self.kernel.table = self.kernel.read_anew()
        assert self.kernel.table.resume(counters, self.now) == 0
        self.told = dict(told)
        # What is gone is found by looking at what is there, and released when it was saved.
        self.behind = set(self.gone)


@pytest.mark.parametrize("claims", [SLOTS, 4])
@given(st.data())
def test_nothing_is_lost_or_told_twice_whenever_the_process_is_killed(
    claims: int, data: st.DataObject
) -> None:
    kernel = Kernel(claims)
    keeping = Keeping(kernel)
    made: dict[int, int] = {}
    slots: dict[int, int] = {}
    cgroup = 1
    for _ in range(data.draw(st.integers(1, 40))):
        act = data.draw(st.sampled_from(["claim", "late", "count", "step", "step", "remove"]))
        free = [s for s in range(SLOTS) if kernel.words[2 * s] == layout.SLOT_EMPTY]
        if act == "claim" and free:
            cgroup += 1
            slots[cgroup] = data.draw(st.sampled_from(free))
            kernel.claim(slots[cgroup], key_of(cgroup))
            kernel.count(slots[cgroup])
            made[cgroup] = 1
        elif act == "late" and free and keeping.gone:
            # A process that dies makes a check when its cgroup's slots are retired already.
            one = data.draw(st.sampled_from(sorted(keeping.gone)))
            if not any(kernel.words[2 * s] == key_of(one) for s in range(SLOTS)):
                slot = data.draw(st.sampled_from(free))
                kernel.claim(slot, key_of(one))
                kernel.count(slot)
                made[one] += 1
        elif act == "count" and slots:
            one = data.draw(st.sampled_from(sorted(slots)))
            kernel.count(slots[one])
            made[one] += 1
        elif act == "remove" and slots:
            one = data.draw(st.sampled_from(sorted(slots)))
            del slots[one]
            keeping.now += data.draw(st.floats(0, 2 * GRACE))
            keeping.step({one}, data.draw(st.integers(0, 5)))
            keeping.gone.add(one)
        else:
            keeping.now += data.draw(st.floats(0, 2 * GRACE))
            keeping.step(set(), data.draw(st.integers(0, 5)))
    for _ in range(3):
        keeping.now += 2 * GRACE
        keeping.step(set(keeping.gone), 5)
    assert keeping.told == made
    keeping.die()
    for _ in range(3):
        keeping.now += 2 * GRACE
        keeping.step(set(), 5)
    assert keeping.told == made
    kept = {kernel.words[2 * s] for s in range(SLOTS)} - {layout.SLOT_EMPTY}
    assert kept == {key_of(one) for one in slots}
