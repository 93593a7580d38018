# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter top` in a real terminal, against a running exporter and real containers."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pyte
import pytest

from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.containers import Container
from tests.ports import free_port

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang", "setsid")]

LEFT, CURSOR_SHOWN = b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """A program in a terminal of its own: what is pressed, and what is then on the screen."""

    def __init__(self, *command: str, columns: int = 80, lines: int = 24, **environ: str) -> None:
        self.output = b""
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._fd, self._inside = pty.openpty()
        self.resize(columns, lines)
        self.mode = termios.tcgetattr(self._inside)
        self.process = subprocess.Popen(
            # Its own session, and the terminal is that one's: Ctrl-C and Ctrl-Z are signals.
            ["setsid", "--ctty", *command],
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
            env={**os.environ, "TERM": "xterm-256color", **environ},
        )

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, size)
        self.screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def colours(self) -> set[str]:
        return {cell.fg for line in self.screen.buffer.values() for cell in line.values()}

    def shows(self, pattern: str, seconds: float = 10) -> str:
        """Wait until the screen has it; returns the screen."""
        self.read_until(lambda: re.search(pattern, self.text, re.MULTILINE), seconds)
        self.read(0.1)  # the rest of the frame
        assert re.search(pattern, self.text, re.MULTILINE), f"no {pattern!r} in\n{self.text}"
        return self.text

    def read(self, seconds: float) -> str:
        """What is on the screen after that time."""
        self.read_until(lambda: False, seconds)
        return self.text

    def ends(self, seconds: float = 10) -> int:
        self.read_until(lambda: self.process.poll() is not None, seconds)
        status = self.process.wait(1)
        self.read(0.1)
        return status

    @property
    def restored(self) -> bool:
        """As it was before: mode, screen, cursor."""
        return (
            termios.tcgetattr(self._inside) == self.mode
            and LEFT in self.output
            and CURSOR_SHOWN in self.output
        )

    def read_until(self, done: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done() and (left := deadline - time.monotonic()) > 0:
            if select.select([self._fd], [], [], min(left, 0.05))[0]:
                data = os.read(self._fd, 65536)
                self.output += data
                self._stream.feed(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)
        os.close(self._inside)


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExporter]:
    with RunningExporter(tmp_path_factory.mktemp("exporter")) as one:
        yield one


def top(exporter: RunningExporter, *arguments: str, **terminal: Any) -> Terminal:
    url = f"--url=http://127.0.0.1:{exporter.page_port}"
    return Terminal(str(COMMAND), "top", url, "--interval=500ms", *arguments, **terminal)


def printed(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "top", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )


@pytest.fixture
def two(container: Callable[..., Container]) -> tuple[str, str]:
    """Names of a container that is denied CAP_SYSLOG four times a second, and of one that uses
    CAP_SYS_CHROOT as often."""
    denied, using = container("CHOWN", "KILL"), container("SYS_CHROOT")
    denied.start("sh", "-c", "while :; do dmesg; sleep 0.5; done")
    using.start("sh", "-c", "while :; do chroot / true; sleep 0.25; done")
    return denied.container_id[:12], using.container_id[:12]


def order(text: str) -> list[str]:
    """Containers on the list, without those of other tests."""
    return re.findall(r"^[> ] ([0-9a-f]{12})\b", text, re.MULTILINE)


def test_denied_comes_first_with_its_rate_and_its_marks(
    exporter: RunningExporter, two: tuple[str, str]
) -> None:
    denied, using = two
    with top(exporter, f"--container={denied}", f"--container={using}") as terminal:
        text = terminal.shows(rf"^> {denied} +[345]\.\d +0 +\d+ ✗SYSLOG ○2$")
        assert order(text) == [denied, using]
        assert terminal.shows(rf"^  {using} +0 +[345]\.\d +0 ●SYS_CHROOT$")
        assert re.match(r"cap-exporter top +[\d:]{8} UTC +127.0.0.1:\d+ +node \S+\n2 cont", text)
        assert "red" in terminal.colours()
        assert len(text.splitlines()) == 24


