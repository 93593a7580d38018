# SPDX-License-Identifier: Apache-2.0
"""Sums that never fall while they are there, series that go when their time is over, and room that
is bounded without a check being lost."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cap_exporter.labels import Labels
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    UserNamespace,
    Verdict,
)

RETENTION = 600.0


def check(cgroup: int, capability: int = 13) -> CheckKey:
    return CheckKey(
        CgroupKey(0, cgroup),
        capability,
        Verdict.ALLOWED,
        UserNamespace.INIT,
        CheckClass.MEANINGFUL,
    )


def container(container_id: str, name: str = "api", pod: str = "api-1") -> Identity:
    return Identity("shop", pod, name, container_id, f"uid-{pod}")


def totals(ledger: Ledger) -> dict[Labels, int]:
    """Of each series; what overflowed under its own labels."""
    return {s.labels: sum(s.counts().values()) for s in ledger.snapshot().series} | (
        {ledger.scheme.overflow: ledger.overflow_checks} if ledger.overflow_checks else {}
    )


def test_a_container_is_watched_while_it_is_there_also_when_it_asks_for_nothing() -> None:
    ledger = Ledger(retention=RETENTION)
    ledger.apply([(container("a"), check(1), 5)], 10.0)
    ledger.apply([], 500.0)
    assert [(one.first_seen, one.last_seen) for one in ledger.accounts()] == [(10.0, 500.0)]
    ledger.gone(CgroupKey(0, 1), 510.0)
    ledger.apply([], 600.0)
    assert [one.last_seen for one in ledger.accounts()] == [510.0]


def test_a_server_that_left_root_is_known_to_have_begun_as_root() -> None:
    ledger = Ledger(retention=RETENTION)
    ledger.observe(CgroupKey(0, 1), container("a"), 1.0, Granted(1, 1, uids=(0,)), began=True)
    ledger.observe(CgroupKey(0, 1), container("a"), 60.0, Granted(1, uids=(101,)))
    (account,) = ledger.accounts()
    assert account.granted == Granted(1, uids=(0, 101))


def test_a_restart_keeps_the_series_also_after_the_old_id_is_retired() -> None:
    ledger = Ledger(retention=RETENTION)
    old, new = container("old"), container("new")
    ledger.apply([(old, check(1), 5)], 1.0)
    ledger.gone(CgroupKey(0, 1), 2.0)
    ledger.apply([(new, check(2), 7)], 3.0)
    ledger.observe(CgroupKey(0, 2), new, 3.0, Granted(0b11))
    labels = ("shop", "api-1", "api")
    assert totals(ledger) == {labels: 12}
    (series,) = ledger.snapshot().series
    assert series.info is not None
    assert (series.info.container_id, series.granted) == ("new", frozenset({0, 1}))
    assert ledger.expire(2.0 + RETENTION) == []
    assert [account.identity.container_id for account in ledger.accounts()] == ["new"]
    assert totals(ledger) == {labels: 12}
    ledger.apply([(new, check(2), 1)], 700.0)
    assert totals(ledger) == {labels: 13}


def test_a_series_goes_when_its_last_container_has_been_gone_for_long_enough() -> None:
    ledger = Ledger(retention=RETENTION)
    one = container("id")
    ledger.apply([(one, check(1), 5)], 1.0)
    ledger.gone(CgroupKey(0, 1), 2.0)
    assert ledger.expire(2.0 + RETENTION - 1) == []
    assert totals(ledger) == {("shop", "api-1", "api"): 5}
    assert ledger.expire(2.0 + RETENTION) == [("shop", "api-1", "api")]
    assert totals(ledger) == {}
    # The same labels later begin at 0, with a start time of their own.
    ledger.apply([], 5000.0)
    ledger.apply([(one, check(9), 1)], 5005.0)
    (series,) = ledger.snapshot().series
    assert (sum(series.counts().values()), series.since) == (1, 5000.0)


def test_last_counts_after_the_removal_belong_to_the_container() -> None:
    ledger = Ledger(retention=RETENTION)
    ledger.gone(CgroupKey(0, 1), 1.0)
    ledger.apply([(container("id"), check(1), 3)], 2.0)
    (account,) = ledger.accounts()
    assert account.gone_at == 1.0
    assert ledger.expire(1.0 + RETENTION) == [("shop", "api-1", "api")]


def test_beyond_max_series_checks_go_to_the_named_series_and_the_sum_stays_right() -> None:
    ledger = Ledger(max_series=10)
    for number in range(50):
        ledger.apply([(container(f"id{number}", pod=f"p{number}"), check(number + 1), 2)], 1.0)
    found = totals(ledger)
    assert sum(found.values()) == 100
    assert found[("", "", "(overflow)")] == 100 - 2 * (len(found) - 1)
    assert len(found) - 1 == 5  # each takes two: its counter and its info
    # What has a place goes on.
    ledger.apply([(container("id0", pod="p0"), check(1), 1)], 2.0)
    assert totals(ledger)[("shop", "p0", "api")] == 3
    # Room that is given back is used again.
    for number in range(5):
        ledger.gone(CgroupKey(0, number + 1), 3.0)
    ledger.expire(3.0 + RETENTION)
    ledger.apply([(container("x", pod="new"), check(99), 1)], 700.0)
    assert totals(ledger)[("shop", "new", "api")] == 1


def test_limits_can_change_and_what_is_there_stays() -> None:
    ledger = Ledger(max_series=4)
    for number in range(3):
        ledger.apply([(container("id", pod=f"p{number}"), check(number + 1), 1)], 1.0)
    assert ledger.overflow_checks == 1
    ledger.limit(max_series=100, retention=60.0)
    ledger.apply([(container("id", pod="p2"), check(3), 1)], 2.0)
    assert totals(ledger)[("shop", "p2", "api")] == 1
    assert ledger.overflow_checks == 1


def test_a_negative_number_is_refused_after_all_else_was_counted() -> None:
    ledger = Ledger()
    rows = [(container("id"), check(1), -1), (container("id"), check(1), 4)]
    with pytest.raises(ValueError, match="must give 0 or more"):
        ledger.apply(rows, 1.0)
    assert totals(ledger) == {("shop", "api-1", "api"): 4}


def test_a_snapshot_is_the_state_between_two_drains() -> None:
    """One thread adds one to each of two checks at a time: no reader sees a half of that."""
    ledger = Ledger()
    one = container("id")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            ledger.apply([(one, check(1, 1), 1), (one, check(1, 2), 1)], 1.0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        before = 0
        for _ in range(3000):
            for series in ledger.snapshot().series:
                counts = list(series.counts().values())
                assert len(counts) == 2
                assert counts[0] == counts[1] >= before
                before = counts[0]
    finally:
        stop.set()
        writer.join()


class Life(RuleBasedStateMachine):
    """Containers come, make checks, restart and go, with little room and time passing."""

    @initialize(room=st.integers(4, 40))
    def begin(self, room: int) -> None:
        self.ledger = Ledger(max_series=room, retention=60.0)
        self.now = 1.0
        self.next = 1
        self.live: dict[int, Identity] = {}
        self.made = 0
        self.retired = 0
        self.seen: dict[Labels, int] = {}

    @rule(pod=st.sampled_from(["a", "b", "c", "d"]), name=st.sampled_from(["x", "y"]))
    def start(self, pod: str, name: str) -> None:
        self.live[self.next] = container(f"id{self.next}", name, pod)
        self.next += 1

    @rule(data=st.data(), capability=st.integers(0, 3), n=st.integers(1, 9))
    def make_checks(self, data: st.DataObject, capability: int, n: int) -> None:
        if self.live:
            number = data.draw(st.sampled_from(sorted(self.live)))
            self.ledger.apply([(self.live[number], check(number, capability), n)], self.now)
            self.made += n

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.live:
            number = data.draw(st.sampled_from(sorted(self.live)))
            del self.live[number]
            self.ledger.gone(CgroupKey(0, number), self.now)

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        before = totals(self.ledger)
        for labels in self.ledger.expire(self.now):
            self.retired += before[labels]
            self.seen.pop(labels, None)

    @invariant()
    def nothing_is_lost_and_no_series_falls(self) -> None:
        if not hasattr(self, "ledger"):
            return
        found = totals(self.ledger)
        assert sum(found.values()) + self.retired == self.made
        for labels, n in self.seen.items():
            assert found[labels] >= n
        self.seen = found


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_unknown_rows_are_nothing() -> None:
    nothing: Iterable[tuple[Identity, CheckKey, int]] = ()
    ledger = Ledger()
    ledger.apply(nothing, 1.0)
    assert totals(ledger) == {}
