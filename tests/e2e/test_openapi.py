# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is what the exporter answers: every route is in it, and a fuzzer finds no
answer that it does not describe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from cap_exporter.outputs.http import HttpServer
from cap_exporter.outputs.profile_routes import load_openapi
from tests.e2e.exporter import RunningExporter
from tests.e2e.played import write_recording
from tests.e2e.served import Served, ask

METRICS_URL, PAGE_URL = "http://localhost:10838", "http://localhost:10839"


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as both:
        yield both


def paths(server: HttpServer) -> set[str]:
    found = server._gate._app.routes  # type: ignore[attr-defined]
    return {route.path for route in found if isinstance(route, Route)}


def described(url: str) -> dict[str, Any]:
    return {
        path: item
        for path, item in load_openapi()["paths"].items()
        if url in [server["url"] for server in item["servers"]]
    }


def test_every_route_is_described_and_no_other(served: Served) -> None:
    assert described(METRICS_URL).keys() == paths(served.metrics)
    assert described(PAGE_URL).keys() == paths(served.page)


def test_the_document_is_served_as_it_is(served: Served) -> None:
    assert json.loads(ask(served.page, "/api/v1/openapi.json").body) == load_openapi()


def test_every_answer_is_of_a_type_that_is_described(served: Served) -> None:
    for server, url in ((served.metrics, METRICS_URL), (served.page, PAGE_URL)):
        for path, item in described(url).items():
            target = {"/container": "/container?container=(host)"}.get(path, path)
            answer = ask(server, target.replace("{name}", "event"), "HEAD")
            assert answer.status == 200, target
            media = answer.headers["content-type"].partition(";")[0]
            assert media in item["get"]["responses"]["200"]["content"], target


def test_a_fuzzer_finds_no_answer_that_is_not_described(tmp_path: Path) -> None:
    """The stream of events, which has no end, is left out."""
    recording = write_recording(tmp_path / "recording")
    with RunningExporter(tmp_path, f"--source=replay:{recording}") as exporter:
        document = f"http://127.0.0.1:{exporter.page_port}/api/v1/openapi.json"

        def fuzz(port: int, *which: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "run", document, *which),
                    f"--url=http://127.0.0.1:{port}",
                    "--phases=coverage,fuzzing",
                    "--max-examples=5",
                    "--workers=4",
                    "--seed=1",
                    "--generation-database=none",
                    "--no-color",
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
            )

        running = [
            fuzz(exporter.metrics_port, "--include-path-regex=^/(metrics|healthz|readyz|)$"),
            fuzz(
                exporter.page_port,
                "--exclude-path-regex=^/(metrics|healthz|readyz|api/v1/events)$",
            ),
        ]
        for process in running:
            told, _ = process.communicate(timeout=60)
            assert process.returncode == 0, told
            assert " passed" in told
        assert exporter.get("/healthz") == "ok\n"
        assert not [line for line in exporter.log.read_text().splitlines() if " ERROR " in line]
