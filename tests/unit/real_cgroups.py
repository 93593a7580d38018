# SPDX-License-Identifier: Apache-2.0
"""Real cgroups for tests: made below a mounted hierarchy, and gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cap_exporter.cgroups.hierarchies import discover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cap_exporter.cgroups.hierarchies import Hierarchy

_numbers = itertools.count()


def usable_hierarchies() -> list[Hierarchy]:
    """Those in which this process may make cgroups; none where it is not root."""
    return [
        hierarchy
        for hierarchy in discover().counted
        if hierarchy.mount is not None
        and hierarchy.root == "/"
        and os.access(hierarchy.mount, os.W_OK)
        and os.geteuid() == 0
    ]


HIERARCHIES = usable_hierarchies()

#: Parameters for a fixture: each of them, or one skipped test that says why.
EACH_HIERARCHY: list[Any] = [
    pytest.param(each, id=each.controller or "v2") for each in HIERARCHIES
] or [
    pytest.param(
        None, marks=pytest.mark.skip("making cgroups takes root and a writable cgroup file system")
    )
]


#: Those of cgroup v1, where a cgroup can be renamed.
V1_HIERARCHIES: list[Any] = [
    pytest.param(each, id=each.controller) for each in HIERARCHIES if each.controller
] or [pytest.param(None, marks=pytest.mark.skip("no cgroup v1 hierarchy that can be written to"))]


def path_in(hierarchy: Hierarchy, directory: Path) -> str:
    """The path from the hierarchy's root, as /proc/PID/cgroup has it."""
    assert hierarchy.mount is not None
    relative = os.fsencode(directory.relative_to(hierarchy.mount))
    return f"/{relative.decode('utf-8', 'surrogateescape')}"


@contextlib.contextmanager
def cgroup_in(hierarchy: Hierarchy) -> Iterator[Path]:
    """A new cgroup of an unused name; it and all below it are removed at the end."""
    assert hierarchy.mount is not None
    top = hierarchy.mount / f"cap-exporter-test-{os.getpid()}-{next(_numbers)}"
    top.mkdir()
    try:
        yield top
    finally:
        remove_tree(top)


def remove_tree(top: Path) -> None:
    """From the leaves up. A cgroup whose last process just ended is busy for a moment."""
    if not top.exists():
        return
    for directory, _, _, descriptor in os.fwalk(top, topdown=False):
        del descriptor
        for _ in range(100):
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
            else:
                break
