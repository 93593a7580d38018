# SPDX-License-Identifier: Apache-2.0
"""Lines out of a stream of bytes, however it is cut."""

from __future__ import annotations

from cap_exporter.pods.errors import TooLong


class LineSplitter:
    """Collects chunks and gives back complete lines as bytes.

    Bytes, because a chunk may end inside a multi-byte character; a line does not.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their ends. Blank ones are left out.

        Raises TooLong when a line exceeds `max_bytes`.
        """
        lines: list[bytes] = []
        first, newline, after = chunk.partition(b"\n")
        self._rest += first
        if len(self._rest) > self._max_bytes:
            size = len(self._rest)
            self._rest.clear()
            raise TooLong(f"a line of more than {self._max_bytes} bytes ({size} so far)")
        if newline:
            *whole, rest = after.split(b"\n")
            lines = [bytes(self._rest), *whole]
            self._rest = bytearray(rest)
        return [line for line in lines if line.strip()]

    @property
    def incomplete(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest.strip())
