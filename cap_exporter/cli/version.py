# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter --version`: the version, and what a report of a problem should say besides.

Nothing is loaded into the kernel for it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import click

import cap_exporter


def version_option(function: Any) -> Any:
    return click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print,
        help="Show the version, and what of this host matters, and exit.",
    )(function)


def _print(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    # Its first line is what scripts read.
    click.echo(f"cap-exporter, version {cap_exporter.__version__}")
    for name, text in _facts():
        click.echo(f"{name:11} {text}")
    ctx.exit()


def _facts() -> Iterator[tuple[str, str]]:
    from cap_exporter.model import SourceError
    from cap_exporter.sources.libbpf import WAYS, object_path
    from cap_exporter.sources.libbpf_binding import BpfError, KernelTypes, LibBpf

    yield "kernel", f"{platform.release()} {platform.machine()}"
    attach = "unknown"
    try:
        bpf = LibBpf()
        library = bpf.version.removeprefix("v")
        try:
            types = KernelTypes(bpf)
        except BpfError:
            btf = "no: --btf FILE or --source bcc"
        else:
            btf = "yes"
            # In the order of preference; whether the kernel permits it, only loading tells.
            offered = [w.name for w in WAYS if w.name != "tp_btf" or _has_tracepoint(types)]
            attach = f"{offered[0]} first (`cap-exporter doctor` tries it)"
            types.close()
    except SourceError as error:
        library, btf = f"missing: {error}", "unknown"
    yield "BTF", btf
    yield "attach", attach
    yield "libbpf", library
    try:
        yield "BPF object", f"{object_path().name}, for {platform.machine()}"
    except SourceError as error:
        yield "BPF object", str(error)
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"


def _has_tracepoint(types: Any) -> bool:
    return bool(types.has_tracepoint("cap_capable"))
