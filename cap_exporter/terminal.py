# SPDX-License-Identifier: Apache-2.0
"""Text from outside, as a terminal and one line of a file may have it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Without what a terminal would obey: control characters as ``\\x1b``, bidi marks too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
