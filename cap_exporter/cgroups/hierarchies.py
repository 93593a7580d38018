# SPDX-License-Identifier: Apache-2.0
"""Which cgroup hierarchies this host has, and which of them tell containers apart.

On a v2 host that is the unified hierarchy (id 0). On a v1 or hybrid host the v2 hierarchy is absent
or has every task in its root, so the v1 hierarchies of pids and memory count too: every container
runtime makes a cgroup in both. Ids are per hierarchy: never compare them across.

Sources: cgroups(7), proc_pid_mountinfo(5); kernel/cgroup/cgroup-v1.c (v6.12).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The v1 controllers whose hierarchies count, the preferred one first.
CONTROLLERS: Final = ("pids", "memory")

#: The v2 hierarchy's id, as in /proc/PID/cgroup and in the kernel's cgroup_root.hierarchy_id.
UNIFIED: Final = 0

#: st_ino of a hierarchy's root directory; the low half of its id before Linux 5.5.
ROOT_INODE: Final = 1

#: The link text of the first cgroup namespace: include/linux/proc_ns.h, PROC_CGROUP_INIT_INO.
_FIRST_CGROUP_NAMESPACE: Final = f"cgroup:[{0xEFFFFFFB}]"


class Mode(StrEnum):
    V2 = "v2"
    V1 = "v1"
    HYBRID = "hybrid"
    """v2 is mounted, but pids or memory is a v1 controller."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One tree of cgroups."""

    id: int
    """0 for v2, else the first column of /proc/PID/cgroup."""
    controller: str
    """``""`` for v2, else ``pids`` or ``memory``."""
    mount: Path | None = None
    """Where its file system can be seen from here; None: nowhere."""
    root: str | None = "/"
    """Path, within the hierarchy, of the cgroup that is at ``mount``; None: not known."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """What discover() found."""

    mode: Mode
    counted: tuple[Hierarchy, ...]
    """v2 first, then pids, then memory; never empty, each id once."""
    warnings: tuple[str, ...] = ()
    """What limits the use of it, one sentence each, for logs and `doctor`."""


class _Mount(NamedTuple):
    device: int
    root: str
    point: Path
    is_unified: bool
    options: frozenset[str]


def discover(proc: Path = Path("/proc"), cgroup_root: Path | None = None) -> Hierarchies:
    """Read ``proc``/cgroups, ``proc``/self/cgroup and ``proc``/self/mountinfo.

    ``cgroup_root``: use only mounts at or below it, where a pod has the host's cgroup file system
    in a place of its own. Without it the widest view is taken: of several mounts of a hierarchy
    the one that shows its root.

    Never raises: what cannot be read is a warning, and v2 without a mount is the last resort.
    """
    warnings: list[str] = []
    mounts = [
        mount
        for mount in _mounts(_read(proc / "self/mountinfo", warnings))
        if cgroup_root is None or mount.point.is_relative_to(cgroup_root)
    ]
    if cgroup_root is not None and not mounts:
        warnings.append(
            f"no cgroup file system is mounted at or below {cgroup_root}; "
            "give the directory that the host's /sys/fs/cgroup is mounted on"
        )
    own_cgroups = _read(proc / "self/cgroup", warnings)
    ids = _controllers_in_cgroups(_read(proc / "cgroups", warnings))
    for controller, hierarchy in _controllers_of_process(own_cgroups).items():
        ids.setdefault(controller, hierarchy)
    first_namespace = _is_first_cgroup_namespace(proc)

    v1: list[Hierarchy] = []
    for controller in CONTROLLERS:
        hierarchy = ids.get(controller, UNIFIED)
        if hierarchy == UNIFIED or any(known.id == hierarchy for known in v1):
            continue
        candidates = [m for m in mounts if not m.is_unified and controller in m.options]
        v1.append(_placed(hierarchy, controller, candidates, first_namespace))

    candidates = [mount for mount in mounts if mount.is_unified]
    has_unified = bool(candidates) or not v1 or "" in _controllers_of_process(own_cgroups)
    unified = [_placed(UNIFIED, "", candidates, first_namespace)] if has_unified else []

    counted = (*unified, *v1)
    warnings += [text for hierarchy in counted if (text := _limit(hierarchy))]
    mode = Mode.V2 if not v1 else Mode.HYBRID if unified else Mode.V1
    return Hierarchies(mode, counted, tuple(warnings))


def _limit(hierarchy: Hierarchy) -> str | None:
    name = f"cgroup v1 {hierarchy.controller}" if hierarchy.controller else "cgroup v2"
    if hierarchy.mount is None:
        return (
            f"the {name} hierarchy (id {hierarchy.id}) is not mounted here: cgroups that are older "
            "than this process cannot be named; mount the host's /sys/fs/cgroup"
        )
    if hierarchy.root != "/":
        return (
            f"{hierarchy.mount} shows only a part of the {name} hierarchy; "
            "mount the host's /sys/fs/cgroup to see all of it"
        )
    return None


def _placed(
    hierarchy: int, controller: str, candidates: list[_Mount], first_namespace: bool
) -> Hierarchy:
    best: tuple[int, int] | None = None
    placed = Hierarchy(hierarchy, controller, None)
    for mount in candidates:
        try:
            status = mount.point.stat()
        except (OSError, ValueError):
            continue
        if status.st_dev != mount.device:
            # Something else was mounted over it.
            continue
        if status.st_ino == ROOT_INODE:
            return Hierarchy(hierarchy, controller, mount.point)
        # mountinfo tells roots as seen from our cgroup namespace; only in the first one that is
        # the path from the hierarchy's root. More ".." is further up, fewer names too.
        parts = [part for part in mount.root.split("/") if part]
        width = (-parts.count(".."), len(parts))
        if best is None or width < best:
            best = width
            root = mount.root if first_namespace else None
            placed = Hierarchy(hierarchy, controller, mount.point, root)
    return placed


def _read(path: Path, warnings: list[str]) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        warnings.append(f"cannot read {path}: {error.strerror or error}")
        return ""


def _is_first_cgroup_namespace(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/cgroup").readlink()) == _FIRST_CGROUP_NAMESPACE
    except FileNotFoundError:
        # A kernel without cgroup namespaces (before 4.6).
        return True
    except OSError:
        return False


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Lines that are no cgroup mounts, or not of the documented form, are skipped."""
    for line in mountinfo.split("\n"):
        left, separator, right = line.partition(" - ")
        fields, type_and_options = left.split(" "), right.split(" ")
        if not separator or type_and_options[0] not in {"cgroup", "cgroup2"}:
            continue
        try:
            major, minor = fields[2].split(":")
            root, point = _unescape(fields[3]), Path(_unescape(fields[4]))
            options = frozenset(type_and_options[2].split(","))
            device = os.makedev(int(major), int(minor))
        except (IndexError, ValueError, OverflowError):
            continue
        yield _Mount(device, root, point, type_and_options[0] == "cgroup2", options)


def _unescape(field: str) -> str:
    r"""mountinfo writes space, tab, newline and backslash as three octal digits: ``\040``."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), field)


def _controllers_in_cgroups(text: str) -> dict[str, int]:
    """/proc/cgroups: ``name hierarchy cgroups enabled``; hierarchy 0 is v2, or not in use."""
    controllers = {}
    for line in text.split("\n"):
        match line.split():
            case [name, hierarchy, _, _] if hierarchy.isdecimal() and not name.startswith("#"):
                controllers[name] = int(hierarchy)
    return controllers


def _controllers_of_process(text: str) -> dict[str, int]:
    """/proc/PID/cgroup: ``hierarchy:controllers:path``; v2 is ``""``."""
    controllers = {}
    for line in text.split("\n"):
        match line.split(":", 2):
            case [hierarchy, names, _] if hierarchy.isdecimal():
                controllers.update(dict.fromkeys(names.split(","), int(hierarchy)))
    return controllers
