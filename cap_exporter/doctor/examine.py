# SPDX-License-Identifier: Apache-2.0
"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from cap_exporter.doctor import (
    cgroups,
    clock,
    engines,
    kernel,
    kubernetes,
    otlp,
    ports,
    rights,
)
from cap_exporter.doctor.bounded import bounded
from cap_exporter.doctor.counting import VERDICT, Counting
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted


def examine(wanted: Wanted) -> Iterator[Finding]:
    """One finding after the other, each as soon as it is known. Loads the probes and unloads
    them. Never raises: what goes wrong in a check is a finding."""
    counting = Counting(wanted)
    checks = (
        *(kernel.CHECKS if wanted.live else ()),
        *(rights.CHECKS if wanted.live else ()),
        *(cgroups.CHECKS if wanted.live else ()),
        *counting.checks(),
        *clock.CHECKS,
        *ports.CHECKS,
        *kubernetes.CHECKS,
        *otlp.CHECKS,
        *engines.CHECKS,
    )
    for check in checks:
        yield from bounded(check, wanted)


def works(finding: Finding) -> bool | None:
    """Whether counting works here; None where this finding does not tell."""
    return finding.status is not Status.FAILED if finding.name == VERDICT else None
