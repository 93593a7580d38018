# SPDX-License-Identifier: Apache-2.0
"""The counters of checks for which there was no room: by kind, without their cgroup."""

from __future__ import annotations

from cap_exporter.model import OVERFLOW, CheckKey
from cap_exporter.sources import layout


class OverflowCounters:
    def __init__(self) -> None:
        self._seen = bytes(8 * layout.KEY_KINDS)

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
