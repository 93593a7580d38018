# SPDX-License-Identifier: Apache-2.0
"""How the watch of pods stands: for metrics, /readyz and the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(StrEnum):
    """What the watch is doing, or what keeps it from doing it."""

    STARTING = "starting"
    LISTING = "listing"
    WATCHING = "watching"
    NO_CONFIGURATION = "no_configuration"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class WatchState:
    """A snapshot. Counts are since the watch was started."""

    phase: Phase = Phase.STARTING
    synced: bool = False
    """The store is what the API server last said, and what changes reaches us."""
    ever_synced: bool = False
    """There has been a complete list: a pod that was there at the start is known."""
    message: str = ""
    """For a person: what is wrong and what to do; ``""`` while nothing is."""
    last_event_time: float | None = None
    """Seconds since the epoch when the server last sent anything valid: a complete list, an event
    or a bookmark."""
    lists: int = 0
    """Complete lists, the first one among them."""
    restarts: int = 0
    """Watch requests after the first one: servers end each after some minutes."""
    events: int = 0
    invalid_pods: int = 0
    """Objects that were no pods; they are left out."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """By reason (`reason` of the classes in errors.py)."""

    @property
    def relists(self) -> int:
        """Complete lists after the first one."""
        return max(0, self.lists - 1)
