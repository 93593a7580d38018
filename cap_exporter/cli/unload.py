# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter unload`: remove what `run --pin` left in the kernel."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from cap_exporter.cli.options import option
from cap_exporter.sources.kept.pins import DEFAULT_DIR, Pins
from cap_exporter.sources.libbpf_binding import LibBpf


@click.command("unload")
@option(
    "--pin",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DIR,
    help="The folder that `run --pin` was given.",
)
def command(pin: Path) -> None:
    """Stop counting, and forget what was counted, where `run --pin` left programs in the kernel.
    An exporter that works with them must be stopped first."""
    if not pin.is_dir():
        click.echo(f"There is nothing in {pin}.")
        return
    try:
        with closing(Pins(LibBpf(), pin, patience=0)) as pins:
            attached = pins.unload()
    except OSError as error:
        raise click.ClickException(f"cannot remove {pin}: {error.strerror or error}") from error
    click.echo(f"Removed {attached} attached programs and their counts from {pin}.")
