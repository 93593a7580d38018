# SPDX-License-Identifier: Apache-2.0
"""Names that others choose do not reach the terminal as orders to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from cap_exporter.cli import group
from cap_exporter.cli.profile import _print_table
from cap_exporter.terminal import printable

if TYPE_CHECKING:
    import pytest

HOSTILE = "a\x1b[31mb\x07\u202ec\nd"


def test_orders_become_visible_text() -> None:
    assert printable(HOSTILE) == "a\\x1b[31mb\\x07\\u202ec\\nd"
    assert printable("pödß-1") == "pödß-1"


def test_resolve_prints_a_path_s_orders_as_text() -> None:
    result = CliRunner().invoke(group, ["resolve", "--as=path", "/system.slice/a\x1b[31m.service"])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\\x1b[31m" in result.output


def test_the_table_of_profiles_does_too(capsys: pytest.CaptureFixture[str]) -> None:
    one: dict[str, Any] = {
        "container_id": "x",
        "namespace": HOSTILE,
        "pod": HOSTILE,
        "container": HOSTILE,
        "used": {},
        "denied": {},
        "background": {},
        "granted": None,
    }
    _print_table([one])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
