# SPDX-License-Identifier: Apache-2.0
"""What one process leaves the next: whole or as it was before, and all of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.identities import Identities
from cap_exporter.keeper import Keeper
from cap_exporter.labels import LabelScheme
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    OVERFLOW,
    CgroupChange,
    CgroupEvent,
    CgroupKey,
    CheckKey,
    Drain,
    Granted,
    Identity,
    UserNamespace,
    Verdict,
)
from cap_exporter.sources import layout
from cap_exporter.sources.counters import SavedCounters
from cap_exporter.sources.kept.left import Left, Unreadable
from cap_exporter.sources.kept.saved import DoesNotFit, SavedText
from cap_exporter.sources.reading import Shape

SHAPE = Shape("checks_tp_btf", (0, 8, -1), 32768, 4096, 8192, 7.5, True)


class Dying:
    """Memory whose writer dies before its nth write."""

    def __init__(self, memory: bytearray, writes: int) -> None:
        self._memory = memoryview(memory)
        self._left = writes

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, where: slice) -> memoryview:
        return self._memory[where]

    def __setitem__(self, where: slice, value: bytes) -> None:
        if not self._left:
            raise SystemExit
        self._left -= 1
        self._memory[where] = value


@given(st.lists(st.binary(max_size=200), max_size=4), st.binary(max_size=200), st.integers(0, 3))
def test_a_text_is_there_whole_or_as_it_was_before(
    before: list[bytes], last: bytes, writes: int
) -> None:
    memory = bytearray(4096)
    for text in before:
        SavedText(memoryview(memory)).write(text)
    with pytest.raises(SystemExit):
        SavedText(Dying(memory, writes)).write(last)  # type: ignore[arg-type]
    assert SavedText(memoryview(memory)).read() == (before[-1] if before else b"")
    SavedText(memoryview(memory)).write(last)
    assert SavedText(memoryview(memory)).read() == last


def test_what_does_not_fit_leaves_what_was_there() -> None:
    saved = SavedText(memoryview(bytearray(512)))
    saved.write(b"before")
    with pytest.raises(DoesNotFit, match="room for"):
        saved.write(bytes(range(256)) * 4)
    assert saved.read() == b"before"


@given(st.binary(min_size=64, max_size=64))
def test_any_memory_is_a_text_or_none(head: bytes) -> None:
    memory = bytearray(1024)
    memory[:64] = head
    memory[512:576] = head
    assert SavedText(memoryview(memory)).read() == b""


def a_left() -> Left:
    key = layout.decode_kind(21 | layout.KEY_DENIED | layout.KEY_OTHER_NS, CgroupKey(8, 77))
    return Left(
        set_id="abc",
        attach="tp_btf",
        lossy="",
        shape=SHAPE,
        counters=SavedCounters(((5, 77 << 14 | 21, 3),), (9,)),
        overflow=[(21, 4)],
        news_lost=2,
        increments=[(key, 5), (key._replace(cgroup=OVERFLOW), 1)],
        news=[CgroupEvent(CgroupChange.CREATED, CgroupKey(0, 5), "/a\udcff\x1b")],
        document={"format": 1},
    )


def test_what_is_left_is_read_as_it_was() -> None:
    assert Left.parse(a_left().text()) == a_left()


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"layout": 99}, {"shape": {}}, {"given": [[1]]}, {"news": 3}]
)
def test_what_another_version_left_is_told_so(change: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(a_left().text()), **change}).encode()
    with pytest.raises(Unreadable):
        Left.parse(text)


@given(st.binary(max_size=50))
def test_any_bytes_are_something_left_or_unreadable(text: bytes) -> None:
    with pytest.raises(Unreadable):
        Left.parse(text)


# -- a ledger goes on ----------------------------------------------------------------------------

identities = st.builds(
    Identity,
    namespace=st.sampled_from(["", "shop"]),
    pod=st.sampled_from(["", "web-1", "web-2"]),
    container=st.sampled_from(["app", "(host)", "\udcff"]),
    container_id=st.sampled_from(["", "a" * 64, "b" * 64]),
    workload=st.just("web"),
    pod_labels=st.sampled_from([(), (("team", "x"),)]),
)
keys = st.builds(
    CheckKey,
    st.builds(CgroupKey, st.just(0), st.integers(1, 6)),
    st.sampled_from([7, 21]),
    st.sampled_from(Verdict),
    st.sampled_from(UserNamespace),
    st.sampled_from(layout.CLASSES),
)


class Tree:
    """Knows some paths; others are gone."""

    def __init__(self, live: dict[CgroupKey, str]) -> None:
        self.live = live
        self.removed: dict[CgroupKey, str] = {}

    def items(self) -> list[tuple[CgroupKey, str]]:
        return list(self.live.items())

    def path(self, key: CgroupKey) -> str | None:
        return self.live.get(key) or self.removed.get(key)

    def is_removed(self, key: CgroupKey) -> bool:
        return key in self.removed

    def remember(self, paths: Iterable[tuple[CgroupKey, str]]) -> None:
        self.removed |= {key: path for key, path in paths if key not in self.live}


class Source:
    """Keeps what is saved as a text."""

    def __init__(self, left: Left | None = None) -> None:
        self.left = left
        self.is_kept = True
        self.must_save = False
        self.counted: Collection[CgroupKey] = ()
        self.saves = 0
        self.commits = 0
        self.full = False

    def save(self, document: object) -> None:
        if self.full:
            raise DoesNotFit("too much")
        self.saves += 1
        text = replace(a_left(), document=document, increments=(), news=()).text()
        self.left = Left.parse(text)

    def commit(self) -> None:
        self.commits += 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("count"), identities, keys, st.integers(1, 5)),
            st.tuples(st.just("gone"), st.integers(1, 6)),
            st.tuples(st.just("expire")),
            st.tuples(st.just("observe"), identities, st.integers(1, 6)),
        ),
        max_size=30,
    ),
    st.integers(3, 60),
)
def test_a_ledger_that_goes_on_publishes_the_same_and_forgets_at_the_same_time(
    acts: list[Any], room: int
) -> None:
    ledger = Ledger(max_series=room, retention=60)
    now = 1000.0
    for act, *what in acts:
        now += 10
        if act == "count":
            identity, key, n = what
            ledger.apply([(identity, key, n)], now)
        elif act == "gone":
            ledger.gone(CgroupKey(0, what[0]), now)
        elif act == "observe":
            granted = Granted(bounding=0x21, uids=(0, 5))
            ledger.observe(CgroupKey(0, what[1]), what[0], now, granted, began=True)
        else:
            ledger.expire(now)
    tree = Tree({CgroupKey(0, n): f"/{n}" for n in range(1, 7)})
    source = Source()
    Keeper(source, tree, Identities(tree), ledger).keep(None)
    again = Ledger(max_series=room, retention=60)
    Keeper(source, tree, Identities(tree), again).restore()
    assert published(again) == published(ledger)
    assert again.cgroups() == ledger.cgroups()
    later = (Identity(container="late"), CheckKey(CgroupKey(0, 9), 3, *keys_of_one()), 1)
    for one in (ledger, again):
        one.apply([later], now + 5)
        one.gone(CgroupKey(0, 1), now + 5)
        one.expire(now + 70)
    assert published(again) == published(ledger)


def keys_of_one() -> tuple[Verdict, UserNamespace, Any]:
    return Verdict.DENIED, UserNamespace.INIT, layout.CLASSES[0]


def published(ledger: Ledger) -> object:
    snapshot = ledger.snapshot()
    accounts = [(a._replace(counts=dict(a.counts))) for a in ledger.accounts()]
    series = {
        one.labels: (one.since, {k: n for k, n in one.counts().items() if n}, one.granted)
        for one in snapshot.series
    }
    return series, sorted(map(repr, accounts)), snapshot.overflow_checks


def test_other_labels_change_names_and_no_sum() -> None:
    ledger = Ledger()
    cgroup = CgroupKey(0, 1)
    key = CheckKey(cgroup, 21, *keys_of_one())
    web = Identity(namespace="shop", pod="web-1", container="app", workload="web")
    ledger.apply([(web, key, 7)], 1.0)
    tree = Tree({cgroup: "/1"})
    source = Source()
    Keeper(source, tree, Identities(tree), ledger).keep(None)
    again = Ledger(scheme=LabelScheme(("namespace", "workload", "container")))
    Keeper(source, tree, Identities(tree), again).restore()
    (series,) = again.snapshot().series
    assert series.labels == ("shop", "web", "app")
    assert sum(series.counts().values()) == 7


def test_checks_without_a_name_wait_on_and_what_went_is_told() -> None:
    here, gone, unknown = (CgroupKey(0, n) for n in (1, 2, 3))
    tree = Tree({here: "/system.slice/a.service", gone: "/system.slice/b.service"})
    identities = Identities(tree)
    ledger = Ledger()
    checks = [(CheckKey(one, 21, *keys_of_one()), 4) for one in (here, gone, unknown)]
    rows = list(identities.rows(checks, 0.0))
    ledger.apply([(row.identity, row.key, row.checks) for row in rows], 5.0)
    assert [row.key.cgroup for row in rows] == [here, gone]
    source = Source()
    source.counted = (here, gone)
    Keeper(source, tree, identities, ledger).keep(None)

    later = Tree({here: "/system.slice/a.service"})
    anew = Identities(later)
    keeper = Keeper(source, later, anew, Ledger())
    assert keeper.restore() == {gone}
    assert later.path(gone) == "/system.slice/b.service"
    assert anew.waiting() == [(CheckKey(unknown, 21, *keys_of_one()), 4)]
    later.live[unknown] = "/system.slice/c.service"
    (row,) = anew.rows((), 1.0)
    assert (row.identity.container, row.checks) == ("c.service", 4)


def test_nothing_is_given_back_that_could_not_be_saved() -> None:
    tree = Tree({})
    source = Source()
    keeper = Keeper(source, tree, Identities(tree), Ledger())
    counted = Drain(time=1.0, increments=[(CheckKey(OVERFLOW, 1, *keys_of_one()), 1)])
    keeper.keep(counted)
    assert (source.saves, source.commits) == (1, 1)
    keeper.keep(Drain(time=2.0))  # nothing new: nothing to save
    assert (source.saves, source.commits) == (1, 2)
    source.full = True
    keeper.keep(counted)
    keeper.keep(Drain(time=3.0))
    assert (source.saves, source.commits) == (1, 2)
    source.full = False
    keeper.keep(counted)
    assert (source.saves, source.commits) == (2, 3)
