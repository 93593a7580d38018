# SPDX-License-Identifier: Apache-2.0
"""Events to real OTLP receivers, over gRPC and HTTP: well, badly, and not at all."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from cap_exporter.model import Identity, Verdict
from cap_exporter.outputs.otlp_logs import OtlpLogs
from cap_exporter.outputs.otlp_resource import Resources
from cap_exporter.outputs.otlp_settings import Flags, OtlpConfigError, Signal, resolve
from cap_exporter.outputs.otlp_stats import OtlpStats
from tests.otlp.events import XWING, event
from tests.otlp.received import Certificates, Fault
from tests.otlp.servers import GrpcReceiver, HttpReceiver, Relay

AnyReceiver: TypeAlias = GrpcReceiver | HttpReceiver
Kind: TypeAlias = type[GrpcReceiver] | type[HttpReceiver]

BOTH = pytest.mark.parametrize("kind", [GrpcReceiver, HttpReceiver], ids=["grpc", "http"])


class Sending:
    """What a test publishes, and what became of it."""

    def __init__(self, endpoint: str, protocol: str, environ: dict[str, str], **more: Any) -> None:
        self.stats = OtlpStats(Signal)
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            **environ,
        }
        settings = resolve(Flags(), variables).logs
        assert settings is not None
        more.setdefault("first_delay", 0.05)
        self.logs = OtlpLogs(settings, Resources("node-1", kubernetes=True), self.stats, **more)
        self.published = 0

    def publish(self, number: int = 1, who: Identity = XWING) -> None:
        for _ in range(number):
            self.logs.publish(event(self.published), who)
            self.published += 1

    def stop(self, *arguments: float) -> float:
        """Returns how long it took, seconds."""
        began = time.monotonic()
        self.logs.stop(*arguments)
        return time.monotonic() - began

    @property
    def dropped(self) -> dict[str, int]:
        return self.stats.total_dropped(Signal.LOGS)


@pytest.fixture(autouse=True)
def _no_sdk_messages() -> Iterator[None]:
    sdk = logging.getLogger("opentelemetry")
    sdk.setLevel(logging.CRITICAL)
    yield
    sdk.setLevel(logging.NOTSET)


@pytest.fixture
def make(kind: Kind) -> Iterator[Callable[..., AnyReceiver]]:
    """Makes receivers that are stopped at the end, also when the test fails."""
    made: list[AnyReceiver] = []

    def make_one(*arguments: Any) -> AnyReceiver:
        made.append(kind(*arguments))
        return made[-1]

    yield make_one
    for one in made:
        one.stop()


@pytest.fixture
def receiver(make: Callable[..., AnyReceiver]) -> AnyReceiver:
    one = make()
    one.start()
    return one


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sending]]:
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
    made: list[Sending] = []

    def make(receiver: AnyReceiver, more: dict[str, Any] | None = None, **environ: str) -> Sending:
        made.append(Sending(receiver.endpoint, receiver.protocol, environ, **(more or {})))
        return made[-1]

    yield make
    for one in made:
        one.stop(0.0, 0.5)


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ready()


def numbers(receiver: AnyReceiver) -> Counter[int]:
    """How often each record came."""
    return Counter(log.attributes["thread.id"] for log in receiver.received.logs)


@BOTH
def test_every_record_comes_once_when_the_answer_is_ok(
    receiver: AnyReceiver, send: Callable[..., Sending]
) -> None:
    sending = send(receiver)
    sending.publish(1500)
    assert sending.stop() < 2
    assert numbers(receiver) == Counter(range(1500))
    assert sending.stats.total_sent(Signal.LOGS) == 1500
    assert sending.dropped == {}
    assert sending.stats.pending(Signal.LOGS) == 0
    assert len(receiver.received.attempts) < 20


@BOTH
def test_a_record_says_who_what_and_when_under_the_pod_as_its_resource(
    receiver: AnyReceiver, send: Callable[..., Sending]
) -> None:
    sending = send(receiver)
    sending.publish()
    other = replace(XWING, pod="tiefighter", container_id="f" * 64)
    sending.logs.publish(event(7, Verdict.ALLOWED), other)
    denied, allowed = receiver.received.wait_for_logs(2)
    assert denied.resource["k8s.namespace.name"] == "default"
    assert (denied.resource["k8s.pod.name"], allowed.resource["k8s.pod.name"]) == (
        "xwing",
        "tiefighter",
    )
    assert denied.resource["k8s.pod.label.org"] == "alliance"
    assert denied.resource["k8s.node.name"] == "node-1"
    record = denied.record
    assert record.event_name == "cap_exporter.capability.check"
    assert (record.severity_text, allowed.record.severity_text) == ("WARN", "INFO")
    assert (record.severity_number, allowed.record.severity_number) == (13, 9)
    assert record.time_unix_nano == pytest.approx(1688638413834882000, abs=1000)
    assert abs(record.observed_time_unix_nano - time.time_ns()) < 60e9
    assert (record.trace_id, record.span_id) == (b"", b"")
    assert record.body.string_value == (
        "/bin/dmesg (pid 73860) of default/xwing/spaceship was denied CAP_SYSLOG in syslog(); "
        "3 equal checks since the last record"
    )
    assert denied.attributes["cap_exporter.process.capabilities.effective"] == [
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ]
    scope = receiver.received.log_requests[0].resource_logs[0].scope_logs[0].scope
    assert scope.name == "cap_exporter"


REFUSALS = {
    GrpcReceiver: [
        Fault(grpc.StatusCode.UNAVAILABLE),
        Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=0.2),
    ],
    HttpReceiver: [Fault(429, retry_after=0.2), Fault(503, retry_after=0.1), Fault(502)],
}


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, faults in REFUSALS.items() for fault in faults]
)
def test_what_may_be_taken_later_is_sent_again_after_the_time_asked_for(
    receiver: AnyReceiver, fault: Fault, send: Callable[..., Sending]
) -> None:
    receiver.received.faults.append(fault)
    sending = send(receiver)
    sending.publish(10)
    receiver.received.wait_for_logs(10)
    first, second, *more = receiver.received.attempts
    assert not more
    if fault.retry_after:
        assert second - first >= fault.retry_after - 0.01
        assert second - first < fault.retry_after + 0.5
    sending.stop()
    assert numbers(receiver) == Counter(range(10))
    assert sending.dropped == {}


@BOTH
def test_what_a_receiver_throws_away_of_a_request_it_took_is_counted_and_said_once(
    receiver: AnyReceiver, send: Callable[..., Sending], caplog: pytest.LogCaptureFixture
) -> None:
    receiver.received.faults += [Fault(rejected=4), Fault(rejected=1), Fault(rejected=0)]
    sending = send(receiver)
    for several in (10, 5, 3, 2):
        before = len(receiver.received.attempts)
        sending.publish(several)
        receiver.received.wait_for_attempts(before + 1)
    sending.stop()
    assert len(receiver.received.attempts) == 4
    assert sending.dropped == {"rejected": 5}
    assert sending.stats.total_sent(Signal.LOGS) == 15
    assert sending.stats.pending(Signal.LOGS) == 0
    said = [one.getMessage() for one in caplog.records if "threw away" in one.getMessage()]
    assert said == ["OTLP: the receiver threw away 4 log records: not\\x1b[2J all of it"]


@BOTH
def test_a_receiver_that_wants_more_rest_than_the_time_limit_gets_that_much(
    receiver: AnyReceiver, send: Callable[..., Sending]
) -> None:
    busy = 429 if isinstance(receiver, HttpReceiver) else grpc.StatusCode.RESOURCE_EXHAUSTED
    receiver.received.faults.append(Fault(busy, retry_after=60))
    sending = send(receiver, OTEL_EXPORTER_OTLP_TIMEOUT="0.4")
    sending.publish(3)
    receiver.received.wait_for_logs(3)
    first, second = receiver.received.attempts
    assert 0.39 < second - first < 2
    assert sending.dropped == {}


@pytest.mark.parametrize(
    ("kind", "fault", "reason"),
    [
        (GrpcReceiver, Fault(grpc.StatusCode.INVALID_ARGUMENT), "INVALID_ARGUMENT"),
        (GrpcReceiver, Fault(grpc.StatusCode.UNAUTHENTICATED), "UNAUTHENTICATED"),
        (HttpReceiver, Fault(400), "400"),
        (HttpReceiver, Fault(413), "413"),
        (HttpReceiver, Fault(401), "401"),
    ],
)
def test_what_will_never_be_taken_is_dropped_counted_and_holds_up_nothing(
    receiver: AnyReceiver, fault: Fault, reason: str, send: Callable[..., Sending]
) -> None:
    receiver.received.faults.append(fault)
    sending = send(receiver)
    sending.publish(10)
    receiver.received.wait_for_attempts(1)
    sending.publish(5)
    receiver.received.wait_for_logs(5)
    sending.stop()
    assert numbers(receiver) == Counter(range(10, 15))
    assert sending.dropped == {"refused": 10}
    assert sending.stats.total_failures(Signal.LOGS) == {reason: 1}
    assert len(receiver.received.attempts) == 2


@BOTH
def test_a_receiver_that_comes_late_and_goes_in_between_gets_every_record(
    make: Callable[..., AnyReceiver], send: Callable[..., Sending]
) -> None:
    receiver = make()
    sending = send(receiver, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
    sending.publish(20)
    time.sleep(0.5)
    assert sending.stats.pending(Signal.LOGS) == 20
    receiver.start()
    until(lambda: set(numbers(receiver)) == set(range(20)))  # a retry may repeat some
    receiver.stop()
    sending.publish(20)
    until(lambda: bool(sending.stats.total_failures(Signal.LOGS)))
    receiver.start()
    until(lambda: set(numbers(receiver)) == set(range(40)))
    receiver.stop()
    assert sending.dropped == {}


@BOTH
def test_memory_stays_bounded_while_nobody_listens_and_the_rest_is_counted(
    make: Callable[..., AnyReceiver], send: Callable[..., Sending], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "50")
    receiver = make()
    sending = send(receiver, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
    sending.publish(1000)
    assert sending.stats.pending(Signal.LOGS) <= 150
    assert sending.dropped["queue_full"] >= 850
    receiver.start()
    kept = sending.stats.pending(Signal.LOGS)
    logs = receiver.received.wait_for_logs(kept)
    sending.stop()
    receiver.stop()
    # The newest are kept.
    assert {log.attributes["thread.id"] for log in logs} >= set(range(900, 1000))
    assert sending.stats.total_sent(Signal.LOGS) + sending.dropped["queue_full"] >= 1000


@pytest.mark.parametrize("kind", [HttpReceiver])
def test_pods_that_come_and_go_leave_a_bounded_number_of_resources(
    receiver: AnyReceiver, send: Callable[..., Sending]
) -> None:
    sending = send(receiver)
    for number in range(2000):
        sending.publish(who=replace(XWING, pod=f"pod-{number}"))
    assert sending.logs.resources_kept <= 1024


def _black_hole(receiver: AnyReceiver) -> None:
    receiver.start()
    receiver.received.always = Fault(silent=True)


def _down(_receiver: AnyReceiver) -> None:
    pass


def _throttling(receiver: AnyReceiver) -> None:
    receiver.start()
    busy = 429 if isinstance(receiver, HttpReceiver) else grpc.StatusCode.RESOURCE_EXHAUSTED
    receiver.received.always = Fault(busy, retry_after=5)


@BOTH
@pytest.mark.parametrize("state", [_black_hole, _down, _throttling])
def test_the_end_comes_in_time_whatever_the_receiver_does(
    make: Callable[..., AnyReceiver],
    state: Callable[[AnyReceiver], None],
    send: Callable[..., Sending],
) -> None:
    receiver = make()
    state(receiver)
    sending = send(receiver)
    sending.publish(1000)
    took = sending.stop(0.5, 0.5)
    receiver.stop()
    assert took < 1.5
    lost = sending.dropped.get("shutdown", 0) + sending.stats.pending(Signal.LOGS)
    assert lost == 1000


@BOTH
def test_a_slow_receiver_gets_every_record_once(
    receiver: AnyReceiver, send: Callable[..., Sending]
) -> None:
    receiver.received.always = Fault(delay=0.1)
    sending = send(receiver)
    sending.publish(1500)
    sending.stop()
    assert numbers(receiver) == Counter(range(1500))


@BOTH
def test_a_receiver_that_takes_nothing_for_too_long_loses_the_batch_not_the_rest(
    receiver: AnyReceiver, send: Callable[..., Sending]
) -> None:
    receiver.received.always = Fault(silent=True)
    sending = send(receiver, {"patience": 0.3}, OTEL_EXPORTER_OTLP_TIMEOUT="0.2")
    sending.publish(5)
    until(lambda: bool(sending.dropped))
    receiver.received.always = None
    sending.publish(5)
    receiver.received.wait_for_logs(5)
    assert sending.dropped == {"expired": 5}
    assert set(numbers(receiver)) == set(range(5, 10))


@BOTH
def test_tls_headers_and_compression(
    make: Callable[..., AnyReceiver],
    send: Callable[..., Sending],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificates = Certificates()
    # The library behind the HTTP exporter would take this one instead.
    others = tmp_path / "others.pem"
    others.write_bytes(Certificates().pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(others))
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificates.pem)
    receiver = make(certificates)
    receiver.start()
    sending = send(
        receiver,
        OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority),
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20x%2Cy,tenant=a",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )
    sending.publish(3)
    receiver.received.wait_for_logs(3)
    receiver.stop()
    headers = receiver.received.headers[0]
    assert (headers["authorization"], headers["tenant"]) == ("Bearer x,y", "a")
    assert headers["user-agent"].startswith("OTel-OTLP-Exporter-Python")


@BOTH
def test_a_certificate_of_somebody_else_is_not_trusted_and_nothing_is_lost(
    make: Callable[..., AnyReceiver], send: Callable[..., Sending], tmp_path: Path
) -> None:
    stranger = tmp_path / "ca.pem"
    stranger.write_bytes(Certificates().pem)
    receiver = make(Certificates())
    receiver.start()
    sending = send(
        receiver,
        OTEL_EXPORTER_OTLP_CERTIFICATE=str(stranger),
        OTEL_EXPORTER_OTLP_TIMEOUT="0.3",
    )
    sending.publish(3)
    until(lambda: bool(sending.stats.total_failures(Signal.LOGS)))
    receiver.stop()
    assert set(sending.stats.total_failures(Signal.LOGS)) <= {"SSLError", "UNAVAILABLE"}
    assert sending.stats.pending(Signal.LOGS) == 3
    assert receiver.received.attempts == []


@BOTH
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_compressed_means_compressed_on_the_wire(
    receiver: AnyReceiver, compression: str, send: Callable[..., Sending]
) -> None:
    relay = Relay(receiver.port)
    receiver.port, port = relay.port, receiver.port
    try:
        sending = send(receiver, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
        sending.publish(100)
        receiver.received.wait_for_logs(100)
        assert (b"CAP_SYSLOG" in relay.sent) is (compression == "none")
        assert (len(relay.sent) < 20_000) is (compression == "gzip")
    finally:
        receiver.port = port
        relay.close()


@BOTH
def test_names_with_any_bytes_are_sent(receiver: AnyReceiver, send: Callable[..., Sending]) -> None:
    sending = send(receiver)
    process = replace(event().process, executable="/\udcff\x1b\0/\udcfe", comm="\ud800", cwd="/ü")
    odd = replace(XWING, container="\udc80", cgroup="/\udcff")
    sending.logs.publish(event(process=process), odd)
    (log,) = receiver.received.wait_for_logs(1)
    assert log.attributes["process.executable.path"] == "/\\xff\x1b\0/\\xfe"
    assert log.resource["k8s.container.name"] == "\\x80"
    assert log.record.body.string_value.isprintable()


@pytest.mark.parametrize("kind", [HttpReceiver])
def test_a_queue_that_can_not_be_is_told_so(
    receiver: AnyReceiver, send: Callable[..., Sending], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "5")
    with pytest.raises(OtlpConfigError, match="OTEL_BLRP"):
        send(receiver)
