#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes docs/configuration.md from the commands' options: `python tools/make_docs.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cap_exporter.cli import COMMANDS, group

ROOT = Path(__file__).resolve().parent.parent

_INTRODUCTION = """\
# Configuration

Every option can be given on the command line, as an environment variable, or as a key of a YAML file
(`cap-exporter --config FILE run`); the command line wins over the environment, and that over the file. In the
file keys have no dashes in front, and a list is as good as words with commas:

```yaml
drain-interval: 10s
exclude-namespaces: [kube-system, monitoring]
event-verdicts: all
```

An unknown key is refused, with the nearest known one. The options of OpenTelemetry are also read from its
standard variables: [OpenTelemetry](opentelemetry.md). This page is made from the program by tools/make_docs.py.
"""


def options_of(command: click.Command) -> Iterator[tuple[str, ...]]:
    """Option, environment variable, default, help."""
    for param in command.params:
        if not isinstance(param, click.Option) or param.hidden:
            continue
        names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
        if isinstance(param.type, click.Choice):
            names += " " + " \\| ".join(map(str, param.type.choices))
        variable = param.envvar if isinstance(param.envvar, str) else ""
        default = param.default
        if isinstance(default, bool):
            default = "" if not param.secondary_opts else ("on" if default else "off")
        shown = "" if default is None or type(default).__name__ == "Sentinel" else str(default)
        text = (param.help or "").split("[default:")[0]
        yield (
            names,
            f"`{variable}`" if variable else "",
            f"`{shown}`" if shown else "",
            " ".join(text.split()).replace("|", "\\|"),
        )


def page() -> str:
    parts = [_INTRODUCTION]
    ctx = click.Context(group)
    for name, text in COMMANDS.items():
        command = group.get_command(ctx, name)
        assert command is not None
        rows = list(options_of(command))
        parts.append(f"\n## cap-exporter {name}\n\n{text}\n")
        if not rows:
            continue
        parts.append("\n| option | environment | default | |\n|---|---|---|---|\n")
        parts.extend(f"| {' | '.join(row)} |\n" for row in rows)
    return "".join(parts)


def main() -> int:
    path = ROOT / "docs/configuration.md"
    text = page()
    if path.exists() and path.read_text() == text:
        return 0
    if "--check" in sys.argv:
        print("docs/configuration.md is not what tools/make_docs.py makes")
        return 1
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