def test_keys(exporter: RunningExporter, two: tuple[str, str]) -> None:
    """Sort, filter, help, a look into a container, and back to the list, and out."""
    denied, using = two
    with top(exporter, f"--container={denied}", f"--container={using}") as terminal:
        terminal.shows(rf"^> {denied} +[345]\.\d")
        terminal.press("s")
        assert order(terminal.shows("by used$")) == [using, denied]
        terminal.press("s")
        assert order(terminal.shows("by name$")) == sorted(two)
        terminal.press("?")
        terminal.shows("^KEYS")
        terminal.press("?")
        terminal.shows(" CONTAINER")
        terminal.press("/chro")
        assert order(terminal.shows("^filter: chro_")) == [using]
        terminal.press("x")
        terminal.shows("No container has these words")
        terminal.press("\x7f\r")
        assert order(terminal.shows(r"^\? help")) == [using]
        terminal.press("\x1b")
        assert set(order(terminal.shows("^2 containers"))) == set(two)
        terminal.press("\x1b[H\x1b[B")
        assert terminal.shows(rf"^> {sorted(two)[1]}")
        terminal.press("\x1b[A\r")
        terminal.shows(rf"^{sorted(two)[0]}$")
        terminal.press("q")
        terminal.shows(" CONTAINER")
        terminal.press("q")
        assert terminal.ends() == 0
        assert terminal.restored


def test_a_look_into_a_container(exporter: RunningExporter, two: tuple[str, str]) -> None:
    denied, _ = two
    with top(exporter, f"--container={denied}") as terminal:
        terminal.shows("✗SYSLOG")
        terminal.press("\r")
        text = terminal.shows(r"^✗ [\d:]+ DENIED  CAP_SYSLOG +/bin/busybox\[\d+\] syslog")
        terminal.shows(r"^✗ SYSLOG +\d+ +[345]\.\d +0 +0 no$")
        assert "○ 2 of 2 granted are not used: CHOWN, KILL" in text
        assert "running, first seen 20" in text
        terminal.press("\x1b[F")
        text = terminal.shows("confidence  low")
        assert "nothing: drop: [ALL] alone will do" in text
        assert "CAP_SYSLOG" in text


def test_pause_stands_still_and_goes_on(exporter: RunningExporter, two: tuple[str, str]) -> None:
    denied, _ = two
    with top(exporter, f"--container={denied}") as terminal:
        terminal.shows(r"✗SYSLOG")
        terminal.press("p")
        still = terminal.shows("PAUSED")
        assert terminal.read(1.5) == still
        terminal.press("s")
        moved = terminal.shows("by used")
        assert moved.splitlines()[2:] == still.splitlines()[2:]
        terminal.press(" ")
        terminal.shows("top   [0-9]")
        assert terminal.read(1).splitlines()[3] != still.splitlines()[3]


def test_it_follows_the_terminal_s_size(exporter: RunningExporter, two: tuple[str, str]) -> None:
    denied, _ = two
    with top(exporter, f"--container={denied}") as terminal:
        terminal.shows("✗SYSLOG")
        terminal.resize(40, 10)
        text = terminal.shows(r"^\? help  q quit  Enter open  s sort\Z")
        assert text.splitlines()[2] == "  CONTAINER             DENIED/s  USED/s"
        terminal.resize(120, 40)
        text = terminal.shows("move$")
        assert text.splitlines()[39].startswith("? help")
        assert "✗SYSLOG" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_terminal_is_as_before(
    exporter: RunningExporter, number: signal.Signals
) -> None:
    with top(exporter) as terminal:
        terminal.shows("containers?")
        if number == signal.SIGINT:
            terminal.press("\x03")
        else:
            terminal.process.send_signal(number)
        assert terminal.ends() == 0
        assert terminal.restored
        assert b"Traceback" not in terminal.output


def test_it_stops_on_ctrl_z_with_the_terminal_as_before_and_goes_on(
    exporter: RunningExporter,
) -> None:
    # A program whose session nobody watches is not stopped: the shell is whom it belongs to.
    command = f"set -m; {COMMAND} top --url=http://127.0.0.1:{exporter.page_port}; echo stopped; fg"
    with Terminal("bash", "-c", command) as terminal:
        terminal.shows("containers?")
        terminal.press("\x1a")
        terminal.read_until(lambda: b"stopped" in terminal.output, 10)
        assert LEFT in terminal.output.partition(b"stopped")[0]
        terminal.shows("containers?")
        terminal.press("q")
        assert terminal.ends() == 0
        assert terminal.restored


