# SPDX-License-Identifier: Apache-2.0
"""What works on this host, what does not, why, and what to do about it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cap_exporter.capabilities import name_of, number_of
from cap_exporter.cgroups.hierarchies import Hierarchies, discover
from cap_exporter.model import SourceError
from cap_exporter.sources import diagnosis


class Status(StrEnum):
    OK = "ok"
    LIMITED = "limited"
    """Works, with less than there could be."""
    FAILED = "failed"
    INFO = "info"


class Finding(NamedTuple):
    what: str
    status: Status
    detail: str
    remedy: str = ""


def examine(cgroup_root: Path | None = None) -> Iterator[Finding]:
    """One finding after the other, each as soon as it is known. Loads and unloads the probes."""
    yield Finding("kernel", Status.INFO, f"{platform.release()} {platform.machine()}")
    yield _capabilities()
    yield _btf()
    yield _lockdown()
    yield _symbols()
    hierarchies = discover(cgroup_root=cgroup_root)
    yield _cgroups(hierarchies)
    yield from _ways(hierarchies)
    yield from _file_systems()
    yield from _ports()
    yield _kubernetes()


def _capabilities() -> Finding:
    held = diagnosis.effective_capabilities()
    missing = diagnosis.missing_capabilities(held)
    if missing:
        return Finding(
            "capabilities",
            Status.FAILED,
            f"{' and '.join(missing)} missing",
            "run as root, or give the container CAP_BPF, CAP_PERFMON, CAP_SYSLOG and "
            "CAP_DAC_READ_SEARCH (before Linux 5.8: CAP_SYS_ADMIN)",
        )
    wanted = ("SYSLOG", "DAC_READ_SEARCH")
    absent = [f"CAP_{name}" for name in wanted if not held >> number_of(name) & 1]
    if absent:
        return Finding(
            "capabilities",
            Status.LIMITED,
            f"{' and '.join(absent)} missing",
            "CAP_SYSLOG is needed to tell the kernel's probing from real checks, "
            "CAP_DAC_READ_SEARCH to name cgroups by their number",
        )
    names = ["BPF", "PERFMON", "SYSLOG", "DAC_READ_SEARCH", "SYS_ADMIN"]
    have = [name_of(number_of(n)) for n in names if held >> number_of(n) & 1]
    return Finding("capabilities", Status.OK, ", ".join(have))


def _btf() -> Finding:
    path = Path("/sys/kernel/btf/vmlinux")
    if path.exists():
        return Finding("kernel types (BTF)", Status.OK, str(path))
    return Finding(
        "kernel types (BTF)",
        Status.LIMITED,
        f"{path} is missing",
        "give a BTF file made for this kernel (--btf)",
    )


def _lockdown() -> Finding:
    try:
        text = Path("/sys/kernel/security/lockdown").read_text().strip()
    except OSError:
        return Finding("lockdown", Status.OK, "off, or securityfs is not mounted")
    if "[confidentiality]" in text:
        return Finding(
            "lockdown",
            Status.FAILED,
            text,
            "confidentiality forbids BPF to read kernel memory; boot with lockdown=integrity",
        )
    return Finding("lockdown", Status.OK, text)


def _symbols() -> Finding:
    from cap_exporter.sources.kallsyms import Symbols

    try:
        restricted = Symbols.read().restricted
    except OSError as error:
        return Finding("kernel symbols", Status.LIMITED, str(error))
    if restricted:
        return Finding(
            "kernel symbols",
            Status.LIMITED,
            "addresses are hidden: some checks can only be published as unclassified",
            "give CAP_SYSLOG, and set kernel.kptr_restrict to 0 or 1",
        )
    return Finding("kernel symbols", Status.OK, "/proc/kallsyms shows addresses")


def _cgroups(hierarchies: Hierarchies) -> Finding:
    trees = ", ".join(
        f"{h.controller or 'v2'} (id {h.id}) at {h.mount or 'nowhere'}" for h in hierarchies.counted
    )
    if hierarchies.warnings:
        return Finding(
            "cgroups",
            Status.LIMITED,
            f"{hierarchies.mode}: {trees}",
            "; ".join(hierarchies.warnings),
        )
    return Finding("cgroups", Status.OK, f"{hierarchies.mode}: {trees}")


def _ways(hierarchies: Hierarchies) -> Iterator[Finding]:
    from cap_exporter.sources.libbpf import WAYS, LibbpfSource

    first = True
    lossy: list[str] = []
    for way in WAYS:
        source = LibbpfSource(hierarchies, attach=way.name, slots=1024)
        try:
            source.open()
            source.drain()
        except SourceError as error:
            reason = str(error).partition(":\n")[2].strip().removeprefix(f"{way.name}: ")
            status = Status.INFO if not first else Status.LIMITED
            yield Finding(f"attach by {way.name}", status, reason or str(error))
            continue
        finally:
            source.close()
        if source.lossy:
            lossy.append(f"attach by {way.name}")
            yield Finding(lossy[-1], Status.LIMITED, f"works, but {source.lossy}")
            continue
        yield Finding(
            f"attach by {way.name}", Status.OK, "works" + (" and would be used" if first else "")
        )
        first = False
    if first and lossy:
        yield Finding(
            "libbpf source",
            Status.LIMITED,
            f"would {lossy[0]}, and publish how many checks were missed",
            "boot with preempt=none or preempt=voluntary, or use a kernel with kprobes",
        )
    elif first:
        yield Finding(
            "libbpf source",
            Status.FAILED,
            "no way to attach works",
            "see the reasons above",
        )


def _file_systems() -> Iterator[Finding]:
    for name, path, use in (
        ("tracefs", Path("/sys/kernel/tracing/events"), "kprobes before Linux 4.17"),
        ("bpffs", Path("/sys/fs/bpf"), "keeping counters over a restart"),
    ):
        mounted = path.exists() if name == "tracefs" else os.path.ismount(path)
        detail = "mounted" if mounted else f"not mounted (only needed for {use})"
        yield Finding(name, Status.OK if mounted else Status.INFO, detail)


def _ports(ports: tuple[int, ...] = (10838, 10839)) -> Iterator[Finding]:
    import socket

    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                yield Finding(
                    f"port {port}",
                    Status.LIMITED,
                    error.strerror or str(error),
                    "another exporter may be running; choose another address with --listen "
                    "or --page-listen",
                )
                continue
        yield Finding(f"port {port}", Status.OK, "free")


def _kubernetes(environ: Callable[[str], str | None] = os.environ.get) -> Finding:
    if not environ("KUBERNETES_SERVICE_HOST"):
        return Finding("Kubernetes", Status.INFO, "not in a pod: cgroups are named by what is here")
    if not environ("NODE_NAME"):
        return Finding(
            "Kubernetes",
            Status.LIMITED,
            "NODE_NAME is not set",
            "set it from the downward API (spec.nodeName): only this node's pods are watched",
        )
    return Finding("Kubernetes", Status.OK, f"in a pod on node {environ('NODE_NAME')}")
