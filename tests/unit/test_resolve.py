# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter resolve`: every known path, ids and processes of this host."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cap_exporter.cli import group

CASES = json.loads((Path(__file__).parent.parent / "data/cgroup-paths.json").read_text())["cases"]
FIELDS = ("kind", "pod_uid", "container_id", "runtime", "qos", "role", "unit")


def resolve(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(
        group, ["resolve", "-o", "json", "--url", "http://127.0.0.1:1", *arguments]
    )
    return result.exit_code, json.loads(result.stdout)


def test_every_known_path_is_what_it_is_said_to_be() -> None:
    status, answers = resolve(*(case["path"] for case in CASES))
    assert status == 0
    for case, answer in zip(CASES, answers, strict=True):
        assert {f: answer[f] for f in FIELDS} == {f: case[f] for f in FIELDS}, case["path"]
        assert answer["how"]


def test_a_process_is_found_and_one_that_is_not_there_is_said_to_be_missing() -> None:
    assert resolve(str(os.getpid()))[1][0]["path"].startswith("/")
    status, (answer,) = resolve("--as", "pid", "4194304")
    assert (status, answer["path"]) == (1, None)
    assert "4194304" in answer["how"][0]


def test_the_root_by_its_id_and_an_id_that_no_cgroup_has() -> None:
    assert resolve("--as", "id", "1")[1][0]["path"] == "/"
    assert resolve("--as", "id", "999999999")[0] == 1


@pytest.mark.parametrize("odd", ["/a\nb", "/\udcff", "x", "/" + "a/" * 3000])
def test_an_odd_path_is_the_host_and_no_crash(odd: str) -> None:
    assert resolve("--as", "path", odd)[1][0]["kind"] == "host"


def test_text_says_what_and_why() -> None:
    result = CliRunner().invoke(group, ["resolve", "/system.slice/ssh.service"])
    assert "ssh.service: systemd" in result.stdout
    assert "because" in result.stdout
