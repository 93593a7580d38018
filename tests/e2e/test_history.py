# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus with a week of blocks gives the same advice as a ledger that saw it all."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from cap_exporter.capabilities import number_of
from cap_exporter.fleet import counting
from cap_exporter.fleet.history import Wanted, profiles
from cap_exporter.fleet.prometheus import Prometheus as Server
from cap_exporter.fleet.prometheus import Series
from cap_exporter.model import CheckClass, Identity, UserNamespace, Verdict
from cap_exporter.outputs.profile_routes import load_schema
from cap_exporter.profiles.advice import advise_all
from cap_exporter.profiles.merge import by_workload
from cap_exporter.profiles.profile import document
from tests.e2e.exporter import COMMAND
from tests.e2e.history import DAY, INTERVAL, Week
from tests.e2e.prometheus import Prometheus

pytestmark = pytest.mark.needs("prometheus", "promtool")

CHOWN, KILL, SETGID, SETUID, BIND = map(
    number_of, ("CHOWN", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE")
)
NET_RAW, SYS_ADMIN, SYSLOG = map(number_of, ("NET_RAW", "SYS_ADMIN", "SYSLOG"))
SOME = sum(1 << one for one in (CHOWN, KILL, SETGID, SETUID, BIND, NET_RAW))
HOUR = 3600.0


def pod(name: str, workload: str, kind: str = "Deployment", number: int = 1) -> Identity:
    container_id = f"{name}-{number}".encode().hex().ljust(64, "0")
    return Identity(
        "shop",
        name,
        "main",
        container_id,
        f"uid-{name}",
        image="image:1",
        runtime="containerd",
        workload_kind=kind,
        workload=workload,
    )


def the_week(end: float) -> Week:
    week = Week(end)
    # Replicas on both nodes, replaced by others on the third day.
    for number, (node, name) in enumerate((("a", "api-1"), ("b", "api-2"), ("a", "api-3"))):
        one = week.container(node, pod(name, "api"), -2 * HOUR, 3 * DAY, SOME)
        week.checks(node, one, -2 * HOUR + 600, SETUID, 1000)
        for day in range(3):
            week.checks(node, one, day * DAY + 5000 + number, BIND, day + 1)
    for node, name in (("b", "api-4"), ("a", "api-5")):
        one = week.container(node, pod(name, "api"), 3 * DAY, None, SOME)
        week.checks(node, one, 3 * DAY + 20, SETGID, 5)
        week.checks(node, one, 6 * DAY, BIND, 7)
    week.checks("a", one, 5 * DAY, SYS_ADMIN, 1, Verdict.DENIED)
    week.checks("a", one, 5 * DAY, SYS_ADMIN, 900, Verdict.DENIED, CheckClass.NOAUDIT)
    # A container that starts again: another id, the same series.
    one = week.container("b", pod("web-1", "web"), -HOUR, 2 * DAY, SOME)
    week.checks("b", one, DAY, CHOWN, 3)
    one = week.container("b", pod("web-1", "web", number=2), 2 * DAY, None, SOME)
    week.checks("b", one, 2 * DAY + 10, CHOWN, 4)
    # A job each night that is in one scrape.
    for day in range(7):
        begins = day * DAY + 7200 + INTERVAL * 0.4
        one = week.container("a", pod(f"job-{day}", "job", "Job"), begins, begins + 100, SOME)
        week.checks("a", one, begins + 10, KILL)
    # The same name comes again after it had gone, and soon has more than it had.
    one = week.container("a", pod("db-0", "db", "StatefulSet"), -HOUR, DAY, SOME)
    week.checks("a", one, HOUR, NET_RAW, 2)
    one = week.container("a", pod("db-0", "db", "StatefulSet", 2), DAY + HOUR, None, SOME)
    week.checks("a", one, DAY + HOUR + 1, NET_RAW, 50)
    # Old counts say nothing of this week.
    one = week.container("b", pod("old-1", "old"), -2 * HOUR, None, SOME)
    week.checks("b", one, -HOUR, SETUID, 10_000)
    # Exporters that start anew; what they count next is more than what they had.
    busy = week.container("a", pod("busy-1", "busy"), -HOUR, None, SOME)
    week.checks("a", busy, HOUR, CHOWN, 5)
    # The first scrape after each has already more.
    week.restart("a", 2.3 * DAY + 10)
    week.checks("a", busy, 2.3 * DAY + 11, CHOWN, 100)
    week.restart("a", 3 * DAY - 100)
    week.checks("a", busy, 3 * DAY - 99, CHOWN, 500)
    week.restart("a", 4 * DAY, "a-again:10838")
    week.checks("a", busy, 4 * DAY + 1, CHOWN, 1000)
    # Prometheus stands still for three hours; containers go on, end and begin.
    week.gaps.append((5.5 * DAY, 5.5 * DAY + 3 * HOUR))
    week.checks("a", busy, 5.5 * DAY + HOUR, CHOWN, 10_000)
    one = week.container("b", pod("gap-1", "gap"), 5.5 * DAY + HOUR, None, SOME)
    week.checks("b", one, 5.5 * DAY + 2 * HOUR, SYSLOG, 6, Verdict.DENIED)
    # A user namespace that somebody made inside.
    one = week.container("b", pod("sandbox-1", "sandbox"), DAY, None, SOME)
    week.checks("b", one, DAY + 30, SYS_ADMIN, 9, user_namespace=UserNamespace.OTHER)
    # A unit on both nodes.
    for node in ("a", "b"):
        unit = Identity(container="sshd.service", cgroup="/system.slice/sshd.service")
        one = week.container(node, unit, -HOUR, None, 0)
        week.checks(node, one, 2.5 * DAY, SETUID, 3)
    week.run()
    return week


class Stored(NamedTuple):
    week: Week
    folder: Path
    server: Prometheus


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    folder = tmp_path_factory.mktemp("prometheus")
    week = the_week(float(int(time.time())))
    week.store(folder)
    with Prometheus(folder, [], interval="1h") as server:
        yield Stored(week, folder, server)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def advice(stored: Stored, *more: str, url: str = "") -> list[dict[str, Any]]:
    url = url or stored.server.url
    done = run("advise", "--prometheus", url, "--since=7d", "-ojson", *more)
    assert done.returncode == 0, done.stderr
    assert "older than the window" not in done.stderr
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, load_schema("advice"))
    found: list[dict[str, Any]] = answer["advice"]
    return found


