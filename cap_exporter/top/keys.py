# SPDX-License-Identifier: Apache-2.0
"""Keys of a terminal: its mode, and what the bytes it sends mean."""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from typing import Self

#: Seconds until a lone escape byte is the key: the rest of a sequence comes with it.
_ESCAPE_WAIT = 0.05

_NAMES = {
    b"A": "up",
    b"B": "down",
    b"H": "home",
    b"F": "end",
    b"1~": "home",
    b"7~": "home",
    b"4~": "end",
    b"8~": "end",
    b"5~": "pageup",
    b"6~": "pagedown",
}

#: ECMA-48 5.4 (CSI), and SS3, which keys in application mode send.
_SEQUENCE = re.compile(rb"\x1b(?:\[([0-?]*[ -/]*[@-~])|O(.))", re.DOTALL)
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?", re.DOTALL)

_CONTROL = {b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace"}


def decode(data: bytes) -> tuple[list[str], bytes]:
    """Keys, characters as themselves, and what may be the beginning of one. What is no key here
    is left out."""
    keys: list[str] = []
    while data:
        if sequence := _SEQUENCE.match(data):
            name = _NAMES.get(sequence[1] or sequence[2])
            if name:
                keys.append(name)
            data = data[sequence.end() :]
        elif _BEGUN.fullmatch(data):
            return keys, data
        elif data[:1] == b"\x1b":
            keys.append("escape")
            data = data[1:]
        elif data[:1] in _CONTROL:
            keys.append(_CONTROL[data[:1]])
            data = data[1:]
        else:
            length = _utf8_length(data[0])
            if len(data) < length:
                return keys, data
            text = data[:length].decode("utf-8", "ignore")
            if text.isprintable():
                keys += text
            data = data[length:]
    return keys, b""


def _utf8_length(first: int) -> int:
    if first < 0xC0:
        return 1
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


class Keyboard:
    """Keys as they are pressed, without echo, while it is entered."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._before = termios.tcgetattr(fd)
        self._rest = b""

    def __enter__(self) -> Self:
        tty.setcbreak(self.fd)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self.fd, termios.TCSAFLUSH, self._before)

    def read(self) -> list[str] | None:
        """What was pressed, once the fd is readable; None: the terminal has gone."""
        try:
            data = os.read(self.fd, 1024)
        except OSError:
            data = b""
        if not data:
            return None
        keys, self._rest = decode(self._rest + data)
        if self._rest.startswith(b"\x1b") and not select.select([self.fd], [], [], _ESCAPE_WAIT)[0]:
            self._rest = b""
            keys.append("escape")
        return keys
