# SPDX-License-Identifier: Apache-2.0
"""Durations, the configuration file, and how command line, environment and file rank."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cap_exporter.capabilities import KNOWN, name_of, number_of
from cap_exporter.cli import COMMANDS, group
from cap_exporter.config import ConfigError, parse_duration, read_config


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("250ms", 0.25), ("1h30m", 5400), ("2d", 172800), ("7", 7)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5 s", "-5s", "5x", "1e3", "nan", "5s!"])
def test_what_is_no_duration_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="10m"):
        parse_duration(text)


def test_an_unknown_key_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("drain-intervall: 5s\n")
    with pytest.raises(ConfigError, match="did you mean drain-interval"):
        read_config(path, {"drain_interval"})


@pytest.mark.parametrize("text", ["[1]", "a: b: c", "\x00", "listen: {a: 1}"])
def test_a_file_that_is_no_configuration_is_an_error_that_names_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        read_config(path, {"listen"})


def _run(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(group, arguments, env=environ, prog_name="cap-exporter")
    return result.exit_code, result.output


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("source: from-file\n")
    assert "'from-file' is no source" in _run("--config", str(path), "run")[1]
    environ = {"CAP_EXPORTER_SOURCE": "from-environment"}
    assert "'from-environment'" in _run("--config", str(path), "run", environ=environ)[1]
    status, said = _run("--config", str(path), "run", "--source", "from-line", environ=environ)
    assert "'from-line'" in said
    assert status == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_every_option_an_environment_variable(command: str) -> None:
    status, said = _run(command, "--help")
    assert status == 0
    assert "CAP_EXPORTER_" in said or command == "completion"


def test_a_mistyped_command_gets_the_nearest_one() -> None:
    status, said = _run("doctr")
    assert status == 2
    assert "Did you mean doctor?" in said


@pytest.mark.parametrize("name", ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin", "cap_net_admin"])
def test_capability_names_as_people_write_them(name: str) -> None:
    assert number_of(name) == 12


@pytest.mark.parametrize("name", ["SYS_NET_ADMIN", "CAP_CAP_SYS_CHROOT", "", "41x", "CAP_64"])
def test_an_unknown_capability_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="unknown capability"):
        number_of(name)


def test_numbers_and_names_fit_and_new_ones_are_named_by_number() -> None:
    assert [number_of(name) for name in KNOWN] == list(range(41))
    assert name_of(40) == "CAP_CHECKPOINT_RESTORE"
    assert name_of(41) == "CAP_41"
    assert number_of("CAP_41") == 41
