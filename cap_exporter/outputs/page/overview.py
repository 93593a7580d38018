# SPDX-License-Identifier: Apache-2.0
"""What the first page lists: containers, filtered, sorted, a part at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from cap_exporter.terminal import printable
from cap_exporter.top.model import History as Rows
from cap_exporter.top.model import Key, Profile, Row, Sort, arrange, key_of

#: Containers on one page.
PER_PAGE = 100

#: A name in a list has at most this many characters; its own page has all.
NAME_LENGTH = 80

#: Capabilities that a cell names.
_NAMED = 4

_CONTAINER = "container"


def background(profile: Profile) -> int:
    """Checks that say nothing of what the workload needs."""
    return sum(sum(counts.values()) for counts in profile["background"].values())


def workload(profile: Mapping[str, Any]) -> str:
    """``deployment/web``"""
    return "/".join(
        part for part in (profile["workload_kind"].lower(), profile["workload"]) if part
    )


def is_running(profile: Mapping[str, Any]) -> bool:
    return bool(profile.get("running", True))


def _unused(row: Row) -> int:
    return -1 if row.unused is None else len(row.unused)


@dataclass(frozen=True, slots=True)
class Column:
    """One that can be sorted by."""

    name: str
    title: str
    rank: Callable[[Row], float | str]
    is_number: bool = True


COLUMNS = (
    Column(_CONTAINER, "Container", lambda row: row.place, is_number=False),
    Column("workload", "Workload", lambda row: workload(row.profile), is_number=False),
    Column("denied", "Denied", lambda row: row.denied),
    Column("used", "Used", lambda row: row.used),
    Column("unused", "Unused grants", _unused),
)

BACKGROUND = Column("background", "Background", lambda row: background(row.profile))


@dataclass(frozen=True, slots=True)
class Query:
    """What the reader asked for. What makes no sense is as if it were not there."""

    words: str = ""
    sort: str = "denied"
    is_reversed: bool = False
    """Against the column's own order: names ascending, numbers descending."""
    everything: bool = False
    """Also containers that made background checks only, or none; and how many of them."""
    page: int = 1

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Query:
        everything = parameters.get("all") == "1"
        sort = parameters.get("sort", "")
        page = parameters.get("page", "")
        return cls(
            parameters.get("q", ""),
            sort if sort in {column.name for column in columns(everything)} else "denied",
            parameters.get("order") == "reversed",
            everything,
            int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        )

    def url(self, **changes: Any) -> str:
        """Of the same list with these changes. Without ``page``, its first part."""
        values = {name: getattr(self, name) for name in Query.__slots__} | {"page": 1} | changes
        named = {
            "q": values["words"],
            "sort": "" if values["sort"] == "denied" else values["sort"],
            "order": "reversed" if values["is_reversed"] else "",
            "all": "1" if values["everything"] else "",
            "page": "" if values["page"] == 1 else str(values["page"]),
        }
        query = urlencode({name: value for name, value in named.items() if value})
        return f"/?{query}" if query else "/"


def columns(everything: bool) -> tuple[Column, ...]:
    return (*COLUMNS, BACKGROUND) if everything else COLUMNS


@dataclass(frozen=True, slots=True)
class Heading:
    title: str
    url: str
    aria_sort: str
    """``""`` where the list is not sorted by it."""
    is_number: bool
    name: str


@dataclass(frozen=True, slots=True)
class Line:
    """One container of the list."""

    url: str
    place: str
    """``shop/web-6d5f-x2x7q/``"""
    name: str
    workload: str
    denied: int
    denied_names: str
    used: int
    used_names: str
    unused: str
    background: int
    is_running: bool


@dataclass(frozen=True, slots=True)
class Overview:
    query: Query
    headings: Sequence[Heading]
    lines: Sequence[Line]
    first: int
    """Number of the first line, from 1."""
    found: int
    """Containers on all pages."""
    quiet: int
    """Containers that are left out since they made no check that means something."""
    previous_url: str
    next_url: str


def overview(profiles: Iterable[Profile], query: Query) -> Overview:
    rows = Rows().add(profiles, 0.0)
    found = arrange(rows, Sort.DENIED, query.words, query.everything)
    matching = len(found) if query.everything else len(arrange(rows, Sort.NAME, query.words))
    column = next(one for one in columns(query.everything) if one.name == query.sort)
    # Stable: what is equal stays with the denied first.
    found.sort(key=column.rank, reverse=column.is_number is not query.is_reversed)
    last_page = max(1, -(-len(found) // PER_PAGE))
    page = min(max(1, query.page), last_page)
    first = (page - 1) * PER_PAGE
    return Overview(
        query,
        [_heading(one, query) for one in columns(query.everything)],
        [_line(row) for row in found[first : first + PER_PAGE]],
        first + 1,
        len(found),
        matching - len(found),
        query.url(page=page - 1) if page > 1 else "",
        query.url(page=page + 1) if page < last_page else "",
    )


def _heading(column: Column, query: Query) -> Heading:
    is_sorted = column.name == query.sort
    descending = column.is_number is not query.is_reversed
    return Heading(
        column.title,
        query.url(sort=column.name, is_reversed=is_sorted and not query.is_reversed),
        ("descending" if descending else "ascending") if is_sorted else "",
        column.is_number,
        column.name,
    )


def _line(row: Row) -> Line:
    profile = row.profile
    return Line(
        container_url(row.key),
        shortened("".join(f"{part}/" for part in row.key[:2] if part)),
        shortened(row.key.container),
        shortened(workload(profile)),
        row.denied,
        _names(use.name for use in row.uses if use.denied),
        row.used,
        _names(use.name for use in row.uses if use.used),
        "?" if row.unused is None else str(len(row.unused)),
        background(profile),
        is_running(profile),
    )


def _names(names: Iterable[str]) -> str:
    every = [name.removeprefix("CAP_") for name in names]
    more = f" +{len(every) - _NAMED}" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def shortened(text: str) -> str:
    """In the middle: the ends of names tell them apart."""
    text = printable(text)
    if len(text) <= NAME_LENGTH:
        return text
    half = NAME_LENGTH // 2
    return f"{text[:half]}…{text[-half + 1 :]}"


def container_url(key: Key) -> str:
    """Of its page: by its id, which is its own; else by its names."""
    if key.container_id:
        return "/container?" + urlencode({"id": key.container_id})
    names = {"namespace": key.namespace, "pod": key.pod, _CONTAINER: key.container}
    return "/container?" + urlencode({name: value for name, value in names.items() if value})


def find(profiles: Iterable[Profile], parameters: Mapping[str, str]) -> Profile | None:
    """The container that such a URL is of. An id may be shortened, as far as only one has it."""
    if wanted := parameters.get("id"):
        found = [one for one in profiles if one["container_id"].startswith(wanted)]
        if len({one["container_id"] for one in found}) > 1:
            return None
    else:
        names = tuple(parameters.get(name, "") for name in ("namespace", "pod", _CONTAINER))
        found = [one for one in profiles if key_of(one)[:3] == names]
    # Twice where it was started again, or got its pod's name late: the one that is now.
    return max(found, key=lambda one: (is_running(one), one["last_seen"]), default=None)
