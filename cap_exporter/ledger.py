# SPDX-License-Identifier: Apache-2.0
"""Cumulative counts of checks per container: what has been counted so far, and for whom.

Two views of the same numbers. A *series* is what Prometheus sees: it has labels (namespace, pod,
container), and everything ever counted for them adds up in it: all cgroups of a container, and
the containers that had these labels before a restart. An *account* is one container with one
container id: what a profile is made from. A series is the sum of its accounts and of those that
have been dropped since, so it never falls while it exists.

When the last cgroup of a container has gone, its account stays for ``retention`` seconds; the
series goes with its last account. The same labels coming back later start again at 0: for
Prometheus a counter reset, which ``rate()`` and ``increase()`` know.

One thread writes (the drain's), any thread reads. A reader takes the lock only to copy a list of
references; the dictionaries behind them are copied by the writer, and only those it changes
(copy on write): a scrape holds up no drain, and what it sees is the state between two drains.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from cap_exporter.capabilities import numbers_of
from cap_exporter.granted import merge, read_again, united
from cap_exporter.labels import OVERFLOW, Labels, LabelScheme
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    UserNamespace,
    Verdict,
)

#: Removed cgroups that are remembered for their last counts, at most.
_REMEMBERED_GONE = 16_384


class Check(NamedTuple):
    """What is counted apart within one container: a CheckKey without its cgroup."""

    capability: int
    verdict: Verdict
    user_namespace: UserNamespace
    check_class: CheckClass


Counts: TypeAlias = Mapping[Check, int]


class Series(NamedTuple):
    """All that was counted under one set of labels, at the moment of the snapshot."""

    labels: Labels
    info: Identity | None
    """The container that has these labels now, else the last one that had them; one of several
    where the labels are not a container's alone. None where there is no such thing:
    ``(overflow)``, ``(helper)``."""
    since: float
    """When the series began at 0; seconds since the epoch."""
    parts: tuple[Counts, ...]
    """Add these up, or call counts()."""
    granted: frozenset[int] | None
    """Capabilities in the bounding set of the current container; None where nobody has looked,
    and for what is no container: systemd units and the host mostly hold all there are."""

    def counts(self) -> Counts:
        """Checks counted under these labels. Read only."""
        if len(self.parts) == 1:
            return self.parts[0]
        total: dict[Check, int] = {}
        for part in self.parts:
            for check, n in part.items():
                total[check] = total.get(check, 0) + n
        return total


class Account(NamedTuple):
    """What one container (one container id) has done, at the moment of the reading."""

    identity: Identity
    """``cgroup`` is the shortest path seen: the container's own, not a sub-cgroup's."""
    counts: Counts
    """Read only."""
    first_seen: float
    """Seconds since the epoch: the first drain that had checks of it, or observe()."""
    last_seen: float
    """Seconds since the epoch: the last drain while it was there, whether or not that had checks
    of it; its end, if that was seen."""
    gone_at: float | None
    """Seconds since the epoch when its last cgroup was removed; None while it is there."""
    granted: Granted | None
    """What its processes hold, or held when they last ran; None where nobody has looked."""
    began: bool
    """Its entrypoint was seen to start: nothing that it asked for at start is missing."""
    overflowed: int
    """Checks that ``counts`` lacks for want of room: above 0, a profile is incomplete."""


class Snapshot(NamedTuple):
    """All series at one moment, between two drains."""

    series: list[Series]
    overflow_checks: int
    """Checks counted under container="(overflow)" so far."""


class AccountState(NamedTuple):
    """An account, for another process to go on with."""

    identity: Identity
    cgroups: tuple[CgroupKey, ...]
    """That are there, and are counted here."""
    counts: Counts
    first_seen: float
    last_seen: float
    gone_at: float | None
    held: Mapping[CgroupKey, Granted]
    began: bool
    overflowed: int


class LedgerState(NamedTuple):
    """All of a ledger, for another process to go on with. Read only."""

    accounts: list[AccountState]
    series: list[tuple[Labels, float, Counts]]
    """Labels, ``since``, and the sum of the accounts that were dropped."""
    overflow: Counts
    overflow_since: float
    overflow_checks: int
    gone: list[tuple[CgroupKey, float]]
    """Removed a moment ago, oldest first, and when."""
    counted_until: float | None


@dataclass(slots=True, eq=False)
class _Series:
    labels: Labels
    since: float
    accounts: list[_Account] = field(default_factory=list)
    #: Sum of the accounts dropped so far. Never changed in place: snapshots have it.
    retired: dict[Check, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Account:
    identity: Identity
    series: _Series
    first_seen: float
    last_seen: float
    epoch: int
    counts: dict[Check, int] = field(default_factory=dict)
    live: int = 0  # cgroups that exist and are counted here
    gone_at: float | None = None
    #: By cgroup: a container may have some below its own.
    held: dict[CgroupKey, Granted] = field(default_factory=dict)
    granted: frozenset[int] | None = None
    began: bool = False
    overflowed: int = 0

    def room(self) -> int:
        return 1 + len(self.counts) + len(self.granted or ())


class _Binding(NamedTuple):
    identity: Identity
    account: _Account


_AccountKey: TypeAlias = tuple[Labels, str, str]


class Ledger:
    """Counts per container. See the module's text for what it promises."""

    def __init__(
        self,
        *,
        max_series: int = 100_000,
        retention: float = 600.0,
        late: float = 60.0,
        scheme: LabelScheme | None = None,
    ) -> None:
        """An empty ledger.

        scheme: the labels that tell series apart; default namespace, pod and container.

        max_series: room, in samples of the metrics page (counters, and the info and granted
        gauges; a restarted container takes room again until its old account goes). When it is
        full, what has no sample yet is counted under container="(overflow)", namespace and pod
        empty, by capability, verdict and class: sums stay right.

        retention: seconds that a container's account stays after its last cgroup was removed.

        late: seconds after its removal in which the last counts of a cgroup may still come. Less
        retention than this has no effect.
        """
        if max_series < 1:
            raise ValueError(f"max_series must be at least 1, not {max_series}")
        if retention < 0:
            raise ValueError(f"retention must be 0 seconds or more, not {retention}")
        self.scheme = scheme or LabelScheme()
        self._max_room = max_series
        self._retention = max(retention, late)
        self._late = late
        self._lock = threading.Lock()
        self._epoch = 0  # of the newest snapshot; an account of an older one is shared with it
        self._room = 0
        self._bindings: dict[CgroupKey, _Binding] = {}  # cgroups that exist
        self._gone: dict[CgroupKey, float] = {}  # removed a moment ago, oldest first
        self._accounts: dict[_AccountKey, _Account] = {}
        self._series: dict[Labels, _Series] = {}
        self._views: dict[Labels, Series] = {}  # what a snapshot copies
        self._checks: dict[tuple[int, Verdict, UserNamespace, CheckClass], Check] = {}
        self._counted_until: float | None = None
        self._overflow_checks = 0
        self._overflow = _Account(
            Identity(container=OVERFLOW), _Series(self.scheme.overflow, 0.0), 0, 0, -1
        )
        self._overflow.series.accounts.append(self._overflow)

    # The drain's thread

    def limit(self, *, max_series: int, retention: float) -> None:
        """Other limits from now on; as for the constructor. What is there stays."""
        with self._lock:
            self._max_room = max_series
            self._retention = max(retention, self._late)

    def apply(self, batch: Iterable[tuple[Identity, CheckKey, int]], time: float) -> None:
        """Add what one drain counted: whose check, which, and how many since the last drain.

        Faster where equal cgroups come with the same Identity object. A cgroup whose identity
        changes (its pod became known) counts under the new one from then on; what it counted
        before stays where it is. time: seconds since the epoch, of the drain. Call it for an empty
        drain too: a series that begins later began after this one.

        Raises ValueError for a negative number, after everything else was counted.
        """
        rows = list(batch)
        wrong: list[tuple[CheckKey, int]] = []
        with self._lock:
            bindings, checks, epoch = self._bindings, self._checks, self._epoch
            for identity, key, n in rows:
                if n <= 0:
                    if n < 0:
                        wrong.append((key, n))
                    continue
                check = checks.get(key[1:]) or self._interned(key)
                binding = bindings.get(key[0])
                if binding is not None and binding.identity is identity:
                    account = binding.account
                else:
                    found = self._account_of(key[0], identity, time)
                    if found is None:
                        self._count_without_account(self.scheme.of(identity), check, n, time)
                        continue
                    account = found
                if account.epoch != epoch:
                    self._unshare(account)
                before = account.counts.get(check)
                if before is not None:
                    account.counts[check] = before + n
                elif self._room < self._max_room:
                    account.counts[check] = n
                    self._room += 1
                else:
                    account.overflowed += n
                    self._count_without_account(account.series.labels, check, n, time)
                account.last_seen = time
            self._counted_until = time
        if wrong:
            key, n = wrong[0]
            raise ValueError(f"{n} checks counted for {key}: a source must give 0 or more")

    def observe(
        self,
        cgroup: CgroupKey,
        identity: Identity,
        time: float,
        granted: Granted | None = None,
        *,
        began: bool = False,
    ) -> bool:
        """A container is there, whether or not it has made a check.

        granted: what the cgroup's processes hold, where somebody has looked. began: only what a
        process held that began there; others may hold more. Returns False, and does nothing,
        when there is no room for it.
        """
        with self._lock:
            account = self._account_of(cgroup, identity, time)
            if account is None:
                return False
            account.last_seen = time
            account.began |= began
            if granted is None:
                return True
            held = dict(account.held)
            if began:
                merge(held, {cgroup: granted})
            else:
                held[cgroup] = read_again(held.get(cgroup), granted)
            if held == account.held:
                return True
            if identity.container_id:
                wanted = frozenset(numbers_of(united(held.values()).bounding))
                more = len(wanted) - len(account.granted or ())
                if more > 0 and self._room + more > self._max_room:
                    return False
                self._room += more
                account.granted = wanted
            account.held = held
            self._refresh(account.series)
            return True

    def gone(self, cgroup: CgroupKey, time: float) -> None:
        """A cgroup was removed. Its last counts may come until ``late`` seconds after.

        time: seconds since the epoch.
        """
        with self._lock:
            # Also one that was never counted: its counts may be waiting for its pod's name.
            self._gone[cgroup] = time
            if len(self._gone) > _REMEMBERED_GONE:
                del self._gone[next(iter(self._gone))]
            binding = self._bindings.pop(cgroup, None)
            if binding is not None:
                self._release(binding.account, time)

    def expire(self, now: float) -> list[Labels]:
        """Drop what has been gone for longer than ``retention``. Returns the series that went.

        now: seconds since the epoch, on the clock of gone().
        """
        ended = []
        with self._lock:
            while self._gone:
                cgroup, removed = next(iter(self._gone.items()))
                if now - removed < self._late:
                    break
                del self._gone[cgroup]
            old = [
                (key, account)
                for key, account in self._accounts.items()
                if account.gone_at is not None and now - account.gone_at >= self._retention
            ]
            for key, account in old:
                del self._accounts[key]
                if self._retire(account):
                    ended.append(account.series.labels)
        return ended

    def clock_moved(self, by: float) -> None:
        """The clock of all times here was set by so many seconds: they move along. A series'
        ``since`` stays, but is never later than the last drain."""
        with self._lock:
            if self._counted_until is not None:
                self._counted_until += by
            self._gone = {cgroup: at + by for cgroup, at in self._gone.items()}
            for account in self._accounts.values():
                account.first_seen += by
                account.last_seen += by
                if account.gone_at is not None:
                    account.gone_at += by
            latest = self._counted_until
            for series in (*self._series.values(), self._overflow.series):
                if latest is not None and series.since > latest:
                    series.since = latest
                    if series is not self._overflow.series:
                        self._refresh(series)

    # Any thread

    def snapshot(self) -> Snapshot:
        """All series as they are between two drains."""
        with self._lock:
            self._epoch += 1
            return Snapshot(list(self._views.values()), self._overflow_checks)

    def accounts(self) -> list[Account]:
        """All containers, also those that went a moment ago, each container id by itself."""
        with self._lock:
            self._epoch += 1
            return [
                Account(
                    account.identity,
                    account.counts,
                    account.first_seen,
                    max(account.last_seen, account.gone_at or self._counted_until or 0.0),
                    account.gone_at,
                    united(account.held.values()) if account.held else None,
                    account.began,
                    account.overflowed,
                )
                for account in self._accounts.values()
            ]

    def state(self) -> LedgerState:
        """As it is between two drains."""
        with self._lock:
            self._epoch += 1
            cgroups: dict[int, list[CgroupKey]] = {}
            for cgroup, binding in self._bindings.items():
                cgroups.setdefault(id(binding.account), []).append(cgroup)
            return LedgerState(
                [
                    AccountState(
                        one.identity,
                        tuple(cgroups.get(id(one), ())),
                        one.counts,
                        one.first_seen,
                        one.last_seen,
                        one.gone_at,
                        one.held,
                        one.began,
                        one.overflowed,
                    )
                    for one in self._accounts.values()
                ],
                [(one.labels, one.since, one.retired) for one in self._series.values()],
                self._overflow.counts,
                self._overflow.series.since,
                self._overflow_checks,
                list(self._gone.items()),
                self._counted_until,
            )

    def resume(self, state: LedgerState) -> None:
        """Go on with what another ledger had, which may have had other labels: what was counted
        is published under those that it has here. For an empty ledger."""
        with self._lock:
            since = {labels: (begin, retired) for labels, begin, retired in state.series}
            for one in state.accounts:
                account = self._open(one.identity, one.first_seen)
                if account is None:
                    self._overflow.counts = _added(self._overflow.counts, one.counts)
                    self._overflow_checks += sum(one.counts.values())
                    continue
                account.counts = self._own(_added(account.counts, one.counts))
                account.first_seen = min(account.first_seen, one.first_seen)
                account.last_seen = max(account.last_seen, one.last_seen)
                account.held = {**account.held, **one.held}
                if one.identity.container_id and account.held:
                    bounding = united(account.held.values()).bounding
                    account.granted = frozenset(numbers_of(bounding))
                account.began |= one.began
                account.overflowed += one.overflowed
                for cgroup in one.cgroups:
                    self._bindings[cgroup] = _Binding(account.identity, account)
                account.live += len(one.cgroups)
                account.gone_at = None if account.live else one.gone_at
            for series in self._series.values():
                begin, retired = since.pop(series.labels, (None, {}))
                series.since = (
                    min(a.first_seen for a in series.accounts) if begin is None else begin
                )
                series.retired = self._own(retired)
            self._put_elsewhere([retired for _, retired in since.values()])
            self._overflow.counts = self._own(_added(self._overflow.counts, state.overflow))
            self._overflow.series.since = state.overflow_since
            self._overflow_checks += state.overflow_checks
            self._gone.update(state.gone)
            self._counted_until = state.counted_until
            self._room = sum(one.room() for one in self._accounts.values()) + sum(
                len(one.retired) for one in self._series.values()
            )
            for series in self._series.values():
                self._refresh(series)
            if self._overflow.counts:
                self._refresh(self._overflow.series)

    def cgroups(self) -> frozenset[CgroupKey]:
        """Cgroups that count as existing. One that does not exist any more (its removal was
        missed) keeps its container for ever: call gone() for it."""
        with self._lock:
            return frozenset(self._bindings)

    @property
    def overflow_checks(self) -> int:
        """Checks counted under container="(overflow)" so far."""
        return self._overflow_checks

    # With the lock held

    def _account_of(self, cgroup: CgroupKey, identity: Identity, time: float) -> _Account | None:
        """Where the cgroup's checks are counted; None: nowhere by itself, for want of room."""
        binding = self._bindings.get(cgroup)
        if binding is not None and binding.identity == identity:
            # An equal one from another look-up: take it, so that the next time is fast.
            self._bindings[cgroup] = _Binding(identity, binding.account)
            return binding.account
        account = self._open(identity, time)
        if binding is not None:
            del self._bindings[cgroup]
            self._release(binding.account, time)
        if account is None:
            return None
        removed = self._gone.get(cgroup)
        if removed is None:
            account.live += 1
            account.gone_at = None
            self._bindings[cgroup] = _Binding(identity, account)
        elif account.live == 0:
            account.gone_at = max(account.gone_at or removed, removed)
        self._refresh(account.series)
        return account

    def _open(self, identity: Identity, time: float) -> _Account | None:
        labels = self.scheme.of(identity)
        key = labels, identity.container_id, identity.pod_uid
        if labels == self.scheme.overflow:
            return None
        account = self._accounts.get(key)
        if account is not None:
            known = account.identity.cgroup
            if known and (len(known) < len(identity.cgroup) or not identity.cgroup):
                identity = replace(identity, cgroup=known)
            account.identity = identity
            return account
        if self._room >= self._max_room:
            return None
        self._room += 1
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(labels, self._since(time))
        account = _Account(identity, series, time, time, self._epoch)
        self._accounts[key] = account
        series.accounts.append(account)
        return account

    def _release(self, account: _Account, time: float) -> None:
        account.live -= 1
        if account.live == 0:
            account.gone_at = time
            self._refresh(account.series)

    def _retire(self, account: _Account) -> bool:
        """Move an account's counts into its series. Returns whether the series has ended."""
        series = account.series
        series.accounts.remove(account)
        self._room -= account.room() + len(series.retired)
        if not series.accounts:
            del self._series[series.labels]
            del self._views[series.labels]
            return True
        series.retired = dict(series.retired)
        for check, n in account.counts.items():
            series.retired[check] = series.retired.get(check, 0) + n
        self._room += len(series.retired)
        self._refresh(series)
        return False

    def _count_without_account(self, labels: Labels, check: Check, n: int, time: float) -> None:
        """There is no room for one more number. The series may have this one all the same, from
        another container id; else it is the overflow's."""
        series = self._series.get(labels)
        if series is not None and any(check in part for part in self._views[labels].parts):
            if check not in series.retired:
                self._room += 1
            series.retired = {**series.retired, check: series.retired.get(check, 0) + n}
            self._refresh(series)
            return
        overflow = self._overflow
        if not overflow.counts:
            overflow.series.since = self._since(time)
        if overflow.epoch != self._epoch:
            self._unshare(overflow)
        overflow.counts[check] = overflow.counts.get(check, 0) + n
        self._overflow_checks += n

    def _put_elsewhere(self, sums: Iterable[Counts]) -> None:
        """Of series that have other labels now: no sum over all may fall."""
        for retired in sums:
            self._overflow.counts = _added(self._overflow.counts, retired)
            self._overflow_checks += sum(retired.values())

    def _own(self, counts: Counts) -> dict[Check, int]:
        return {self._checks.setdefault(check, check): n for check, n in counts.items()}

    def _interned(self, key: CheckKey) -> Check:
        """One object per check, however many containers made it."""
        check = Check(*key[1:])
        return self._checks.setdefault(check, check)

    def _since(self, time: float) -> float:
        """When what is counted now for the first time can have begun: at the last drain."""
        return time if self._counted_until is None else self._counted_until

    def _unshare(self, account: _Account) -> None:
        """Give the account a dictionary that no snapshot has."""
        account.counts = dict(account.counts)
        account.epoch = self._epoch
        self._refresh(account.series)

    def _refresh(self, series: _Series) -> None:
        """Say anew what a snapshot sees of a series: after a change of anything but a number."""
        current = series.accounts[0]
        for account in series.accounts[1:]:
            if (account.live > 0, account.first_seen) >= (current.live > 0, current.first_seen):
                current = account
        parts = tuple(account.counts for account in series.accounts)
        labels = series.labels
        nameless = self.scheme.is_nameless(labels)
        self._views[labels] = Series(
            labels,
            None if nameless else current.identity,
            series.since,
            (series.retired, *parts) if series.retired else parts,
            current.granted if self.scheme.per_container else _all_granted(series.accounts),
        )


def _added(one: Counts, other: Counts) -> dict[Check, int]:
    total = dict(one)
    for check, n in other.items():
        total[check] = total.get(check, 0) + n
    return total


def _all_granted(accounts: Iterable[_Account]) -> frozenset[int] | None:
    """What any of several containers holds."""
    known = [account.granted for account in accounts if account.granted is not None]
    return frozenset().union(*known) if known else None
