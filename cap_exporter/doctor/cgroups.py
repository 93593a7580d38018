# SPDX-License-Identifier: Apache-2.0
"""How containers are told apart here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cap_exporter.cgroups.hierarchies import discover
from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted


def _layout(wanted: Wanted) -> Iterator[Finding]:
    found = discover(cgroup_root=wanted.cgroup_root)
    trees = ", ".join(
        f"{one.controller or 'v2'} at {one.mount or 'nowhere'}" for one in found.counted
    )
    detail = f"{found.mode}: {trees}"
    if found.warnings:
        yield Finding(
            "cgroups",
            "cgroups",
            Status.LIMITED,
            f"{detail}. {'; '.join(found.warnings)}",
            "mount the host's /sys/fs/cgroup; where it is elsewhere: --cgroup-root",
        )
    else:
        yield Finding("cgroups", "cgroups", Status.OK, detail)


CHECKS: Final = (Check("cgroups", "cgroups", _layout),)
