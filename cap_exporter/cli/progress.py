# SPDX-License-Identifier: Apache-2.0
"""How far something is that takes long: on standard error if that is a terminal, else nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Of a bar.
_CELLS: Final = 10


@contextmanager
def bar(text: str) -> Iterator[Callable[[float], None]]:
    """For what knows its end: what is given shows how much is done, 0…1."""
    if not sys.stderr.isatty():
        yield lambda _fraction: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(text, total=1.0)
        yield lambda fraction: shown.update(task, completed=fraction)


@contextmanager
def elapsed(
    text: str, seconds: float | None, state: Callable[[], str], *, alone: bool = True
) -> Iterator[None]:
    """For what goes on for this time, or (None) until Ctrl-C: the time, and what ``state`` says.
    ``state`` is called from another thread. alone: False where something else is printed to the
    same terminal meanwhile; then nothing is shown."""
    if not sys.stderr.isatty() or not alone:
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    cell = "━" if console.encoding.lower().startswith("utf") else "="
    began = time.monotonic()

    def line() -> Text:
        gone = time.monotonic() - began
        # One line, whatever it takes: it is drawn over itself. What matters least is cut.
        if seconds is None:
            shown = Text(f"{text} {duration(gone)}")
        else:
            gone = min(gone, seconds)
            done = int(gone / seconds * _CELLS)
            shown = Text.assemble(
                f"{text} ",
                (cell * done, "green"),
                (cell * (_CELLS - done), "dim"),
                f" {duration(gone)} of {duration(seconds)}",
            )
        return Text.assemble(shown, f": {state()}; Ctrl-C ends", no_wrap=True, overflow="ellipsis")

    with Live(
        get_renderable=line,
        console=console,
        refresh_per_second=4,
        transient=True,
        # Standard output is the command's.
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield


def duration(seconds: float) -> str:
    """``59 s``, ``3:07``, ``1:00:00``"""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def size(number: float) -> str:
    """``731 B``, ``1.2 MB``"""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
