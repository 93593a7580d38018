# SPDX-License-Identifier: Apache-2.0
"""Runs a check so that neither its errors nor its slowness are the whole list's."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted

log = logging.getLogger(__name__)

#: Seconds that a check may take.
LIMIT: Final = 5.0


class Check(NamedTuple):
    """``find`` may wait for what does not come, and raise."""

    name: str
    title: str
    find: Callable[[Wanted], Iterable[Finding]]
    limit: float = LIMIT


def bounded(check: Check, wanted: Wanted) -> Iterator[Finding]:
    """The check's findings, each as it comes; one about the check itself where it fails."""
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for finding in check.find(wanted):
                found.put(finding)
        except Exception as error:
            log.debug("the check %s failed", check.name, exc_info=True)
            found.put(_failed(check, error))
        finally:
            found.put(None)

    # A check that hangs in a system call must not keep the process from ending.
    threading.Thread(target=work, name=f"doctor-{check.name}", daemon=True).start()
    deadline = time.monotonic() + check.limit
    while True:
        try:
            finding = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield Finding(
                check.name,
                check.title,
                Status.FAILED,
                f"no answer within {check.limit:g} s",
                "look at it once more: something on this host, or the network, hangs",
            )
            return
        if finding is None:
            return
        yield finding


def _failed(check: Check, error: Exception) -> Finding:
    # Not the error's own words: they may hold a secret.
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        check.name,
        check.title,
        Status.FAILED,
        f"the check itself failed: {type(error).__name__} at {Path(where.filename).name}:"
        f"{where.lineno}",
        "this is a mistake of cap-exporter: please report it, with what this says:",
        "cap-exporter doctor --log-level debug",
    )
