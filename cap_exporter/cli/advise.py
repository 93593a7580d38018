# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter advise`: the least that each workload's securityContext may say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from cap_exporter.cli import gather
from cap_exporter.cli.nearest import unknown_names
from cap_exporter.cli.options import log_options, option, set_up_logging, source_options


@click.command("advise")
@gather.gather_options
@option(
    "--profile",
    "profiles",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="What `profile -o json` wrote, instead of asking. Several (of several nodes) are merged.",
)
@option(
    "--output",
    "-o",
    type=click.Choice(["table", "kubernetes", "patch", "docker", "compose", "systemd", "json"]),
    default="table",
    help="kubernetes: what belongs into the manifest. patch: for kubectl patch --patch-file. "
    "docker, compose, systemd: for containers and units without Kubernetes.",
)
@option(
    "--check",
    type=click.Path(exists=True, path_type=Path),
    help="Compare these manifests (a file or folder) with what was used: status 1, and a list, "
    "where they grant what nobody used or miss what is needed.",
)
@option(
    "--allow-unused",
    is_flag=True,
    envvar="CAP_EXPORTER_ALLOW_UNUSED",
    help="With --check: only what is missing counts.",
)
@source_options
@log_options
def command(
    profiles: tuple[Path, ...],
    output: str,
    namespace: tuple[str, ...],
    workload: tuple[str, ...],
    pod: tuple[str, ...],
    container: tuple[str, ...],
    check: Path | None,
    allow_unused: bool,
    log_level: str,
    **where: Any,
) -> None:
    """What each workload needs, and what it has and does not need, with reasons.

    What was denied is listed for a decision, not added: programs try, and go on without.
    """
    from cap_exporter.profiles.advice import advise_all
    from cap_exporter.profiles.formats import TEXTS
    from cap_exporter.profiles.merge import by_workload

    set_up_logging("warning" if log_level == "info" else log_level)
    if profiles and (where["kube"] or where["prometheus"] is not None):
        raise click.UsageError("--profile and --kube or --prometheus: only one of them")
    if profiles:
        documents = [gather.read(path) for path in profiles]
    else:
        documents = [
            gather.gather("advise", where, namespaces=namespace, pods=pod, workloads=workload)
        ]
    found = [one for document in documents for one in document["containers"]]
    unanswered = sum(len(document.get("incomplete", ())) for document in documents)
    chosen = [one for one in found if gather.is_wanted(one, namespace, pod, container, workload)]
    if output == "systemd":
        chosen = [one for one in chosen if one["container"].endswith(".service")]
    elif not container:
        # Units and the host are not what a securityContext is about.
        chosen = [one for one in chosen if one["container_id"] or one["pod"] or one["workload"]]
    merged = [{**one, "unanswered": unanswered} for one in by_workload(chosen)]
    if check is not None:
        if unanswered:
            click.echo("Not all exporters gave an answer: no difference is no proof.", err=True)
        _check(check, merged, allow_unused)
        sys.exit(1 if unanswered else 0)
    if not merged:
        unknown = unknown_names(
            found, namespace=namespace, workload=workload, pod=pod, container=container
        )
        nothing = "No container matches: `cap-exporter profile` lists what there is."
        click.echo("\n".join(unknown) or nothing, err=True)
        sys.exit(1)
    advice = advise_all(merged)
    if output == "json":
        click.echo(json.dumps(advice, indent=2))
    elif output == "table":
        from rich.console import Console

        from cap_exporter.profiles.formats import table

        console = Console()
        for part in table(advice["advice"]):
            console.print(part)
    else:
        try:
            click.echo(TEXTS[output](advice["advice"]), nl=False)
        except ValueError as error:
            raise click.ClickException(str(error)) from error


def _check(path: Path, merged: list[dict[str, Any]], allow_unused: bool) -> None:
    from cap_exporter.profiles.manifests import ManifestError, as_text, compare, read_manifests

    try:
        manifests = read_manifests(path)
    except ManifestError as error:
        raise click.UsageError(str(error)) from error
    if not manifests:
        raise click.UsageError(f"{path} has no Pod, Deployment, StatefulSet, DaemonSet, Job, …")
    result = compare(manifests, merged)
    differences = [
        difference._replace(unused=(), privileged=False) if allow_unused else difference
        for difference in result.differences
    ]
    differences = [difference for difference in differences if not difference.is_none]
    for difference in differences:
        click.echo(as_text(difference))
    for manifest in result.unprofiled:
        click.echo(f"{manifest}: no profile of it, not compared", err=True)
    click.echo(f"{result.checked} containers compared, {len(differences)} differ", err=True)
    if differences or not result.checked:
        sys.exit(1)
