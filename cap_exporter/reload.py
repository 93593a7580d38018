# SPDX-License-Identifier: Apache-2.0
"""Notices that the configuration should be read again: by SIGHUP, or because the file changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cap_exporter.config import ConfigError

log = logging.getLogger(__name__)


class Reloader:
    """``check()`` is called by the loop's thread; it calls ``load`` when there is a reason.

    A ConfigMap's file is a symbolic link that is exchanged: what it leads to is looked at.
    ``load`` raises ConfigError for a file that can't be used: then all stays as it was.
    """

    def __init__(
        self, path: Path | None, load: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._load = load
        self._clock = clock
        self._seen = self._signature()
        self._asked = False
        self.successful: bool | None = None
        """How the last attempt went; None: there was none."""
        self.last_success = 0.0
        """When the configuration was last taken, seconds since the epoch."""

    def ask(self) -> None:
        """For a signal handler."""
        self._asked = True

    def check(self) -> None:
        signature = self._signature()
        if not self._asked and (signature == self._seen or signature is None):
            return
        self._asked = False
        self._seen = signature
        try:
            self._load()
        except ConfigError as error:
            self.successful = False
            log.error("the configuration stays as it was: %s", error)
        else:
            self.successful = True
            self.last_success = self._clock()
            log.info("the configuration was read again")

    def _signature(self) -> Signature | None:
        return signature_of(self._path) if self._path else None


#: Device, inode, time of change and size.
Signature = tuple[int, int, int, int]


def signature_of(path: Path) -> Signature | None:
    """What changes with a file. None: between two states of an exchange; or gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
