# SPDX-License-Identifier: Apache-2.0
"""`cap-exporter doctor` on this host, and progress on a real terminal."""

from __future__ import annotations

import json
import os
import subprocess
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from cap_exporter.doctor.bounded import bounded
from cap_exporter.doctor.counting import Counting
from cap_exporter.doctor.finding import Status
from cap_exporter.doctor.wanted import Wanted
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.played import write_recording
from tests.e2e.test_top import CURSOR_SHOWN, Terminal
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret"


def doctor(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )


@pytest.mark.kernel
def test_its_json_keeps_to_the_schema_and_says_that_counting_works(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "config.yaml"
    config.write_text(f"listen: 127.0.0.1:{port}\npage-listen: 127.0.0.1:0\n")
    done = doctor("--config", str(config), "doctor", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    schema = resources.files("cap_exporter").joinpath("schemas", "doctor.schema.json")
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(said)
    found = {one["name"]: one for one in said["findings"]}
    assert said["works"] is True
    assert found["counting"]["status"] != "failed"
    assert "ok" in {one["status"] for name, one in found.items() if name.startswith("attach.")}
    assert {"kernel", "btf", "events", "cgroups", "clock", "otlp", "bcc"} <= set(found)
    documented = (ROOT / "docs/doctor.md").read_text()
    for name in found:
        assert f"`{name}`" in documented or f"`{name.split('.')[0]}.…`" in documented, name
    for one in said["findings"]:
        assert one["status"] in ("ok", "info") or one["remedy"] or one["command"], one
    # As `run` would be started.
    assert str(port) in found["listen"]["title"]


@pytest.mark.kernel
def test_what_run_could_not_do_with_these_options_fails(tmp_path: Path) -> None:
    """BTF that is none: each way is refused."""
    path = tmp_path / "not.btf"
    path.write_text("none")
    done = doctor("doctor", "--source=libbpf", f"--btf={path}", "-o", "json")
    assert done.returncode == 3
    said = json.loads(done.stdout)
    found = {one["name"]: one for one in said["findings"]}
    assert said["works"] is False
    assert found["counting"]["status"] == "failed"
    assert str(path) in found["attach.tp_btf"]["detail"]
    assert str(path) in found["btf"]["detail"]


@pytest.mark.kernel
def test_ways_that_lose_checks_are_the_last_choice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lossy(*_: object) -> str:
        return "of the test"

    monkeypatch.setattr("cap_exporter.sources.preemption.why_not_tracepoint", lossy)
    monkeypatch.setattr("cap_exporter.sources.preemption.why_not_fexit", lossy)
    wanted = Wanted(source="libbpf", environ={})
    found = [one for check in Counting(wanted).checks() for one in bounded(check, wanted)]
    by_name = {one.name: one for one in found}
    attached = [one for one in found if one.name.startswith("attach.") and "works" in one.detail]
    assert attached
    for one in attached:
        lossless = one.name == "attach.kprobe"
        assert one.status is (Status.OK if lossless else Status.LIMITED)
        assert lossless or "of the test" in one.detail
    best = next((one for one in attached if one.status is Status.OK), attached[0])
    assert by_name["counting"].status is best.status
    assert best.name.removeprefix("attach.") in by_name["counting"].detail
    assert [one.status for one in found if one.name == "events"] == [Status.OK]
    # What the source warns of is in the findings.
    assert not caplog.records


def test_it_knows_an_exporter_that_runs_already(tmp_path: Path) -> None:
    source = f"--source=replay:{write_recording(tmp_path / 'recording')}"
    with RunningExporter(tmp_path, source) as exporter:
        done = doctor(
            "doctor",
            source,
            f"--listen=127.0.0.1:{exporter.metrics_port}",
            f"--page-listen=127.0.0.1:{exporter.page_port}",
        )
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert text.count("a cap-exporter listens here already") == 2
    assert f"process {exporter.process.pid} (cap-exporter), healthy" in text


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_is_secret_is_never_shown(level: str) -> None:
    done = doctor(
        "doctor",
        f"--log-level={level}",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://me:{SECRET}@127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{SECRET}",
        CAP_EXPORTER_SOURCE="replay:/nowhere",
    )
    assert done.returncode == 3
    assert "OTLP logs: http://127.0.0.1:" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_what_is_no_utf_8_terminal_gets_ascii_and_no_colour_where_none_is_wanted(
    tmp_path: Path,
) -> None:
    line = [f"--source=replay:{tmp_path}/none", f"--docker-socket={tmp_path}/none"]
    done = doctor("doctor", *line, PYTHONIOENCODING="ascii", COLUMNS="80")
    assert done.stdout.isascii()
    assert {line[0] for line in done.stdout.splitlines()} == set("+x-! ")
    with Terminal(str(COMMAND), "doctor", *line, lines=60, NO_COLOR="1") as terminal:
        terminal.ends()
        assert "✗ counting" in terminal.text
        assert terminal.colours() == {"default"}


@pytest.mark.needs("setsid")
def test_a_recording_tells_on_a_terminal_how_far_it_is_and_nothing_in_a_pipe(
    tmp_path: Path,
) -> None:
    source = f"--source=replay:{write_recording(tmp_path / 'recording')}"
    line = [
        str(COMMAND),
        "record",
        str(tmp_path / "again"),
        "--for=1500ms",
        source,
        "--log-level=warning",
    ]
    with Terminal(*line) as terminal:
        terminal.shows(r"^Recording .* of 1 s: [\d,]+ checks, \d+ events, .*B; Ctrl-C ends$")
        assert terminal.ends() == 0
        # The line goes, and the cursor comes back.
        assert CURSOR_SHOWN in terminal.output
        assert terminal.shows(r"checks and \d+ events recorded").count("\nRecording") == 0
    piped = subprocess.run(line, capture_output=True, text=True, check=True)
    assert piped.stdout == ""
    assert len(piped.stderr.splitlines()) == 1
