# SPDX-License-Identifier: Apache-2.0
"""`--kube`: real exporters of two nodes, asked through an API server's port-forward."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from click.testing import CliRunner

from cap_exporter.cli import group
from cap_exporter.fleet import kube as fleet
from cap_exporter.outputs.profile_routes import load_schema
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.e2e.played import DENIED, USING, write_recording
from tests.kube.objects import pod
from tests.kube.server import Handler, KubeServer, Request

LABELS = {"app.kubernetes.io/name": "cap-exporter"}


class Nodes(NamedTuple):
    server: KubeServer
    exporters: list[RunningExporter]


def exporter_pod(number: int, phase: str = "Running") -> dict[str, Any]:
    name = f"cap-exporter-{number}"
    found = pod(name, "monitoring", labels=LABELS, node=f"node-{number}", uid=name)
    found["status"]["phase"] = phase
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The same containers on each."""
    folder = tmp_path_factory.mktemp("nodes")
    recording = write_recording(folder / "recording", 0.5)
    server = KubeServer(folder)
    with ExitStack() as stack:
        stack.callback(server.close)
        exporters = []
        for number in (1, 2):
            (folder / str(number)).mkdir()
            one = RunningExporter(folder / str(number), f"--source=replay:{recording}")
            exporters.append(stack.enter_context(one))
        for one in exporters:
            one.eventually("capability_checks_total", 7, capability="CAP_CHOWN")
        yield Nodes(server, exporters)


