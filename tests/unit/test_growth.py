# SPDX-License-Identifier: Apache-2.0
"""The plot of docs/cost.md is what was measured, and what was measured grows linearly or better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import plot
from benchmarks.bench_growth import AT_MOST, exponent

CURVES = json.loads((plot.ROOT / "benchmarks/growth.json").read_text())


def test_the_picture_is_of_these_numbers() -> None:
    assert plot.PICTURE.read_text() == plot.svg(CURVES), "run python -m benchmarks.plot"
    assert plot.PICTURE.name in Path(plot.ROOT / "docs/cost.md").read_text()


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve[0])
def test_costs_grow_no_faster_than_their_numbers(curve: plot.Drawn) -> None:
    what, _, _, points = curve
    steps = [number for number, _ in points]
    assert steps == [10**power for power in range(1, len(steps) + 1)]
    assert exponent(points) <= AT_MOST, what


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_cost(power: float) -> None:
    assert exponent([(n, 3.0 * n**power) for n in (10, 100, 1000)]) == pytest.approx(power)
