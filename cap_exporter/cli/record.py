# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter record`: write what a source gives to a file."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import click

from cap_exporter import privileges
from cap_exporter.assembly import Settings, hierarchies_for, make_tree
from cap_exporter.cli.options import (
    Duration,
    event_options,
    event_settings,
    log_options,
    option,
    set_up_logging,
    source_options,
)
from cap_exporter.cli.progress import elapsed, size
from cap_exporter.model import CgroupChange, CgroupEvent, Drain
from cap_exporter.signals import stop_on_signals
from cap_exporter.sources.choose import make_source
from cap_exporter.sources.recording import Header, Writer


@click.command(
    "record", epilog="Play it back with `cap-exporter profile --source replay:FILE`, or with run."
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@option(
    "--for",
    "duration",
    type=Duration(0.1),
    envvar="CAP_EXPORTER_FOR",
    help="Stop after this time. Default: Ctrl-C.",
)
@option("--drain-interval", type=Duration(0.05), default="1s", help="Time between two records.")
@event_options
@source_options
@log_options
def command(
    file: Path, duration: float | None, drain_interval: float, log_level: str, **values: Any
) -> None:
    """Write every drain of the source to FILE (JSON lines; compressed if it ends in .gz)."""
    set_up_logging(log_level)
    events = event_settings(values)
    if events and events.stack:
        raise click.UsageError(
            "--event-stack: a recording has no kernel stacks; their addresses mean nothing "
            "elsewhere"
        )
    settings = Settings(events=events, **values)
    hierarchies = hierarchies_for(settings)
    probe = make_source(
        settings.source,
        hierarchies,
        attach=settings.attach,
        btf=settings.btf,
        counters=settings.counters,
        events=events,
    )
    stop = stop_on_signals()
    info = probe.open()
    tree = make_tree(settings, hierarchies)
    tree.scan()
    probe.introduce(tree.items())
    checks = told = 0

    def state() -> str:
        written = file.stat().st_size if file.is_file() else 0
        return f"{checks:,} checks, {told:,} events, {size(written)}"

    try:
        with (
            Writer(file, Header(info, time.time(), platform.release())) as writer,
            elapsed("Recording", duration, state),
        ):
            # The file is open: what it took to write there may be among them.
            privileges.drop()
            # The cgroups that were there before, so that a replay can name them.
            writer.write(
                Drain(
                    time=time.time(),
                    cgroup_events=[
                        CgroupEvent(CgroupChange.CREATED, key, path) for key, path in tree.items()
                    ],
                )
            )
            deadline = None if duration is None else time.monotonic() + duration
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                wait = drain_interval if left is None else min(drain_interval, max(left, 0))
                ended = stop.wait(wait) or (left is not None and left <= drain_interval)
                drain = probe.drain()
                checks += sum(count for _, count in drain.increments)
                told += len(drain.events)
                writer.write(drain)
                if ended:
                    break
    except OSError as error:
        click.echo(
            f"cap-exporter: cannot write {file}: {error.strerror or error}. Give a file in a "
            "folder that is there and has room",
            err=True,
        )
        sys.exit(1)
    finally:
        probe.close()
    click.echo(f"{checks} checks and {told} events recorded in {file}", err=True)
