# SPDX-License-Identifier: Apache-2.0
"""Typed access to JSON of which nothing is known: a wrong type reads as absent, never raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Longest text that is kept, in characters. Kubernetes' own limit for names is 253.
MAX_TEXT = 1024

#: Most entries of a list that are read. Far above what fits into an object of 1.5 MB (etcd).
MAX_ENTRIES = 10_000


def mapping(value: object) -> Mapping[str, Any]:
    """The JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> Iterator[Mapping[str, Any]]:
    """The JSON objects in a JSON array; whatever else is in it is left out."""
    if isinstance(value, list):
        for entry in value[:MAX_ENTRIES]:
            if isinstance(entry, dict):
                yield entry


def text(value: object) -> str:
    """The string, or ``""``: also for one that is longer than any real value."""
    return value if isinstance(value, str) and len(value) <= MAX_TEXT else ""


def texts(value: object) -> tuple[str, ...]:
    """The strings in a JSON array that are not empty."""
    if not isinstance(value, list):
        return ()
    return tuple(entry for entry in map(text, value[:MAX_ENTRIES]) if entry)


def boolean(value: object) -> bool | None:
    """The boolean, or None."""
    return value if isinstance(value, bool) else None


def integer(value: object) -> int | None:
    """The whole number, or None. JSON's true is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
