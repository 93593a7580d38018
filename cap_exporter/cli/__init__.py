# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command is a module of its own, imported when it is asked for: what a
command does not need must not cost memory or time."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path

import click

from cap_exporter.cli.examples import epilog
from cap_exporter.cli.version import version_option
from cap_exporter.config import ConfigError, for_command, read_config
from cap_exporter.model import SourceError

#: Command → (module below this package, its one-line help).
COMMANDS = {
    "run": "Count, resolve, serve: the exporter.",
    "profile": "What containers use and are denied.",
    "advise": "The least that each workload's securityContext may say, with reasons.",
    "top": "Live: which containers use and are denied what, denied first.",
    "events": "Stream of sampled checks: who asked for what, and was it given.",
    "record": "Write what a source gives to a file.",
    "resolve": "What a cgroup path, cgroup id or process is, and why.",
    "unload": "Remove what `run --pin` left counting.",
    "doctor": "What works on this host, what does not, why, and what to do.",
    "completion": "The script that completes command lines in bash, zsh or fish.",
}

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_CANNOT = 3


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"cap_exporter.cli.{name}")
        command = module.command
        assert isinstance(command, click.Command)
        command.epilog = epilog(name) or command.epilog
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        mistyped = args and args[0] not in COMMANDS and not args[0].startswith("-")
        if mistyped and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint} Commands: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nFirst steps:\n"
    "  sudo cap-exporter doctor           does it work here?\n"
    "  sudo cap-exporter profile --for 30s\n"
    "  sudo cap-exporter run              then: cap-exporter top\n\n"
    "Exit status: 0 done; 1 the answer is no, or nothing was found; 2 wrong usage or "
    "configuration; 3 this host cannot do it.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="CAP_EXPORTER_CONFIG",
    show_envvar=True,
    help="YAML file with a key for each option, e.g. `drain-interval: 5s`. "
    "The command line wins over the environment, and that over the file.",
)
@version_option
@click.pass_context
def group(ctx: click.Context, config_file: Path | None) -> None:
    """Counts the kernel's capability checks: which capabilities workloads use, and which they
    are refused."""
    if config_file is None:
        return
    try:
        values = read_config(config_file, known_options(ctx))
    except ConfigError as error:
        raise click.UsageError(f"--config: {error}") from error
    ctx.default_map = {
        name: for_command(command, values)
        for name in COMMANDS
        if (command := group.get_command(ctx, name))
    }


def known_options(ctx: click.Context) -> set[str]:
    """Names that a configuration file may have: every command's options."""
    known: set[str] = set()
    for name in COMMANDS:
        command = group.get_command(ctx, name)
        known |= {p.name for p in command.params if p.name} if command else set()
    return known


def main() -> None:
    """The console script."""
    try:
        group(prog_name="cap-exporter")
    except (SourceError, PermissionError) as error:
        from cap_exporter.cli.next_step import explain

        click.echo(explain(error, sys.argv), err=True)
        sys.exit(EXIT_CANNOT)
