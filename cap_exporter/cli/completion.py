# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter completion`: the script that completes its command lines in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_PROGRAM = "cap-exporter"
_VARIABLE = "_CAP_EXPORTER_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script for this shell (bash from 4.4 on): commands, options and their values are
    completed with the tab key then.

    \b
    bash  . <(cap-exporter completion bash)            in ~/.bashrc
    zsh   . <(cap-exporter completion zsh)             in ~/.zshrc, after compinit
    fish  cap-exporter completion fish | source        in config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(ctx.find_root().command, {}, _PROGRAM, _VARIABLE)
    # Not source(): it asks bash for its version, where the script may only be packaged.
    click.echo(script.source_template % script.source_vars(), nl=False)
