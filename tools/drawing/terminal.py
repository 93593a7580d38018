# SPDX-License-Identifier: Apache-2.0
"""A terminal's screen as an SVG that loads nothing from elsewhere."""

from __future__ import annotations

import re
from io import StringIO
from itertools import groupby
from typing import TYPE_CHECKING

from rich.color import ColorParseError
from rich.console import Console
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from pyte import Screen
    from pyte.screens import Char

#: pyte's names of colours that rich calls otherwise.
_COLOURS = {"brown": "yellow"}


def svg_of(screen: Screen, title: str) -> str:
    console = Console(
        record=True,
        width=screen.columns,
        file=StringIO(),
        force_terminal=True,
        legacy_windows=False,
    )
    last = max(y for y, line in enumerate(screen.display) if line.strip())
    for y in range(last + 1):
        line = Text(no_wrap=True)
        cells = [screen.buffer[y][x] for x in range(screen.columns)]
        for style, run in groupby(cells, key=_style):
            line.append("".join(cell.data for cell in run), style)
        console.print(line, crop=True)
    svg = console.export_svg(title=title, unique_id="terminal")
    # Its fonts would come from a server.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    return svg.replace("font-family: Fira Code, monospace", "font-family: monospace")


def _style(cell: Char) -> Style:
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        reverse=cell.reverse,
    )


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    name = _COLOURS.get(name, name)
    name = name.replace("bright", "bright_") if name.startswith("bright") else name
    try:
        Style(color=name)
    except ColorParseError:
        return None
    return name
