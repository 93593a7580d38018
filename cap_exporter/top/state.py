# SPDX-License-Identifier: Apache-2.0
"""What the user has chosen, and what each key makes of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cap_exporter.top.model import Key, Row, Sort


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    sort: Sort = Sort.DENIED
    words: str = ""
    """The filter."""
    typing: bool = False
    """Keys go into the filter."""
    everything: bool = False
    """Also containers without a check that means something."""
    paused: bool = False
    selected: Key | None = None
    """None: the first row, whichever it is."""
    opened: Key | None = None
    """The container that is looked into."""
    scroll: int = 0
    """Lines of it, or of the help, that are above the screen."""
    help: bool = False
    done: bool = False


#: Key → what the help says, in the order of the footer. The footer has those that fit.
KEYS = (
    ("?", "help", "this list of keys"),
    ("q", "quit", "back, and from the list: quit (Esc too; Ctrl-C quits anywhere)"),
    ("Enter", "open", "look into the container"),
    ("s", "sort", "sort by denied, by used, by name"),
    ("/", "filter", "show what has these words in its name, workload or capabilities"),
    ("p", "pause", "stand still, and go on (Space too)"),
    ("a", "all", "also containers that have background checks only, or none"),
    ("↑↓", "move", "move (j and k too, PgUp, PgDn, Home, End)"),
)


def press(state: State, key: str, rows: Sequence[Row], page: int, last: int) -> State:
    """rows: as they are on the list; page: how many lines fit; last: how far can be scrolled."""
    if state.typing:
        return _typed(state, key)
    if key in ("q", "escape"):
        return _back(state, key)
    if key == "?":
        return replace(state, help=not state.help, scroll=0)
    if key in ("p", " "):
        return replace(state, paused=not state.paused)
    if state.help or state.opened:
        return replace(state, scroll=_moved(key, min(state.scroll, last), last, page))
    if key == "s":
        return replace(state, sort=state.sort.next())
    if key == "/":
        return replace(state, typing=True)
    if key == "a":
        return replace(state, everything=not state.everything)
    if not rows:
        return state
    at = index_of(rows, state.selected)
    if key == "enter":
        return replace(state, opened=rows[at].key, selected=rows[at].key, scroll=0)
    to = _moved(key, at, len(rows) - 1, page)
    return state if to == at else replace(state, selected=rows[to].key)


def index_of(rows: Sequence[Row], selected: Key | None) -> int:
    """The first, where the selected one is not among them."""
    return next((i for i, row in enumerate(rows) if row.key == selected), 0)


def _typed(state: State, key: str) -> State:
    if key == "enter":
        return replace(state, typing=False)
    if key == "escape":
        return replace(state, typing=False, words="")
    if key == "backspace":
        return replace(state, words=state.words[:-1])
    return replace(state, words=state.words + key) if len(key) == 1 else state


def _back(state: State, key: str) -> State:
    """One step: out of the help, the container, the filter (Esc), the program."""
    if state.help:
        return replace(state, help=False, scroll=0)
    if state.opened:
        return replace(state, opened=None, scroll=0)
    if state.words and key == "escape":
        return replace(state, words="")
    return replace(state, done=True)


def _moved(key: str, at: int, last: int, page: int) -> int:
    to = {
        "up": at - 1,
        "k": at - 1,
        "down": at + 1,
        "j": at + 1,
        "pageup": at - page,
        "pagedown": at + page,
        "home": 0,
        "end": last,
    }.get(key, at)
    return max(0, min(to, last))
