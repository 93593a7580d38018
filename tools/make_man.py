#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes man/cap-exporter.1 from the commands: `python tools/make_man.py [--check]`.

(click-man makes pages only of groups that have loaded all their commands, and does not escape what
roff would take for a request.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import cap_exporter
from cap_exporter.cli import COMMANDS, group
from cap_exporter.cli.examples import EXAMPLES

ROOT = Path(__file__).resolve().parent.parent

_END = """\
.SH FILES
.TP
.I FILE
of \\-\\-config: YAML, with a key for each option, without dashes in front. The command line wins
over the environment, and that over the file.
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
The answer is no, or nothing was found.
.TP
.B 2
Wrong usage or configuration.
.TP
.B 3
This host cannot do it: doctor tells why.
.SH SEE ALSO
.BR capabilities (7),
.BR bpf (2)
"""


def escaped(text: str) -> str:
    """As roff prints it: backslashes, hyphens that are typed, lines that look like requests, and
    what is not ASCII (groff_char(7))."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"[^\0-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """Of a command's help: click's ``\\b`` marks one whose lines stay as they are."""
    for part in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in part.strip().splitlines()]
        if lines and lines[0] == "\b":
            yield ".PP\n.nf\n" + "\n".join(map(escaped, lines[1:])) + "\n.fi"
        else:
            yield ".PP\n" + escaped("\n".join(lines))


def options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    for param in command.params:
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is None:
            continue
        names, text = record
        shown = re.sub(r"(?<![\w\\])((?:\\-){1,2}[a-z][a-z\\-]*)", r"\\fB\1\\fR", escaped(names))
        yield f".TP\n{shown}\n{escaped(' '.join(text.split()))}"


def section(name: str, text: str) -> Iterator[str]:
    parent = click.Context(group, info_name="cap-exporter")
    command = group.get_command(parent, name)
    assert command is not None
    ctx = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(ctx))
    yield f'.SS "cap\\-exporter {name} {escaped(usage)}"'
    yield escaped(text)
    yield from paragraphs(command.help or "")
    yield from options(command, ctx)
    for example in EXAMPLES.get(name, ()):
        yield f".PP\nExample: {escaped(example.what)}\n.RS\n.nf\n{escaped(example.line)}\n.fi\n.RE"


def page() -> str:
    ctx = click.Context(group, info_name="cap-exporter")
    parts = [
        '.\\" Made by tools/make_man.py.',
        f'.TH CAP\\-EXPORTER 1 "" "cap\\-exporter {cap_exporter.__version__}" "User Commands"',
        # Names of options and variables are not broken.
        ".nh\n.ad l",
        ".SH NAME",
        "cap\\-exporter \\- count the Linux kernel's capability checks per container",
        ".SH SYNOPSIS",
        ".B cap\\-exporter",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *paragraphs(group.help or ""),
        ".SH OPTIONS",
        *options(group, ctx),
        ".SH COMMANDS",
        *(line for name, text in COMMANDS.items() for line in section(name, text)),
    ]
    return "\n".join(parts) + "\n" + _END


def main() -> int:
    path = ROOT / "man/cap-exporter.1"
    text = page()
    if path.exists() and path.read_text() == text:
        return 0
    if "--check" in sys.argv:
        print("man/cap-exporter.1 is not what tools/make_man.py makes")
        return 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
