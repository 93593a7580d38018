# SPDX-License-Identifier: Apache-2.0
"""Options anew from the configuration file, while the command runs: what the command line and the
environment said stays."""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cap_exporter.config import ConfigError, for_command, read_config
from cap_exporter.exporter import Exporter
from cap_exporter.ledger import Ledger
from cap_exporter.reload import Reloader
from cap_exporter.scope import make_scope

log = logging.getLogger(__name__)

_FIXED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


#: What is taken over while it runs. The rest is said to need a restart.
RELOADABLE = frozenset(
    {
        "drain_interval",
        "retention",
        "max_series",
        "pod_patience",
        "scope",
        "namespaces",
        "exclude_namespaces",
        "pod_selector",
        "log_level",
    }
)


def reload_on_change(
    ctx: click.Context, exporter: Exporter, ledger: Ledger, watched_labels: frozenset[str]
) -> None:
    """Read the configuration file again on SIGHUP and when it changes. No count is touched.
    watched_labels: labels of pods that are known; a selector can't ask for others."""
    path: Path | None = ctx.find_root().params.get("config_file")
    now: dict[str, Any] = dict(ctx.params)

    def load() -> None:
        if path is None:
            log.info("there is no configuration file to read again (--config)")
            return
        from cap_exporter.cli import known_options  # it imports the commands

        wanted = reread(ctx, path, known_options(ctx.find_root()))
        _take(exporter, ledger, wanted, path, watched_labels)
        for name, value in wanted.items():
            if value != now.get(name) and name not in RELOADABLE:
                log.warning("%s: %s needs a restart", path, name.replace("_", "-"))
        now.update(wanted)

    reloader = Reloader(path, load)

    def check() -> None:
        reloader.check()
        exporter.stats.reload_successful = reloader.successful
        exporter.stats.reload_time = reloader.last_success

    def on_signal(_number: int, _frame: object) -> None:
        reloader.ask()
        exporter.wake()

    exporter.before_drain = check
    signal.signal(signal.SIGHUP, on_signal)


def _take(
    exporter: Exporter,
    ledger: Ledger,
    wanted: dict[str, Any],
    path: Path,
    watched_labels: frozenset[str],
) -> None:
    try:
        scope = make_scope(
            wanted["scope"],
            words(wanted["namespaces"]),
            words(wanted["exclude_namespaces"]),
            wanted["pod_selector"],
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if scope.selector and (unknown := set(scope.selector.keys) - watched_labels):
        raise ConfigError(
            f"{path}: pod-selector: nothing is known of the pods' label {sorted(unknown)[0]!r}; "
            "to ask for another label than at the start takes a restart"
        )
    exporter.scope = scope
    exporter.interval = wanted["drain_interval"]
    exporter.patience = wanted["pod_patience"]
    ledger.limit(max_series=wanted["max_series"], retention=wanted["retention"])
    logging.getLogger().setLevel(wanted["log_level"].upper())


def words(text: str) -> list[str]:
    """``a, b`` → a and b"""
    return [word for part in text.split(",") if (word := part.strip())]


def reread(ctx: click.Context, path: Path, known: Collection[str]) -> dict[str, Any]:
    """Values of the context's command, as they would be if it started now. Raises ConfigError."""
    values = for_command(ctx.command, read_config(path, known))
    found: dict[str, Any] = {}
    for param in ctx.command.params:
        name = param.name
        if not name or name not in ctx.params:
            continue
        if ctx.get_parameter_source(name) in _FIXED:
            found[name] = ctx.params[name]
            continue
        raw = values.get(name, param.default)
        try:
            # What has no default has click's own word for that, which is no value.
            is_value = isinstance(raw, str | int | float)
            found[name] = param.process_value(ctx, raw) if is_value else None
        except click.BadParameter as error:
            raise ConfigError(f"{path}: {name.replace('_', '-')}: {error.message}") from error
    return found
