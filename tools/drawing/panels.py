# SPDX-License-Identifier: Apache-2.0
"""A dashboard as one HTML page: each panel's queries asked of a Prometheus, its answer drawn in the
dashboard's grid as Grafana would, as far as our dashboards use it."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.e2e.prometheus import get_json

Json = dict[str, Any]

WIDTH, ROW, GAP = 1240, 31, 6
"""Pixels of 24 columns, of one row of the grid, and between panels."""

HOURS, STEP = 6, 120
"""What dashboards show by default, and seconds between two points."""

PALETTE = (
    *("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#8ab8ff", "#b877d9", "#96d98d"),
    *("#ffb357", "#3274d9", "#ffee52", "#e02f44", "#a352cc", "#37872d", "#fa6400", "#c4162a"),
)
NAMED = {"blue": "#5794f2", "orange": "#ff9830", "text": "#d8d9da"}

STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 13px/1.4 sans-serif; }
main { position: relative; }
h1 { font-size: 17px; font-weight: 500; margin: 0; padding: 10px 12px 2px; }
p.variables { margin: 0; padding: 0 12px 8px; color: #8e8e9a; }
p.variables b { color: #6e9fff; font-weight: 500; }
section, h2 { position: absolute; box-sizing: border-box; overflow: hidden; }
section { background: #181b1f; border: 1px solid #25272d; border-radius: 2px; }
h2 { font-size: 15px; font-weight: 500; margin: 0; padding: 8px 4px; }
h3 { font-size: 13px; font-weight: 500; margin: 0; padding: 5px 8px 3px; }
.stat { text-align: center; font-size: 34px; font-weight: 500; position: relative; }
.none { text-align: center; color: #8e8e9a; padding-top: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; }
th { text-align: left; font-weight: 500; color: #6e9fff; }
th, td { padding: 3px 8px; border-bottom: 1px solid #25272d; white-space: nowrap; }
td.number, th.number { text-align: right; }
a { color: #6e9fff; text-decoration: none; }
.legend { position: absolute; right: 4px; top: 26px; bottom: 0; overflow: hidden; }
.legend td, .legend th { border: 0; padding: 1px 5px; font-size: 11px; }
.legend td:first-child { max-width: 330px; overflow: hidden; text-overflow: ellipsis; }
"""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    color: str = ""


class Server:
    """A Prometheus, at one time, with the dashboard's variables filled in."""

    def __init__(self, url: str, end: float, variables: Mapping[str, str]) -> None:
        self._url, self._variables = url, variables
        self.begin, self.end = end - HOURS * 3600, end

    def filled(self, expr: str) -> str:
        values = {"__rate_interval": "4m", **self._variables}
        return re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), expr)

    def instant(self, expr: str) -> list[Json]:
        return self._ask("query", query=self.filled(expr), time=self.end)

    def range(self, expr: str) -> list[Json]:
        query = self.filled(expr)
        return self._ask("query_range", query=query, start=self.begin, end=self.end, step=STEP)

    def _ask(self, what: str, **parameters: Any) -> list[Json]:
        answer = get_json(f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}")
        found: list[Json] = answer["data"]["result"]
        return found


def page(dashboard: Json, server: Server, variables: Mapping[str, str]) -> str:
    parts, height = [], 0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        left, top = at["x"] * WIDTH // 24, at["y"] * ROW
        width, tall = at["w"] * WIDTH // 24 - GAP, at["h"] * ROW - GAP
        height = max(height, top + tall)
        place = f"left:{left}px;top:{top}px;width:{width}px;height:{tall}px"
        if panel["type"] == "row":
            parts.append(f'<h2 style="{place}">{html.escape(panel["title"])}</h2>')
        else:
            inside = DRAW[panel["type"]](panel, server, width - 2, tall - 28)
            title = html.escape(panel["title"])
            parts.append(f'<section style="{place}"><h3>{title}</h3>{inside}</section>')
    shown = "  ".join(
        f"{html.escape(one['label'])} <b>{html.escape(variables.get(one['name'], 'All'))}</b>"
        for one in dashboard["templating"]["list"]
        if one["type"] != "datasource"
    )
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(dashboard["title"])}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(dashboard['title'])}</h1>"
        f'<p class="variables">{shown}</p>'
        f'<main style="width:{WIDTH}px;height:{height + GAP}px">{"".join(parts)}</main>'
    )


