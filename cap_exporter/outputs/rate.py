# SPDX-License-Identifier: Apache-2.0
"""How many requests may come."""

from __future__ import annotations

import time
from collections.abc import Callable

from cap_exporter.outputs.web_config import RateLimit


class Bucket:
    """A token bucket, full at first; its limit may change."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._tokens = float("inf")

    def take(self, limit: RateLimit) -> bool:
        now = self._clock()
        grown = self._tokens + (now - self._at) / limit.interval
        self._tokens, self._at = min(float(limit.burst), grown), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
