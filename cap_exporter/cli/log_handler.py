# SPDX-License-Identifier: Apache-2.0
"""Writes log lines to standard error, and waits for nobody to read them: a reader that hangs must
not hold up counting."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Final

#: A pipe that is ready takes this much without waiting (pipe(7)), bytes.
_PIECE: Final = select.PIPE_BUF

#: How long the reader may take before its lines are dropped, seconds.
_PATIENCE: Final = 0.1


class LogHandler(logging.Handler):
    """Lines that find no room are counted, and told of once there is some again."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n"
        if self._dropped:
            line = f"({self._dropped} lines before this one are missing: nobody read them)\n{line}"
        data = line.encode("utf-8", "backslashreplace")
        try:
            while data and self._has_room():
                data = data[os.write(self._descriptor, data[:_PIECE]) :]
        except OSError:
            pass  # nobody reads any more: there is nowhere to say so
        self._dropped = self._dropped + 1 if data else 0

    def _has_room(self) -> bool:
        return bool(self._poll.poll(0 if self._dropped else _PATIENCE * 1000))


def log_handler() -> logging.Handler:
    """For standard error as it is now; where that is no file, as in tests, or closed, a handler
    for whatever stands for it."""
    try:
        return LogHandler(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return logging.StreamHandler() if sys.stderr else logging.NullHandler()
