# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter run`: count, resolve, serve."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import Any

import click

from cap_exporter import privileges
from cap_exporter.assembly import Settings, make_exporter
from cap_exporter.cli.options import (
    Duration,
    event_options,
    event_settings,
    log_options,
    option,
    set_up_logging,
    source_options,
)
from cap_exporter.cli.otlp_options import Otlp, otlp_options, otlp_settings
from cap_exporter.cli.reread import reload_on_change, words
from cap_exporter.config import ConfigError
from cap_exporter.event_hub import EventHub
from cap_exporter.labels import LabelScheme
from cap_exporter.model import Event, Identity
from cap_exporter.outputs.event_record import record_of
from cap_exporter.outputs.event_stream import event_routes
from cap_exporter.outputs.http import HttpServer
from cap_exporter.outputs.listen import ListenError
from cap_exporter.outputs.page.node import Node
from cap_exporter.outputs.page.routes import page_routes
from cap_exporter.outputs.profile_routes import profile_routes
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.outputs.routes import Readiness, metrics_routes
from cap_exporter.pod_watch import make_pod_watch
from cap_exporter.profiles.askers import Askers
from cap_exporter.profiles.profile import document, nothing_declared
from cap_exporter.scope import make_scope
from cap_exporter.signals import stop_on_signals
from cap_exporter.sources.kallsyms import no_symbols, stack_symbols

log = logging.getLogger(__name__)


