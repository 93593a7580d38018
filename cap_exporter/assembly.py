# SPDX-License-Identifier: Apache-2.0
"""Builds the pieces from the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cap_exporter.cgroups.hierarchies import Hierarchies, Mode, discover
from cap_exporter.cgroups.tree import CgroupTree
from cap_exporter.engine_names import EngineNames
from cap_exporter.exporter import Exporter
from cap_exporter.identities import Identities, Pods
from cap_exporter.keeper import Keeper
from cap_exporter.labels import LabelScheme
from cap_exporter.ledger import Ledger
from cap_exporter.model import Event, Identity, Source
from cap_exporter.profiles.askers import Askers
from cap_exporter.profiles.profile import document
from cap_exporter.scope import Scope
from cap_exporter.self_stats import SelfStats
from cap_exporter.sources.choose import make_source
from cap_exporter.sources.events import EventSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be configured of counting and naming. Times in seconds."""

    source: str = "auto"
    attach: str | None = None
    btf: Path | None = None
    counters: int = 32768
    cgroup_root: Path | None = None
    drain_interval: float = 5.0
    retention: float = 600.0
    max_series: int = 100_000
    pod_patience: float = 60.0
    labels: LabelScheme = field(default_factory=LabelScheme)
    scope: Scope = field(default_factory=Scope)
    docker_socket: Path | None = None
    events: EventSettings | None = None
    pin: Path | None = None
    """Keep programs and counts here for the next process."""
    paced: bool = True
    """A recording is played at its own speed, not all at once."""

    @property
    def live(self) -> bool:
        """This host is looked at, not a recording."""
        return not self.source.startswith("replay:")


def no_name(_container_id: str) -> str:
    """Without a container engine to ask."""
    return ""


def hierarchies_for(settings: Settings) -> Hierarchies:
    """The host's cgroup hierarchies; none for a recording, which brings its own cgroups."""
    if not settings.live:
        return Hierarchies(Mode.V2, ())
    hierarchies = discover(cgroup_root=settings.cgroup_root)
    for warning in hierarchies.warnings:
        log.warning("%s", warning)
    return hierarchies


def make_tree(settings: Settings, hierarchies: Hierarchies) -> CgroupTree:
    return CgroupTree(hierarchies, retention=max(settings.retention, 60.0))


def make_exporter(
    settings: Settings,
    pods: Pods | None = None,
    on_event: Callable[[Event, Identity], None] | None = None,
) -> tuple[Exporter, Ledger]:
    """Nothing is loaded or read before Exporter.open()."""
    hierarchies = hierarchies_for(settings)
    tree = make_tree(settings, hierarchies)
    source = make_source(
        settings.source,
        hierarchies,
        attach=settings.attach,
        btf=settings.btf,
        counters=settings.counters,
        paced=settings.paced,
        events=settings.events,
        pin=settings.pin,
    )
    ledger = Ledger(
        max_series=settings.max_series, retention=settings.retention, scheme=settings.labels
    )
    names = EngineNames(settings.docker_socket).name if settings.docker_socket else no_name
    identities = Identities(tree, pods, patience=settings.pod_patience, name_of=names)
    exporter = Exporter(
        source,
        tree,
        identities,
        ledger,
        SelfStats(),
        interval=settings.drain_interval,
        patience=settings.pod_patience,
        on_event=on_event,
        scope=settings.scope,
        keeper=_keeper(source, tree, identities, ledger) if settings.pin else None,
    )
    return exporter, ledger


def _keeper(source: Source, tree: CgroupTree, identities: Identities, ledger: Ledger) -> Keeper:
    from cap_exporter.sources.libbpf import LibbpfSource

    assert isinstance(source, LibbpfSource)
    return Keeper(source, tree, identities, ledger)


def make_profiler(
    source: Mapping[str, Any],
    *,
    interval: float,
    paced: bool = True,
    on_event: Callable[[Event, Identity], None] = lambda _event, _identity: None,
) -> tuple[Exporter, Callable[[], dict[str, Any]]]:
    """An exporter for who looks on, and what gives the profiles of all that it has counted.
    source: settings of where checks come from. interval: seconds between two drains."""
    askers = Askers()

    def take(event: Event, identity: Identity) -> None:
        askers.add(event, identity)
        on_event(event, identity)

    exporter, ledger = make_exporter(
        Settings(
            **source, drain_interval=interval, paced=paced, events=EventSettings(allowed=True)
        ),
        on_event=take,
    )
    return exporter, lambda: document(ledger.accounts(), asked_by=askers.of)
