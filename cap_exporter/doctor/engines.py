# SPDX-License-Identifier: Apache-2.0
"""Container engines that could name containers."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.engine_names import EngineNames

_PLACES: Final = (Path("/run/docker.sock"), Path("/run/podman/podman.sock"))

#: An id that no container has.
_NOBODY: Final = "0" * 64


def _sockets(wanted: Wanted) -> Iterator[Finding]:
    title = "container engine"
    if wanted.docker_socket is None:
        there = [path for path in _PLACES if _is_socket(path)]
        if not there:
            yield Finding(
                "engine", title, Status.INFO, "none found: containers outside pods go by their ids"
            )
        for path in there:
            yield Finding(
                "engine",
                title,
                Status.INFO,
                f"{path} could name containers that are in no pod",
                "to use it:",
                f"cap-exporter run --docker-socket {path}",
            )
        return
    problem = _ask(wanted.docker_socket)
    if problem:
        yield Finding(
            "engine",
            title,
            Status.LIMITED,
            problem,
            "give the socket's path (--docker-socket), and the right to write to it",
        )
    else:
        yield Finding("engine", title, Status.OK, f"{wanted.docker_socket} answers")


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _ask(path: Path) -> str:
    """Why the engine cannot be asked; empty: it answers."""
    names = EngineNames(path)
    while names.name(_NOBODY) is None:
        time.sleep(0.02)
    names.close()
    return names.problem


CHECKS: Final = (Check("engine", "container engine", _sockets, limit=6.0),)
