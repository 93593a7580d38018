# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter doctor`: the findings as a list."""

from __future__ import annotations

import copy
import json
import sys
from typing import TYPE_CHECKING, Any

import click

import cap_exporter
from cap_exporter.cli.options import event_settings, log_options, option, set_up_logging
from cap_exporter.cli.run import command as run
from cap_exporter.doctor.examine import examine, works
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.outputs.otlp_settings import Flags

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MARKS = {Status.OK: "✓", Status.LIMITED: "!", Status.FAILED: "✗", Status.INFO: "·"}
_STYLES = {
    Status.OK: "green",
    Status.LIMITED: "yellow",
    Status.FAILED: "bold red",
    Status.INFO: "dim",
}

#: For a terminal without these characters.
_ASCII = str.maketrans("✓✗·→…", "+x->.")

#: Options of `run` that a check looks at, besides those of events and OTLP.
_LOOKED_AT = (
    "source",
    "attach",
    "btf",
    "cgroup_root",
    "listen",
    "page_listen",
    "web_config",
    "page_web_config",
    "kubernetes",
    "kubeconfig",
    "node_name",
    "docker_socket",
    "pin",
)


class _AsRun(click.Command):
    """Takes the options of `run` besides its own, and does not explain them again: a command line
    of `run` is one of `doctor`."""

    def __init__(self, name: str, *, params: list[click.Parameter], **settings: Any) -> None:
        own = {param.name for param in params}
        for param in run.params:
            if param.name not in own:
                twin = copy.copy(param)
                if isinstance(twin, click.Option):
                    twin.hidden = True
                params.append(twin)
        super().__init__(name, params=params, **settings)


@click.command("doctor", cls=_AsRun)
@option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
@option("--deep", is_flag=True, help="Also try what takes long: have BCC compile its program.")
@log_options
def command(output: str, deep: bool, log_level: str, **values: Any) -> None:
    """Say what works on this host, what does not, why, and what to do.

    It takes every option of `run` too (`cap-exporter run --help`), its variables and its
    configuration file, and looks at what that would need: its ports, the Kubernetes API, the OTLP
    receiver.

    Exit status 3: counting does not work here.
    """
    set_up_logging(log_level if log_level == "debug" else "error")
    show = _Text() if output == "text" else None
    findings = []
    counts = False
    for finding in examine(_wanted(values, deep)):
        findings.append(finding)
        if (told := works(finding)) is not None:
            counts = told
        if show:
            show(finding)
    if output == "json":
        click.echo(
            json.dumps(
                {
                    "version": cap_exporter.__version__,
                    "works": counts,
                    "findings": [one._asdict() for one in findings],
                },
                indent=2,
            )
        )
    sys.exit(0 if counts else 3)


def _wanted(values: dict[str, Any], deep: bool) -> Wanted:
    events = event_settings(values)
    otlp = Flags(
        **{
            name.removeprefix("otlp_"): value
            for name, value in values.items()
            if name.startswith("otlp_")
        }
    )
    looked_at = {name: values[name] for name in _LOOKED_AT}
    return Wanted(events=events, otlp=otlp, deep=deep, **looked_at)


class _Text:
    """Prints findings as lines for a person, as wide as the terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Console = Console(highlight=False)
        self._unicode = self._console.encoding.lower().startswith("utf")

    def __call__(self, finding: Finding) -> None:
        from rich.text import Text

        style = _STYLES[finding.status]
        title = (finding.title, "bold" if finding.status is Status.FAILED else "")
        mark = Text(self._plain(_MARKS[finding.status] + " "), style)
        self._print(mark, Text.assemble(title, ": ", self._plain(finding.detail)))
        if finding.remedy:
            self._print(Text(self._plain("  → ")), Text(self._plain(finding.remedy)))
        if finding.command:
            # As it is to be typed: not broken.
            self._console.print(Text(f"    {self._plain(finding.command)}"), soft_wrap=True)

    def _print(self, mark: Text, text: Text) -> None:
        width = max(20, self._console.width - len(mark))
        for line in text.wrap(self._console, width):
            line.rstrip()
            self._console.print(mark + line, soft_wrap=True)
            mark = mark.blank_copy(" " * len(mark))

    def _plain(self, text: str) -> str:
        return text if self._unicode else text.translate(_ASCII).encode("ascii", "replace").decode()
