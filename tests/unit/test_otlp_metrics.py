# SPDX-License-Identifier: Apache-2.0
"""The ledger to real OTLP receivers: the same numbers as on the metrics page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import grpc
import pytest

from cap_exporter.labels import LabelScheme
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.otlp_metrics import OtlpMetrics
from cap_exporter.outputs.otlp_resource import Resources
from cap_exporter.outputs.otlp_settings import Flags, Signal, resolve
from cap_exporter.outputs.otlp_stats import OtlpStats
from cap_exporter.outputs.prometheus import Metrics
from cap_exporter.self_stats import SelfStats
from tests.otlp.events import XWING
from tests.otlp.received import Fault, Point
from tests.otlp.servers import GrpcReceiver, HttpReceiver

AnyReceiver: TypeAlias = GrpcReceiver | HttpReceiver
BOTH = pytest.mark.parametrize("kind", [GrpcReceiver, HttpReceiver], ids=["grpc", "http"])

Made: TypeAlias = tuple[AnyReceiver, OtlpMetrics]

BEGAN, LATER = 1_700_000_000.0, 1_700_000_100.0


@pytest.fixture(autouse=True)
def _no_sdk_messages() -> Iterator[None]:
    sdk = logging.getLogger("opentelemetry")
    sdk.setLevel(logging.CRITICAL)
    yield
    sdk.setLevel(logging.NOTSET)


def key(
    cgroup: int,
    capability: int = 21,
    verdict: Verdict = Verdict.DENIED,
    check_class: CheckClass = CheckClass.MEANINGFUL,
) -> CheckKey:
    return CheckKey(CgroupKey(0, cgroup), capability, verdict, UserNamespace.INIT, check_class)


def ledger_of_two(scheme: LabelScheme | None = None) -> Ledger:
    ledger = Ledger(scheme=scheme or LabelScheme())
    ledger.apply([], BEGAN)
    ledger.apply(
        [
            (XWING, key(1), 5),
            (XWING, key(1, 7, Verdict.ALLOWED), 6),
            (XWING, key(1, check_class=CheckClass.NOAUDIT), 7),
            (XWING, key(1, check_class=CheckClass.SETUP, verdict=Verdict.ALLOWED), 8),
            (Identity(container="(host)"), key(2), 1 << 40),
        ],
        LATER,
    )
    ledger.observe(CgroupKey(0, 1), XWING, LATER, Granted(bounding=1 << 0 | 1 << 21))
    return ledger


@pytest.fixture
def make(kind: type[AnyReceiver]) -> Iterator[Callable[..., Made]]:
    receiver = kind()
    receiver.start()

    def make_one(ledger: Ledger, interval: float = 3600.0) -> Made:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": receiver.protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        }
        settings = resolve(Flags(), environ).metrics
        assert settings is not None
        stats = SelfStats()
        stats.source = SourceInfo("libbpf", "tp_btf")
        stats.drain_durations.observe(0.002)
        stats.drain_durations.observe(0.7)
        sent = OtlpStats([Signal.METRICS])
        metrics = Metrics(ledger, stats)
        metrics.own.register(sent)
        pusher = OtlpMetrics(settings, interval, ledger, metrics.own, Resources("node-1"), sent)
        return receiver, pusher

    yield make_one
    receiver.stop()


def by_name(points: list[Point], name: str, **resource: str) -> list[Point]:
    wanted = {k.replace("_", "."): v for k, v in resource.items()}
    return [p for p in points if p.metric.name == name and wanted.items() <= p.resource.items()]


@BOTH
def test_counters_are_pushed_cumulative_with_their_start(
    make: Callable[..., Made],
) -> None:
    receiver, pusher = make(ledger_of_two())
    assert pusher.push() is True
    points = receiver.received.points
    checks = by_name(points, "capability.checks", k8s_pod_name="xwing")
    assert {
        (p.attributes["cap_exporter.capability.name"], p.attributes["cap_exporter.verdict"]): (
            p.point.as_int
        )
        for p in checks
    } == {("CAP_SYS_ADMIN", "denied"): 5, ("CAP_SETUID", "allowed"): 6}
    one = checks[0]
    assert one.metric.unit == "{check}"
    assert one.metric.sum.is_monotonic is True
    assert one.metric.sum.aggregation_temporality == 2  # cumulative
    assert one.point.start_time_unix_nano == BEGAN * 1e9
    assert abs(one.point.time_unix_nano - time.time_ns()) < 60e9
    assert one.attributes["cap_exporter.user_namespace.type"] == "init"
    background = by_name(points, "capability.background_checks")
    assert {p.attributes["cap_exporter.reason"]: p.point.as_int for p in background} == {
        "noaudit": 7,
        "setup": 8,
    }
    (host,) = (
        p
        for p in by_name(points, "capability.checks")
        if p.resource["cap_exporter.subject"] == "host"
    )
    assert host.point.as_int == 1 << 40
    granted = by_name(points, "capability.container.granted")
    assert {p.attributes["cap_exporter.capability.name"] for p in granted} == {
        "CAP_CHOWN",
        "CAP_SYS_ADMIN",
    }
    (info,) = by_name(points, "capability.container.info", k8s_pod_name="xwing")
    assert info.attributes["container.id"] == XWING.container_id
    assert "container.id" not in info.resource


@BOTH
def test_the_sum_of_all_points_is_every_check_as_on_the_page(
    make: Callable[..., Made],
) -> None:
    ledger = ledger_of_two()
    receiver, pusher = make(ledger)
    pusher.push()
    names = ("capability.checks", "capability.background_checks")
    pushed = sum(p.point.as_int for p in receiver.received.points if p.metric.name in names)
    assert pushed == sum(sum(s.counts().values()) for s in ledger.snapshot().series)


@pytest.mark.parametrize("kind", [HttpReceiver])
def test_the_exporter_s_own_metrics_come_too_under_its_own_resource(
    make: Callable[..., Made],
) -> None:
    receiver, pusher = make(ledger_of_two())
    pusher.push()
    own = [p for p in receiver.received.points if p.resource.get("service.version")]
    assert {p.resource["service.name"] for p in own} == {"cap-exporter"}
    names = {p.metric.name: p for p in own}
    assert names["cap_exporter.source_info"].attributes == {
        "cap_exporter.source": "libbpf",
        "cap_exporter.attach": "tp_btf",
    }
    assert names["cap_exporter.events"].metric.sum.is_monotonic is True
    assert names["process.cpu.time"].metric.unit == "s"
    assert names["process.memory.usage"].point.as_int > 1 << 20
    drain = names["cap_exporter.drain_duration"]
    assert drain.metric.unit == "s"
    assert (drain.point.count, drain.point.sum) == (2, pytest.approx(0.702))
    assert sum(drain.point.bucket_counts) == 2
    assert len(drain.point.bucket_counts) == len(drain.point.explicit_bounds) + 1
    assert not drain.point.HasField("min")


@BOTH
def test_many_containers_are_sent_in_requests_that_receivers_take(
    make: Callable[..., Made],
) -> None:
    """gRPC servers refuse more than 4 MiB; the receiver has that limit too."""
    ledger = Ledger()
    rows: list[Any] = []
    for number in range(600):
        one = replace(
            XWING, pod=f"pod-{number}", pod_uid=f"uid-{number}", container_id=f"{number:064x}"
        )
        rows += [(one, key(number, capability), 1) for capability in range(30)]
    ledger.apply(rows, BEGAN)
    receiver, pusher = make(ledger)
    assert pusher.push() is True
    requests = receiver.received.metric_requests
    assert len(requests) > 1
    assert max(request.ByteSize() for request in requests) < 2 << 20
    checks = by_name(receiver.received.points, "capability.checks")
    assert len(checks) == 600 * 30
    assert len({p.resource["k8s.pod.name"] for p in checks}) == 600


@BOTH
def test_a_pod_that_is_gone_leaves_nothing_behind(
    make: Callable[..., Made],
) -> None:
    ledger = ledger_of_two()
    receiver, pusher = make(ledger)
    pusher.push()
    ledger.gone(CgroupKey(0, 1), LATER)
    ledger.expire(LATER + 10_000)
    before = len(receiver.received.points)
    pusher.push()
    again = receiver.received.points[before:]
    assert by_name(again, "capability.checks", k8s_pod_name="xwing") == []
    assert len(by_name(again, "capability.checks")) == 1


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        (GrpcReceiver, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (HttpReceiver, 400, "400"),
    ],
)
def test_a_failed_push_is_counted_and_the_next_brings_everything(
    make: Callable[..., Made], status: Any, reason: str
) -> None:
    receiver, pusher = make(ledger_of_two())
    receiver.received.faults.append(Fault(status))
    assert pusher.push() is False
    assert receiver.received.points == []
    assert pusher.push() is True
    stats = pusher.stats
    assert stats.total_failures(Signal.METRICS) == {reason: 1}
    assert stats.total_sent(Signal.METRICS) == len(receiver.received.points)


@BOTH
def test_points_that_were_thrown_away_are_counted(make: Callable[..., Made]) -> None:
    receiver, pusher = make(ledger_of_two())
    receiver.received.faults.append(Fault(rejected=3))
    assert pusher.push() is True
    stats = pusher.stats
    assert stats.total_dropped(Signal.METRICS) == {"rejected": 3}
    assert stats.total_sent(Signal.METRICS) == len(receiver.received.points) - 3


@BOTH
def test_pushes_come_by_themselves_and_once_more_at_the_end(
    make: Callable[..., Made],
) -> None:
    ledger = ledger_of_two()
    receiver, pusher = make(ledger, 0.2)
    pusher.start()
    receiver.received.wait(lambda: len(receiver.received.metric_requests) >= 2)
    ledger.apply([(XWING, key(1), 100)], LATER + 5)
    pusher.stop()
    denied = [
        p.point.as_int
        for p in by_name(receiver.received.points, "capability.checks", k8s_pod_name="xwing")
        if p.attributes["cap_exporter.verdict"] == "denied"
    ]
    assert denied[0] == 5
    assert denied[-1] == 105
    assert denied == sorted(denied)


@BOTH
@pytest.mark.parametrize("state", ["down", "silent"])
def test_the_end_comes_in_time_whatever_the_receiver_does(
    make: Callable[..., Made], state: str
) -> None:
    receiver, pusher = make(ledger_of_two())
    if state == "down":
        receiver.stop()
    else:
        receiver.received.always = Fault(silent=True)
    pusher.start()
    began = time.monotonic()
    pusher.stop(0.5, 0.5)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("kind", [HttpReceiver])
def test_series_of_a_workload_are_one_resource_without_a_pod(
    make: Callable[..., Made],
) -> None:
    scheme = LabelScheme(("namespace", "workload_kind", "workload", "container"))
    ledger = Ledger(scheme=scheme)
    a = replace(XWING, workload_kind="Deployment", workload="x")
    b = replace(a, pod="other", pod_uid="u", container_id="c" * 64)
    ledger.apply([(a, key(1), 2), (b, key(2), 3)], BEGAN)
    receiver, pusher = make(ledger)
    pusher.push()
    (one,) = by_name(receiver.received.points, "capability.checks")
    assert one.point.as_int == 5
    assert one.resource["k8s.deployment.name"] == "x"
    assert "k8s.pod.name" not in one.resource
    assert by_name(receiver.received.points, "capability.container.info") == []
