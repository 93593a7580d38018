# SPDX-License-Identifier: Apache-2.0
"""Profiles of many nodes: `--prometheus`, of a Prometheus' history; `--kube`, of all exporters of a
cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cap_exporter.cli.client_options import HttpConfigFile
from cap_exporter.cli.options import Duration, F, option
from cap_exporter.cli.progress import bar

if TYPE_CHECKING:
    from cap_exporter.fleet.http_config import HttpConfig


def prometheus_options(function: F) -> F:
    """What prometheus_document() takes, but for the choice of containers."""
    for decorate in reversed(
        (
            option(
                "--prometheus",
                metavar="URL",
                help="Ask this Prometheus (or Thanos, Mimir, VictoriaMetrics) for what all nodes' "
                "containers did, also those that have gone.",
            ),
            option(
                "--since",
                type=Duration(60.0),
                default="7d",
                help="With --prometheus: how far back.",
            ),
            option(
                "--prometheus-http-config",
                type=HttpConfigFile(),
                help="How to log in at that Prometheus, and TLS: a file as promtool takes it as "
                "--http.config.file.",
            ),
            option(
                "--prometheus-match",
                metavar="MATCHER",
                multiple=True,
                help="Only series with this label, e.g. 'cluster=\"prod\"' (may be repeated).",
            ),
        )
    ):
        function = decorate(function)
    return function


def prometheus_document(
    values: dict[str, Any],
    command: str,
    namespaces: tuple[str, ...],
    pods: tuple[str, ...],
    workloads: tuple[str, ...],
) -> dict[str, Any] | None:
    """Takes the options out of ``values``; None without --prometheus. Raises
    click.ClickException."""
    url, since = values.pop("prometheus"), values.pop("since")
    config, matchers = values.pop("prometheus_http_config"), values.pop("prometheus_match")
    if url is None:
        return None
    from cap_exporter.fleet.history import Wanted, profiles
    from cap_exporter.fleet.prometheus import Prometheus, PrometheusError

    until = time.time()
    wanted = Wanted(namespaces, pods, workloads, matchers)
    try:
        server = Prometheus(url, config)
        with bar("Asking Prometheus") as show:
            found = profiles(
                server,
                until - since,
                until,
                wanted,
                background=command == "profile",
                progress=show,
            )
    except PrometheusError as error:
        raise click.ClickException(str(error)) from error
    for warning in found.warnings:
        click.echo(f"Note: {warning}.", err=True)
    return found.document


def kube_options(function: F) -> F:
    """What kube_document() takes."""
    from cap_exporter.fleet.kube import PORT, SELECTOR

    for decorate in reversed(
        (
            option(
                "--kube",
                is_flag=True,
                help="Ask the exporters of all nodes of a Kubernetes cluster, by port-forward.",
            ),
            option(
                "--kubeconfig",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="With --kube: how to reach the cluster. Default: $KUBECONFIG, ~/.kube/config, "
                "or the pod's service account.",
            ),
            option("--context", help="With --kube: another than the file's current context."),
            option(
                "--kube-namespace",
                help="With --kube: where the exporters are. Default: all namespaces.",
            ),
            option(
                "--kube-selector",
                default=SELECTOR,
                help="With --kube: labels of the exporters' pods.",
            ),
            option(
                "--kube-port",
                type=click.IntRange(1, 65535),
                default=PORT,
                help="With --kube: the port of the exporters' pages.",
            ),
            option(
                "--kube-timeout",
                type=Duration(0.1),
                default="20s",
                help="With --kube: how long one exporter may take.",
            ),
        )
    ):
        function = decorate(function)
    return function


def kube_document(values: dict[str, Any], config: HttpConfig | None) -> dict[str, Any] | None:
    """Takes the options out of ``values``; None without --kube. config: of --http-config. Raises
    click.ClickException."""
    from cap_exporter.fleet.kube import Cluster, KubeError, Where

    wanted = values.pop("kube")
    where = Where(
        values.pop("kubeconfig"),
        values.pop("context"),
        values.pop("kube_namespace"),
        values.pop("kube_selector"),
        values.pop("kube_port"),
        values.pop("kube_timeout"),
        config.headers if config is not None else {},
    )
    if not wanted:
        return None
    try:
        with bar("Asking the exporters") as show:
            found = Cluster(where).profiles(show)
    except KubeError as error:
        raise click.ClickException(str(error)) from error
    for failed in found.get("incomplete", ()):
        click.echo(f"Missing: {failed}", err=True)
    return found
