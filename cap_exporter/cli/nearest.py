# SPDX-License-Identifier: Apache-2.0
"""What to say where a name that was asked for is nobody's: the nearest, and what there is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from cap_exporter.terminal import printable

#: Names that are listed at most.
_MOST: Final = 8

_Profile = dict[str, Any]


def _workload(one: _Profile) -> str:
    kind = str(one["workload_kind"]).lower()
    return f"{kind}/{one['workload']}" if kind and one["workload"] else ""


_NAMES: Final[dict[str, Callable[[_Profile], str]]] = {
    "namespace": lambda one: str(one["namespace"]),
    "workload": _workload,
    "pod": lambda one: str(one["pod"]),
    "container": lambda one: str(one["container"]),
}


def unknown_names(containers: Iterable[_Profile], **asked: Sequence[str]) -> list[str]:
    """A sentence for each name that no container has. asked: namespace, workload, pod, container,
    as they were given; empty where all are wanted."""
    there = list(containers)
    found = []
    for kind, wanted in asked.items():
        known = sorted({name for one in there if (name := _NAMES[kind](one))})
        found += [
            no_such(kind, name, known) for name in wanted if not _is_known(kind, name, known, there)
        ]
    return found


def no_such(kind: str, name: str, known: Collection[str]) -> str:
    """``There is no pod 'wxing'; did you mean xwing? There are: api-1, xwing.``"""
    text = f"There is no {kind} {printable(name)!r}"
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        text += f"; did you mean {printable(near[0])}?"
    else:
        text += "."
    if not known:
        return f"{text} None is known here: an exporter that watches pods knows their names."
    # Nearest first: of hundreds only some are shown.
    listed = difflib.get_close_matches(name, known, n=_MOST, cutoff=0.0)
    more = f" and {len(known) - len(listed)} more" if len(known) > len(listed) else ""
    return f"{text} There are: {', '.join(map(printable, sorted(listed)))}{more}."


def _is_known(kind: str, name: str, known: Collection[str], there: Sequence[_Profile]) -> bool:
    if name in known:
        return True
    if kind == "container":
        return bool(name) and any(one["container_id"].startswith(name) for one in there)
    if kind == "workload":
        low = name.lower()
        return any(low in (w := _workload(one).lower(), f"{one['namespace']}/{w}") for one in there)
    return False
