# SPDX-License-Identifier: Apache-2.0
"""What this process may do."""

from __future__ import annotations

import os
import platform
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cap_exporter.capabilities import name_of, number_of
from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.sources import diagnosis

_SYS_ADMIN: Final = "SYS_ADMIN"

#: Below this, maps do not fit where memory is locked (before Linux 5.11).
_MEMLOCK: Final = 64 << 20


class _Use(NamedTuple):
    what_for: str
    without: Status


_USES: Final = {
    "BPF": _Use("loads the programs and reads the counters", Status.FAILED),
    "PERFMON": _Use("attaches the programs, which look into kernel memory", Status.FAILED),
    "SYSLOG": _Use(
        "shows kernel addresses: tells the kernel's probing from checks that mean something",
        Status.LIMITED,
    ),
    "DAC_READ_SEARCH": _Use("names cgroups by their number", Status.LIMITED),
}


def kernel_release() -> tuple[int, ...]:
    """``(6, 18)``"""
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def _capabilities(_wanted: Wanted) -> Iterator[Finding]:
    held = diagnosis.effective_capabilities()
    admin = bool(held >> number_of(_SYS_ADMIN) & 1)
    for name, use in _USES.items():
        title, full = f"capability {name}", name_of(number_of(name))
        slug = f"capability.{name.lower()}"
        if held >> number_of(name) & 1:
            yield Finding(slug, title, Status.OK, f"held: {use.what_for}")
        elif admin and use.without is Status.FAILED:
            yield Finding(slug, title, Status.OK, f"CAP_SYS_ADMIN stands for it: {use.what_for}")
        else:
            yield Finding(
                slug,
                title,
                use.without,
                f"missing: {use.what_for}",
                f"give this process {full}" + ("" if os.geteuid() == 0 else ", or run it as root"),
            )


def how_to_get() -> tuple[str, str]:
    """Remedy and command where capabilities are missing."""
    names = "BPF, PERFMON, SYSLOG, DAC_READ_SEARCH"
    if os.geteuid() != 0:
        return "run it as root", "sudo cap-exporter doctor"
    return (
        f"root without it: a container or unit took it away. In Kubernetes: "
        f"securityContext.capabilities.add: [{names}]; Docker: --cap-add; systemd: "
        "CapabilityBoundingSet=. Before Linux 5.8: SYS_ADMIN",
        "",
    )


def _seccomp(_wanted: Wanted) -> Iterator[Finding]:
    status = Path("/proc/self/status").read_text()
    mode = re.search(r"^Seccomp:\s*(\d)", status, re.MULTILINE)
    if mode is None or mode[1] == "0":
        yield Finding("seccomp", "seccomp filter", Status.OK, "none")
    else:
        yield Finding(
            "seccomp",
            "seccomp filter",
            Status.INFO,
            "there is one; whether it lets bpf() pass, attaching tells",
        )


def _locked_memory(_wanted: Wanted) -> Iterator[Finding]:
    title = "memory lock limit"
    if kernel_release() >= (5, 11):
        yield Finding(
            "memlock", title, Status.OK, "does not count: maps are charged to the cgroup here"
        )
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    raisable = diagnosis.effective_capabilities() >> number_of("SYS_RESOURCE") & 1
    if raisable or soft == resource.RLIM_INFINITY or soft >= _MEMLOCK:
        yield Finding("memlock", title, Status.OK, "enough, or CAP_SYS_RESOURCE raises it")
        return
    yield Finding(
        "memlock",
        title,
        Status.FAILED,
        f"{soft >> 10} KiB (hard: {hard >> 10} KiB): maps need locked memory before Linux 5.11",
        "give CAP_SYS_RESOURCE, or raise the limit (systemd: LimitMEMLOCK=infinity)",
        "ulimit -l unlimited",
    )


CHECKS: Final = (
    Check("capabilities", "capabilities", _capabilities),
    Check("seccomp", "seccomp filter", _seccomp),
    Check("memlock", "memory lock limit", _locked_memory),
)
