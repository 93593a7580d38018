# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter profile`: used and denied capabilities per container."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from cap_exporter.cli import gather
from cap_exporter.cli.nearest import unknown_names
from cap_exporter.cli.options import log_options, option, set_up_logging, source_options
from cap_exporter.profiles.advice import bare
from cap_exporter.profiles.profile import has_own_users, unused
from cap_exporter.terminal import printable


@click.command("profile")
@gather.gather_options
@option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    help="How to print it.",
)
@option(
    "--all",
    "everything",
    is_flag=True,
    envvar="CAP_EXPORTER_ALL",
    help="Also containers that have only background checks.",
)
@option(
    "--by",
    type=click.Choice(["container", "workload"]),
    default="container",
    help="workload: all replicas and restarts together.",
)
@option(
    "--baseline",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is new since this profile (written by -o json): status 1 where there is anything.",
)
@source_options
@log_options
def command(
    output: str,
    namespace: tuple[str, ...],
    pod: tuple[str, ...],
    container: tuple[str, ...],
    everything: bool,
    workload: tuple[str, ...],
    by: str,
    baseline: Path | None,
    log_level: str,
    **where: Any,
) -> None:
    """What each container used and was denied. Checks that say nothing about the workload (the
    runtime's set-up, the kernel's probing) are kept apart."""
    from cap_exporter.profiles.merge import by_workload

    set_up_logging("warning" if log_level == "info" else log_level)
    document = gather.gather("profile", where, namespaces=namespace, pods=pod, workloads=workload)
    containers = [
        one
        for one in document["containers"]
        if gather.is_wanted(one, namespace, pod, container, workload)
        and (everything or output != "table" or gather.has_checks(one))
    ]
    if baseline is not None:
        containers = _news(containers, baseline)
    elif by == "workload":
        containers = by_workload(containers)
    chosen = {**document, "containers": containers}
    if output == "json":
        click.echo(json.dumps(chosen, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(chosen, sort_keys=False), nl=False)
    elif containers:
        _print_table(containers)
    if baseline is not None:
        text = "Nothing new." if not containers else f"{len(containers)} with something new."
        click.echo(text, err=True)
        sys.exit(1 if containers else 0)
    if not containers:
        unknown = unknown_names(
            document["containers"],
            namespace=namespace,
            workload=workload,
            pod=pod,
            container=container,
        )
        click.echo("\n".join(unknown) or _nothing(everything or output != "table"), err=True)
        sys.exit(1)


def _nothing(everything: bool) -> str:
    if everything:
        return "No container matches."
    return "Nothing found: no checks that mean something were made. --all shows the others too."


def _news(containers: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Containers with only what an earlier profile's workloads had not."""
    from cap_exporter.profiles.merge import by_workload

    before = {_name(one): one for one in by_workload(gather.read(path)["containers"])}
    found = []
    for one in by_workload(containers):
        old = before.get(_name(one), {"used": {}, "denied": {}})
        fresh = {
            field: {name: n for name, n in one[field].items() if name not in old[field]}
            for field in ("used", "denied")
        }
        if fresh["used"] or fresh["denied"]:
            found.append({**one, **fresh, "background": {}, "pod": ", ".join(one["pods"])})
    return found


def _name(one: dict[str, Any]) -> tuple[str, ...]:
    # A pod that nobody owns is new each time: its container's name must do.
    return (one["namespace"], one["workload_kind"], one["workload"], one["container"], one["kind"])


def _print_table(containers: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def lines(of: list[str], style: str) -> Text:
        return Text("\n".join(map(printable, of)) or "-", style=style if of else "dim")

    def counts(one: dict[str, Any], what: str, style: str) -> Text:
        """Those over a user namespace of its own are no less used, and are not over the host."""
        inner = one["in_user_namespace"][what] if has_own_users(one) else {}
        found = [f"{bare(name)} {count}" for name, count in one[what].items()]
        found += [f"{bare(name)} {count} (own users)" for name, count in inner.items()]
        return lines(found, style)

    # Fits 80 columns. Only the container's name is broken: of a capability's it is hard to read.
    table = Table(show_lines=True, box=box.HORIZONTALS)
    table.add_column("Container", overflow="fold", min_width=12)
    for column in ("Used", "Denied"):
        table.add_column(column, no_wrap=True)
    for column in ("Unused", "Background"):
        table.add_column(column, no_wrap=True, justify="right")
    for one in containers:
        background = sum(sum(of.values()) for of in one["background"].values())
        table.add_row(
            Text(printable(_place(one))),
            counts(one, "used", "green"),
            counts(one, "denied", "bold red"),
            _unused(one),
            str(background),
        )
    Console().print(table)


def _place(one: dict[str, Any]) -> str:
    """``shop/web-6d5f-x2x7q/web``; of a workload ``shop/deployment web/web, 2 pods``."""
    pods = one.get("pods")
    if pods is None:
        # Units have the same name on each node.
        node = "" if one["pod"] else one.get("node", "")
        parts: tuple[str, ...] = (node, one["namespace"], one["pod"], one["container"])
    else:
        workload = f"{one['workload_kind'].lower()} {one['workload']}".strip()
        parts = (one["namespace"], workload or ", ".join(pods), one["container"])
    place = "/".join(part for part in parts if part)
    return f"{place}, {len(pods)} pods" if pods and len(pods) > 1 else place


def _unused(one: dict[str, Any]) -> Any:
    """``11 of 14``: of what it holds. `advise` says which."""
    from rich.text import Text

    found = unused(one)
    if found is None:
        return Text("?", style="dim")
    return Text(f"{len(found)} of {len(one['granted']['bounding'])}", "yellow" if found else "dim")
