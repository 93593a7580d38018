# SPDX-License-Identifier: Apache-2.0
"""A text in the memory of a pinned BPF array: it outlives its process, and is there whole or as it
was before."""

from __future__ import annotations

import struct
import zlib
from typing import Final

#: Number (grows), length, checksum.
_HEAD: Final = struct.Struct("=QII")


class DoesNotFit(Exception):
    """The text is longer than the room there is."""


class SavedText:
    """Two halves: the older one is written, and its number last."""

    def __init__(self, memory: memoryview) -> None:
        self._half = len(memory) // 2
        self._memory = memory

    def read(self) -> bytes:
        """What was written last; empty: nothing, or nothing whole."""
        found = [text for half in (0, 1) if (text := self._text(half)) is not None]
        return max(found)[1] if found else b""

    def write(self, text: bytes) -> None:
        """Raises DoesNotFit; then what was written before stays."""
        packed = zlib.compress(text, 1)
        if len(packed) > self._half - _HEAD.size:
            raise DoesNotFit(
                f"{len(packed)} bytes are to be kept, and there is room for "
                f"{self._half - _HEAD.size}"
            )
        numbers = [found[0] if (found := self._text(half)) else 0 for half in (0, 1)]
        half = 0 if numbers[0] <= numbers[1] else 1
        start = half * self._half
        # No number, no text: until all of it is there.
        self._memory[start : start + 8] = bytes(8)
        self._memory[start + _HEAD.size : start + _HEAD.size + len(packed)] = packed
        head = _HEAD.pack(max(numbers) + 1, len(packed), zlib.crc32(packed))
        self._memory[start + 8 : start + _HEAD.size] = head[8:]
        self._memory[start : start + 8] = head[:8]

    def _text(self, half: int) -> tuple[int, bytes] | None:
        start = half * self._half
        number, length, checksum = _HEAD.unpack(self._memory[start : start + _HEAD.size])
        if not number or length > self._half - _HEAD.size:
            return None
        packed = bytes(self._memory[start + _HEAD.size : start + _HEAD.size + length])
        if zlib.crc32(packed) != checksum:
            return None
        return number, zlib.decompress(packed)
