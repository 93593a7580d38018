# SPDX-License-Identifier: Apache-2.0
"""The screen as lines of text, for a given width and height. Pure.

What a mark says is never said by colour alone: ✗ denied, ● used, ○ granted and unused. Red and
cyan differ also for those who do not tell red from green.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from cap_exporter.outputs.event_record import line_of
from cap_exporter.profiles.advice import advise
from cap_exporter.profiles.formats import table as advice_table
from cap_exporter.profiles.merge import by_workload
from cap_exporter.terminal import printable
from cap_exporter.top.model import Row, Use, arrange, total
from cap_exporter.top.state import KEYS, State, index_of

if TYPE_CHECKING:
    from rich.console import RenderableType

DENIED, USED, DIM, STRONG, HEAD = "bold red", "cyan", "dim", "bold", "reverse"

#: For terminals and pipes without Unicode; one character each, so that nothing moves.
ASCII = str.maketrans("✗●○…†↑↓", "x*o~+^v")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is to be seen."""

    state: State
    rows: Sequence[Row]
    time: float
    """Seconds since the epoch (UTC): when the rows were so."""
    source: str
    node: str = ""
    problem: str = ""
    events: Sequence[dict[str, Any]] = ()
    """Of the container that is looked into, the newest first."""


class Drawn(NamedTuple):
    lines: list[Text]
    rows: list[Row]
    """The list's, in its order."""
    page: int
    """Lines of it, or of what is scrolled, that fit."""
    last: int
    """How far can be scrolled."""


