# SPDX-License-Identifier: Apache-2.0
"""A real OpenTelemetry Collector takes what the exporter sends, over gRPC and HTTP."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cap_exporter.ledger import Ledger
from cap_exporter.model import CgroupKey, CheckClass, CheckKey, UserNamespace, Verdict
from cap_exporter.outputs.otlp_logs import OtlpLogs
from cap_exporter.outputs.otlp_metrics import OtlpMetrics
from cap_exporter.outputs.otlp_resource import Resources
from cap_exporter.outputs.otlp_settings import Flags, Signal, resolve
from cap_exporter.outputs.otlp_stats import OtlpStats
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.self_stats import SelfStats
from tests.e2e.exporter import RunningExporter
from tests.kernel.conftest import busybox_root, checks, container
from tests.kernel.containers import Container
from tests.otlp.events import XWING, event
from tests.otlp.received import Certificates
from tests.ports import free_port

__all__ = ["busybox_root", "checks", "container"]

pytestmark = pytest.mark.needs("otel-collector")

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])


class Collector:
    """Writes what it gets to a file for each signal."""

    def __init__(self, folder: Path, certificates: Certificates | None = None) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.ports = {"grpc": free_port(), "http/protobuf": free_port()}
        self._scheme = "https" if certificates else "http"
        tls = {}
        if certificates:
            key, chain = folder / "key.pem", folder / "chain.pem"
            key.write_bytes(certificates.server.private_key_pem.bytes())
            chain.write_bytes(certificates.server.cert_chain_pems[0].bytes())
            tls = {"tls": {"key_file": str(key), "cert_file": str(chain)}}
        pipelines = {
            signal: {
                "receivers": ["otlp"],
                "processors": ["batch"],
                "exporters": [f"file/{signal}"],
            }
            for signal in ("logs", "metrics")
        }
        config = {
            "receivers": {
                "otlp": {
                    "protocols": {
                        name: {"endpoint": f"127.0.0.1:{self.ports[protocol]}", **tls}
                        for name, protocol in (("grpc", "grpc"), ("http", "http/protobuf"))
                    }
                }
            },
            "processors": {"batch": {"timeout": "50ms"}},
            "exporters": {
                f"file/{signal}": {
                    "path": str(folder / f"{signal}.json"),
                    "append": True,
                    "flush_interval": "50ms",
                }
                for signal in ("logs", "metrics")
            },
            "service": {"pipelines": pipelines},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML

    def endpoint(self, protocol: str) -> str:
        return f"{self._scheme}://localhost:{self.ports[protocol]}"

    def start(self) -> None:
        log = self._folder / "collector.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["otel-collector", "--config", f"file:{self._folder / 'config.yaml'}"],
                stdout=output,
                stderr=output,
            )
        until(lambda: all(map(_listens, self.ports.values())), log.read_text)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _read(self, signal: str) -> list[dict[str, Any]]:
        path = self._folder / f"{signal}.json"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def logs(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Resource and record."""
        return [
            (_attributes(of["resource"]), record)
            for request in self._read("logs")
            for of in request["resourceLogs"]
            for scope in of["scopeLogs"]
            for record in scope["logRecords"]
        ]

    def metrics(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Resource and metric."""
        return [
            (_attributes(of["resource"]), metric)
            for request in self._read("metrics")
            for of in request["resourceMetrics"]
            for scope in of["scopeMetrics"]
            for metric in scope["metrics"]
        ]


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: _value(one["value"]) for one in holder.get("attributes", [])}


def _value(value: dict[str, Any]) -> Any:
    (kind, found), *_ = value.items()
    if kind == "arrayValue":
        return [_value(one) for one in found.get("values", [])]
    return int(found) if kind == "intValue" else found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def until(ready: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + 15
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ready(), what()


@pytest.fixture(autouse=True)
def _no_sdk_messages() -> Iterator[None]:
    sdk = logging.getLogger("opentelemetry")
    sdk.setLevel(logging.CRITICAL)
    yield
    sdk.setLevel(logging.NOTSET)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Collector]]:
    made: list[Collector] = []

    def make_one(certificates: Certificates | None = None) -> Collector:
        made.append(Collector(tmp_path, certificates))
        return made[-1]

    yield make_one
    for one in made:
        one.stop()


def sender(collector: Collector, protocol: str, **more: Any) -> tuple[OtlpLogs, OtlpStats]:
    stats = OtlpStats(Signal)
    flags = Flags(endpoint=collector.endpoint(protocol), protocol=protocol, logs=True, **more)
    settings = resolve(flags, {}).logs
    assert settings is not None
    resources = Resources("node-1", kubernetes=True)
    return OtlpLogs(settings, resources, stats, first_delay=0.2), stats


def numbers(collector: Collector) -> Counter[int]:
    return Counter(_attributes(record)["thread.id"] for _, record in collector.logs())


@PROTOCOLS
def test_every_record_arrives_once_with_its_resource(
    make: Callable[..., Collector], protocol: str
) -> None:
    collector = make()
    collector.start()
    logs, stats = sender(collector, protocol, compression="gzip")
    for number in range(1500):
        logs.publish(event(number), replace(XWING, pod=f"xwing-{number % 7}"))
    logs.stop()
    assert stats.total_sent(Signal.LOGS) == 1500
    until(lambda: sum(numbers(collector).values()) >= 1500)
    assert numbers(collector) == Counter(range(1500))
    resource, record = collector.logs()[0]
    assert record["eventName"] == "cap_exporter.capability.check"
    assert (record["severityText"], record["severityNumber"]) == ("WARN", 13)
    assert resource["k8s.pod.name"].startswith("xwing-")
    assert {of["k8s.pod.name"] for of, _ in collector.logs()} == {f"xwing-{n}" for n in range(7)}


@PROTOCOLS
def test_a_collector_that_is_restarted_gets_everything(
    make: Callable[..., Collector], protocol: str
) -> None:
    collector = make()
    logs, stats = sender(collector, protocol, timeout=1.0)
    for number in range(50):
        logs.publish(event(number), XWING)
    collector.start()
    until(lambda: set(numbers(collector)) == set(range(50)))
    collector.stop()
    for number in range(50, 100):
        logs.publish(event(number), XWING)
    until(lambda: bool(stats.total_failures(Signal.LOGS)))
    collector.start()
    until(lambda: set(numbers(collector)) == set(range(100)))
    logs.stop()
    assert stats.total_dropped(Signal.LOGS) == {}


@PROTOCOLS
def test_tls(make: Callable[..., Collector], protocol: str, tmp_path: Path) -> None:
    certificates = Certificates()
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificates.pem)
    collector = make(certificates)
    collector.start()
    logs, _ = sender(collector, protocol, certificate=authority)
    logs.publish(event(5), XWING)
    until(lambda: numbers(collector) == Counter([5]))
    logs.stop()


@PROTOCOLS
def test_the_counters_of_six_hundred_pods(make: Callable[..., Collector], protocol: str) -> None:
    """More than the collector takes in one gRPC request."""
    collector = make()
    collector.start()
    ledger = Ledger()
    for number in range(600):
        pod = replace(XWING, pod=f"p{number}", pod_uid=f"u{number}", container_id=f"{number:064x}")
        ledger.apply(
            [
                (
                    pod,
                    CheckKey(
                        CgroupKey(0, number),
                        capability,
                        Verdict.DENIED,
                        UserNamespace.INIT,
                        CheckClass.MEANINGFUL,
                    ),
                    number + 1,
                )
                for capability in range(30)
            ],
            1_700_000_000.0,
        )
    flags = Flags(endpoint=collector.endpoint(protocol), protocol=protocol, metrics=True)
    settings = resolve(flags, {}).metrics
    assert settings is not None
    own = Metrics(ledger, SelfStats()).own
    pusher = OtlpMetrics(
        settings, 3600, ledger, own, Resources("node-1"), OtlpStats([Signal.METRICS])
    )
    assert pusher.push() is True

    def points() -> list[int]:
        return [
            int(point["asInt"])
            for _, metric in collector.metrics()
            if metric["name"] == "capability.checks"
            for point in metric["sum"]["dataPoints"]
        ]

    until(lambda: len(points()) >= 600 * 30)
    assert sum(points()) == 30 * sum(range(1, 601))


@pytest.mark.kernel
@pytest.mark.needs("runc", "clang")
@PROTOCOLS
def test_a_container_s_denied_dmesg(
    make: Callable[..., Collector],
    protocol: str,
    tmp_path: Path,
    container: Callable[..., Container],
) -> None:
    collector = make()
    collector.start()
    one = container("AUDIT_WRITE")
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint(protocol),
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
    }
    with RunningExporter(tmp_path, environ=environ):
        one.start("sh", "-c", "dmesg; sleep 100")

        def of_it() -> list[dict[str, Any]]:
            return [
                record
                for resource, record in collector.logs()
                if resource.get("container.id") == one.container_id
            ]

        until(lambda: bool(of_it()))
        found = _attributes(of_it()[0])
        assert found["cap_exporter.capability.name"] == "CAP_SYSLOG"
        assert found["process.executable.path"] == "/bin/busybox"
        until(
            lambda: any(
                metric["name"] == "capability.checks"
                and resource.get("container.name") == one.container_id[:12]
                for resource, metric in collector.metrics()
            )
        )
