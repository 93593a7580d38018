# SPDX-License-Identifier: Apache-2.0
"""Naming cgroups: the tree against what one would write instead. As root: makes cgroups.

python -m benchmarks.bench_resolve [NUMBER]   (cgroups, 10,000 by default)

Reports microseconds per id, and the ratio to the other way.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.results import report
from cap_exporter.cgroups.hierarchies import Hierarchies, Mode, discover
from cap_exporter.cgroups.reference import parse
from cap_exporter.cgroups.tree import CgroupTree
from cap_exporter.model import CgroupKey

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 3

#: The usual one: finds the container's id and the pod's uid in most of the layouts.
USUAL_PATTERN = re.compile(r".*?pod([0-9a-f_-]{32,36}).*?([0-9a-f]{64})")


def best_of(run: Callable[[], object], divided_by: int) -> float:
    """Microseconds each, of the fastest run."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times) / divided_by * 1e6


def os_walk(mount: Path) -> dict[int, str]:
    """What most exporters do: stat everything below the mount point."""
    return {
        Path(directory).stat().st_ino: directory.removeprefix(str(mount)) or "/"
        for directory, _, _ in os.walk(mount)
    }


def compare(what: str, ours: float, instead: str, theirs: float) -> None:
    report("resolve", f"{what}, each", ours, "µs")
    report("resolve", f"… against {instead}", ours / theirs, "x")


def main(number: int) -> None:
    hierarchy = next(each for each in discover().counted if each.mount is not None)
    assert hierarchy.mount is not None
    only = Hierarchies(Mode.V2, (hierarchy,))
    top = hierarchy.mount / f"cap-exporter-bench-{os.getpid()}"
    directories = [top]
    top.mkdir()
    try:
        for at in range(number):
            uid = f"019c1fe8-0d92-4aa0-b61c-{at // 4:012x}"
            pod = top / f"pod{uid}"
            if at % 4 == 0:
                pod.mkdir()
                directories.append(pod)
            container = pod / f"{at:064x}"
            container.mkdir()
            directories.append(container)
        keys = [CgroupKey(hierarchy.id, each.stat().st_ino) for each in directories]
        measure(only, hierarchy.mount, keys)
    finally:
        for directory in reversed(directories):
            directory.rmdir()


def measure(hierarchies: Hierarchies, mount: Path, keys: list[CgroupKey]) -> None:
    def scan() -> None:
        with CgroupTree(hierarchies) as tree:
            tree.scan()

    def ask() -> None:
        with CgroupTree(hierarchies) as tree:
            for key in keys:
                assert tree.path(key) is not None

    count = len(keys)
    walked = best_of(lambda: os_walk(mount), count)
    compare("all at the start: scan()", best_of(scan, count), "os.walk and stat", walked)
    compare(
        "one unknown id: the kernel asked", best_of(ask, count), "the same walk", walked * count
    )

    with CgroupTree(hierarchies) as tree:
        tree.scan()
        known = os_walk(mount)
        paths = [path for key in keys if (path := tree.path(key))]
        assert paths == [known[key.id] for key in keys]
        lookups = best_of(lambda: [tree.path(key) for key in keys], count)
        table = best_of(lambda: [known[key.id] for key in keys], count)
        compare("a known id: path()", lookups, "a dict that is never updated", table)

    parsed = best_of(lambda: [parse(path) for path in paths], count)
    matched = best_of(lambda: [USUAL_PATTERN.match(path) for path in paths], count)
    compare("a path's meaning: parse()", parsed, "one regular expression", matched)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
