# SPDX-License-Identifier: Apache-2.0
"""A real exporter gives its privileges up once it counts, in every thread, and misses none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cap_exporter import privileges
from cap_exporter.capabilities import number_of
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.conftest import run_in_cgroup
from tests.kernel.containers import Container
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer
from tests.otlp.servers import HttpReceiver

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang", "setpriv", "setcap")]

KEPT = 1 << number_of("DAC_READ_SEARCH") | 1 << number_of("BPF")

CHECKS = "capability_checks_total"
PACCT = "CAP_SYS_PACCT"


def statuses(pid: int) -> dict[str, dict[str, str]]:
    """Of every thread, by its name and id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        found[f"{fields['Name']} {task.name}"] = fields
    return found


def assert_unprivileged(pid: int, *, bounding: int = KEPT, threads: int = 1) -> None:
    found = statuses(pid)
    assert len(found) >= threads, found.keys()
    wanted = {"CapInh": 0, "CapPrm": KEPT, "CapEff": KEPT, "CapBnd": bounding, "CapAmb": 0}
    for thread, fields in found.items():
        masks = {name: int(fields[name], 16) for name in wanted}
        assert (masks, fields["NoNewPrivs"]) == (wanted, "1"), thread


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    one = HttpReceiver()
    one.start()
    yield one
    one.stop()


@pytest.mark.parametrize("source", ["libbpf", "bcc"])
def test_every_thread_of_an_exporter_is_unprivileged_and_all_of_it_works(
    source: str,
    tmp_path: Path,
    kube: KubeServer,
    receiver: HttpReceiver,
    container: Callable[..., Container],
) -> None:
    first, second = container("NET_RAW"), container("NET_RAW")
    for name, one in (("before", first), ("after", second)):
        kube.apply(pod(name, "shop", {"app": one.container_id}, uid=one.pod_uid))
    config = tmp_path / "config.yaml"
    config.write_text("drain-interval: 100ms\nretention: 5m\n")
    config.chmod(0o600)
    web_config = tmp_path / "web.yaml"
    web_config.write_text("http_server_config: {}\n")
    web_config.chmod(0o600)
    with RunningExporter(
        tmp_path,
        f"--source={source}",
        f"--kubeconfig={kube.kubeconfig()}",
        f"--node-name={NODE}",
        f"--web-config={web_config}",
        f"--otlp-endpoint={receiver.endpoint}",
        "--event-stack",
        before=(f"--config={config}",),
    ) as exporter:
        exporter.eventually("cap_exporter_pod_watch_synced", 1)
        # The loop, two servers, the page's history, the pods' watch, and OTLP's two.
        assert_unprivileged(exporter.process.pid, threads=7)
        second.run("checks", "acct", "21")
        exporter.eventually(CHECKS, 21, pod="after", capability=PACCT, verdict="denied")
        if source == "libbpf":
            exporter.eventually("capability_container_granted", 1, pod="after")
        event = first_event(exporter, "after")
        assert event["capability"]["name"] == PACCT
        assert any(frame.startswith("capable+") for frame in event["stack"])
        # Read again, though only their owner may.
        config.write_text("drain-interval: 150ms\nretention: 5m\n")
        exporter.process.send_signal(signal.SIGHUP)
        exporter.eventually("cap_exporter_config_last_reload_successful", 1)
        first.run("checks", "acct", "5")
        exporter.eventually(CHECKS, 5, pod="before", capability=PACCT, verdict="denied")
        assert_unprivileged(exporter.process.pid, threads=7)
        assert exporter.stop() < 5
    text = exporter.log.read_text()
    assert "gave up all capabilities but CAP_DAC_READ_SEARCH, CAP_BPF" in text
    assert any(log.resource.get("k8s.pod.name") == "after" for log in receiver.received.logs)
    for word in ("Traceback", "not permitted", "could not be read", "still has"):
        assert word not in text


def first_event(exporter: RunningExporter, pod: str) -> dict[str, Any]:
    address = f"http://127.0.0.1:{exporter.page_port}/api/v1/events?recent=1"
    with urllib.request.urlopen(address, timeout=10) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                record: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                if record["pod"] == pod:
                    return record
    raise AssertionError(f"there is no event of {pod}")


#: deploy/systemd/cap-exporter.service
UNIT = Path(__file__).parents[2] / "deploy/systemd/cap-exporter.service"