@click.command("run")
@option("--listen", default="[::]:10838", help="Address of metrics and health.")
@option(
    "--page-listen",
    default="127.0.0.1:10839",
    help="Address of the page and the API; they show names and paths, so not open by default.",
)
@option(
    "--web-config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TLS, passwords and headers for --listen: a web configuration file as Prometheus' "
    "exporters have it.",
)
@option(
    "--page-web-config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The same for --page-listen.",
)
@option("--drain-interval", type=Duration(0.05), default="5s", help="Time between two drains.")
@option(
    "--retention",
    type=Duration(),
    default="10m",
    help="How long a container's series stay after it is gone; a minute at least.",
)
@option(
    "--max-series",
    type=click.IntRange(min=1),
    default=100_000,
    help='Samples of containers at most; beyond, checks go to container="(overflow)".',
)
@option(
    "--pod-patience",
    type=Duration(),
    default="60s",
    help="How long checks wait for their pod to become known.",
)
@option(
    "--kubernetes",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    help="Watch this node's pods. auto: inside a pod, or where a kubeconfig is given.",
)
@option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="How to reach the Kubernetes API from outside a pod.",
)
@option(
    "--labels",
    default="namespace,pod,container",
    help="Labels that tell series apart: of namespace, pod, container, workload_kind, workload. "
    "Without pod, series are sums over a workload's pods.",
)
@option(
    "--pod-labels",
    default="",
    help="Labels of pods that become metric labels, e.g. app.kubernetes.io/name,team.",
)
@option(
    "--scope",
    type=click.Choice(["all", "containers", "pods"]),
    default="all",
    help="Whose checks are published: with the host and its units, containers', pods'.",
)
@option("--namespaces", default="", help="Only these namespaces, e.g. shop,payments.")
@option("--exclude-namespaces", default="", help="Not these namespaces.")
@option("--pod-selector", help="Only pods with such labels, e.g. app=web,env!=test.")
@option(
    "--docker-socket",
    type=click.Path(path_type=Path),
    help="Socket of Docker or Podman, to name containers that are in no pod. Only read from.",
)
@option(
    "--pin",
    type=click.Path(file_okay=False, path_type=Path),
    help="Go on counting when this process ends: programs and counts stay in this folder of a BPF "
    "file system, e.g. /sys/fs/bpf/cap-exporter, for the next one. `cap-exporter unload` ends it.",
)
@option("--node-name", envvar="NODE_NAME", help="This node's name in Kubernetes.")
@event_options
@otlp_options
@source_options
@log_options
def command(
    listen: str,
    page_listen: str,
    web_config: Path | None,
    page_web_config: Path | None,
    kubernetes: str,
    kubeconfig: Path | None,
    node_name: str | None,
    log_level: str,
    labels: str,
    pod_labels: str,
    scope: str,
    namespaces: str,
    exclude_namespaces: str,
    pod_selector: str | None,
    **settings: Any,
) -> None:
    """Count capability checks, find out whose they are, and serve them as Prometheus metrics."""
    set_up_logging(log_level)
    try:
        wanted_scope = make_scope(scope, words(namespaces), words(exclude_namespaces), pod_selector)
        scheme = LabelScheme(words(labels), words(pod_labels))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    to_otlp = otlp_settings(settings)
    chosen = Settings(
        events=event_settings(settings), labels=scheme, scope=wanted_scope, **settings
    )
    wanted = kubernetes == "on" or (
        kubernetes == "auto"
        and chosen.live
        and (kubeconfig is not None or bool(os.environ.get("KUBERNETES_SERVICE_HOST")))
    )
    if wanted and not node_name:
        raise click.UsageError(
            "watching pods needs the node's name: --node-name, or NODE_NAME from the downward "
            "API (spec.nodeName); --kubernetes off does without pods"
        )
    node = node_name or platform.node()
    symbols = stack_symbols() if chosen.events and chosen.events.stack else no_symbols
    otlp = Otlp(to_otlp, node, kubernetes=wanted, symbol=symbols)
    kept = {*scheme.pod_labels, *(wanted_scope.selector.keys if wanted_scope.selector else ())}
    watch = make_pod_watch(node_name or "", kubeconfig, sorted(kept)) if wanted else None
    hub = EventHub()
    askers = Askers()
    declared = watch.declared if watch else nothing_declared

    def publish(event: Event, identity: Identity) -> None:
        askers.add(event, identity)
        hub.publish(record_of(event, identity, node, symbols))
        otlp.publish(event, identity)

    exporter, ledger = make_exporter(chosen, watch.store if watch else None, publish)
    metrics = Metrics(ledger, exporter.stats)

    def profiles() -> dict[str, Any]:
        return document(ledger.accounts(), declared, askers.of)

    if watch:
        metrics.own.register(watch.collector)
    readiness = Readiness(exporter.opened.is_set, watch.notes if watch else list)
    page = Node(
        ledger,
        exporter,
        readiness,
        name=node,
        pods=watch.store.size if watch else None,
        metrics_port=lambda: servers[0].port,
    )
    try:
        servers = [
            HttpServer(
                listen,
                metrics_routes(
                    metrics, exporter.seconds_since_drain, lambda: exporter.interval, readiness
                ),
                web_config,
            ),
            HttpServer(
                page_listen,
                [
                    *page_routes(page, profiles, hub),
                    *event_routes(hub),
                    *profile_routes(profiles),
                ],
                page_web_config,
            ),
        ]
    except (ListenError, ConfigError) as error:
        raise click.UsageError(str(error)) from error
    stop_on_signals(exporter.stop)
    reload_on_change(click.get_current_context(), exporter, ledger, frozenset(kept))
    info = exporter.open()
    # Before any thread: each has the privileges of the one that started it.
    privileges.drop(() if privileges.owns(chosen.docker_socket) else ("DAC_OVERRIDE",))
    for server in servers:
        server.start()
    page.start()
    otlp.start(ledger, metrics)
    if watch:
        watch.start()
    log.info(
        "counting (source %s, attached by %s); metrics on port %d, page on port %d",
        info.source,
        info.attach or "nothing",
        servers[0].port,
        servers[1].port,
    )
    try:
        exporter.run()
    finally:
        otlp.stop()
        page.stop()
        for server in servers:
            server.stop()
        if watch:
            watch.stop()
