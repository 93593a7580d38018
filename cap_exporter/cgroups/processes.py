# SPDX-License-Identifier: Apache-2.0
"""Which cgroups a process is in: /proc/PID/cgroup, the line that says most first.

On v1 and hybrid hosts a process has a cgroup in each hierarchy, and they need not agree: a runtime
may leave it in the root of some, or in its own service's cgroup. cgroups(7).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from cap_exporter.cgroups.hierarchies import CONTROLLERS, UNIFIED
from cap_exporter.cgroups.reference import parse
from cap_exporter.model import CgroupKey, Reference, ReferenceKind

_DELETED: Final = " (deleted)"


class ProcessCgroup(NamedTuple):
    """A process's place in one hierarchy."""

    hierarchy: int
    controllers: str
    """Comma separated, as in the file; ``""`` for v2, ``name=systemd`` for a named hierarchy."""
    path: str
    reference: Reference
    key: CgroupKey | None = None
    """None: the hierarchy cannot be seen from here, or the cgroup was removed."""


def cgroups_of(pid: int, proc: Path = Path("/proc")) -> list[ProcessCgroup]:
    """Every hierarchy's line, the one that says most first, whatever the file's order.

    First pods with a container, then containers, pods, units and last the host; among equals v2,
    pids, memory, then by hierarchy id. Keys are not filled in. Raises ProcessLookupError where no
    such process is, PermissionError where it is hidden (hidepid).
    """
    try:
        raw = (proc / str(pid) / "cgroup").read_bytes()
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, f"no process {pid} in {proc}") from error
    return parse_process_cgroups(raw)


def parse_process_cgroups(raw: bytes) -> list[ProcessCgroup]:
    """The file's content, as cgroups_of() gives it. Lines of another form are skipped."""
    found: list[ProcessCgroup] = []
    for line in raw.decode("utf-8", "surrogateescape").split("\n"):
        match line.split(":", 2):
            case [hierarchy, controllers, path] if hierarchy.isdecimal() and path.startswith("/"):
                path = path.removesuffix(_DELETED)
                found.append(ProcessCgroup(int(hierarchy), controllers, path, parse(path)))
    return sorted(found, key=_rank)


def _rank(cgroup: ProcessCgroup) -> tuple[int, int, int]:
    reference = cgroup.reference
    match reference.kind:
        case ReferenceKind.POD:
            says = 0 if reference.container_id else 2
        case ReferenceKind.CONTAINER:
            says = 1
        case ReferenceKind.SYSTEMD:
            says = 3
        case ReferenceKind.HOST:
            says = 4
    names = cgroup.controllers.split(",")
    preferred = [i for i, name in enumerate(CONTROLLERS, start=1) if name in names]
    order = 0 if cgroup.hierarchy == UNIFIED else min(preferred, default=len(CONTROLLERS) + 1)
    return says, order, cgroup.hierarchy
