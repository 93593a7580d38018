# SPDX-License-Identifier: Apache-2.0
"""Makes the source that `--source` names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cap_exporter.cgroups.hierarchies import Hierarchies
from cap_exporter.model import CgroupKey, Drain, Source, SourceError, SourceInfo
from cap_exporter.sources.events import EventSettings

log = logging.getLogger(__name__)


class FirstOf:
    """The first of several sources that can be opened."""

    def __init__(self, makers: Sequence[tuple[str, Callable[[], Source]]]) -> None:
        self._makers = makers
        self._source: Source | None = None

    @property
    def event_fd(self) -> int | None:
        return getattr(self._source, "event_fd", None)

    def open(self) -> SourceInfo:
        failures = []
        for name, make in self._makers:
            source = make()
            try:
                info = source.open()
            except SourceError as error:
                failures.append(f"{name}: {error}")
                log.info("the %s source does not work here: %s", name, error)
                continue
            self._source = source
            return info
        raise SourceError("\n".join(failures))

    def _opened(self) -> Source:
        if self._source is None:
            raise RuntimeError("the source is not open")
        return self._source

    def introduce(self, cgroups: Iterable[tuple[CgroupKey, str]]) -> None:
        self._opened().introduce(cgroups)

    def drain(self) -> Drain:
        return self._opened().drain()

    def release(self, cgroups: Sequence[CgroupKey]) -> None:
        self._opened().release(cgroups)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()


def make_source(
    spec: str,
    hierarchies: Hierarchies,
    *,
    attach: str | None = None,
    btf: Path | None = None,
    counters: int = 32768,
    paced: bool = True,
    events: EventSettings | None = None,
    pin: Path | None = None,
) -> Source:
    """``spec``: auto, libbpf, bcc or replay:FILE. Nothing is loaded before open().
    ``paced``: play a recording at its own speed. ``events``: which checks are told besides being
    counted. ``pin``: keep programs and counts in this folder (libbpf only). Raises SourceError
    where what is asked for does not go together."""

    def libbpf() -> Source:
        from cap_exporter.sources.libbpf import LibbpfSource

        return LibbpfSource(
            hierarchies, attach=attach, btf=btf, slots=counters, events=events, pin=pin
        )

    def bcc() -> Source:
        from cap_exporter.sources.bcc import BccSource

        return BccSource(hierarchies, attach=attach, btf=btf, slots=counters, events=events)

    if pin is not None and spec not in ("auto", "libbpf"):
        raise SourceError(f"only the libbpf source keeps its programs (--pin), not {spec}")
    if spec.startswith("replay:"):
        from cap_exporter.sources.replay import ReplaySource

        return ReplaySource(Path(spec.removeprefix("replay:")), paced=paced)
    if spec == "libbpf" or pin is not None:
        return libbpf()
    if spec == "bcc":
        return bcc()
    return FirstOf((("libbpf", libbpf), ("bcc", bcc)))
