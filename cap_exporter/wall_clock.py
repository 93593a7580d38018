# SPDX-License-Identifier: Apache-2.0
"""Notices that the wall clock was set. Times that are kept have to move along, or else ages are
negative, or everything is old at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Less than this is adjtime(3)'s work, or the time between two readings; seconds.
_NOTICED: Final = 1.0

#: Two readings that are farther apart say nothing of the clock between them; seconds.
_AT_ONCE: Final = 0.1


def _boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class WallClock:
    """``boot`` is a clock that nobody sets and that goes on while the host is suspended: that
    time has really passed."""

    def __init__(
        self, wall: Callable[[], float] = time.time, boot: Callable[[], float] = _boot
    ) -> None:
        self._wall = wall
        self._boot = boot
        self._offset = self._read()

    def moved(self) -> float:
        """Seconds by which it was set since the last call, forwards or, below 0, backwards; 0
        where it was not."""
        before, self._offset = self._offset, self._read()
        by = self._offset - before
        return by if abs(by) >= _NOTICED else 0.0

    def _read(self) -> float:
        """When the host was booted, by the wall clock as it is."""
        for _ in range(10):
            began = self._boot()
            wall = self._wall()
            if self._boot() - began < _AT_ONCE:
                break
        return wall - began