def test_the_terminal_s_end_ends_it(exporter: RunningExporter) -> None:
    with top(exporter) as terminal:
        terminal.shows("containers?")
        terminal.press("\x04")  # nothing in this mode
        terminal.read(0.3)
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.process.wait(10) == -signal.SIGHUP


def test_a_lost_connection_is_told_and_made_again(
    tmp_path: Path, container: Callable[..., Container]
) -> None:
    port = f"--page-listen=127.0.0.1:{free_port()}"
    one = container()
    one.start("sh", "-c", "while :; do dmesg; sleep 0.5; done")
    with RunningExporter(tmp_path, port) as exporter:
        terminal = top(exporter, f"--container={one.container_id}")
        with terminal:
            terminal.shows("✗SYSLOG")
            exporter.stop()
            text = terminal.shows(r"^! trying again: no answer from")
            assert "✗SYSLOG" in text
            terminal.press("s")
            terminal.shows("by used")
            with RunningExporter(tmp_path, port):
                terminal.read_until(lambda: "trying again" not in terminal.text, 10)
                text = terminal.shows("✗SYSLOG")
                assert "trying again" not in text
                # Counts began anew; no rate is negative.
                assert not re.search(r" -\d", text)
            terminal.press("q")
            assert terminal.ends() == 0


def test_no_color(exporter: RunningExporter, two: tuple[str, str]) -> None:
    denied, _ = two
    with top(exporter, f"--container={denied}", NO_COLOR="1") as terminal:
        terminal.shows("✗SYSLOG")
        assert terminal.colours() == {"default"}


def test_in_a_pipe_it_prints_the_list_once(exporter: RunningExporter, two: tuple[str, str]) -> None:
    denied, using = two
    url = f"--url=http://127.0.0.1:{exporter.page_port}"
    done = printed(url, f"--container={denied}", f"--container={using}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(rf"^  {denied} +[345]\.\d +0 +\d+ ✗SYSLOG ○2$", done.stdout, re.MULTILINE)
    assert order(done.stdout) == [denied, using]
    # The same where it is asked for at a terminal.
    with top(exporter, "--once", f"--container={denied}") as terminal:
        assert terminal.ends(20) == 0
        assert LEFT not in terminal.output
        assert "✗SYSLOG" in terminal.text


def test_where_nothing_is_found_the_status_says_so(exporter: RunningExporter) -> None:
    done = printed(f"--url=http://127.0.0.1:{exporter.page_port}", "--namespace=none")
    assert done.returncode == 1
    assert done.stderr.startswith("There is no namespace 'none'.")


def test_it_counts_by_itself(two: tuple[str, str]) -> None:
    denied, using = two
    arguments = ("--here", "--interval=2s", "--filter=chroot", f"--container={using}")
    done = printed(*arguments, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^  {using} +0 +[345]\.\d +0 \*SYS_CHROOT$", done.stdout, re.MULTILINE)
    assert order(done.stdout) == [using]
    with Terminal(str(COMMAND), "top", "--here", f"--container={denied}") as terminal:
        terminal.shows("counting here")
        terminal.shows(rf"^> {denied} +[345]\.\d +0 +\d+ ✗SYSLOG ○2$")
        terminal.press("\r")
        terminal.shows("DENIED  CAP_SYSLOG +/bin/busybox")
        terminal.press("qq")
        assert terminal.ends() == 0
        assert terminal.restored


def test_without_an_exporter_it_says_what_to_do() -> None:
    done = printed("--url=http://127.0.0.1:1")
    assert done.returncode == 1
    assert "cap-exporter run" in done.stderr
    assert "--here" in done.stderr
    with Terminal(str(COMMAND), "top", "--url=http://127.0.0.1:1") as terminal:
        assert terminal.ends() == 1
        assert b"\x1b[?1049h" not in terminal.output
