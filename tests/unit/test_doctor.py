# SPDX-License-Identifier: Apache-2.0
"""What each check of the doctor says of real servers, files and processes."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from cap_exporter.doctor import bounded, clock, engines, kernel, kubernetes, otlp, ports
from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.counting import Counting
from cap_exporter.doctor.examine import examine
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.outputs.otlp_settings import Flags
from tests.e2e.conftest import kube
from tests.e2e.served import Served
from tests.kube.server import Handler, KubeServer, Request
from tests.otlp.received import Certificates, Fault
from tests.otlp.servers import GrpcReceiver, HttpReceiver, running
from tests.ports import free_port

__all__ = ["kube"]

SECRET = "s3cret"


def findings(*checks: Check, **wanted: object) -> dict[str, Finding]:
    chosen = replace(Wanted(environ={}), **wanted)  # type: ignore[arg-type]
    found = [one for check in checks for one in bounded.bounded(check, chosen)]
    for one in found:
        assert one.detail
        assert SECRET not in repr(one)
        # What is wrong has a way out.
        assert one.status in (Status.OK, Status.INFO) or one.remedy or one.command, one
    return {one.name: one for one in found}


# The list as a whole


def test_an_error_in_a_check_is_a_finding_without_the_error_s_words() -> None:
    def find(_wanted: Wanted) -> Iterator[Finding]:
        yield Finding("one", "one", Status.OK, "fine")
        raise ValueError(f"password {SECRET}")

    found = findings(Check("broken", "broken", find))
    assert found["one"].status is Status.OK
    assert found["broken"].status is Status.FAILED
    assert "ValueError at test_doctor.py" in found["broken"].detail


def test_a_check_that_hangs_is_a_finding_after_its_time() -> None:
    began = time.monotonic()
    stop = threading.Event()

    def find(_wanted: Wanted) -> Iterator[Finding]:
        stop.wait(10)
        yield Finding("late", "late", Status.OK, "late")

    found = findings(Check("stuck", "stuck", find, limit=0.2))
    stop.set()
    assert list(found) == ["stuck"]
    assert "no answer within 0.2 s" in found["stuck"].detail
    assert time.monotonic() - began < 8


def test_a_file_that_is_no_recording_cannot_be_played_and_the_host_is_not_looked_at(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x"
    path.write_text("nothing\n")
    found = {one.name: one for one in examine(Wanted(source=f"replay:{path}", environ={}))}
    assert found["counting"].status is Status.FAILED
    assert found["counting"].command == f"cap-exporter record {path} --for 30s"
    assert "kernel" not in found


# The host


def test_a_file_without_btf_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "not.btf"
    path.write_bytes(b"no BTF")
    found = findings(*kernel.CHECKS, btf=path)["btf"]
    assert found.status is Status.LIMITED
    assert str(path) in found.detail
    assert "--btf" in found.remedy


def test_a_folder_for_counts_that_is_on_no_bpf_file_system_is_told(tmp_path: Path) -> None:
    found = findings(*kernel.CHECKS, pin=tmp_path / "pins")["bpffs"]
    assert found.status is Status.FAILED
    assert str(tmp_path) in found.detail


def test_the_clock_s_state_is_told() -> None:
    found = findings(*clock.CHECKS)
    assert re.match(r"\d{4}-\d\d-\d\d .*Z", found["clock"].detail)
    assert found["boot_clock"].status is Status.OK


def test_a_shifted_boot_clock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = tmp_path / "offsets"
    offsets.write_text("monotonic           0         0\nboottime         3600         0\n")
    monkeypatch.setattr(clock, "OFFSETS", offsets)
    assert findings(*clock.CHECKS)["boot_clock"].status is Status.LIMITED


def test_an_engine_s_socket_that_nobody_serves_is_told(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as unserved:
        unserved.bind(str(path))
        found = findings(*engines.CHECKS, docker_socket=path)["engine"]
    assert found.status is Status.LIMITED
    assert "refused" in found.detail


def test_without_capabilities_nothing_is_tried_and_the_verdict_is_no(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cap_exporter.sources.diagnosis.effective_capabilities", lambda: 0)
    found = findings(*Counting(Wanted(environ={})).checks())
    assert found["attach.tp_btf"].detail.startswith("not tried")
    assert found["counting"].status is Status.FAILED
    assert "CAP_BPF and CAP_PERFMON missing" in found["counting"].detail


# Ports


def test_a_port_that_a_cap_exporter_has_is_told_as_that() -> None:
    with Served() as served:
        addresses = {
            "listen": f"127.0.0.1:{served.metrics.port}",
            "page_listen": f"127.0.0.1:{served.page.port}",
        }
        found = findings(*ports.CHECKS, **addresses)
    for name in addresses:
        assert found[name].status is Status.INFO
        assert "a cap-exporter listens here already" in found[name].detail
    assert "healthy" in found["listen"].detail


def test_a_port_that_another_has_is_told_with_the_process_and_the_option() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        found = findings(*ports.CHECKS, listen=address, page_listen="127.0.0.1:0")
        server.shutdown()
        thread.join()
    assert found["listen"].status is Status.FAILED
    assert "in use by process" in found["listen"].detail
    assert "--listen HOST:PORT" in found["listen"].remedy
    assert found["page_listen"].status is Status.OK


def test_what_is_no_address_and_no_web_configuration_is_told(tmp_path: Path) -> None:
    config = tmp_path / "web.yaml"
    config.write_text("tls_server_confg: {}\n")
    found = findings(
        *ports.CHECKS, listen="nowhere", page_listen="127.0.0.1:0", page_web_config=config
    )
    assert "no address to listen on" in found["listen"].detail
    assert found["page_web_config"].status is Status.FAILED
    assert "tls_server_confg" in found["page_web_config"].detail


# Kubernetes


def ask_kubernetes(server: KubeServer, **more: object) -> dict[str, Finding]:
    settings = {"kubeconfig": server.kubeconfig(), "node_name": "node-1", **more}
    return findings(*kubernetes.CHECKS, **settings)


def test_an_api_that_gives_what_the_watch_needs_is_fine(kube: KubeServer) -> None:
    found = ask_kubernetes(kube)
    assert {one.status for one in found.values()} == {Status.OK}
    assert set(found) == {
        f"kubernetes.{what}" for what in ("node", "api", "clock", "list", "watch")
    }
    asked = [request.query for request in kube.requests if request.path.endswith("pods")]
    # As little as tells the answer.
    assert all(query["limit"] == "1" for query in asked)
    assert all(query["fieldSelector"] == "spec.nodeName=node-1" for query in asked)


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_missing_right_is_told_with_the_command_that_gives_it(
    kube: KubeServer, verb: str
) -> None:
    def refuse(handler: Handler, request: Request) -> bool:
        if request.is_watch is not (verb == "watch") or not request.path.endswith("pods"):
            return False
        message = f'User "system:serviceaccount:mon:capex" cannot {verb} resource "pods"'
        handler.status(403, "Forbidden", message=message)
        return True

    kube.faults.append(refuse)
    found = ask_kubernetes(kube)
    refused = found[f"kubernetes.{verb}"]
    assert refused.status is Status.FAILED
    assert "--serviceaccount=mon:capex" in refused.command
    assert found["kubernetes.watch" if verb == "list" else "kubernetes.list"].status is Status.OK


def test_a_server_that_is_busy_is_not_taken_for_a_missing_right(kube: KubeServer) -> None:
    def busy(handler: Handler, request: Request) -> bool:
        if request.is_watch:
            handler.status(503, "ServiceUnavailable")
        return request.is_watch

    kube.faults.append(busy)
    found = ask_kubernetes(kube)["kubernetes.watch"]
    assert found.status is Status.LIMITED
    assert "503" in found.detail
    assert "clusterrole" not in found.command


def test_a_wrong_token_is_told_and_not_shown(kube: KubeServer) -> None:
    kube.token_file.write_text(SECRET)
    found = ask_kubernetes(kube)["kubernetes.api"]
    assert found.status is Status.FAILED
    assert "401" in found.detail


def test_an_api_that_is_not_there_is_told(kube: KubeServer) -> None:
    kube.stop()
    found = ask_kubernetes(kube)["kubernetes.api"]
    assert found.status is Status.FAILED
    assert "refused" in found.detail


def test_clocks_that_differ_are_told(kube: KubeServer) -> None:
    def late(handler: Handler, request: Request) -> bool:
        if request.path != "/version":
            return False
        handler.send_response_only(200)
        handler.send_header("Date", formatdate(time.time() - 300, usegmt=True))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    kube.faults.append(late)
    found = ask_kubernetes(kube)["kubernetes.clock"]
    assert found.status is Status.LIMITED
    assert re.match(r"(299|300|301) s behind", found.detail)


def test_a_pod_without_its_node_s_name_is_told(kube: KubeServer) -> None:
    found = ask_kubernetes(kube, node_name=None)["kubernetes.node"]
    assert found.status is Status.FAILED
    assert "fieldRef spec.nodeName" in found.remedy


# OTLP


def ask_otlp(**flags: object) -> dict[str, Finding]:
    return findings(*otlp.CHECKS, otlp=Flags(**flags))  # type: ignore[arg-type]


@pytest.mark.parametrize("receiver", [HttpReceiver, GrpcReceiver])
def test_a_receiver_that_takes_an_empty_export_is_fine(
    receiver: type[HttpReceiver | GrpcReceiver],
) -> None:
    with running(receiver()) as one:
        headers = f"authorization={SECRET}"
        found = ask_otlp(endpoint=one.endpoint, protocol=one.protocol, headers=headers)
    assert {name: one.status for name, one in found.items()} == {
        "otlp.logs": Status.OK,
        "otlp.metrics": Status.OK,
    }


@pytest.mark.parametrize(
    ("receiver", "status"),
    [(HttpReceiver, 401), (GrpcReceiver, grpc.StatusCode.UNAUTHENTICATED)],
    ids=["http", "grpc"],
)
def test_a_receiver_that_asks_for_credentials_is_told(
    receiver: type[HttpReceiver | GrpcReceiver], status: int | grpc.StatusCode
) -> None:
    with running(receiver()) as one:
        one.received.always = Fault(status=status)
        found = ask_otlp(
            endpoint=one.endpoint,
            protocol=one.protocol,
            metrics=False,
            headers=f"authorization={SECRET}",
        )["otlp.logs"]
    assert found.status is Status.FAILED
    assert "asks for credentials" in found.detail
    assert "OTEL_EXPORTER_OTLP_HEADERS" in found.remedy


@pytest.mark.parametrize("receiver", [HttpReceiver, GrpcReceiver])
def test_a_certificate_of_an_unknown_authority_is_told_with_the_option(
    receiver: type[HttpReceiver | GrpcReceiver], tmp_path: Path
) -> None:
    certificates = Certificates()
    authority = tmp_path / "ca.pem"
    certificates.authority.cert_pem.write_to_path(str(authority))
    with running(receiver(certificates)) as one:
        found = ask_otlp(endpoint=one.endpoint, protocol=one.protocol, metrics=False)["otlp.logs"]
        trusted = ask_otlp(
            endpoint=one.endpoint,
            protocol=one.protocol,
            metrics=False,
            certificate=authority,
        )["otlp.logs"]
    assert found.status is Status.FAILED
    assert "not trusted" in found.detail
    assert "--otlp-certificate" in found.remedy
    assert trusted.status is Status.OK


def test_a_receiver_that_is_not_there_or_has_no_name_is_told_without_its_password() -> None:
    closed = f"http://me:{SECRET}@127.0.0.1:{free_port()}"
    assert "refused" in ask_otlp(endpoint=closed, metrics=False)["otlp.logs"].detail
    unknown = ask_otlp(endpoint="http://collector.invalid:4318", metrics=False)["otlp.logs"]
    assert "collector.invalid is no known name" in unknown.detail


def test_a_receiver_that_never_answers_takes_only_its_time() -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"https://127.0.0.1:{silent.getsockname()[1]}"
        found = ask_otlp(endpoint=endpoint, metrics=False)["otlp.logs"]
    assert found.status is Status.FAILED
    assert time.monotonic() - began < 10


def test_a_bad_setting_of_otlp_is_a_finding() -> None:
    found = findings(*otlp.CHECKS, environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"})["otlp"]
    assert found.status is Status.FAILED
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in found.detail
