# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter top`: containers and their capabilities, live."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import closing
from typing import Any

import click

from cap_exporter.cli import gather
from cap_exporter.cli.client_options import client_options, no_answer
from cap_exporter.cli.nearest import unknown_names
from cap_exporter.cli.options import Duration, log_options, option, set_up_logging, source_options
from cap_exporter.client import NoAnswer
from cap_exporter.fleet.http_config import HttpConfig
from cap_exporter.top.model import Profile, Sort


@click.command("top")
@client_options
@option(
    "--here",
    is_flag=True,
    help="Count by myself (root) instead of asking a running exporter.",
)
@option("--interval", type=Duration(0.5), default="2s", help="Time between two looks.")
@option(
    "--once",
    is_flag=True,
    help="Print the list once, after two looks, and end. So it does in a pipe.",
)
@option(
    "--sort",
    type=click.Choice([str(one) for one in Sort]),
    default=str(Sort.DENIED),
    help="What comes first: what is denied most, what is used most, names from A.",
)
@option("--filter", "words", default="", help="Only what has these words, as with the key /.")
@option(
    "--all",
    "everything",
    is_flag=True,
    envvar="CAP_EXPORTER_ALL",
    help="Also containers that have only background checks, or none.",
)
@gather.choice_options
@source_options
@log_options
def command(
    url: str,
    http_config: HttpConfig | None,
    here: bool,
    interval: float,
    once: bool,
    sort: str,
    words: str,
    everything: bool,
    namespace: tuple[str, ...],
    workload: tuple[str, ...],
    pod: tuple[str, ...],
    container: tuple[str, ...],
    log_level: str,
    **source: Any,
) -> None:
    """Which containers use and are denied which capabilities, right now: what is denied comes
    first. ? lists the keys."""
    from rich.console import Console

    from cap_exporter.top.feed import Answer, Feed, Here, Running, look
    from cap_exporter.top.live import LastLine, Viewer
    from cap_exporter.top.state import State

    console = Console(highlight=False)
    live = not (once or console.is_dumb_terminal) and sys.stdin.isatty() and sys.stdout.isatty()
    log = LastLine()
    level = "warning" if log_level == "info" else log_level
    if live:
        logging.basicConfig(handlers=[log], level=level.upper())
    else:
        set_up_logging(level)

    def is_wanted(one: Profile) -> bool:
        return gather.is_wanted(one, namespace, pod, container, workload)

    def answer(feed: Feed) -> Answer:
        found = look(feed)
        if isinstance(found.problem, NoAnswer):
            raise no_answer(found.problem, "count right here, as root: cap-exporter top --here")
        return found

    counts_here = here or str(source["source"]).startswith("replay:")
    with closing(Here(source, interval) if counts_here else Running(url, http_config)) as feed:
        state = State(sort=Sort(sort), words=words, everything=everything)
        viewer = Viewer(feed, console, state, is_wanted, log)
        viewer.take(answer(feed))
        if live:
            viewer.run(interval)
            return
        time.sleep(max(interval, feed.settles))
        last = answer(feed)
        viewer.take(last)
        if not viewer.print():
            unknown = unknown_names(
                last.profiles, namespace=namespace, workload=workload, pod=pod, container=container
            )
            nothing = "Nothing found: --all shows also what made no checks that mean something."
            click.echo("\n".join(unknown) or nothing, err=True)
            sys.exit(1)