def quantity(value: float, unit: str, decimals: int | None = None) -> str:
    """As Grafana writes it: at most three digits that matter where decimals are not said."""
    if unit == "percentunit":
        return f"{_digits(value * 100, decimals)}%"
    if unit == "s":
        for factor, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor or factor == 1e-6:
                return f"{_digits(value / factor, decimals)} {name}" if value else "0 s"
    if unit == "bytes":
        for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= factor:
                return f"{_digits(value / factor, decimals)} {name}"
        return f"{_digits(value, decimals)} B"
    if unit == "locale":
        return f"{value:,.0f}" if value.is_integer() or decimals == 0 else _digits(value, decimals)
    assert unit == "short", unit
    for factor, name in ((1e6, " Mil"), (1e3, " K")):
        if abs(value) >= factor:
            return f"{_digits(value / factor, decimals)}{name}"
    return _digits(value, decimals)


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _legend(found: Json, text: str) -> str:
    labels: Mapping[str, str] = found["metric"]
    if text == "__auto":
        return json.dumps(labels) if labels else "Value"
    return re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), text)


def _series(panel: Json, server: Server) -> list[Series]:
    all_series = [
        Series(
            _legend(found, target["legendFormat"]),
            [(when, float(value)) for when, value in found["values"]],
        )
        for target in panel["targets"]
        for found in server.range(target["expr"])
    ]
    fixed = {
        one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
        for one in panel["fieldConfig"]["overrides"]
        if one["properties"][0]["id"] == "color"
    }
    return [
        Series(one.name, one.points, NAMED.get(fixed.get(one.name, ""), "") or color)
        for one, color in zip(all_series, itertools.cycle(PALETTE), strict=False)
    ]


