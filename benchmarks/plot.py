# SPDX-License-Identifier: Apache-2.0
"""Draws docs/pictures/growth.svg from benchmarks/growth.json: `python -m benchmarks.plot`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/pictures/growth.svg"

#: What, of what, unit, and (number, cost).
Drawn = tuple[str, str, str, Sequence[tuple[int, float]]]

WIDTH, HEIGHT, COLUMNS = 300, 220, 3
LEFT, RIGHT, TOP, BOTTOM = 46, 28, 30, 34


def svg(curves: Sequence[Drawn]) -> str:
    rows = math.ceil(len(curves) / COLUMNS)
    size = f'width="{WIDTH * COLUMNS}" height="{HEIGHT * rows}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, curve in enumerate(curves):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_one(*curve), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _one(what: str, of: str, unit: str, points: Sequence[tuple[int, float]]) -> Iterator[str]:
    low = math.floor(math.log10(min(value for _, value in points)))
    high = math.ceil(math.log10(max(value for _, value in points)))
    high = max(high, low + 1)
    first, last = math.log10(points[0][0]), math.log10(points[-1][0])

    def x(number: float) -> float:
        return LEFT + (math.log10(number) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    yield f'<text x="{LEFT}" y="17" font-size="12" font-weight="bold">{what} ({unit})</text>'
    for power in range(low, high + 1):
        at = y(10.0**power)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:,.10g}</text>'
    for number, _ in points:
        yield (
            f'<text x="{x(number):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">'
            f"{number:,}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle" fill="#555">{of}</text>'
    # What grows as its number does, from the last point back: the line to compare with.
    number, value = points[-1]
    back = max(points[0][0], number * 10.0**low / value)
    yield (
        f'<line x1="{x(back):.1f}" y1="{y(value * back / number):.1f}" x2="{x(number):.1f}" '
        f'y2="{y(value):.1f}" stroke="#999" stroke-dasharray="4 3"/>'
    )
    line = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in points)
    yield f'<polyline points="{line}" fill="none" stroke="#1f60c4" stroke-width="2"/>'
    for number, value in points:
        yield f'<circle cx="{x(number):.1f}" cy="{y(value):.1f}" r="3" fill="#1f60c4"/>'


def write(curves: Sequence[Drawn]) -> None:
    PICTURE.write_text(svg(curves))


def main() -> None:
    write(json.loads((ROOT / "benchmarks/growth.json").read_text()))


if __name__ == "__main__":
    main()