def draw(frame: Frame, width: int, height: int, *, unicode: bool = True) -> Drawn:
    """The whole screen: ``height`` lines, none wider than ``width``."""
    state = frame.state
    rows = arrange(frame.rows, state.sort, state.words, state.everything)
    head = _head(frame, rows, width)
    foot = [_foot(state, width)]
    if frame.problem:
        foot.insert(0, Text(_cut(f"! {printable(frame.problem)}", width), style=DENIED))
    opened = next((row for row in frame.rows if row.key == state.opened), None)
    last = 0
    if state.help or state.opened:
        page = max(1, height - len(head) - len(foot))
        body = _help(width) if state.help else _container(frame, opened, width)
        last = max(0, len(body) - page)
        scroll = min(state.scroll, last)
        body = body[scroll : scroll + page]
    else:
        columns = _columns(width, rows)
        page = max(1, height - len(head) - len(foot) - 1)
        at = index_of(rows, state.selected)
        first = max(0, min(at - page // 2, len(rows) - page))
        body = [_titles(columns)]
        body += [
            _line(columns, row, ">" if row is rows[at] else " ")
            for row in rows[first : first + page]
        ]
        if not rows:
            body.append(Text(_cut(_nothing(frame), width), style=DIM))
    filler = [Text()] * (height - len(head) - len(body) - len(foot))
    lines = [*head, *body, *filler, *foot][:height]
    return Drawn([_safe(line, width, unicode=unicode) for line in lines], rows, page, last)


def printout(frame: Frame, width: int | None, *, unicode: bool = True) -> list[Text]:
    """The list once, all of it. width None: as wide as it takes, nothing is cut."""
    state = frame.state
    rows = arrange(frame.rows, state.sort, state.words, state.everything)
    columns = _columns(width, rows)
    lines = [
        *_head(frame, rows, width),
        _titles(columns),
        *(_line(columns, row, " ") for row in rows),
    ]
    return [_safe(line, width, unicode=unicode) for line in lines]


def _safe(line: Text, width: int | None, *, unicode: bool) -> Text:
    if not unicode:
        line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
    if width is not None:
        line.truncate(width, overflow="crop")
    return line


# The first lines and the last one


def _head(frame: Frame, rows: Sequence[Row], width: int | None) -> list[Text]:
    state = frame.state
    node = f"node {frame.node}" if frame.node else ""
    first = _parts(
        [
            ("cap-exporter top", STRONG),
            ("PAUSED", HEAD) if state.paused else ("", ""),
            (f"{_clock(frame.time)} UTC", ""),
            (frame.source, ""),
            (node, ""),
        ],
        width,
    )
    denied = total(row.denied_rate for row in rows)
    used = total(row.used_rate for row in rows)
    checks = total((denied, used))
    shown = f"{len(rows)} of {len(frame.rows)}" if len(rows) != len(frame.rows) else f"{len(rows)}"
    second = _parts(
        [
            (f"{shown} container{'' if shown == '1' else 's'}", ""),
            (f"filter: {printable(state.words)}", STRONG) if state.words else ("", ""),
            (f"{_rate(denied)} denied/s", DENIED if denied else ""),
            (f"{_rate(checks)} checks/s", ""),
            (f"by {state.sort}", ""),
        ],
        width,
    )
    return [first, second]


def _foot(state: State, width: int) -> Text:
    if state.typing:
        text = f"filter: {printable(state.words)}_   Enter keeps it, Esc clears it"
        return Text(_cut(text, width))
    if state.help:
        hints = [("?", "back"), ("↑↓", "scroll")]
    elif state.opened:
        hints = [("?", "help"), ("q", "back"), ("p", "pause"), ("↑↓", "scroll")]
    else:
        hints = [(key, word) for key, word, _ in KEYS]
    line = Text()
    for key, word in hints:
        part = Text.assemble((key, STRONG), f" {word}  ")
        if cell_len(line.plain) + cell_len(part.plain.rstrip()) > width:
            break
        line.append_text(part)
    line.rstrip()
    return line


def _parts(parts: Iterable[tuple[str, str]], width: int | None) -> Text:
    """Those that fit, the first ones first; the first one in any case."""
    text = Text()
    for part, style in parts:
        gap = "   " if text.plain else ""
        if not part:
            continue
        if width is not None and gap and cell_len(text.plain + gap + part) > width:
            continue
        text.append(gap).append(part, style=style)
    return text


# The list


class _Column(NamedTuple):
    title: str
    width: int
    text: Callable[[Row, int], Text]
    right: bool = True


def _columns(width: int | None, rows: Sequence[Row]) -> list[_Column]:
    """Those that there is room for. Names, and marks of capabilities, share what numbers leave."""
    denied_rate = _Column("DENIED/s", 8, lambda row, _: _red(_rate(row.denied_rate)))
    used_rate = _Column("USED/s", 7, lambda row, _: Text(_rate(row.used_rate)))
    denied = _Column("DENIED", 7, lambda row, _: _red(_count(row.denied)))
    longest = max((cell_len(_name(row)) for row in rows), default=0)
    if width is None:
        name = max(longest, len("CONTAINER"))
        numbers = [denied_rate, used_rate, denied]
        marks = [_Column("CAPABILITIES", 0, lambda row, _: _marks(row, None), right=False)]
    else:
        numbers = [denied_rate]
        if width >= 36:
            numbers.append(used_rate)
        if width >= 52:
            numbers.append(denied)
        rest = width - 2 - sum(column.width + 1 for column in numbers)
        name, marks = max(rest, 1), []
        if width >= 64:
            name = max(len("CONTAINER"), min(longest, rest * 11 // 20))
            marks = [_Column("CAPABILITIES", rest - name - 1, _marks, right=False)]
    return [
        _Column("CONTAINER", name, lambda row, most: Text(_middle(_name(row), most)), right=False),
        *numbers,
        *marks,
    ]


def _titles(columns: Sequence[_Column]) -> Text:
    text = " ".join(
        column.title.rjust(column.width) if column.right else column.title.ljust(column.width)
        for column in columns
    )
    return Text(f"  {text}", style=HEAD)


def _line(columns: Sequence[_Column], row: Row, cursor: str) -> Text:
    line = Text(f"{cursor} ", style=STRONG if cursor.strip() else "")
    for i, column in enumerate(columns):
        cell = column.text(row, column.width)
        gap = " " * (column.width - cell_len(cell.plain))
        if i:
            line.append(" ")
        if column.right:
            line.append(gap).append_text(cell)
        else:
            line.append_text(cell).append(gap)
    line.rstrip()
    if not row.profile.get("running", True):
        line.stylize(DIM)
    return line


def _name(row: Row) -> str:
    return row.place if row.profile.get("running", True) else f"{row.place}†"


def _red(number: str) -> Text:
    return Text(number, style="" if number in ("0", "-") else DENIED)


def _marks(row: Row, width: int | None) -> Text:
    """``✗SYSLOG ●SETUID +2 ○11``: as many as fit, how many more, and how many are unused."""
    unused = f"○{len(row.unused)}" if row.unused else ""
    pieces = [_mark(use) for use in row.uses]

    def joined(most: int) -> Text:
        more = f"+{len(pieces) - most}" if most < len(pieces) else ""
        parts = [*pieces[:most], *(Text(part, style=DIM) for part in (more, unused) if part)]
        return Text(" ").join(parts)

    for most in range(len(pieces), 0, -1):
        text = joined(most)
        if width is None or cell_len(text.plain) <= width:
            return text
    text = joined(0)
    if width is not None:
        text.truncate(width, overflow="crop")
    return text


def _mark(use: Use) -> Text:
    sign, style = ("✗", DENIED) if use.denied else ("●", USED)
    return Text(f"{sign}{printable(_bare(use.name))}", style=style)


def _nothing(frame: Frame) -> str:
    if frame.state.words:
        return "No container has these words; Esc clears the filter."
    if frame.rows:
        return "No checks yet that mean something; a shows all containers."
    return "No containers yet."


# One container


def _container(frame: Frame, row: Row | None, width: int) -> list[Text]:
    if row is None:
        return [Text("This container is not known any more.", style=DIM)]
    one = row.profile
    workload = "/".join(part for part in (one["workload_kind"].lower(), one["workload"]) if part)
    state = "running" if one.get("running", True) else "ended†"
    background = sum(sum(counts.values()) for counts in one["background"].values())
    lines = _wrapped(Text(row.place, style=STRONG), width)
    facts = [state, f"first seen {_moment(one['first_seen'])}", f"last {_moment(one['last_seen'])}"]
    lines += _wrapped(Text(printable(", ".join(facts))), width)
    more = [
        part
        for part in (workload, one["image"], one["runtime"], f"{background} background checks")
        if part
    ]
    lines += _wrapped(Text(printable(", ".join(more)), style=DIM), width)
    lines += [Text(), *_uses(row, width)]
    if row.unused:
        held = len(one["granted"]["bounding"])
        names = ", ".join(map(_bare, row.unused))
        text = f"○ {len(row.unused)} of {held} granted are not used: {names}"
        lines += _wrapped(Text(printable(text), style=DIM), width)
    elif row.unused is None:
        lines.append(Text("What it holds was not read.", style=DIM))
    for what, counts in one["in_user_namespace"].items():
        if counts:
            names = ", ".join(f"{_bare(name)} {count}" for name, count in counts.items())
            lines += _wrapped(
                Text(printable(f"In user namespaces of its own {what}: {names}")), width
            )
    lines += [Text(), Text("LAST EVENTS, newest first", style=HEAD)]
    if not frame.events:
        lines.append(Text("none", style=DIM))
    for record in frame.events:
        denied = record["verdict"] == "denied"
        mark = "✗" if denied else "●"
        # Whose they are stands above.
        line = line_of(record | {"namespace": "", "pod": "", "container": ""})
        lines += _wrapped(Text(f"{mark} {line}", style=DENIED if denied else ""), width)
    if row.key.pod or row.key.container_id or row.key.container.endswith(".service"):
        lines += [Text(), Text("ADVICE", style=HEAD), *_advice(frame.rows, row, width)]
    return lines


def _uses(row: Row, width: int) -> list[Text]:
    """A line per capability. What is narrower than all columns loses the last ones."""
    names = [printable(_bare(use.name)) for use in row.uses]
    most = max([len("CAPABILITY"), *map(len, names)])
    numbers = f"{'DENIED':>7} {'DENIED/s':>8} {'USED':>7} {'USED/s':>7}"
    titles = f"  {'CAPABILITY':{most}} {numbers} GRANTED"
    lines = [Text(titles, style=HEAD)]
    for use, name in zip(row.uses, names, strict=True):
        sign = "✗" if use.denied else "●"
        style = DENIED if use.denied else USED
        granted = {None: "?", True: "yes", False: "no"}[use.granted]
        line = Text.assemble(
            (f"{sign} {name:{most}} ", style),
            (f"{_count(use.denied):>7} {_rate(use.denied_rate):>8} ", DENIED if use.denied else ""),
            f"{_count(use.used):>7} {_rate(use.used_rate):>7} {granted}",
        )
        lines.append(line)
    for line in lines:
        line.truncate(width, overflow="crop")
    return lines if row.uses else [Text("No checks that mean something.", style=DIM)]


def _advice(rows: Iterable[Row], row: Row, width: int) -> list[Text]:
    """For its workload: all of its replicas and restarts that are there count."""
    (merged,) = by_workload(one.profile for one in rows if _is_same_workload(one, row))
    parts = advice_table([advise(merged)])
    return [line for part in parts for line in _wrapped(part, width)]


def _is_same_workload(one: Row, other: Row) -> bool:
    def fields(row: Row) -> tuple[str, ...]:
        profile = row.profile
        workload = (profile["workload_kind"], profile["workload"])
        return (
            row.key.namespace,
            row.key.container,
            profile.get("kind", "container"),
            *(workload if profile["workload"] else ("", row.key.pod)),
        )

    return fields(one) == fields(other)


def _help(width: int) -> list[Text]:
    lines = [Text("KEYS", style=HEAD)]
    for key, word, text in KEYS:
        lines += _wrapped(Text.assemble((f"{key:6}", STRONG), f"{word:7} {text}"), width)
    lines += [Text(), Text("MARKS", style=HEAD)]
    for mark, style, text in (
        ("✗", DENIED, "denied"),
        ("●", USED, "used"),
        ("○", DIM, "granted and not used"),
        ("+", DIM, "so many more, for which there is no room"),
        ("†", DIM, "the container has ended"),
    ):
        lines += _wrapped(Text.assemble((f"{mark:6}", style), text), width)
    lines += [Text()]
    lines += _wrapped(Text("Rates are over the last ten seconds or so; - is not known yet."), width)
    return lines


# Texts


def _wrapped(what: RenderableType, width: int) -> list[Text]:
    """As lines. A word that is too long is broken."""
    console = Console(file=io.StringIO(), width=width, color_system="standard", highlight=False)
    options = console.options.update(width=width, overflow="fold")
    return [
        Text.assemble(*((printable(part.text), part.style or "") for part in line))
        for line in console.render_lines(what, options, pad=False)
    ]


def _middle(text: str, width: int) -> str:
    """Shortened in the middle: the ends of names tell them apart."""
    if cell_len(text) <= width:
        return text
    left = (width - 1) // 2
    tail = text
    while cell_len(tail) > width - 1 - left:
        tail = tail[1:]
    return f"{set_cell_size(text, left)}…{tail}"


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _bare(name: str) -> str:
    return name.removeprefix("CAP_")


def _rate(rate: float | None) -> str:
    """Of as many digits as mean something."""
    if rate is None:
        return "-"
    if rate == 0:
        return "0"
    if rate < 0.05:
        return "<0.1"
    return f"{rate:.1f}" if rate < 9.95 else _count(round(rate))


def _count(count: int) -> str:
    """At most six characters, up to 10^12."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 100 * size:
            return f"{count // size}{unit}"
    return str(count)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def _moment(text: str) -> str:
    """``2026-11-25 17:14:20``: without the seconds' zone, which is UTC everywhere here."""
    return text.replace("T", " ").removesuffix("Z")