def test_as_the_systemd_unit_runs_it_it_is_not_root_and_counts(
    tmp_path: Path, fresh_cgroup: Callable[..., tuple[Path, str]], checks: Path
) -> None:
    unit = dict(
        line.split("=", 1)
        for line in UNIT.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == "yes"
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"]
    names = [name.removeprefix("CAP_").lower() for name in unit["AmbientCapabilities"].split()]
    added = ",".join(f"+{name}" for name in names)
    directory, _ = fresh_cgroup("", f"docker/{'8' * 64}")
    own, _ = fresh_cgroup("", f"docker/{'9' * 64}")
    with RunningExporter(
        tmp_path,
        under=(
            *("sh", "-c", f'echo $$ > {own}/cgroup.procs; exec "$@"', "sh"),
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
            *(
                f"--bounding-set=-all,{added}",
                f"--inh-caps=-all,{added}",
                f"--ambient-caps={added}",
            ),
        ),
    ) as exporter:
        bounding = sum(1 << number_of(name) for name in names)
        assert_unprivileged(exporter.process.pid, bounding=bounding, threads=3)
        (fields, *_) = statuses(exporter.process.pid).values()
        assert set(fields["Uid"].split()) == {"65534"}
        run_in_cgroup(directory, checks, "acct", "19")
        exporter.eventually(CHECKS, 19, container="8" * 12, capability=PACCT, verdict="denied")
        # Of what it gave up it asks for nothing, so that no alert is about itself; but capset()
        # always asks for CAP_SETPCAP (security/commoncap.c, cap_inh_is_capped()).
        denied = exporter.samples(CHECKS, container="9" * 12, verdict="denied")
        assert {dict(labels)["capability"]: n for labels, n in denied.items()} == {"CAP_SETPCAP": 1}
        assert exporter.total(CHECKS, container="9" * 12, capability="CAP_BPF", verdict="allowed")
    assert "WARNING" not in exporter.log.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("profile", "--for", "20s"),
        ("events", "--for", "20s"),
        ("record", "{}", "--for", "20s"),
        ("top", "--here", "--once", "--interval", "20s"),
    ],
)
def test_who_counts_for_a_while_is_unprivileged_too(
    arguments: Sequence[str], tmp_path: Path
) -> None:
    # Owned by another: whoever writes there needs more than is left afterwards.
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    os.chown(folder, 1000, 1000)
    command: list[str | Path] = [COMMAND, *(one.format(folder / "recording") for one in arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 10
    while "NoNewPrivs:\t1" not in Path(f"/proc/{process.pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)
    assert_unprivileged(process.pid)
    process.terminate()
    _, said = process.communicate(timeout=10)
    assert process.returncode in (0, 1, -signal.SIGTERM), said
    assert "Traceback" not in said


def test_nothing_is_gained_by_executing_a_file_afterwards(tmp_path: Path) -> None:
    """Not even by root, nor by a file with capabilities of its own."""
    program = tmp_path / "cat"
    shutil.copy("/bin/cat", program)
    subprocess.run(["setcap", "cap_net_admin,cap_sys_admin+p", program], check=True)
    script = (
        "import os, sys; from cap_exporter import privileges; privileges.drop();"
        "os.execv(sys.argv[1], [sys.argv[1], '/proc/self/status'])"
    )
    for one in ("/bin/cat", str(program)):
        done = subprocess.run(
            [sys.executable, "-c", script, one], capture_output=True, text=True, check=True
        )
        fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
        assert int(fields["CapPrm"], 16) & ~KEPT == int(fields["CapBnd"], 16) & ~KEPT == 0


def test_a_socket_of_another_user_is_still_reached(tmp_path: Path) -> None:
    """Rootless Podman's: root has no business there without CAP_DAC_OVERRIDE."""
    engine = tmp_path / "podman.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(engine))
        engine.chmod(0o600)
        assert privileges.owns(engine)
        os.chown(engine, 1000, 1000)
        assert not privileges.owns(engine)
        with RunningExporter(tmp_path, f"--docker-socket={engine}") as exporter:
            status = Path(f"/proc/{exporter.process.pid}/status").read_text()
            wanted = KEPT | 1 << number_of("DAC_OVERRIDE")
            assert f"CapEff:\t{wanted:016x}\n" in status
