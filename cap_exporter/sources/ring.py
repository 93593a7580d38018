# SPDX-License-Identifier: Apache-2.0
"""Reads a BPF ring buffer, and gives the room back only when told so.

libbpf's reader gives each record's room back as it hands it on. Here a record stays in the kernel
until commit(): a process that is killed in between leaves it to the next one.

Layout: Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c (6.18): a page with the consumer's
position, a page with the producer's, then the data twice, so that no record is in two pieces.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

#: Of a record's header: its length, two flags.
_BUSY: Final = 1 << 31
_DISCARDED: Final = 1 << 30
_HEADER: Final = 8


class Ring:
    """The consumer of one ring. For one thread."""

    def __init__(self, map_fd: int, size: int, on_record: Callable[[bytes], None]) -> None:
        """``map_fd`` stays the caller's. ``size``: bytes, as the map has it. Raises OSError."""
        self.fd = map_fd
        """Readable when there are records that were not given back."""
        page = mmap.PAGESIZE
        self._on_record = on_record
        self._mask = size - 1
        self._consumer = mmap.mmap(map_fd, page)
        self._producer = mmap.mmap(
            map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._data = memoryview(self._producer)[page:]
        self._lengths = self._data.cast("I")
        self._read = memoryview(self._consumer)[:8].cast("Q")
        self._written = memoryview(self._producer)[:8].cast("Q")
        self._position: int = self._read[0]
        # Held, see _fence().
        self._lock = threading.Lock()
        self._lock.acquire()

    def consume(self) -> None:
        """Hand on what came since the last time."""
        end = self._written[0]
        self._fence()
        while self._position < end:
            at = self._position & self._mask
            header = self._lengths[at // 4]
            if header & _BUSY:
                break  # reserved, and not written yet
            self._fence()
            length = header & ~(_BUSY | _DISCARDED)
            if not header & _DISCARDED:
                self._on_record(bytes(self._data[at + _HEADER : at + _HEADER + length]))
            self._position += (length + _HEADER + 7) & ~7

    def commit(self) -> None:
        """What was handed on is safe: the kernel may write over it."""
        if self._read[0] != self._position:
            self._fence()
            self._read[0] = self._position

    def _fence(self) -> None:
        """What comes after is read after what came before: a release followed by an acquire is
        not reordered on any machine that this runs on (arm64: both are RCsc)."""
        self._lock.release()
        self._lock.acquire()

    def close(self) -> None:
        for view in (self._lengths, self._data, self._read, self._written):
            view.release()
        for mapping in (self._producer, self._consumer):
            with suppress(BufferError):
                mapping.close()
