# SPDX-License-Identifier: Apache-2.0
"""Where kernel functions lie, from /proc/kallsyms.

Addresses read as zero without CAP_SYSLOG or with kernel.kptr_restrict=2 (kernel/kallsyms.c,
kallsyms_show_value(), 6.18).
"""

from __future__ import annotations

import bisect
import logging
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)


class Symbols:
    """The kernel's symbol table as text; ``restricted`` tells that addresses are hidden."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.restricted = not self.ranges("cap_capable")

    @classmethod
    def read(cls, path: Path = Path("/proc/kallsyms")) -> Symbols:
        """Raises OSError."""
        return cls(path.read_bytes())

    def address(self, name: str) -> int | None:
        """Address of a symbol of any type, None where there is none or it is hidden."""
        match = re.search(rb"^([0-9a-f]+) \w " + re.escape(name.encode()) + rb"$", self._text, re.M)
        return int(match[1], 16) or None if match else None

    def ranges(self, name: str) -> Sequence[tuple[int, int]]:
        """[start, end) of the function called ``name``, then of the parts that the compiler split
        off it (``name.cold``, ``name.isra.0``, ``name.constprop.0``). The table is sorted by
        address, so a function ends where the next symbol begins."""
        found: list[tuple[int, int]] = []
        at = 0
        needle = b" " + name.encode()
        while (at := self._text.find(needle, at)) >= 0:
            end = self._text.find(b"\n", at)
            end = len(self._text) if end < 0 else end
            line_start = self._text.rfind(b"\n", 0, at) + 1
            fields = self._text[line_start:end].split()
            at = end
            if len(fields) != 3 or fields[1] not in (b"t", b"T"):
                continue
            if fields[2] != needle[1:] and not fields[2].startswith(needle[1:] + b"."):
                continue
            start = int(fields[0], 16)
            if start:
                whole = (start, self._next_address(end + 1, start))
                found.insert(0 if fields[2] == needle[1:] else len(found), whole)
        return found

    def _next_address(self, at: int, start: int) -> int:
        while at < len(self._text):
            space = self._text.find(b" ", at)
            address = int(self._text[at:space], 16)
            if address > start:
                return address
            end = self._text.find(b"\n", at)
            if end < 0:
                break
            at = end + 1
        return start + 1


class Functions:
    """Names kernel text addresses: the function that an address lies in, ``+`` the offset."""

    def __init__(self, text: bytes) -> None:
        found = [
            (int(address, 16), name.decode())
            for address, name in re.findall(rb"^([0-9a-f]+) [tTwW] (\S+)", text, re.M)
        ]
        found.sort()
        self._addresses = array("Q", (address for address, _ in found))
        self._names = [name for _, name in found]

    def __call__(self, address: int) -> str | None:
        place = bisect.bisect_right(self._addresses, address) - 1
        if place < 0 or not self._addresses[place]:
            return None
        return f"{self._names[place]}+{address - self._addresses[place]:#x}"


def no_symbols(_address: int) -> str | None:
    """Names nothing."""
    return None


def stack_symbols(path: Path = Path("/proc/kallsyms")) -> Callable[[int], str | None]:
    """A way to name addresses; names nothing, and says why in the log, where they are hidden."""
    try:
        text = path.read_bytes()
    except OSError as error:
        log.warning("kernel stacks are left out: cannot read %s: %s", path, error)
        return no_symbols
    if Symbols(text).restricted:
        log.warning("kernel stacks are left out: symbol addresses are hidden (CAP_SYSLOG)")
        return no_symbols
    return Functions(text)
