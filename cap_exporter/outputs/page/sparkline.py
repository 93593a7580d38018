# SPDX-License-Identifier: Apache-2.0
"""Counts per minute as a small drawing, and in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cap_exporter.outputs.page.history import SAMPLES

#: Units of the drawing: one bar of 2 a minute, with a gap of 1.
STEP = 3
HEIGHT = 24
WIDTH = SAMPLES * STEP


@dataclass(frozen=True, slots=True)
class Sparkline:
    verdict: str
    """denied or used"""
    path: str
    """SVG path data: one upright stroke per minute that has checks; the newest at the right."""
    words: str
    """What a reader who does not see it is told."""


def sparkline(counts: Sequence[int], verdict: str) -> Sparkline:
    """counts: the oldest first; the last one is the minute that runs."""
    peak = max(counts, default=0)
    first = SAMPLES - len(counts)
    strokes = [
        f"M{(first + i) * STEP + 1} {HEIGHT}v-{max(1, round(count * (HEIGHT - 1) / peak))}"
        for i, count in enumerate(counts)
        if count
    ]
    if peak:
        number = sum(counts)
        words = (
            f"{number:,} {verdict} in the last {_minutes(len(counts))}, in {len(strokes)} of them; "
            f"at most {peak:,} in one, {counts[-1]:,} in this one"
        )
    else:
        words = f"none {verdict} in the last {_minutes(len(counts))}"
    return Sparkline(verdict, "".join(strokes), words)


def _minutes(number: int) -> str:
    return "minute" if number == 1 else f"{number} minutes"
