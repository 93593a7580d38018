# SPDX-License-Identifier: Apache-2.0
"""Plays a recording back, so that anything can be run and tested without privileges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cap_exporter.granted import merge
from cap_exporter.model import (
    CgroupEvent,
    CgroupKey,
    CheckKey,
    Drain,
    Event,
    Granted,
    SourceError,
    SourceInfo,
)
from cap_exporter.sources.recording import Reader, RecordingError


class ReplaySource:
    """The Source that reads a file written by `record`.

    ``paced``: at the speed of the recording; else all at the first drain.
    A drain is stamped with the time of the replay: for the reader of metrics it happens now. An
    event keeps the time when its check was made.
    """

    event_fd: int | None = None

    def __init__(
        self, path: Path, *, paced: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._paced = paced
        self._monotonic = monotonic
        self._reader: Reader | None = None
        self._drains: Iterator[Drain] = iter(())
        self._next: Drain | None = None
        self._began = 0.0
        self._origin = 0.0
        self._last = Drain(time=0.0)

    @property
    def finished(self) -> bool:
        """Nothing is left to play."""
        return self._reader is not None and self._next is None

    def open(self) -> SourceInfo:
        try:
            self._reader = Reader(self._path)
            self._drains = self._reader.drains()
            self._origin = self._reader.header.time
            self._next = next(self._drains, None)
        except RecordingError as error:
            raise SourceError(str(error)) from error
        self._began = self._monotonic()
        return SourceInfo("replay", self._reader.header.info.attach)

    def drain(self) -> Drain:
        played = self._monotonic() - self._began
        increments: list[tuple[CheckKey, int]] = []
        cgroup_events: list[CgroupEvent] = []
        events: list[Event] = []
        entered: dict[CgroupKey, Granted] = {}
        held: dict[CgroupKey, Granted] = {}
        lost = 0
        while self._next is not None:
            if self._paced and self._next.time - self._origin > played:
                break
            self._last = self._next
            increments += self._next.increments
            cgroup_events += self._next.cgroup_events
            events += self._next.events
            merge(entered, self._next.entered)
            held.update(self._next.held)
            lost += self._next.cgroup_events_lost
            try:
                self._next = next(self._drains, None)
            except RecordingError as error:
                self._next = None
                raise SourceError(str(error)) from error
        return replace(
            self._last,
            time=time.time(),
            increments=increments,
            cgroup_events=cgroup_events,
            events=events,
            entered=entered,
            held=held,
            cgroup_events_lost=lost,
        )

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        """A recording brings its own."""

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        """Nothing is held."""

    def close(self) -> None:
        if self._reader:
            self._reader.close()
