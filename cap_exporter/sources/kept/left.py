# SPDX-License-Identifier: Apache-2.0
"""What one process leaves the next beside programs and maps: how far it had read, and a document of
whoever counts. Format: JSON, with its own number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cap_exporter.model import CgroupChange, CgroupEvent, CgroupKey, CheckKey
from cap_exporter.sources import layout
from cap_exporter.sources.counters import SavedCounters
from cap_exporter.sources.reading import Shape

FORMAT: Final = 1


class Unreadable(Exception):
    """Nothing was left, or by a version that writes it in another way."""


@dataclass(kw_only=True)
class Left:
    """Of one set of programs."""

    set_id: str
    """Which programs, with which options."""
    attach: str
    lossy: str
    shape: Shape
    counters: SavedCounters = field(default_factory=lambda: SavedCounters((), ()))
    overflow: Sequence[tuple[int, int]] = ()
    """Kind and count of what had no room, as given."""
    news_lost: int = 0
    increments: Sequence[tuple[CheckKey, int]] = ()
    """Checks that were read from a set before, and are in no document yet."""
    news: Sequence[CgroupEvent] = ()
    """Of cgroups, read with them."""
    document: Any = field(default=None)
    """What the Keeper says of it (cap_exporter/keeper.py)."""

    def text(self) -> bytes:
        return json.dumps(
            {
                "format": FORMAT,
                "layout": layout.LAYOUT_VERSION,
                "set": self.set_id,
                "attach": self.attach,
                "lossy": self.lossy,
                "shape": self.shape._asdict(),
                "given": self.counters.given,
                "final": self.counters.final,
                "overflow": self.overflow,
                "news_lost": self.news_lost,
                "increments": [
                    (*key.cgroup, layout.encode_kind(key), count) for key, count in self.increments
                ],
                "news": [(one.change.value, *one.cgroup, one.path) for one in self.news],
                "document": self.document,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def parse(cls, text: bytes) -> Left:
        """Raises Unreadable."""
        try:
            read = json.loads(text)
            if read["format"] != FORMAT or read["layout"] != layout.LAYOUT_VERSION:
                raise Unreadable(
                    f"it is of format {read['format']} and layout {read['layout']}, not {FORMAT} "
                    f"and {layout.LAYOUT_VERSION}"
                )
            shape = {**read["shape"], "hierarchy_ids": tuple(read["shape"]["hierarchy_ids"])}
            return cls(
                set_id=read["set"],
                attach=read["attach"],
                lossy=read["lossy"],
                shape=Shape(**shape),
                counters=SavedCounters(
                    tuple((slot, key, given) for slot, key, given in read["given"]),
                    tuple(read["final"]),
                ),
                overflow=[(kind, count) for kind, count in read["overflow"]],
                news_lost=read["news_lost"],
                increments=[
                    (layout.decode_kind(kind, CgroupKey(hierarchy, cgroup)), count)
                    for hierarchy, cgroup, kind, count in read["increments"]
                ],
                news=[
                    CgroupEvent(CgroupChange(change), CgroupKey(hierarchy, cgroup), path)
                    for change, hierarchy, cgroup, path in read["news"]
                ],
                document=read["document"],
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unreadable("nothing that could be read was saved with it") from error
