# SPDX-License-Identifier: Apache-2.0
"""The wall clock is set, or the host is suspended: no age is negative, and nothing ends early."""

from __future__ import annotations

from cap_exporter.ledger import Ledger
from cap_exporter.model import CgroupKey, CheckClass, CheckKey, Identity, UserNamespace, Verdict
from cap_exporter.wall_clock import WallClock

HOUR = 3600.0
WEB, GONE = CgroupKey(0, 7), CgroupKey(0, 8)


class Clocks:
    def __init__(self) -> None:
        self.wall, self.boot = 1_700_000_000.0, 5000.0
        self.clock = WallClock(lambda: self.wall, lambda: self.boot)

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


def test_a_step_is_noticed_once_and_by_its_size() -> None:
    clocks = Clocks()
    for by in (HOUR, -HOUR, -7 * HOUR, 1.5):
        clocks.pass_time(5)
        assert clocks.clock.moved() == 0
        clocks.wall += by
        assert clocks.clock.moved() == by
        assert clocks.clock.moved() == 0


def test_what_adjtime_does_is_no_step() -> None:
    clocks = Clocks()
    for _ in range(10_000):
        clocks.pass_time(5)
        clocks.wall += 5 * 500e-6  # the most that the kernel slews (MAXFREQ)
        assert clocks.clock.moved() == 0


def test_suspended_time_has_passed_and_is_no_step() -> None:
    """CLOCK_BOOTTIME goes on meanwhile, CLOCK_MONOTONIC does not."""
    clocks = Clocks()
    clocks.pass_time(8 * HOUR)
    assert clocks.clock.moved() == 0


def test_a_process_that_stops_between_the_two_readings_sees_no_step() -> None:
    boot = iter([0.0, 0.0, 100.0, 130.0, 130.0, 130.0])  # 30 s in the first reading of moved()
    wall = iter([1000.0, 1130.0, 1130.0])
    clock = WallClock(lambda: next(wall), lambda: next(boot))
    assert clock.moved() == 0


def key(cgroup: CgroupKey) -> CheckKey:
    return CheckKey(cgroup, 7, Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL)


def ledger_at(now: float) -> Ledger:
    """One container that runs, one that has gone a minute ago."""
    ledger = Ledger(retention=600)
    for name, cgroup in (("web", WEB), ("gone", GONE)):
        identity = Identity(container=name, container_id=name)
        ledger.apply([(identity, key(cgroup), 5)], now - 120)
    ledger.gone(GONE, now - 60)
    ledger.apply([], now)
    return ledger


def names(ledger: Ledger) -> set[str]:
    return {series.labels[2] for series in ledger.snapshot().series}


def test_after_a_step_retention_goes_on_where_it_was() -> None:
    for by in (HOUR, -HOUR):
        now = 1_700_000_000.0
        ledger = ledger_at(now)
        ledger.clock_moved(by)
        now += by
        ledger.expire(now + 500)
        assert names(ledger) == {"web", "gone"}
        ledger.expire(now + 541)
        assert names(ledger) == {"web"}


def test_after_a_step_no_time_is_in_the_future() -> None:
    for by in (HOUR, -HOUR):
        now = 1_700_000_000.0
        ledger = ledger_at(now)
        before = {series.labels: series.since for series in ledger.snapshot().series}
        ledger.clock_moved(by)
        now += by
        for account in ledger.accounts():
            assert now - account.first_seen == 120
            assert 0 <= now - account.last_seen <= 120
            assert account.gone_at in (None, now - 60)
        for series in ledger.snapshot().series:
            # It is no new series, if that can be.
            assert series.since == min(before[series.labels], now)
        identity = Identity(container="new", container_id="new")
        ledger.apply([(identity, key(CgroupKey(0, 9)), 1)], now + 5)
        [new] = [one for one in ledger.snapshot().series if one.labels[2] == "new"]
        assert new.since == now
