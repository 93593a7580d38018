# SPDX-License-Identifier: Apache-2.0
"""Writes the metrics page, in Prometheus' text format 0.0.4 or in OpenMetrics 1.0.

prometheus_client spends most of a scrape on checking and escaping label names and values, for
every sample anew. The containers' samples are written here instead: what the samples of one
container have in common is escaped once per scrape, and what the samples of one check have in
common once for ever. The result is byte for byte prometheus_client's, which writes the rest (the
exporter's own metrics). ``benchmarks/bench_scrape.py`` measures the difference.

The page comes in pieces, so that nobody needs all of it in memory at once.
"""

from __future__ import annotations

from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics
from prometheus_client.utils import floatToGoString

from cap_exporter.capabilities import name_of
from cap_exporter.ledger import Check, Snapshot
from cap_exporter.model import CheckClass
from cap_exporter.outputs.prometheus import (
    BACKGROUND_CHECKS,
    CHECKS,
    CONTAINER_GRANTED,
    CONTAINER_INFO,
    Family,
    Metrics,
    info_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cap_exporter.labels import Labels, LabelScheme

#: Samples per piece: about 100 kB.
_PIECE = 512


class Format(Enum):
    """The formats of the page."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def content_type(self) -> str:
        return self.value


def write_page(metrics: Metrics, page_format: Format) -> Iterator[bytes]:
    """The page in pieces of about 100 kB. The numbers are those of the moment of the call."""
    # Not itself a generator: the snapshot is taken now, not when the first piece is asked for.
    return _pieces(metrics, metrics.ledger.snapshot(), page_format)


def _pieces(metrics: Metrics, snapshot: Snapshot, page_format: Format) -> Iterator[bytes]:
    scheme = metrics.ledger.scheme
    blocks = _blocks(snapshot, scheme)
    for family, kind, lines in (
        (CHECKS, "counter", _checks(snapshot, blocks)),
        (BACKGROUND_CHECKS, "counter", _background_checks(snapshot, blocks)),
        (CONTAINER_INFO, "gauge", _info(snapshot, scheme)),
        (CONTAINER_GRANTED, "gauge", _granted(snapshot, blocks)),
    ):
        yield from _joined(chain((_header(family, kind, page_format),), lines))
    if page_format is Format.OPENMETRICS:
        yield write_openmetrics(metrics.own)  # type: ignore[no-untyped-call]
    else:
        yield write_text(metrics.own)


def _joined(lines: Iterable[str]) -> Iterator[bytes]:
    piece: list[str] = []
    for line in lines:
        piece.append(line)
        if len(piece) == _PIECE:
            yield "".join(piece).encode()
            piece.clear()
    yield "".join(piece).encode()


def _header(family: Family, kind: str, page_format: Format) -> str:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if page_format is Format.OPENMETRICS:
        name, text = name.removesuffix("_total"), text.replace('"', r"\"")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _escape(value: str) -> str:
    """A label value between its quotes, as both formats want it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(n: int) -> str:
    """A count as prometheus_client writes it (its floatToGoString)."""
    if n < 1_000_000:
        return f"{n}.0"
    if n >= 1 << 53:  # not every integer is a float any more
        return floatToGoString(n)  # type: ignore[no-any-return,no-untyped-call]
    digits = str(n)
    return f"{f'{digits[0]}.{digits[1:]}'.rstrip('0.')}e+{len(digits) - 1:02d}"


#: Labels are in the order of their names, as prometheus_client sorts them: capability, then a
#: block of the series' own, then reason, user_namespace and verdict, then a second block.
#: The frame is what stands before the first block, and between the two.
_Frame: TypeAlias = tuple[str, str]

_Block: TypeAlias = tuple[str, str]


def _blocks(snapshot: Snapshot, scheme: LabelScheme) -> list[_Block]:
    """Per series, what all of its samples have in common. The second block has the end of the
    labels with it."""
    order = sorted(range(len(scheme.names)), key=scheme.names.__getitem__)
    front = [(scheme.names[place], place) for place in order if scheme.names[place] < "reason"]
    back = [(scheme.names[place], place) for place in order if scheme.names[place] > "verdict"]
    assert len(front) + len(back) == len(order)

    def block(labels: Labels) -> _Block:
        before, behind = (
            [f'{name}="{_escape(labels[place])}"' for name, place in part] for part in (front, back)
        )
        return ",".join(before), "".join(f",{pair}" for pair in behind) + "} "

    return [block(series.labels) for series in snapshot.series]


class _CheckFrames(dict[Check, _Frame | None]):
    """The frame of each check's sample; None for a check that is none of this family's."""

    def __missing__(self, check: Check) -> _Frame | None:
        frame = None
        if check.check_class is CheckClass.MEANINGFUL:
            frame = (
                f'{CHECKS.name}{{capability="{name_of(check.capability)}",',
                f',user_namespace="{check.user_namespace}",verdict="{check.verdict}"',
            )
        self[check] = frame
        return frame


class _BackgroundFrames(dict[Check, _Frame | None]):
    """As _CheckFrames. The user namespace is no label here: both have equal frames."""

    def __missing__(self, check: Check) -> _Frame | None:
        frame = None
        if check.check_class is not CheckClass.MEANINGFUL:
            frame = (
                f'{BACKGROUND_CHECKS.name}{{capability="{name_of(check.capability)}",',
                f',reason="{check.check_class}",verdict="{check.verdict}"',
            )
        self[check] = frame
        return frame


# At most one entry per capability, verdict, user namespace and class: 1,792.
_check_frames = _CheckFrames()
_background_frames = _BackgroundFrames()


def _checks(snapshot: Snapshot, blocks: list[_Block]) -> Iterator[str]:
    for series, (front, back) in zip(snapshot.series, blocks, strict=True):
        for check, n in series.counts().items():
            frame = _check_frames[check]
            if frame is not None:
                yield f"{frame[0]}{front}{frame[1]}{back}{number(n)}\n"


def _background_checks(snapshot: Snapshot, blocks: list[_Block]) -> Iterator[str]:
    for series, (front, back) in zip(snapshot.series, blocks, strict=True):
        sums: dict[_Frame, int] = {}
        for check, n in series.counts().items():
            frame = _background_frames[check]
            if frame is not None:
                sums[frame] = sums.get(frame, 0) + n
        for (before, between), n in sums.items():
            yield f"{before}{front}{between}{back}{number(n)}\n"


def _info(snapshot: Snapshot, scheme: LabelScheme) -> Iterator[str]:
    labels = CONTAINER_INFO.all_labels(scheme)
    places = sorted(range(len(labels)), key=labels.__getitem__)
    names = [labels[place] for place in places]
    for series in snapshot.series:
        if series.info is not None:
            values = info_values(series, series.info, scheme)
            pairs = (
                f'{name}="{_escape(values[place])}"'
                for name, place in zip(names, places, strict=True)
            )
            yield f"{CONTAINER_INFO.name}{{{','.join(pairs)}}} 1.0\n"


def _granted(snapshot: Snapshot, blocks: list[_Block]) -> Iterator[str]:
    for series, (front, back) in zip(snapshot.series, blocks, strict=True):
        for capability in sorted(series.granted or ()):
            name = name_of(capability)
            yield f'{CONTAINER_GRANTED.name}{{capability="{name}",{front}{back}1.0\n'
