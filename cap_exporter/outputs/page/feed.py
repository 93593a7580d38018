# SPDX-License-Identifier: Apache-2.0
"""The last events, as the page lists them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cap_exporter.event_hub import Numbered
from cap_exporter.outputs.page.overview import container_url, shortened
from cap_exporter.top.model import Key, key_of

#: Events that a page lists.
LISTED = 20


@dataclass(frozen=True, slots=True)
class Line:
    time: str
    """RFC 3339."""
    is_denied: bool
    capability: str
    url: str
    who: str
    process: str
    """``/usr/bin/dmesg[4711]``"""
    syscall: str
    suppressed: int


def feed(events: Sequence[Numbered], of: Key | None = None) -> list[Line]:
    """The newest first. of: only this container's."""
    lines: list[Line] = []
    for _, record in reversed(events):
        if of is None or key_of(record) == of:
            lines.append(_line(record))
            if len(lines) == LISTED:
                break
    return lines


def _line(record: Mapping[str, Any]) -> Line:
    key = key_of(record)
    process = record["process"]
    name = process["executable"] or process["comm"]
    return Line(
        record["time"],
        record["verdict"] == "denied",
        record["capability"]["name"],
        container_url(key),
        shortened("/".join(part for part in key[:3] if part)),
        f"{shortened(name)}[{process['pid']}]",
        record.get("syscall", {}).get("name", ""),
        record["suppressed"],
    )
