# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter events`: the stream of sampled checks."""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

import click

from cap_exporter import privileges
from cap_exporter.cli.client_options import client_options, no_answer
from cap_exporter.cli.nearest import unknown_names
from cap_exporter.cli.options import (
    Capabilities,
    Duration,
    event_options,
    event_settings,
    log_options,
    option,
    set_up_logging,
    source_options,
)
from cap_exporter.cli.progress import elapsed
from cap_exporter.client import NoAnswer, ask_exporter, follow_events
from cap_exporter.fleet.http_config import HttpConfig
from cap_exporter.outputs.event_record import line_of, record_of

if TYPE_CHECKING:
    from cap_exporter.exporter import Exporter


@click.command("events")
@option(
    "--for",
    "duration",
    type=Duration(0.1),
    envvar="CAP_EXPORTER_FOR",
    help="Load the probe by myself for this time (root) instead of asking an exporter.",
)
@client_options
@option(
    "--output",
    "-o",
    type=click.Choice(["compact", "json"]),
    default="compact",
    help="A line for a person, or a JSON object a line.",
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of an event, and end.")
@option("--recent/--no-recent", default=False, help="Start with the events the exporter has kept.")
@option("--namespace", "-n", multiple=True, help="Only this namespace (glob; may be repeated).")
@option("--pod", multiple=True, help="Only this pod (glob).")
@option("--container", multiple=True, help="Only this container or unit (glob).")
@option("--workload", multiple=True, help="Only this workload (glob).")
@option("--capability", type=Capabilities(), help="Only these, e.g. NET_ADMIN,SYS_ADMIN.")
@option("--verdict", type=click.Choice(["denied", "allowed"]), help="Only this verdict.")
@option("--process", multiple=True, help="Only this executable or command (glob).")
@event_options
@source_options
@log_options
def command(
    duration: float | None,
    url: str,
    http_config: HttpConfig | None,
    output: str,
    schema: bool,
    recent: bool,
    log_level: str,
    **values: Any,
) -> None:
    """Print checks as they are made, one per kind and minute: who asked for what, and the
    kernel's answer. With --verdict allowed and --for, give --event-verdicts all too."""
    if schema:
        file = resources.files("cap_exporter").joinpath("schemas", "event.schema.json")
        click.echo(file.read_text(), nl=False)
        return
    set_up_logging("warning" if log_level == "info" else log_level)
    wanted = {
        name: values.pop(name) for name in ("namespace", "pod", "container", "workload", "process")
    }
    capability, verdict = values.pop("capability"), values.pop("verdict")
    if duration is not None:
        records = _by_myself(duration, values)
    else:
        _note_unknown(wanted, url, http_config)
        records = follow_events(url, recent, http_config)
    _end_with_the_pipe()
    shown = 0
    try:
        # Beside a pipe the line would stand in the way; with its end this process ends at once.
        alone = stat.S_ISREG(os.fstat(1).st_mode)
        with elapsed("Watching", duration, lambda: f"{shown:,} events", alone=alone):
            for record in records:
                if verdict not in (None, record["verdict"]):
                    continue
                if capability is not None and not capability >> record["capability"]["value"] & 1:
                    continue
                if not _matches(record, wanted):
                    continue
                _print(record, output)
                shown += 1
    except NoAnswer as error:
        raise no_answer(
            error, "watch right here, as root: cap-exporter events --for 30s"
        ) from error
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is left to do, nor to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass


def _note_unknown(
    wanted: dict[str, tuple[str, ...]], url: str, http_config: HttpConfig | None
) -> None:
    """Names that the exporter does not know: mistyped, or still to come."""
    asked = {
        kind: [name for name in wanted[kind] if not set(name) & set("*?[")]
        for kind in ("namespace", "pod", "container")
    }
    if not any(asked.values()):
        return
    try:
        known = ask_exporter(url, http_config)["containers"]
    except NoAnswer:
        return  # which following the events says better
    for unknown in unknown_names(known, **asked):
        click.echo(f"{unknown} Waiting for it.", err=True)


def _end_with_the_pipe() -> None:
    """Where standard output is a pipe: end when its reader does, also while nothing happens."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return

    def watch() -> None:
        poll = select.poll()
        poll.register(1, 0)  # errors are always told
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _matches(record: dict[str, Any], wanted: dict[str, tuple[str, ...]]) -> bool:
    for field, patterns in wanted.items():
        found = [record.get(field, "")]
        if field == "process":
            path = record["process"]["executable"]
            found = [path, path.split("/")[-1], record["process"]["comm"]]
        if patterns and not any(fnmatch.fnmatchcase(f, p) for f in found for p in patterns):
            return False
    return True


def _print(record: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(record))
    else:
        colour = "red" if record["verdict"] == "denied" else None
        click.echo(click.style(line_of(record), fg=colour))
    sys.stdout.flush()


def _by_myself(duration: float, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Counting has begun when this returns. To be called before other threads are started."""
    from cap_exporter.assembly import Settings, make_exporter
    from cap_exporter.signals import stop_on_signals
    from cap_exporter.sources.kallsyms import no_symbols, stack_symbols

    events = event_settings(values)
    if events is None:
        raise click.UsageError("--event-verdicts none leaves nothing to print")
    symbols = stack_symbols() if events.stack else no_symbols
    told: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    settings = Settings(events=events, drain_interval=0.2, **values)
    exporter, _ = make_exporter(
        settings, None, lambda event, who: told.put(record_of(event, who, platform.node(), symbols))
    )
    stop_on_signals(exporter.stop)
    exporter.open()
    privileges.drop()
    return _told(duration, exporter, told)


def _told(
    duration: float, exporter: Exporter, told: queue.SimpleQueue[dict[str, Any] | None]
) -> Iterator[dict[str, Any]]:
    def count() -> None:
        try:
            exporter.run()
        finally:
            told.put(None)

    # The source belongs to one thread: the one that opened it hands it over.
    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    timer = threading.Timer(duration, exporter.stop)
    timer.daemon = True
    timer.start()
    began = time.monotonic()
    try:
        while (record := told.get()) is not None:
            yield record
    finally:
        exporter.stop()
        timer.cancel()
        thread.join(5)
    if time.monotonic() - began < duration:
        return
