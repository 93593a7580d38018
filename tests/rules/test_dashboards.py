# SPDX-License-Identifier: Apache-2.0
"""The dashboards are what the generator makes, and what Grafana's own linter asks for
(github.com/grafana/dashboard-linter, docs/rules)."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.prometheus import Prometheus
from tools.drawing import panels as drawn

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted((ROOT / "dashboards").glob("*.json"))


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "dashboards/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panels(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in document["panels"]:
        if panel["type"] != "row":
            yield panel


def queries(document: dict[str, Any]) -> Iterator[str]:
    for panel in panels(document):
        for target in panel["targets"]:
            yield target["expr"]


def plain(expr: str) -> str:
    """Without Grafana's variables."""
    return re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", "5m"))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


def test_the_files_are_what_the_generator_makes() -> None:
    made = generator()
    wanted = {name: made.text_of(one) for name, one in made.all_dashboards().items()}
    assert {path.name: path.read_text() for path in FILES} == wanted, (
        "run `python dashboards/generate.py`"
    )


def test_every_panel_says_what_it_shows_and_in_which_unit(document: dict[str, Any]) -> None:
    for panel in panels(document):
        assert panel["title"]
        assert panel["description"].rstrip().endswith((".", "`")), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert all(refs)
        assert len(set(refs)) == len(refs)


def test_panels_do_not_overlap_and_fill_the_width(document: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


def test_variables(document: dict[str, Any]) -> None:
    variables = {one["name"]: one for one in document["templating"]["list"]}
    assert next(iter(variables)) == "datasource"
    assert "cluster" in variables
    for name, one in variables.items():
        if name != "datasource":
            assert one["refresh"] == 2, name
            assert one["datasource"]["uid"] == "${datasource}"
    used = set(re.findall(r"\$(\w+)", " ".join(queries(document)))) - {"__rate_interval"}
    assert used <= set(variables)
    assert document["editable"] is False
    assert document["uid"].startswith("cap-exporter-")


def test_counters_are_only_asked_for_their_rate(document: dict[str, Any]) -> None:
    for expr in queries(document):
        for found in re.finditer(r"(\w*)\(?\b\w+_total\b", expr):
            assert re.search(r"(rate|increase)\(\s*$", expr[: found.start()] + found[1] + "("), expr


@pytest.mark.needs("promtool")
def test_every_query_is_valid(document: dict[str, Any], tmp_path: Path) -> None:
    rules = [
        {"record": f"q{i}:x:y", "expr": plain(expr)} for i, expr in enumerate(queries(document))
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("prometheus")
def test_without_data_every_panel_says_what_is_not_there(
    document: dict[str, Any], tmp_path: Path
) -> None:
    with Prometheus(tmp_path, []) as prometheus:
        page = drawn.page(document, drawn.Server(prometheus.url, time.time(), {}), {})
    for panel in panels(document):
        shown = page.partition(f">{html.escape(panel['title'])}</h3>")[2].partition("</section>")[0]
        assert f">{panel['fieldConfig']['defaults']['noValue']}<" in shown, panel["title"]
