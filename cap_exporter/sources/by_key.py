# SPDX-License-Identifier: Apache-2.0
"""Reads counters from a per-CPU hash, key by key: for kernels before 5.12, which have no
compare-and-swap in BPF. Read only, so that no count can be lost to a deletion."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from cap_exporter.model import CgroupKey, CheckKey
from cap_exporter.sources import layout
from cap_exporter.sources.counters import GRACE


class Maps(Protocol):
    """The part of a loaded program that is needed here."""

    def items(self, name: str, key: type[Any], value: type[Any]) -> Iterator[tuple[Any, Any]]: ...
    def delete(self, name: str, key: Any) -> None: ...


class KeyCounters:
    """The same as CounterTable, with two system calls per live key."""

    def __init__(
        self, probe: Maps, name: str, hierarchy_ids: Sequence[int], total: int, cpus: int
    ) -> None:
        self._probe = probe
        self._name = name
        self._hierarchy_ids = hierarchy_ids
        self._value = ctypes.c_uint64 * cpus
        self._seen: dict[int, int] = {}
        self._retired: list[tuple[float, frozenset[CgroupKey]]] = []
        self._final: list[int] = []
        self.total = total

    @property
    def used(self) -> int:
        return len(self._seen)

    @property
    def cgroups(self) -> Collection[CgroupKey]:
        """Whose checks are counted."""
        return {self._cgroup(key) for key in self._seen}

    def fingerprint(self) -> bytes:
        """Another one after each check."""
        found = self._probe.items(self._name, ctypes.c_uint64, self._value)
        return b"".join(bytes(key) + bytes(values) for key, values in found)

    @property
    def must_commit(self) -> bool:
        """There is something to free."""
        return bool(self._final)

    def release(self, cgroups: Sequence[CgroupKey], now: float) -> None:
        if cgroups:
            self._retired.append((now, frozenset(cgroups)))

    def drain(self, now: float) -> list[tuple[CheckKey, int]]:
        increments = []
        for raw, values in self._probe.items(self._name, ctypes.c_uint64, self._value):
            key, count = raw.value, sum(values)
            before = self._seen.get(key, 0)
            if count != before:
                self._seen[key] = count
                increments.append((layout.decode_kind(key, self._cgroup(key)), count - before))
        gone: frozenset[CgroupKey] = frozenset()
        while self._retired and now - self._retired[0][0] >= GRACE:
            gone |= self._retired.pop(0)[1]
        if gone:
            self._final += [key for key in self._seen if self._cgroup(key) in gone]
        return increments

    def commit(self) -> None:
        """Delete what was read for the last time: its cgroup has been gone for the grace period,
        so no program holds a pointer to it any more, and a late check makes a new entry."""
        for key in self._final:
            self._probe.delete(self._name, ctypes.c_uint64(key))
            del self._seen[key]
        self._final.clear()

    def _cgroup(self, key: int) -> CgroupKey:
        hierarchy = self._hierarchy_ids[key >> layout.KEY_HIERARCHY_SHIFT & 3]
        return CgroupKey(hierarchy, key >> layout.KEY_CGROUP_SHIFT)