def truth(week: Week) -> list[dict[str, Any]]:
    containers = [one for one in document(week.truth.accounts())["containers"] if one["pod"]]
    found: list[dict[str, Any]] = advise_all(by_workload(containers))["advice"]
    return found


#: What Prometheus' history does not have, so that it is said to be unknown.
UNKNOWN = ("confidence", "allow_privilege_escalation", "notes")


def test_the_same_advice_as_the_ledger_gives(stored: Stored) -> None:
    found, right = advice(stored), truth(stored.week)
    assert len(right) == 8
    for one, other in zip(found, right, strict=True):
        assert {k: v for k, v in one.items() if k not in UNKNOWN} == {
            k: v for k, v in other.items() if k not in UNKNOWN
        }
        assert one["allow_privilege_escalation"] is (None if one["add"] else False)
        confidence, known = one["confidence"], other["confidence"]
        unseen = 2 * HOUR if one["workload"] == "gap" else 0
        assert abs(confidence["seconds"] + unseen - known["seconds"]) <= 2 * INTERVAL
        assert confidence["level"] != "high"
        for reason in known["reasons"]:
            assert reason.startswith(("watched", "its start")) or reason in confidence["reasons"]
        assert any("does not say whether its start" in one for one in confidence["reasons"])
        assert "history" in [note["kind"] for note in one["notes"]]


def test_a_server_that_allows_few_samples_is_asked_for_less(stored: Stored, tmp_path: Path) -> None:
    for block in (stored.folder / "tsdb").glob("01*"):
        shutil.copytree(block, tmp_path / "tsdb" / block.name)
    with Prometheus(tmp_path, [], interval="1h", flags=("--query.max-samples=200",)) as server:
        found = advice(stored, url=server.url)
    for one, other in zip(found, advice(stored), strict=True):
        assert {**one, "confidence": None} == {**other, "confidence": None}


def test_where_samples_are_many_chunks_are_halved_and_queries_split(
    monkeypatch: pytest.MonkeyPatch, stored: Stored
) -> None:
    def ask() -> tuple[dict[str, Any], int]:
        server = Server(stored.server.url)
        queries: list[str] = []
        query = server.query

        def counted(expr: str, at: float) -> list[Series]:
            queries.append(expr)
            return query(expr, at)

        monkeypatch.setattr(server, "query", counted)
        end = stored.week.end + 1
        found = profiles(server, end - 7 * DAY, end, Wanted(), background=True)
        return found.document, len(queries)

    once, few = ask()
    monkeypatch.setattr(counting, "_MANY_SAMPLES", 300)
    monkeypatch.setattr(counting, "_MOST_SAMPLES", 50)
    again, many = ask()
    assert again == once
    assert many > 2 * few


def test_one_workload_is_asked_for_by_its_name(stored: Stored) -> None:
    (one,) = advice(stored, "--workload=shop/deployment/busy")
    assert one["needed"][0]["checks"] == 5 + 100 + 500 + 1000 + 10_000
    (other,) = (one for one in advice(stored) if one["workload"] == "busy")
    assert {**one, "confidence": None} == {**other, "confidence": None}


def test_the_profile_has_units_and_background_checks_too(stored: Stored) -> None:
    done = run("profile", "--prometheus", stored.server.url, "--since=7d", "-ojson")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, load_schema("profile"))
    by_name = {(one["pod"], one["container"]): one for one in answer["containers"]}
    assert by_name["", "sshd.service"]["used"] == {"CAP_SETUID": 6}
    assert by_name["api-5", "main"]["background"] == {"noaudit": {"CAP_SYS_ADMIN": 900}}
    assert by_name["web-1", "main"]["restarts"] == 1
    assert by_name["sandbox-1", "main"]["in_user_namespace"]["used"] == {"CAP_SYS_ADMIN": 9}
    assert by_name["old-1", "main"]["used"] == {}
    assert {one["start_seen"] for one in answer["containers"]} == {None}


def test_a_file_of_it_gives_the_same_advice(stored: Stored, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    done = run("profile", "--prometheus", stored.server.url, "-ojson", "--all")
    path.write_text(done.stdout)
    again = run("advise", "--profile", str(path), "-okubernetes")
    assert again.returncode == 0, again.stderr
    assert again.stdout == run("advise", "--prometheus", stored.server.url, "-okubernetes").stdout