@pytest.fixture
def cluster(nodes: Nodes) -> Iterator[Nodes]:
    """Both exporters' pods are there, and reached."""
    server = nodes.server
    for number, exporter in enumerate(nodes.exporters, 1):
        server.apply(exporter_pod(number))
        server.forwards[f"cap-exporter-{number}"] = exporter.page_port
    yield nodes
    server.faults.clear()
    for uid in [uid for uid in server.pods if uid.startswith("cap-exporter")]:
        server.delete(uid)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(server: KubeServer, command: str, *more: str) -> Done:
    """In this process: the kubernetes package takes a second to import."""
    arguments = [command, "--kube", f"--kubeconfig={server.kubeconfig()}", *more]
    result = CliRunner().invoke(group, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def test_all_nodes_are_one_profile(cluster: Nodes) -> None:
    done = run(cluster.server, "profile", "-ojson")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.validate(document, load_schema("profile"))
    found = {(one["node"], one["container_id"]): one["used"] for one in document["containers"]}
    assert len(found) == len(document["containers"])
    for node in ("node-1", "node-2"):
        assert found[node, USING] == {"CAP_CHOWN": 7, "CAP_KILL": 2}
        assert found[node, DENIED] == {}
    table = run(cluster.server, "profile", f"--container={USING}").stdout
    assert re.findall(r"node-[12]/", table) == ["node-1/", "node-2/"]


def test_advice_is_for_all_replicas(cluster: Nodes) -> None:
    done = run(cluster.server, "advise", f"--container={USING}", "-ojson")
    assert (done.returncode, done.stderr) == (0, "")
    (one,) = json.loads(done.stdout)["advice"]
    assert [needed["checks"] for needed in one["needed"]] == [14, 4]
    assert "2 replicas" in one["confidence"]["reasons"]
    assert not any("restarts" in reason for reason in one["confidence"]["reasons"])


def test_who_does_not_answer_is_named_and_the_result_is_incomplete(
    tmp_path: Path, cluster: Nodes
) -> None:
    server = cluster.server
    server.apply(exporter_pod(3, phase="Pending"))
    server.apply(exporter_pod(4))  # nobody listens
    server.apply(exporter_pod(5))
    server.forwards["cap-exporter-5"] = server.port  # another protocol
    done = run(server, "profile", "-ojson")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    jsonschema.validate(document, load_schema("profile"))
    assert {one["node"] for one in document["containers"]} == {"node-1", "node-2"}
    pending, refused, odd = document["incomplete"]
    assert pending == "node-3 (monitoring/cap-exporter-3): the pod is Pending"
    assert refused.startswith("node-4 (monitoring/cap-exporter-4): error forwarding port 10839")
    assert odd.startswith("node-5 (monitoring/cap-exporter-5): error forwarding port 10839")
    assert done.stderr.splitlines() == [f"Missing: {one}" for one in document["incomplete"]]
    done = run(server, "advise", "-ojson")
    for one in json.loads(done.stdout)["advice"]:
        assert one["confidence"]["level"] == "low"
        reasons = one["confidence"]["reasons"]
        assert "3 exporters gave no answer: what it did there is missing" in reasons
    manifest = tmp_path / "pod.yaml"
    manifest.write_text("{kind: Pod, metadata: {name: x}, spec: {containers: [{name: y}]}}")
    done = run(server, "advise", f"--check={manifest}")
    assert done.returncode == 1
    assert "no difference is no proof" in done.stderr


def test_one_that_hangs_does_not_hold_up_the_others(cluster: Nodes) -> None:
    ended = threading.Event()

    def hang(handler: Handler, request: Request) -> bool:
        if not request.path.endswith("cap-exporter-2/portforward"):
            return False
        ended.wait(60)
        handler.status(500, "InternalError")
        return True

    cluster.server.faults.append(hang)
    began = time.monotonic()
    done = run(cluster.server, "profile", "-ojson", "--kube-timeout=1s")
    taken = time.monotonic() - began
    ended.set()
    assert done.returncode == 0, done.stderr
    assert "node-2 (monitoring/cap-exporter-2): no answer in 1 s" in done.stderr
    assert {one["node"] for one in json.loads(done.stdout)["containers"]} == {"node-1"}
    assert taken < 5


def refuse(pattern: str, status: int, reason: str) -> Callable[[Handler, Request], bool]:
    def fault(handler: Handler, request: Request) -> bool:
        if not re.search(pattern, request.path):
            return False
        handler.status(status, reason, message="pods is forbidden: User x cannot do it")
        return True

    return fault


@pytest.mark.parametrize(
    ("fault", "more", "words"),
    [
        (
            refuse("/pods$", 403, "Forbidden"),
            (),
            ["cannot do it", "--kube-namespace", "verbs: [list]"],
        ),
        (refuse("/pods$", 401, "Unauthorized"), (), ["does not know who asks (401)"]),
        (refuse("/pods$", 500, "InternalError"), (), ["no pods from https://127.0.0.1"]),
        (
            refuse("/portforward$", 403, "Forbidden"),
            (),
            [
                "no exporter gave an answer",
                "you may not forward ports",
                "resources: [pods/portforward]",
            ],
        ),
        (refuse("/portforward$", 502, "BadGateway"), (), ["port-forward: HTTP 502"]),
        (None, ("--kube-selector=app=other",), ["no pod anywhere has the label app=other"]),
        (None, ("--kube-namespace=none",), ["no pod in namespace none has the label"]),
        (None, ("--context=none",), ["kubeconfig", "none"]),
    ],
)
def test_what_is_wrong_is_said(
    cluster: Nodes,
    fault: Callable[[Handler, Request], bool] | None,
    more: tuple[str, ...],
    words: list[str],
) -> None:
    if fault is not None:
        cluster.server.faults.append(fault)
    done = run(cluster.server, "profile", *more)
    assert done.returncode == 1, done.stdout
    for some in words:
        assert some in done.stderr


def test_no_api_server(tmp_path: Path) -> None:
    server = KubeServer(tmp_path)
    server.kubeconfig()
    server.close()
    done = subprocess.run(
        [COMMAND, "profile", "--kube", f"--kubeconfig={tmp_path / 'kubeconfig'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_more_are_asked_at_once_than_the_bound(
    monkeypatch: pytest.MonkeyPatch, cluster: Nodes
) -> None:
    server = cluster.server
    monkeypatch.setattr(fleet, "MOST_AT_ONCE", 3)
    for number in range(3, 12):
        server.apply(exporter_pod(number))
        server.forwards[f"cap-exporter-{number}"] = cluster.exporters[0].page_port
    at_once, most = [0], [0]

    def counted(handler: Handler, request: Request) -> bool:
        if not request.path.endswith("/portforward"):
            return False
        with server.lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        with server.lock:
            at_once[0] -= 1
        return False

    server.faults.append(counted)
    where = fleet.Where(kubeconfig=server.kubeconfig())
    document = fleet.Cluster(where).profiles()
    assert "incomplete" not in document
    assert len({one["node"] for one in document["containers"]}) == 11
    assert most[0] == 3
