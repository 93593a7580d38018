# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter profile`: used and denied capabilities per container."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from cap_exporter.cli.client import DEFAULT_URL, NoAnswer, ask_exporter
from cap_exporter.cli.options import Duration, log_options, option, set_up_logging, source_options


@click.command("profile")
@option(
    "--for",
    "duration",
    type=Duration(0.1),
    envvar="CAP_EXPORTER_FOR",
    help="Count by myself for this time (root) instead of asking a running exporter.",
)
@option("--url", default=DEFAULT_URL, help="A running exporter's page address.")
@option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    help="How to print it.",
)
@option("--namespace", "-n", multiple=True, help="Only this namespace (may be repeated).")
@option("--pod", multiple=True, help="Only this pod, by its name.")
@option(
    "--container",
    multiple=True,
    help="Only this container, by its name, the beginning of its id, or its unit.",
)
@option(
    "--all",
    "everything",
    is_flag=True,
    envvar="CAP_EXPORTER_ALL",
    help="Also containers that have only background checks.",
)
@source_options
@log_options
def command(
    duration: float | None,
    url: str,
    output: str,
    namespace: tuple[str, ...],
    pod: tuple[str, ...],
    container: tuple[str, ...],
    everything: bool,
    log_level: str,
    **source: Any,
) -> None:
    """What each container used and was denied. Checks that say nothing about the workload (the
    runtime's set-up, the kernel's probing) are kept apart."""
    set_up_logging("warning" if log_level == "info" else log_level)
    replay = str(source["source"]).startswith("replay:")
    if duration is not None or replay:
        document = _count(duration, replay, source)
    else:
        document = _ask(url)
    containers = [
        one
        for one in document["containers"]
        if _wanted(one, namespace, pod, container)
        and (everything or output != "table" or _has_checks(one))
    ]
    document = {**document, "containers": containers}
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    else:
        _print_table(containers)
    if not containers:
        click.echo("Nothing found." if output == "table" else "No container matches.", err=True)
        sys.exit(1)


def _count(duration: float | None, replay: bool, source: dict[str, Any]) -> dict[str, Any]:
    from cap_exporter.assembly import Settings, make_exporter
    from cap_exporter.profiles.profile import document
    from cap_exporter.signals import stop_on_signals

    interval = min(1.0, duration or 1.0)
    exporter, ledger = make_exporter(
        Settings(**source, drain_interval=interval, paced=duration is not None)
    )
    stop = stop_on_signals(exporter.stop)
    exporter.open()
    if replay and duration is None:
        exporter.play_to_end()
        return document(ledger.accounts())
    assert duration is not None
    import threading

    timer = threading.Timer(duration, exporter.stop)
    timer.daemon = True
    timer.start()
    began = time.monotonic()
    exporter.run()
    timer.cancel()
    if stop.is_set() and time.monotonic() - began < duration:
        click.echo("Stopped early; this is what was counted until then.", err=True)
    return document(ledger.accounts())


def _ask(url: str) -> dict[str, Any]:
    try:
        return ask_exporter(url)
    except NoAnswer as error:
        raise click.ClickException(
            f"{error}.\nStart the exporter (`cap-exporter run`), give its address (--url), or "
            "count right here: cap-exporter profile --for 30s"
        ) from error


def _wanted(
    one: dict[str, Any],
    namespaces: tuple[str, ...],
    pods: tuple[str, ...],
    containers: tuple[str, ...],
) -> bool:
    if namespaces and one["namespace"] not in namespaces:
        return False
    if pods and one["pod"] not in pods:
        return False
    return not containers or any(
        one["container"] == c or (c and one["container_id"].startswith(c)) for c in containers
    )


def _has_checks(one: dict[str, Any]) -> bool:
    inner = one["in_user_namespace"]
    return bool(one["used"] or one["denied"] or inner["used"] or inner["denied"])


def _print_table(containers: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def counts(of: dict[str, int], style: str) -> Text:
        lines = [f"{name.removeprefix('CAP_')} {count}" for name, count in of.items()]
        return Text("\n".join(lines) or "-", style=style if lines else "dim")

    table = Table(show_lines=True)
    for column in ("Namespace", "Pod", "Container", "Used", "Denied"):
        table.add_column(column, overflow="fold")
    table.add_column("Background", justify="right")
    for one in containers:
        background = sum(sum(of.values()) for of in one["background"].values())
        table.add_row(
            Text(one["namespace"] or "-"),
            Text(one["pod"] or "-"),
            Text(one["container"]),
            counts(one["used"], "green"),
            counts(one["denied"], "bold red"),
            str(background),
        )
    Console().print(table)
