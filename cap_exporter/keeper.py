# SPDX-License-Identifier: Apache-2.0
"""Counts that go on in the next process: with each drain, what was counted and for whom is saved
beside the programs that go on counting (`run --pin`).

A drain is read, counted, saved, and only then given back to the kernel. Whenever this process is
killed, the next one finds a state in which each check is either in what was saved or still in
the kernel's counters.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from cap_exporter.identities import Identities
from cap_exporter.ledger import AccountState, Check, Counts, Ledger, LedgerState
from cap_exporter.model import OVERFLOW, CgroupKey, CheckKey, Drain, Granted, Identity
from cap_exporter.sources import layout
from cap_exporter.sources.kept.left import Left
from cap_exporter.sources.kept.saved import DoesNotFit

log = logging.getLogger(__name__)

FORMAT = 1


class KeptSource(Protocol):
    """The part of LibbpfSource that is needed here."""

    left: Left | None

    @property
    def is_kept(self) -> bool: ...
    @property
    def must_save(self) -> bool: ...
    @property
    def counted(self) -> Collection[CgroupKey]: ...
    def save(self, document: object) -> None: ...
    def commit(self) -> None: ...


class Paths(Protocol):
    """The part of a cgroup tree that is needed here."""

    def items(self) -> Sequence[tuple[CgroupKey, str]]: ...
    def path(self, key: CgroupKey) -> str | None: ...
    def is_removed(self, key: CgroupKey) -> bool: ...
    def remember(self, paths: Iterable[tuple[CgroupKey, str]]) -> None: ...


class Keeper:
    """Belongs to the loop's thread."""

    def __init__(
        self, source: KeptSource, tree: Paths, identities: Identities, ledger: Ledger
    ) -> None:
        self._source = source
        self._tree = tree
        self._identities = identities
        self._ledger = ledger
        self._fits = True
        self.since = time.time()
        """When what is counted began; seconds since the epoch."""

    @property
    def is_active(self) -> bool:
        """Counting goes on when this process ends."""
        return self._source.is_kept

    def restore(self) -> set[CgroupKey]:
        """After the source was opened and the cgroups were read: go on with what was left.
        Returns the cgroups that were removed meanwhile."""
        left, self._source.left = self._source.left, None
        if left is None:
            return set()
        document = left.document or {}
        if document and document.get("format") != FORMAT:
            log.warning("what was counted before was saved in another format: counts begin anew")
            document = {}
        if document:
            self.since = document["since"]
            state = _ledger_state(document["ledger"])
            self._ledger.resume(state)
            # A pod that went meanwhile is known to nobody else.
            for account in state.accounts:
                self._identities.assume(account.cgroups, account.identity)
            self._tree.remember((CgroupKey(*key), path) for *key, path in document["paths"])
        self._tree.remember((news.cgroup, news.path) for news in left.news if news.path)
        waiting = [
            (layout.decode_kind(kind, CgroupKey(hierarchy, cgroup)), count)
            for hierarchy, cgroup, kind, count in document.get("waiting", ())
        ]
        self._identities.keep_waiting([*waiting, *left.increments], time.monotonic())
        known = {*self._ledger.cgroups(), *self._source.counted} - {OVERFLOW}
        return {key for key in known if self._tree.is_removed(key) or not self._tree.path(key)}

    def keep(self, drain: Drain | None) -> None:
        """``drain`` was counted: save, then give it back. None: save in any case."""
        if not self._source.is_kept:
            return
        news = drain is None or drain.increments or drain.cgroup_events or drain.entered
        if news or self._source.must_save:
            try:
                self._source.save(self._document())
                self._fits = True
            except DoesNotFit as error:
                # Nothing is freed from here on: what was saved last stays true.
                if self._fits:
                    log.error("counts can't be saved: %s; fewer series would fit", error)
                self._fits = False
        if self._fits:
            self._source.commit()

    def _document(self) -> dict[str, Any]:
        waiting = self._identities.waiting()
        counted = {*self._source.counted, *(key.cgroup for key, _ in waiting)}
        return {
            "format": FORMAT,
            "since": self.since,
            "ledger": _from_ledger(self._ledger.state()),
            "waiting": [(*key.cgroup, layout.encode_kind(key), n) for key, n in waiting],
            # Also of those without checks: the kernel tells a path once, and no more of one that
            # is removed before the next process looks.
            "paths": [
                *((*key, path) for key, path in self._tree.items()),
                *((*key, path) for key in counted if (path := self._removed_path(key))),
            ],
        }

    def _removed_path(self, key: CgroupKey) -> str | None:
        return self._tree.path(key) if self._tree.is_removed(key) else None


def _from_ledger(state: LedgerState) -> dict[str, Any]:
    return {
        "accounts": [
            {
                **account._asdict(),
                "identity": _fields(account.identity),
                "counts": _from_counts(account.counts),
                "held": [(*cgroup, _fields(held)) for cgroup, held in account.held.items()],
            }
            for account in state.accounts
        ],
        "series": [
            (labels, since, _from_counts(retired)) for labels, since, retired in state.series
        ],
        "overflow": _from_counts(state.overflow),
        "overflow_since": state.overflow_since,
        "overflow_checks": state.overflow_checks,
        "gone": [(*cgroup, at) for cgroup, at in state.gone],
        "counted_until": state.counted_until,
    }


def _ledger_state(read: Mapping[str, Any]) -> LedgerState:
    return LedgerState(
        [
            AccountState(
                **{
                    **account,
                    "identity": _identity(account["identity"]),
                    "cgroups": tuple(CgroupKey(*key) for key in account["cgroups"]),
                    "counts": _counts(account["counts"]),
                    "held": {
                        CgroupKey(hierarchy, cgroup): Granted(
                            **{**held, "uids": tuple(held["uids"])}
                        )
                        for hierarchy, cgroup, held in account["held"]
                    },
                }
            )
            for account in read["accounts"]
        ],
        [(tuple(labels), since, _counts(retired)) for labels, since, retired in read["series"]],
        _counts(read["overflow"]),
        read["overflow_since"],
        read["overflow_checks"],
        [(CgroupKey(hierarchy, cgroup), at) for hierarchy, cgroup, at in read["gone"]],
        read["counted_until"],
    )


def _identity(read: Mapping[str, Any]) -> Identity:
    labels = tuple((name, value) for name, value in read["pod_labels"])
    return Identity(**{**read, "pod_labels": labels})


@functools.lru_cache(8192)
def _fields(of: Identity | Granted) -> dict[str, Any]:
    """Read only. Each is written with every save, and few change."""
    return asdict(of)


def _from_counts(counts: Counts) -> Sequence[tuple[int, int]]:
    return [(_kind(check), n) for check, n in counts.items()]


@functools.lru_cache(8192)
def _kind(check: Check) -> int:
    return layout.encode_kind(CheckKey(OVERFLOW, *check))


def _counts(read: Iterable[tuple[int, int]]) -> dict[Check, int]:
    return {Check(*layout.decode_kind(kind, OVERFLOW)[1:]): n for kind, n in read}
