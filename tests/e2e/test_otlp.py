# SPDX-License-Identifier: Apache-2.0
"""The exporter as a user starts it, a real container that is refused something, and a real OTLP
receiver: the peer's event of the seed document, field by field, and the same numbers as the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from cap_exporter.outputs.profile_routes import load_schema
from tests.e2e.exporter import COMMAND, RunningExporter
from tests.kernel.containers import Container
from tests.kube.objects import NODE, pod
from tests.kube.server import KubeServer
from tests.otlp.received import Fault, Log
from tests.otlp.servers import GrpcReceiver, HttpReceiver
from tests.ports import free_port

pytestmark = [pytest.mark.kernel, pytest.mark.needs("runc", "clang")]

LABELS = {"app.kubernetes.io/name": "xwing", "class": "xwing", "org": "alliance"}


@pytest.fixture
def grpc_receiver() -> Iterator[GrpcReceiver]:
    one = GrpcReceiver()
    one.start()
    yield one
    one.stop()


@pytest.fixture
def http_receiver() -> Iterator[HttpReceiver]:
    one = HttpReceiver()
    one.start()
    yield one
    one.stop()


class Told(NamedTuple):
    record: dict[str, Any]
    log: Log


def of_dmesg(receiver: GrpcReceiver | HttpReceiver) -> list[Log]:
    return [
        log
        for log in receiver.received.logs
        if log.attributes["cap_exporter.capability.name"] == "CAP_SYSLOG"
        and log.attributes["thread.name"] == "dmesg"
    ]


def test_the_seed_s_event_field_by_field(
    tmp_path: Path,
    kube: KubeServer,
    grpc_receiver: GrpcReceiver,
    container: Callable[..., Container],
) -> None:
    """dmesg by a shell that `runc exec` starts, in a container of the pod default/xwing."""
    one = container("AUDIT_WRITE", "KILL")
    document = pod(
        "xwing", "default", {"spaceship": one.container_id}, labels=LABELS, uid=one.pod_uid
    )
    image = "docker.io/tgraf/netperf:latest"
    for part in (document["status"]["containerStatuses"], document["spec"].get("containers", [])):
        for each in part:
            each["image"] = image
    kube.apply(document)
    arguments = [
        f"--kubeconfig={kube.kubeconfig()}",
        f"--node-name={NODE}",
        f"--pod-labels={','.join(LABELS)}",
        f"--otlp-endpoint={grpc_receiver.endpoint}",
        "--otlp-protocol=grpc",
        "--event-arguments",
    ]
    began = time.time()
    with RunningExporter(tmp_path, *arguments) as exporter:
        exporter.eventually("cap_exporter_pod_watch_synced", 1)
        one.start("sleep", "100")
        follow: list[str | Path] = [
            *(COMMAND, "events", "-o", "json", "--namespace", "default", "--pod", "xwing"),
            *("--recent", "--process", "dmesg", f"--url=http://127.0.0.1:{exporter.page_port}"),
        ]
        assert "not permitted" in one.exec("sh", "-c", "cd /tmp; dmesg; true").stdout
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            record = json.loads(reader.stdout.readline())
            reader.terminate()
        grpc_receiver.received.wait(lambda: bool(of_dmesg(grpc_receiver)))
        (log,) = of_dmesg(grpc_receiver)
        at_least(exporter, "cap_exporter_otlp_export_sent_total", signal="logs")
        assert exporter.total("cap_exporter_otlp_export_dropped_total") == 0
    ended = time.time()

    jsonschema.validate(record, load_schema("event"))
    resource, found = log.resource, log.attributes
    process, parent = record["process"], record["parent"]
    namespaces = record["namespaces"]
    target = record["user_namespace"]
    own_user = os.stat("/proc/self/ns/user").st_ino  # noqa: PTH116
    # The seed's field; what it must be; what `events -o json` says; what the receiver got.
    side_by_side: list[tuple[str, Any, Any, Any]] = [
        ("process.pid", None, process["pid"], found["process.pid"]),
        ("process.tid", process["pid"], process["tid"], found["thread.id"]),
        ("process.uid", 0, process["uid"], found["process.user.id"]),
        ("process.cwd", "/tmp", process["cwd"], found["process.working_directory"]),
        (
            "process.binary",
            "/bin/busybox",
            process["executable"],
            found["process.executable.path"],
        ),
        (
            "process.arguments",
            ["dmesg"],
            process["arguments"],
            found["process.command_args"],
        ),
        ("process.start_time", None, process["start_time"], found["process.creation.time"]),
        (
            "process.auid",  # 4294967295 in the seed: nobody logged in
            login_uid(),
            process.get("auid"),
            found.get("cap_exporter.process.auid"),
        ),
        ("process.pod.namespace", "default", record["namespace"], resource["k8s.namespace.name"]),
        ("process.pod.name", "xwing", record["pod"], resource["k8s.pod.name"]),
        (
            "process.pod.container.id",
            one.container_id,
            record["container_id"],
            resource["container.id"],
        ),
        (
            "process.pod.container.name",
            "spaceship",
            record["container"],
            resource["k8s.container.name"],
        ),
        (
            "process.pod.container.image.name",
            image,
            record["image"],
            f"{resource['container.image.name']}:{resource['container.image.tags'][0]}",
        ),
        ("process.pod.container.pid", None, process["container_pid"], found["process.vpid"]),
        (
            "process.pod.pod_labels",
            LABELS,
            record["pod_labels"],
            {name: resource[f"k8s.pod.label.{name}"] for name in LABELS},
        ),
        (
            "docker",
            one.container_id[:31],
            record["container_id"][:31],
            resource["container.id"][:31],
        ),
        *(
            (
                f"process.ns.{name}.inum",
                None,
                namespaces[name],
                found[f"cap_exporter.namespace.{name}.inode"],
            )
            for name in namespaces
        ),
        (
            "process.ns.user.is_host",
            own_user,
            namespaces["user"],
            found["cap_exporter.namespace.user.inode"],
        ),
        ("parent.pid", None, parent["pid"], found["process.parent_pid"]),
        ("parent.uid", 0, parent["uid"], found["cap_exporter.parent.uid"]),
        ("parent.cwd", "/tmp", parent["cwd"], found["cap_exporter.parent.working_directory"]),
        (
            "parent.binary",
            "/bin/busybox",
            parent["executable"],
            found["cap_exporter.parent.executable.path"],
        ),
        (
            "parent.start_time",
            None,
            parent["start_time"],
            found["cap_exporter.parent.creation_time"],
        ),
        (
            "args.user_ns_arg.level",
            0,
            target["level"],
            found["cap_exporter.user_namespace.level"],
        ),
        ("args.user_ns_arg.uid", 0, target["uid"], found["cap_exporter.user_namespace.uid"]),
        ("args.user_ns_arg.gid", 0, target["gid"], found["cap_exporter.user_namespace.gid"]),
        (
            "args.user_ns_arg.ns.inum",
            own_user,
            target["inode"],
            found["cap_exporter.user_namespace.inode"],
        ),
        (
            "args.user_ns_arg.ns.is_host",
            True,
            target["is_host"],
            found["cap_exporter.user_namespace.is_host"],
        ),
        (
            "args.capability_arg.value",
            34,
            record["capability"]["value"],
            found["cap_exporter.capability.value"],
        ),
        (
            "args.capability_arg.name",
            "CAP_SYSLOG",
            record["capability"]["name"],
            found["cap_exporter.capability.name"],
        ),
        ("return.int_arg", -1, record["return_value"], found["cap_exporter.return_value"]),
        ("node_name", NODE, record["node"], resource["k8s.node.name"]),
    ]
    for field, expected, printed, received in side_by_side:
        assert printed == received, field
        assert expected is None or printed == expected, field
    # And what the seed's event has not.
    assert found["cap_exporter.syscall.name"] == record["syscall"]["name"] == "syslog"
    assert found["cap_exporter.verdict"] == record["verdict"] == "denied"
    assert found["cap_exporter.process.capabilities.bounding"] == ["CAP_KILL", "CAP_AUDIT_WRITE"]
    assert log.record.body.string_value.endswith(
        "of default/xwing/spaceship was denied CAP_SYSLOG in syslog()"
    )
    assert began * 1e9 < log.record.time_unix_nano < ended * 1e9
    assert resource["service.name"] == "xwing"
    names = {"uts", "ipc", "mnt", "pid", "pid_for_children", "net", "cgroup", "user"}
    assert names <= namespaces.keys()
    assert process["container_pid"] < process["pid"]


def at_least(exporter: RunningExporter, name: str, **labels: str) -> None:
    """One or more: others on this host may be denied something too."""
    deadline = time.monotonic() + 10
    while exporter.total(name, **labels) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert exporter.total(name, **labels) >= 1, exporter.get("/metrics")


def login_uid() -> int | None:
    uid = int(Path("/proc/self/loginuid").read_text())
    return None if uid == (1 << 32) - 1 else uid


def test_an_event_that_waits_for_its_pod_goes_out_at_the_end(
    tmp_path: Path,
    kube: KubeServer,
    http_receiver: HttpReceiver,
    container: Callable[..., Container],
) -> None:
    one = container()
    arguments = [
        f"--kubeconfig={kube.kubeconfig()}",
        f"--node-name={NODE}",
        f"--otlp-endpoint={http_receiver.endpoint}",
    ]
    with RunningExporter(tmp_path, *arguments) as exporter:
        exporter.eventually("cap_exporter_pod_watch_synced", 1)
        one.run("dmesg")
        assert exporter.stop() < 3
    (log,) = (
        log
        for log in of_dmesg(http_receiver)
        if log.resource.get("container.id") == one.container_id
    )
    assert log.resource["k8s.pod.uid"] == one.pod_uid


def test_pushed_metrics_are_those_of_the_page(
    tmp_path: Path, http_receiver: HttpReceiver, container: Callable[..., Container]
) -> None:
    one = container()
    environ = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{http_receiver.endpoint}/v1/metrics",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=prod",
    }
    where = {"container": one.container_id[:12], "capability": "CAP_SYS_PACCT"}
    with RunningExporter(tmp_path, environ=environ) as exporter:
        one.start("sh", "-c", "checks acct 17; sleep 100")
        exporter.eventually("capability_checks_total", 17, verdict="denied", **where)

        def pushed() -> list[int]:
            return [
                p.point.as_int
                for p in http_receiver.received.points
                if p.metric.name == "capability.checks"
                and p.resource.get("container.name") == where["container"]
                and p.attributes["cap_exporter.capability.name"] == "CAP_SYS_PACCT"
            ]

        http_receiver.received.wait(lambda: 17 in pushed())
        assert exporter.stop() < 2
        assert set(pushed()) == {17}
    assert {p.resource["k8s.cluster.name"] for p in http_receiver.received.points} == {"prod"}
    assert http_receiver.received.log_requests == []


@pytest.mark.parametrize("state", ["nobody", "silent"])
def test_a_receiver_that_is_no_use_delays_neither_the_page_nor_the_end(
    tmp_path: Path, http_receiver: HttpReceiver, container: Callable[..., Container], state: str
) -> None:
    endpoint = http_receiver.endpoint
    if state == "nobody":
        endpoint = f"http://localhost:{free_port()}"
    http_receiver.received.always = Fault(silent=True)
    one = container()
    arguments = [f"--otlp-endpoint={endpoint}", "--otlp-interval=200ms"]
    with RunningExporter(tmp_path, *arguments) as exporter:
        one.run("dmesg")
        at_least(exporter, "cap_exporter_otlp_export_pending_records")
        assert exporter.stop() < 5
    assert "log records were not sent before the end" in exporter.log.read_text()


def test_wrong_settings_are_told_at_the_start() -> None:
    for environ, arguments, said in (
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, [], "http://collector:4318"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "x"}, ["--otlp-endpoint=http://c:4318"], "is not NAME=VALUE"),
        ({}, ["--otlp-endpoint=http://c:4318", "--otlp-headers=secret"], "is not NAME=VALUE"),
        ({"OTEL_BLRP_MAX_QUEUE_SIZE": "1"}, ["--otlp-endpoint=http://c:4318"], "OTEL_BLRP"),
    ):
        done = subprocess.run(
            [COMMAND, "run", "--listen=127.0.0.1:0", "--page-listen=127.0.0.1:0", *arguments],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
