# SPDX-License-Identifier: Apache-2.0
"""Ending on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def stop_on_signals(also: Callable[[], None] = lambda: None) -> threading.Event:
    """An event that SIGINT or SIGTERM sets; ``also`` is called with it. The second signal ends
    the process at once, should the orderly way be stuck."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        also()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop
