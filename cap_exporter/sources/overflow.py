# SPDX-License-Identifier: Apache-2.0
"""The counters of checks for which there was no room: by kind, without their cgroup."""

from __future__ import annotations

from collections.abc import Iterable

from cap_exporter.model import OVERFLOW, CheckKey
from cap_exporter.sources import layout


class OverflowCounters:
    def __init__(self) -> None:
        self._seen = bytes(8 * layout.KEY_KINDS)

    def saved(self) -> list[tuple[int, int]]:
        """Kind and count of what was given so far."""
        seen = memoryview(self._seen).cast("Q")
        return [(kind, count) for kind, count in enumerate(seen.tolist()) if count]

    def resume(self, saved: Iterable[tuple[int, int]]) -> None:
        seen = bytearray(8 * layout.KEY_KINDS)
        counts = memoryview(seen).cast("Q")
        for kind, count in saved:
            counts[kind & (layout.KEY_KINDS - 1)] = count
        self._seen = bytes(seen)

    def increments(self, now: bytes) -> list[tuple[CheckKey, int]]:
        """``now``: cap_state.overflow as it is. What was added since the last call."""
        if now == self._seen:
            return []
        before = memoryview(self._seen).cast("Q")
        increments = [
            (layout.decode_kind(kind, OVERFLOW), count - before[kind])
            for kind, count in enumerate(memoryview(now).cast("Q"))
            if count != before[kind]
        ]
        self._seen = now
        return increments
