# SPDX-License-Identifier: Apache-2.0
"""Each alert fires when it should and stays silent when it should: promtool plays the series."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = sorted((ROOT / "deploy/rules").glob("*.yaml"))
CASES = sorted(Path(__file__).parent.glob("*.test.yaml"))

pytestmark = pytest.mark.needs("promtool")


def alerts() -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]


def test_promtool_accepts_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", *RULES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name.removesuffix(".test.yaml"))
def test_what_the_rules_make_of_series(case: Path) -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", case.name],
        cwd=case.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for check in test.get("alert_rule_test", []):
                (fires if check.get("exp_alerts") else silent).add(check["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert names == fires
    assert names == silent


def test_every_alert_has_severity_texts_and_a_runbook() -> None:
    runbooks = (ROOT / "docs/runbooks.md").read_text()
    anchors = {
        re.sub("[^a-z0-9-]", "", heading.lower().replace(" ", "-"))
        for heading in re.findall("^## (.*)$", runbooks, re.MULTILINE)
    }
    for alert in alerts():
        name, annotations = alert["alert"], alert["annotations"]
        assert name.startswith("CapExporter")
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), name
        assert re.fullmatch(r"[A-Z][^{}]*\.", annotations["summary"]), name
        assert annotations["description"].strip().endswith("."), name
        assert annotations["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert name.lower() in anchors
