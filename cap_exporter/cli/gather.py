# SPDX-License-Identifier: Apache-2.0
"""Where `profile` and `advise` get profiles from: a running exporter, a file, or counting here."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import click

from cap_exporter import privileges
from cap_exporter.cli.client_options import client_options, no_answer
from cap_exporter.cli.fleet_options import (
    kube_document,
    kube_options,
    prometheus_document,
    prometheus_options,
)
from cap_exporter.cli.options import Duration, F, option
from cap_exporter.cli.progress import elapsed
from cap_exporter.client import NoAnswer, ask_exporter


def gather_options(function: F) -> F:
    """Where profiles come from, and which of them."""
    for decorate in reversed(
        (
            option(
                "--for",
                "duration",
                type=Duration(0.1),
                envvar="CAP_EXPORTER_FOR",
                help="Count by myself for this time (root) instead of asking a running exporter.",
            ),
            client_options,
            kube_options,
            prometheus_options,
            choice_options,
        )
    ):
        function = decorate(function)
    return function


def choice_options(function: F) -> F:
    """Which profiles: what is_wanted() takes."""
    for decorate in reversed(
        (
            option(
                "--namespace", "-n", multiple=True, help="Only this namespace (may be repeated)."
            ),
            option(
                "--workload",
                multiple=True,
                help="Only this workload, e.g. deployment/api or shop/deployment/api.",
            ),
            option("--pod", multiple=True, help="Only this pod, by its name."),
            option(
                "--container",
                multiple=True,
                help="Only this container, by its name, the beginning of its id, or its unit.",
            ),
        )
    ):
        function = decorate(function)
    return function


def gather(
    command: str,
    values: dict[str, Any],
    *,
    namespaces: tuple[str, ...],
    pods: tuple[str, ...],
    workloads: tuple[str, ...],
) -> dict[str, Any]:
    """The document, from where gather_options and source_options say. Raises
    click.ClickException."""
    duration, url, config = (values.pop(name) for name in ("duration", "url", "http_config"))
    replay = str(values["source"]).startswith("replay:")
    chosen = [
        name
        for name, given in (
            ("--for", duration is not None and not replay),
            ("--source replay:", replay),
            ("--kube", values["kube"]),
            ("--prometheus", values["prometheus"] is not None),
        )
        if given
    ]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)}: only one of them")
    fleet = kube_document(values, config)
    history = prometheus_document(values, command, namespaces, pods, workloads)
    for document in (fleet, history):
        if document is not None:
            return document
    if duration is not None or replay:
        return count(duration, values)
    try:
        return ask_exporter(url, config)
    except NoAnswer as error:
        otherwise = f"count right here, as root: cap-exporter {command} --for 30s"
        raise no_answer(error, otherwise) from error


def count(duration: float | None, source: dict[str, Any]) -> dict[str, Any]:
    """Count for this time, in seconds; None: play a recording to its end."""
    from cap_exporter.assembly import make_profiler
    from cap_exporter.signals import stop_on_signals

    interval = min(1.0, duration or 1.0)
    exporter, profiles = make_profiler(source, interval=interval, paced=duration is not None)
    stop = stop_on_signals(exporter.stop)
    exporter.open()
    if duration is not None:
        privileges.drop()
    if duration is None:
        exporter.play_to_end()
        return profiles()
    timer = threading.Timer(duration, exporter.stop)
    timer.daemon = True
    timer.start()
    began = time.monotonic()
    with elapsed("Counting", duration, lambda: f"kinds of checks: {exporter.stats.events['sent']}"):
        exporter.run()
    timer.cancel()
    if stop.is_set() and time.monotonic() - began < duration:
        click.echo("Stopped early; this is what was counted until then.", err=True)
    return profiles()


def read(path: Path) -> dict[str, Any]:
    """What `profile -o json` printed. Raises click.ClickException."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(
            f"cannot read {path}: {error.strerror or error}. Write one: "
            f"cap-exporter profile -o json > FILE"
        ) from error
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{path} is not JSON: {error}") from error
    containers = document.get("containers") if isinstance(document, dict) else None
    if not isinstance(containers, list) or not all(_is_profile(one) for one in containers):
        raise click.ClickException(
            f"{path} is no profile: write one with `cap-exporter profile -o json > FILE`"
        )
    return {**document}


def _is_profile(one: object) -> bool:
    wanted = ("namespace", "pod", "container", "used", "denied", "in_user_namespace", "first_seen")
    return isinstance(one, dict) and all(key in one for key in wanted)


def is_wanted(
    one: dict[str, Any],
    namespaces: tuple[str, ...],
    pods: tuple[str, ...],
    containers: tuple[str, ...],
    workloads: tuple[str, ...] = (),
) -> bool:
    """Whether a profile is one of those that were asked for; empty: all are."""
    if namespaces and one["namespace"] not in namespaces:
        return False
    if pods and one["pod"] not in pods:
        return False
    workload = f"{one['workload_kind']}/{one['workload']}".lower()
    if workloads and not any(
        wanted.lower() in (workload, f"{one['namespace']}/{workload}") for wanted in workloads
    ):
        return False
    return not containers or any(
        one["container"] == c or (c and one["container_id"].startswith(c)) for c in containers
    )


def has_checks(one: dict[str, Any]) -> bool:
    """Whether it made checks that mean something."""
    inner = one["in_user_namespace"]
    return bool(one["used"] or one["denied"] or inner["used"] or inner["denied"])