def _stat(panel: Json, server: Server, width: int, height: int) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    found = _series(panel, server)
    steps = defaults["thresholds"]["steps"]
    if not found:
        style = f"color:{NAMED[steps[0]['color']]};line-height:{height}px"
        return f'<div class="stat" style="{style}">{defaults["noValue"]}</div>'
    assert len(found) == 1, f"{panel['title']}: {len(found)} values"
    value = found[0].points[-1][1]
    (color,) = [one["color"] for one in steps if one["value"] is None or value >= one["value"]][-1:]
    text = quantity(value, defaults["unit"], defaults.get("decimals"))
    line = [Series("", found[0].points, NAMED[color])]
    chart = _lines(line, width, height // 2, server.begin, server.end, fill=True, axes=False)
    return (
        f'<div class="stat" style="color:{NAMED[color]};line-height:{height // 2}px">{text}'
        f'<div style="position:absolute;top:{height // 2}px">{chart}</div></div>'
    )


def _table(panel: Json, server: Server, _width: int, _height: int) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    rows = [
        {**one["metric"], "Value": float(one["value"][1])}
        for target in panel["targets"]
        for one in server.instant(target["expr"])
    ]
    if not rows:
        return f'<div class="none">{html.escape(defaults["noValue"])}</div>'
    (organize,) = (one["options"] for one in panel["transformations"] if one["id"] == "organize")
    hidden = {name for name, is_out in organize["excludeByName"].items() if is_out}
    columns = [
        name
        for name in sorted(
            {*itertools.chain(*rows)}, key=lambda n: organize["indexByName"].get(n, 99)
        )
        if name not in hidden
    ]
    heads = {name: organize["renameByName"].get(name, name) for name in columns}
    links = {
        one["matcher"]["options"]
        for one in panel["fieldConfig"]["overrides"]
        if one["properties"][0]["id"] == "links"
    }
    for sort in reversed(panel["options"].get("sortBy", [])):
        (by,) = [name for name, head in heads.items() if head == sort["displayName"]]
        rows.sort(key=lambda row: row.get(by, ""), reverse=sort.get("desc", False))

    def cell(row: Json, name: str) -> str:
        value = row.get(name, "")
        if name == "Value":
            text = quantity(value, defaults["unit"], defaults.get("decimals"))
            return f'<td class="number">{text}</td>'
        text = html.escape(str(value))
        return f"<td><a>{text}</a></td>" if heads[name] in links else f"<td>{text}</td>"

    head = "".join(
        f"<th{' class=number' if name == 'Value' else ''}>{html.escape(heads[name])}</th>"
        for name in columns
    )
    body = "".join(f"<tr>{''.join(cell(row, name) for name in columns)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _timeseries(panel: Json, server: Server, width: int, height: int) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    found = _series(panel, server)
    if not found:
        return f'<div class="none">{html.escape(defaults["noValue"])}</div>'
    unit, decimals = defaults["unit"], defaults.get("decimals")
    calcs = panel["options"]["legend"]["calcs"]
    heads = "".join(f'<th class="number">{CALCS[one][0]}</th>' for one in calcs)
    rows = "".join(
        f'<tr><td><span style="color:{one.color}">▬</span> {html.escape(one.name)}</td>'
        + "".join(
            f'<td class="number">{quantity(CALCS[calc][1](one.points), unit, decimals)}</td>'
            for calc in calcs
        )
        + "</tr>"
        for one in found
    )
    legend = f"<table><tr><th>Name</th>{heads}</tr>{rows}</table>"
    if panel["options"]["legend"]["placement"] == "bottom":
        beside, below = 0, min(height * 45 // 100, 20 * (len(found) + 1) + 4)
        place = f"left:8px;top:{height - below + 28}px"
    else:
        longest = max(len(one.name) for one in found)
        beside, below = min(width * 45 // 100, 60 + 62 * len(calcs) + 6 * longest), 0
        place = f"width:{beside - 8}px"
    chart = _lines(
        found,
        width - beside,
        height - below,
        server.begin,
        server.end,
        stack=defaults["custom"]["stacking"]["mode"] == "normal",
        unit=unit,
        least=defaults.get("min"),
        most=defaults.get("max"),
        decimals=decimals,
    )
    return f'{chart}<div class="legend" style="{place}">{legend}</div>'


CALCS: Mapping[str, tuple[str, Any]] = {
    "lastNotNull": ("Last *", lambda points: points[-1][1]),
    "max": ("Max", lambda points: max(value for _, value in points)),
}


def _lines(
    found: Sequence[Series],
    width: int,
    height: int,
    begin: float,
    end: float,
    *,
    stack: bool = False,
    fill: bool = False,
    axes: bool = True,
    unit: str = "short",
    least: float | None = None,
    most: float | None = None,
    decimals: int | None = None,
) -> str:
    drawn = list(_stacked(found)) if stack else list(found)
    values = [value for one in drawn for _, value in one.points]
    low = min(values) if least is None else least
    high = max(*values, low) if most is None else most
    high = high if high > low else low + 1
    if most is None and axes:
        high = low + _round_up(high - low)
    left, below = (62, 18) if axes else (0, 0)

    def x(when: float) -> float:
        return left + (when - begin) / (end - begin) * (width - left - 6)

    def y(value: float) -> float:
        return height - below - 4 - (value - low) / (high - low) * (height - below - 12)

    parts = []
    if axes:
        for number in range(5):
            value = low + (high - low) * number / 4
            parts.append(
                f'<line x1="{left}" x2="{width - 6}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
                'stroke="#25272d"/>'
                f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
                f"{quantity(value, unit, decimals)}</text>"
            )
        for number in range(1, 6):
            when = begin + (end - begin) * number / 6
            text = time.strftime("%H:%M", time.gmtime(when))
            parts.append(
                f'<text x="{x(when):.1f}" y="{height - 4}" text-anchor="middle">{text}</text>'
            )
    for one in reversed(drawn) if stack else drawn:
        line = " ".join(f"{x(when):.1f},{y(value):.1f}" for when, value in one.points)
        if stack or fill:
            ground = (
                f"{x(one.points[-1][0]):.1f},{y(low):.1f} {x(one.points[0][0]):.1f},{y(low):.1f}"
            )
            parts.append(f'<polygon points="{line} {ground}" fill="{one.color}" opacity="0.25"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="{one.color}"/>')
    return (
        f'<svg width="{width}" height="{height}" font-size="11" fill="#8e8e9a">'
        f"{''.join(parts)}</svg>"
    )


def _round_up(span: float) -> float:
    """The next that four steps divide into numbers of few digits."""
    power: float = 10 ** math.floor(math.log10(span))
    return next(one * power for one in (1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if one * power >= span)


def _stacked(found: Sequence[Series]) -> Iterator[Series]:
    """Each on the sum of those before it."""
    sums: dict[float, float] = {}
    for one in found:
        points = []
        for when, value in one.points:
            sums[when] = sums.get(when, 0.0) + value
            points.append((when, sums[when]))
        yield Series(one.name, points, one.color)


DRAW = {"stat": _stat, "table": _table, "timeseries": _timeseries}
