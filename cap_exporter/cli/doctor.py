# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter doctor`: the findings as a list."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cap_exporter.cli.options import option, set_up_logging
from cap_exporter.doctor import Status, examine

_MARKS = {Status.OK: "✓", Status.LIMITED: "!", Status.FAILED: "✗", Status.INFO: "·"}
_COLOURS = {Status.OK: "green", Status.LIMITED: "yellow", Status.FAILED: "red", Status.INFO: None}


@click.command("doctor")
@option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)
@option(
    "--cgroup-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the host's /sys/fs/cgroup is mounted, if not there.",
)
def command(output: str, cgroup_root: Path | None) -> None:
    """Say what works on this host, what does not, why, and what to do. Exit status 3: counting
    does not work here."""
    set_up_logging("error")
    findings = []
    for finding in examine(cgroup_root):
        findings.append(finding)
        if output == "text":
            mark = click.style(_MARKS[finding.status], fg=_COLOURS[finding.status])
            click.echo(f"{mark} {finding.what}: {finding.detail}")
            if finding.remedy:
                click.echo(f"    → {finding.remedy}")
    failed = any(finding.status is Status.FAILED for finding in findings)
    if output == "json":
        click.echo(
            json.dumps({"works": not failed, "findings": [f._asdict() for f in findings]}, indent=2)
        )
    sys.exit(3 if failed else 0)
