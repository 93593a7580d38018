# SPDX-License-Identifier: Apache-2.0
"""How commands reach a running exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cap_exporter.cli.options import F, option
from cap_exporter.client import DEFAULT_URL, NoAnswer, NotLetIn


class HttpConfigFile(click.ParamType[Any]):
    """A file's path → HttpConfig."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from cap_exporter.fleet.http_config import HttpConfig, HttpConfigError, read_http_config

        if isinstance(value, HttpConfig):
            return value
        try:
            return read_http_config(Path(str(value)))
        except HttpConfigError as error:
            self.fail(str(error), param, ctx)


def client_options(function: F) -> F:
    """``url`` and ``http_config``: what ask_exporter() and follow_events() take."""
    for decorate in reversed(
        (
            option("--url", default=DEFAULT_URL, help="A running exporter's page address."),
            option(
                "--http-config",
                type=HttpConfigFile(),
                help="How to log in there, and TLS: a file as promtool takes it as "
                "--http.config.file.",
            ),
        )
    ):
        function = decorate(function)
    return function


def no_answer(error: NoAnswer, otherwise: str) -> click.ClickException:
    """With what to do. otherwise: how to do without an exporter, e.g. ``count right here: …``."""
    if isinstance(error, NotLetIn):
        return click.ClickException(f"{error}.")
    return click.ClickException(
        f"{error}.\nStart the exporter (`cap-exporter run`), give its address (--url), or "
        f"{otherwise}"
    )
