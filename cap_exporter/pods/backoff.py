# SPDX-License-Identifier: Apache-2.0
"""How long to wait after failures: exponential, with full jitter."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Seconds to wait after the n-th failure in a row: 0 to min(first·2ⁿ⁻¹, longest), at random.

    Full jitter: after an API server's outage every node of a cluster comes back, and they must not
    all come at once. `uniform(low, high)` is where the chance comes from.
    """

    def __init__(
        self,
        first: float,
        longest: float,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._longest = longest
        self._uniform = uniform
        self.failures = 0

    def failed(self) -> float:
        """Count a failure and say how long to wait."""
        self.failures += 1
        # The exponent is bounded: 2.0**1100 is no float.
        ceiling = min(self._longest, self._first * 2.0 ** min(self.failures - 1, 64))
        return self._uniform(0.0, ceiling)

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self.failures = 0
