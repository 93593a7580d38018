# SPDX-License-Identifier: Apache-2.0
"""The kernel, its settings, and the library that loads programs into it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cap_exporter.capabilities import number_of
from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.model import SourceError
from cap_exporter.sources import diagnosis

_SYSCTL: Final = Path("/proc/sys/kernel")
_LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")


def _kernel(_wanted: Wanted) -> Iterator[Finding]:
    yield Finding("kernel", "kernel", Status.INFO, f"{platform.release()} {platform.machine()}")


def _library(_wanted: Wanted) -> Iterator[Finding]:
    from cap_exporter.sources.libbpf import object_path
    from cap_exporter.sources.libbpf_binding import LibBpf

    try:
        yield Finding("libbpf", "libbpf", Status.OK, LibBpf().version)
    except SourceError as error:
        yield Finding(
            "libbpf",
            "libbpf",
            Status.FAILED,
            str(error),
            "install libbpf 1 (Debian, Ubuntu: libbpf1; Fedora, RHEL: libbpf)",
            "apt-get install libbpf1",
        )
    try:
        path = object_path()
    except SourceError as error:
        yield Finding(
            "bpf_object", "BPF object", Status.FAILED, str(error), "install the wheel, or build it"
        )
    else:
        yield Finding("bpf_object", "BPF object", Status.OK, f"{path.name} for this machine")


def _btf(wanted: Wanted) -> Iterator[Finding]:
    from cap_exporter.sources.libbpf_binding import BpfError, KernelTypes, LibBpf

    title = "kernel types (BTF)"
    try:
        types = KernelTypes(LibBpf(), wanted.btf)
    except SourceError:
        yield Finding("btf", title, Status.LIMITED, "not looked at: libbpf is missing", "see above")
        return
    except BpfError:
        yield Finding(
            "btf",
            title,
            Status.LIMITED,
            diagnosis.no_btf(wanted.btf),
            "give a BTF file made for this kernel (--btf FILE), or count through BCC",
            "cap-exporter run --source bcc",
        )
        return
    where = wanted.btf or "/sys/kernel/btf/vmlinux"
    try:
        if not types.parameters("cap_capable"):
            yield Finding(
                "btf",
                title,
                Status.LIMITED,
                f"{where} does not know the function cap_capable()",
                "fexit cannot attach then; was the file made for this very kernel?",
            )
            return
        more = (
            "with the cap_capable tracepoint"
            if types.has_tracepoint("cap_capable")
            else "without a cap_capable tracepoint (Linux 6.14 and later have it)"
        )
    finally:
        types.close()
    yield Finding("btf", title, Status.OK, f"{where}, {more}")


def _lockdown(_wanted: Wanted) -> Iterator[Finding]:
    try:
        text = _LOCKDOWN.read_text().strip()
    except OSError:
        yield Finding("lockdown", "lockdown", Status.OK, "off, or securityfs is not mounted")
        return
    if "[confidentiality]" in text:
        yield Finding(
            "lockdown",
            "lockdown",
            Status.FAILED,
            text,
            "confidentiality forbids BPF to read kernel memory; boot with lockdown=integrity",
        )
        return
    yield Finding("lockdown", "lockdown", Status.OK, text)


def _symbols(_wanted: Wanted) -> Iterator[Finding]:
    from cap_exporter.sources.kallsyms import Symbols

    title = "kernel symbols"
    if not Symbols.read().restricted:
        yield Finding("symbols", title, Status.OK, "/proc/kallsyms shows addresses")
        return
    detail = "addresses are hidden: some checks can only be published as unclassified"
    if _sysctl("kptr_restrict") == "2":
        yield Finding(
            "symbols",
            title,
            Status.LIMITED,
            f"{detail} (kernel.kptr_restrict is 2)",
            "let those with CAP_SYSLOG see them",
            "sysctl -w kernel.kptr_restrict=1",
        )
    else:
        yield Finding("symbols", title, Status.LIMITED, detail, "give CAP_SYSLOG, or run as root")


def _settings(_wanted: Wanted) -> Iterator[Finding]:
    unprivileged = _sysctl("unprivileged_bpf_disabled")
    if unprivileged is not None:
        yield Finding(
            "sysctl.unprivileged_bpf_disabled",
            "kernel.unprivileged_bpf_disabled",
            Status.OK,
            f"{unprivileged}: does not matter to who has CAP_BPF",
        )
    paranoid = _sysctl("perf_event_paranoid")
    # Debian's and Ubuntu's kernels know levels above 2, which ask for CAP_SYS_ADMIN.
    strict = paranoid is not None and paranoid.isdigit() and int(paranoid) > 2
    admin = diagnosis.effective_capabilities() >> number_of("SYS_ADMIN") & 1
    title = "kernel.perf_event_paranoid"
    if strict and not admin:
        yield Finding(
            "sysctl.perf_event_paranoid",
            title,
            Status.LIMITED,
            f"{paranoid}: may keep kprobes from being attached without CAP_SYS_ADMIN",
            "matters only where attaching by kprobe is what is left (see below)",
            "sysctl -w kernel.perf_event_paranoid=2",
        )
    elif paranoid is not None:
        yield Finding(
            "sysctl.perf_event_paranoid", title, Status.OK, f"{paranoid}: does not matter here"
        )
    title = "kernel.bpf_stats_enabled"
    if _sysctl("bpf_stats_enabled") == "1":
        yield Finding(
            "sysctl.bpf_stats_enabled",
            title,
            Status.LIMITED,
            "1: the kernel measures each run of each BPF program, which costs more than counting",
            "turn it off when you are done with measuring",
            "sysctl -w kernel.bpf_stats_enabled=0",
        )
    else:
        yield Finding("sysctl.bpf_stats_enabled", title, Status.OK, "off")


def _tracefs(_wanted: Wanted) -> Iterator[Finding]:
    path = Path("/sys/kernel/tracing/events")
    try:
        mounted = path.exists()
    except PermissionError:
        yield Finding("tracefs", "tracefs", Status.INFO, f"{path} cannot be seen without root")
        return
    detail = "mounted" if mounted else "not mounted (only needed for kprobes before Linux 4.17)"
    yield Finding("tracefs", "tracefs", Status.OK if mounted else Status.INFO, detail)


def _bpffs(wanted: Wanted) -> Iterator[Finding]:
    """proc_pid_mounts(5)"""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    points = [Path(fields[1]) for fields in lines if fields[2] == "bpf"]
    if wanted.pin is None:
        where = ", ".join(map(str, points)) or "not mounted"
        status = Status.OK if points else Status.INFO
        yield Finding("bpffs", "bpffs", status, f"{where} (only needed for --pin)")
    elif any(wanted.pin.resolve().is_relative_to(point) for point in points):
        yield Finding("bpffs", "bpffs", Status.OK, f"{wanted.pin} is on one: counts can stay there")
    else:
        yield Finding(
            "bpffs",
            "bpffs",
            Status.FAILED,
            f"{wanted.pin} is on no BPF file system, so `run` does not start",
            "mount one, and give a folder on it (--pin); in a container mount the host's "
            "/sys/fs/bpf",
            "mount -t bpf bpf /sys/fs/bpf",
        )


def _sysctl(name: str) -> str | None:
    try:
        return (_SYSCTL / name).read_text().strip()
    except OSError:
        return None


CHECKS: Final = (
    Check("kernel", "kernel", _kernel),
    Check("libbpf", "libbpf", _library),
    Check("btf", "kernel types (BTF)", _btf),
    Check("lockdown", "lockdown", _lockdown),
    Check("symbols", "kernel symbols", _symbols),
    Check("sysctl", "kernel settings", _settings),
    Check("tracefs", "tracefs", _tracefs),
    Check("bpffs", "bpffs", _bpffs),
)
