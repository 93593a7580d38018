# SPDX-License-Identifier: Apache-2.0
"""Turns what the kernel refused into a sentence that names the cause and the way out."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from cap_exporter.capabilities import number_of
from cap_exporter.sources.libbpf_binding import BpfError

_BTF = Path("/sys/kernel/btf/vmlinux")

_CONFIDENTIALITY = (
    "not permitted: kernel lockdown is in confidentiality mode, which forbids BPF programs to "
    "read kernel memory; integrity mode works"
)


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """CapEff as a mask; 0 where it can't be read."""
    return int(_status_field(status, "CapEff") or "0", 16)


def missing_capabilities(held: int) -> list[str]:
    """What loading lacks, CAP_SYS_ADMIN standing for the newer two (Linux 5.8)."""
    if held >> number_of("SYS_ADMIN") & 1:
        return []
    return [f"CAP_{name}" for name in ("BPF", "PERFMON") if not held >> number_of(name) & 1]


def no_btf(path: Path | None) -> str:
    if path is not None:
        return f"{path} is no BTF file that libbpf can read; give one made for this very kernel"
    if _BTF.exists():
        return (
            f"{_BTF} is there but cannot be read: mount the host's /sys, "
            "and check seccomp and AppArmor profiles"
        )
    return (
        f"this kernel has no BTF ({_BTF} is missing: CONFIG_DEBUG_INFO_BTF is off). "
        "Give a BTF file made for it: --btf FILE"
    )


def refusal(
    error: BpfError,
    status: Path = Path("/proc/self/status"),
    lockdown: Path = Path("/sys/kernel/security/lockdown"),
) -> str:
    """Why loading or attaching failed, in a line; the verifier's log stays in ``error.log``."""
    # The verifier says EACCES too, and has said why.
    if error.errno in (errno.EPERM, errno.EACCES) and "BEGIN PROG LOAD LOG" not in error.log:
        missing = missing_capabilities(effective_capabilities(status))
        if missing:
            return (
                f"not permitted: {' and '.join(missing)} missing "
                "(before Linux 5.8 CAP_SYS_ADMIN instead)"
            )
        if _status_field(status, "Seccomp") == "2":
            return (
                "not permitted although the capabilities are there: a seccomp profile blocks "
                "bpf() or perf_event_open(); use one that allows them, e.g. RuntimeDefault of a "
                "current container runtime"
            )
        mode = _lockdown_mode(lockdown)
        if mode == "confidentiality":
            return _CONFIDENTIALITY
        return f"not permitted by the kernel ({error})"
    if error.errno == errno.ESRCH:
        return "the kernel lacks the function or tracepoint"
    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, 524):
        return f"the kernel does not offer it ({error})"
    if "cannot use helper bpf_probe_read" in error.log:
        # kernel/trace/bpf_trace.c: the helper is withheld under LOCKDOWN_BPF_READ_KERNEL
        return _CONFIDENTIALITY
    return f"{error}{_last_lines(error.log)}"


def nothing_attached(refused: Sequence[tuple[str, str]]) -> str:
    reasons = "".join(f"\n  {way}: {why}" for way, why in dict(refused).items())
    return f"capability checks cannot be counted on this host:{reasons}"


def _last_lines(text: str, lines: int = 12) -> str:
    """The end of libbpf's log, where the verifier says what it minds."""
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "".join(f"\n    {line[:160]}" for line in kept)


def _lockdown_mode(path: Path) -> str:
    """The word in brackets of ``none [integrity] confidentiality``."""
    try:
        text = path.read_text()
    except OSError:
        return ""
    return text.partition("[")[2].partition("]")[0]


def _status_field(status: Path, name: str) -> str:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == name:
            return value.strip()
    return ""
