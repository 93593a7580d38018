# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share; each has an environment variable of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from cap_exporter.capabilities import KNOWN, number_of
from cap_exporter.cli.log_handler import log_handler
from cap_exporter.config import parse_duration
from cap_exporter.sources.events import EventSettings

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[Any]):
    """``5s`` → 5.0 seconds, not shorter than ``at_least`` seconds."""

    name = "duration"

    def __init__(self, at_least: float = 0.0) -> None:
        self._at_least = at_least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < self._at_least:
            self.fail(f"{value} is too short: at least {self._at_least:g}s", param, ctx)
        return seconds


class PowerOfTwo(click.ParamType[Any]):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if not 8 <= number <= 1 << 22 or number & (number - 1):
            self.fail(f"{value} is not a power of two from 8 to {1 << 22}", param, ctx)
        return number


class SourceSpec(click.ParamType[Any]):
    """``auto``, ``libbpf``, ``bcc`` or ``replay:FILE``."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text not in ("auto", "libbpf", "bcc") and not (text.startswith("replay:") and text[7:]):
            self.fail(f"{text!r} is no source: use auto, libbpf, bcc or replay:FILE", param, ctx)
        return text


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """click.option with the environment variable CAP_EXPORTER_<NAME>."""
    name = names[0].split("/")[0].removeprefix("--").replace("-", "_").upper()
    settings.setdefault("envvar", f"CAP_EXPORTER_{name}")
    settings.setdefault("show_envvar", True)
    settings.setdefault("show_default", True)
    return click.option(*names, **settings)


def source_options(function: F) -> F:
    """How checks are counted."""
    for decorate in reversed(
        (
            option(
                "--source",
                type=SourceSpec(),
                default="auto",
                help="Where checks come from: libbpf (needs the kernel's BTF), bcc (needs BCC and, "
                "without BTF, kernel headers), auto (the first that works) or replay:FILE (what "
                "`record` wrote).",
            ),
            option(
                "--attach",
                type=click.Choice(["tp_btf", "fexit", "kprobe", "raw_tracepoint"]),
                help="Force one way to attach (raw_tracepoint: bcc only). Default: the first that "
                "loses nothing here.",
            ),
            option(
                "--btf",
                type=click.Path(dir_okay=False, path_type=Path),
                help="BTF file of this kernel, where it has none in /sys/kernel/btf.",
            ),
            option(
                "--counters",
                type=PowerOfTwo(),
                default=32768,
                help="Counters per table in the kernel, 16 bytes each. There is a table per CPU, "
                "up to 8.",
            ),
            option(
                "--cgroup-root",
                type=click.Path(file_okay=False, path_type=Path),
                help="Where the host's /sys/fs/cgroup is mounted, if not there.",
            ),
        )
    ):
        function = decorate(function)
    return function


class Capabilities(click.ParamType[Any]):
    """``NET_ADMIN,SYS_ADMIN`` → a mask."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        mask = 0
        for name in str(value).split(","):
            try:
                mask |= 1 << number_of(name)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return mask

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Of several with commas, the last one."""
        before, comma, begun = incomplete.rpartition(",")
        bare = begun.upper().removeprefix("CAP_")
        names = [name.removeprefix("CAP_") for name in KNOWN]
        full = "CAP_" if begun.upper().startswith("CAP_") else ""
        return [
            CompletionItem(f"{before}{comma}{full}{name}")
            for name in names
            if name.startswith(bare)
        ]


def event_options(function: F) -> F:
    """Which checks are told as events."""
    for decorate in reversed(
        (
            option(
                "--event-verdicts",
                type=click.Choice(["denied", "all", "none"]),
                default="denied",
                help="Which checks become events, besides being counted.",
            ),
            option(
                "--event-capabilities",
                type=Capabilities(),
                help="Only checks of these become events, e.g. NET_ADMIN,SYS_ADMIN.",
            ),
            option(
                "--event-interval",
                type=Duration(),
                default="60s",
                help="At most one event per this time and kind: cgroup, executable, capability, "
                "verdict, user namespace.",
            ),
            option(
                "--event-rate",
                type=click.FloatRange(min=0.001),
                default=5.0,
                help="Events per second of one cgroup, on average; ten seconds' worth at once.",
            ),
            option(
                "--event-stack/--no-event-stack",
                default=False,
                help="With the kernel functions that led to the check.",
            ),
            option(
                "--event-arguments/--no-event-arguments",
                default=False,
                help="With the process's command line, which may hold secrets.",
            ),
        )
    ):
        function = decorate(function)
    return function


def event_settings(values: dict[str, Any]) -> EventSettings | None:
    """Takes the event options out of ``values``."""
    verdicts = values.pop("event_verdicts")
    capabilities = values.pop("event_capabilities")
    interval, rate = values.pop("event_interval"), values.pop("event_rate")
    stack, arguments = values.pop("event_stack"), values.pop("event_arguments")
    if verdicts == "none":
        return None
    return EventSettings(
        allowed=verdicts == "all",
        capabilities=(1 << 64) - 1 if capabilities is None else capabilities,
        interval=interval,
        rate=rate,
        burst=max(1, round(10 * rate)),
        stack=stack,
        arguments=arguments,
    )


def log_options(function: F) -> F:
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        help="How much to write to standard error.",
    )(function)


def set_up_logging(level: str) -> None:
    logging.basicConfig(
        handlers=[log_handler()],
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    # It warns of each write to a client that has left: clients must not fill the log.
    if level != "debug":
        logging.getLogger("asyncio").setLevel(logging.ERROR)
