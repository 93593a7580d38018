# SPDX-License-Identifier: Apache-2.0
"""A set of programs that another takes the place of: it counts until that one is ready."""

from __future__ import annotations

import time
from typing import Final

from cap_exporter.sources.kept.left import Left
from cap_exporter.sources.kept.pins import Adopted, Pins
from cap_exporter.sources.reading import Reading

#: A program that was detached ends within this time, seconds.
_ENDS: Final = 1.0

_LOOK: Final = 0.001


class Replaced:
    def __init__(
        self, pins: Pins, found: Adopted, reading: Reading | None, left: Left | None
    ) -> None:
        """reading: resumed, or None with ``left`` where what it counted can't be gone on with."""
        self._pins = pins
        self._found = found
        self._reading = reading
        self.left = left

    def stop(self) -> None:
        """Count no more there; ``left`` has all then. Twice is once."""
        if self._reading is None:
            self._pins.detach_checks()
            return
        self._pins.detach_checks()
        self._until_it_rests(self._reading)
        last = self._reading.drain()
        if self.left is not None:
            self.left.increments = [*self.left.increments, *last.increments]
            self.left.news = [*self.left.news, *last.cgroup_events]
        self._reading.close()
        self._reading = None

    def _until_it_rests(self, reading: Reading) -> None:
        """Older kernels let go of a link in a worker, a moment after its last holder did."""
        deadline = time.monotonic() + _ENDS
        before = b""
        while before != (now := reading.fingerprint()) and time.monotonic() < deadline:
            before = now
            time.sleep(_LOOK)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        self._found.close()
