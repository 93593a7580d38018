# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes list, read object by object.

A list of some hundred pods is megabytes of text and several times that as Python objects; decoded
one by one it costs no more memory than its longest pod, whatever page size the server keeps to.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from cap_exporter.pods.errors import Garbage, TooLong

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SPACE = re.compile(r"[ \t\r\n]*")

# The least that is read before an object that was not complete is tried again, in characters.
_STEP = 16_384


def read_list(chunks: Iterable[bytes], *, max_item: int) -> Iterator[tuple[str, Any]]:
    """Pairs of key and value of the JSON object in `chunks`, in order; lazily.

    The array under "items" is not built: each of its elements comes as a pair ("items", element).
    A value may have up to `max_item` characters. Raises Garbage and TooLong.
    """
    source = _Source(chunks, max_item)
    source.expect("{")
    if source.peek() == "}":
        source.expect("}")
    else:
        yield from _members(source)
    if source.peek():
        raise Garbage(f"{source.peek()!r} after the end of a list")


def _members(source: _Source) -> Iterator[tuple[str, Any]]:
    separator = ","
    while separator == ",":
        key = source.value()
        if not isinstance(key, str):
            raise Garbage("a list with a key that is no string")
        source.expect(":")
        if key == "items" and source.peek() == "[":
            source.expect("[")
            if source.peek() == "]":
                source.expect("]")
            else:
                more = ","
                while more == ",":
                    yield key, source.value()
                    more = source.expect(",]")
        else:
            yield key, source.value()
        separator = source.expect(",}")


class _Source:
    """Text that grows as it is needed, with a place in it."""

    def __init__(self, chunks: Iterable[bytes], max_item: int) -> None:
        self._chunks = iter(chunks)
        # A character that two chunks share waits in the decoder; bytes that are no UTF-8 become
        # U+FFFD, as Go's encoder has it.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decode = json.JSONDecoder().raw_decode
        self._max_item = max_item
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is not white space; ``""`` at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None  # it matches the empty string
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, characters: str) -> str:
        """Step over one of these characters."""
        found = self.peek()
        if not found:
            raise Garbage("a list ends before its end")
        if found not in characters:
            raise Garbage(f"{found!r} in a list, where one of {characters!r} was to come")
        self._at += 1
        return found

    def value(self) -> Any:
        """Step over a JSON value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # The rest of it may still be to come: try again with at least as much once more,
                # so that slow bytes do not mean that all is decoded for each of them.
                if len(self._text) - self._at > self._max_item:
                    raise TooLong(
                        f"an object of a list has more than {self._max_item} characters, or is none"
                    ) from error
                if not self._more():
                    raise Garbage("a list ends in the middle of an object") from error
            except (ValueError, RecursionError) as error:
                raise Garbage(f"an object of a list that cannot be decoded: {error}") from error
            else:
                # A number at the end of the text may have more digits to come.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
                self._more()

    def _more(self) -> bool:
        """Read on; False at the end. What lies behind is dropped."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        parts = [kept]
        wanted = max(_STEP, len(kept))
        for chunk in self._chunks:
            part = self._decoder.decode(chunk)
            parts.append(part)
            wanted -= len(part)
            if wanted <= 0:
                break
        else:
            self._ended = True
            parts.append(self._decoder.decode(b"", final=True))
        self._text = "".join(parts)
        self._at = 0
        return len(self._text) > len(kept)
