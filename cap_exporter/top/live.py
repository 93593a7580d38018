# SPDX-License-Identifier: Apache-2.0
"""The screen while it is up: keys, answers and signals in, frames out."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from cap_exporter.model import SourceError
from cap_exporter.signals import stop_on_signals
from cap_exporter.top.feed import Answer, Feed, Poller
from cap_exporter.top.keys import Keyboard
from cap_exporter.top.model import History, Key, Profile, Row
from cap_exporter.top.state import State, press
from cap_exporter.top.view import Drawn, Frame, draw, printout


class LastLine(logging.Handler):
    """What is logged while the screen is up: only the last line has a place there."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class Viewer:
    """What a feed has said, what the user has chosen, and the screen that comes of both."""

    def __init__(
        self,
        feed: Feed,
        console: Console,
        state: State,
        is_wanted: Callable[[Profile], bool],
        log: LastLine | None = None,
    ) -> None:
        self._feed = feed
        self._console = console
        self._state = state
        self._is_wanted = is_wanted
        self._log = log or LastLine()
        self._history = History()
        self._news: tuple[list[Row], float] = [], 0.0
        self._shown = self._news
        self._events: tuple[Key | None, list[dict[str, Any]]] = None, []
        self._problem = ""
        self._unicode = console.encoding.lower().startswith("utf")

    def take(self, answer: Answer) -> None:
        """Raises SourceError where the feed has ended."""
        if isinstance(answer.problem, SourceError):
            raise answer.problem
        if answer.problem:
            self._problem = f"trying again: {answer.problem}"
            return
        self._problem = ""
        rows = self._history.add(answer.profiles, answer.at)
        self._news = [row for row in rows if self._is_wanted(row.profile)], answer.time
        if not self._state.paused:
            self._shown = self._news

    def print(self) -> bool:
        """The list, once. False: there is nothing on it. To a terminal as wide as that is, to a
        pipe or file as wide as it takes."""
        width = self._console.width if sys.stdout.isatty() else None
        frame = self._frame()
        for line in printout(frame, width, unicode=self._unicode):
            self._console.print(line, soft_wrap=True)
        return bool(frame.rows)

    def run(self, interval: float) -> None:
        """Until the user, a signal or the terminal's end ends it; the terminal is then as it was.
        Raises SourceError where the feed has ended."""
        news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        def wake() -> None:
            os.eventfd_write(news, 1)

        suspend = False

        def on_suspend(_number: int, _frame: object) -> None:
            nonlocal suspend
            suspend = True
            wake()

        stop = stop_on_signals(wake)
        signal.signal(signal.SIGWINCH, lambda _number, _frame: wake())
        self._feed.follow()
        poller = Poller(self._feed, interval, wake)
        while True:
            signal.signal(signal.SIGTSTP, on_suspend)
            with Keyboard(sys.stdin.fileno()) as keyboard, self._screen() as live:
                while not (stop.is_set() or suspend or self._state.done):
                    self._step(live, keyboard, news, poller)
            if not suspend:
                break
            # Ctrl-Z: stop like any program would, and go on here with `fg`.
            suspend = False
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
        poller.stop()

    def _screen(self) -> Live:
        return Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _step(self, live: Live, keyboard: Keyboard, news: int, poller: Poller) -> None:
        """Draw, wait for something, take it."""
        live.update(Group(*self._draw().lines), refresh=True)
        ready, _, _ = select.select([keyboard.fd, news], [], [])
        if news in ready:
            os.eventfd_read(news)
            for answer in poller.take():
                self.take(answer)
        if keyboard.fd in ready:
            self._log.text = ""
            keys = keyboard.read()
            if keys is None:
                self._state = replace(self._state, done=True)
            for key in keys or ():
                self._press(key)

    def _press(self, key: str) -> None:
        drawn = self._draw()
        self._state = press(self._state, key, drawn.rows, drawn.page, drawn.last)
        if not self._state.paused:
            self._shown = self._news

    def _draw(self) -> Drawn:
        width, height = self._console.size
        return draw(self._frame(), width, height, unicode=self._unicode)

    def _frame(self) -> Frame:
        opened = self._state.opened
        if opened != self._events[0] or not self._state.paused:
            self._events = opened, self._feed.events.of(opened) if opened else []
        rows, time = self._shown
        return Frame(
            state=self._state,
            rows=rows,
            time=time,
            source=self._feed.name,
            node=self._feed.events.node,
            problem=self._problem or self._log.text,
            events=self._events[1],
        )
