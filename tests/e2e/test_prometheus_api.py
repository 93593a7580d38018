# SPDX-License-Identifier: Apache-2.0
"""`advise --prometheus` against servers that want a log-in, refuse, or are something else."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
import yaml

from tests.e2e.exporter import COMMAND
from tests.e2e.history import make_blocks
from tests.e2e.prometheus import Prometheus
from tests.ports import free_port

EMPTY = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})


class Server(ThreadingHTTPServer):
    """Answers every query with ``status`` and ``body``, where the headers are as ``wanted``; but
    one that has ``empty_for`` in it with nothing."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.body, self.more = 200, EMPTY, {"Content-Type": "application/json"}
        self.wanted: dict[str, str] = {}
        self.empty_for = ""
        self.queries: list[str] = []
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Refused handshakes are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        one = self.server
        one.queries += parse_qs(body.decode())["query"]
        right = all(self.headers.get(name) == value for name, value in one.wanted.items())
        self.send_response(one.status if right else 401)
        for name, value in one.more.items():
            self.send_header(name, value)
        self.end_headers()
        text = EMPTY if one.empty_for and one.empty_for in one.queries[-1] else one.body
        self.wfile.write(text.encode() if right else b"Unauthorized")


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.shutdown()
    one.server_close()


def advise(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "advise", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def error(status: int, kind: str, text: str) -> tuple[int, str]:
    return status, json.dumps({"status": "error", "errorType": kind, "error": text})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, EMPTY), "is cap-exporter scraped by this Prometheus"),
        ((200, "<html>hello</html>"), "is no Prometheus: HTTP 200"),
        ((200, '{"status": "success"}'), "is no Prometheus"),
        ((200, EMPTY.replace("[]", "[7]")), "is no Prometheus"),
        ((404, "404 page not found"), "is no Prometheus: HTTP 404"),
        ((302, ""), "redirects to https://login.example/: a log-in page"),
        ((401, "Unauthorized"), "wants to know who asks (HTTP 401: Unauthorized): --prom"),
        ((403, "no tenant"), "does not allow it (HTTP 403: no tenant)"),
        (error(400, "bad_data", "parse error"), "refuses the query (HTTP 400): parse error"),
        (error(422, "execution", "many-to-many"), "refuses the query (HTTP 422): many-to-many"),
        ((503, "upstream is away"), "cannot answer now (HTTP 503): upstream is away"),
    ],
)
def test_what_is_wrong_is_said(server: Server, answer: tuple[int, str], words: str) -> None:
    server.status, server.body = answer
    server.more["Location"] = "https://login.example/?secret=1"
    done = advise("--prometheus", f"http://me:hidden@127.0.0.1:{server.server_port}")
    assert done.returncode == 1, done.stdout
    assert words in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_too_big_is_asked_for_in_parts_and_then_given_up(server: Server) -> None:
    server.status, server.body = error(
        422, "execution", "query processing would load too many samples into memory"
    )
    done = advise("--prometheus", f"http://127.0.0.1:{server.server_port}")
    assert "gives up (HTTP 422): query processing would load too many samples" in done.stderr
    assert len(server.queries) > 5
    lengths = [int(query.partition("[")[2].partition("s]")[0]) for query in server.queries]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] <= 300


def test_what_the_server_warns_of_is_passed_on(server: Server) -> None:
    metric = {"namespace": "n", "pod": "p", "container": "c", "job": "j", "instance": "i"}
    result = [{"metric": metric, "value": [time.time() - 60, "1"]}]
    document = {"status": "success", "data": {"resultType": "vector", "result": result}}
    more = {"warnings": ["store-gateway-1 is \x1b[31maway"], "isPartial": True}
    server.body = json.dumps(document | more)
    server.empty_for = "exported_container"
    done = advise("--prometheus", f"http://127.0.0.1:{server.server_port}", "-ojson")
    assert done.returncode == 0, done.stderr
    assert "says: store-gateway-1 is \\x1b[31maway" in done.stderr
    assert "says: the answer is partial" in done.stderr


def test_nobody_there() -> None:
    done = advise("--prometheus", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert "object at" not in done.stderr
    assert "Retrying" not in done.stderr


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://x", "http://"])
def test_no_address(url: str) -> None:
    done = advise("--prometheus", url)
    assert "is no address: write e.g. http://prometheus:9090" in done.stderr


@pytest.mark.parametrize("more", [["--for", "1s"], ["--source", "replay:x"]])
def test_only_one_place_to_ask(more: list[str]) -> None:
    done = advise("--prometheus", "http://127.0.0.1:1", *more)
    assert done.returncode == 2
    assert "only one of them" in done.stderr


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def secure(self, authority: trustme.CA) -> Iterator[Server]:
        """Wants a client's certificate and a password."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        authority.issue_cert("prometheus.example").configure_cert(context)
        authority.configure_trust(context)
        one = Server(context)
        one.wanted = {"Authorization": "Basic bWU6cw=="}  # me:s
        yield one
        one.shutdown()
        one.server_close()

    @pytest.mark.needs("promtool")
    def test_a_file_that_prometheus_takes_too(
        self, tmp_path: Path, authority: trustme.CA, secure: Server
    ) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(
            str(tmp_path / "client.pem")
        )
        config = tmp_path / "http.yml"
        config.write_text(
            "basic_auth: {username: me, password: s}\n"
            "tls_config: {ca_file: ca.pem, cert_file: client.pem, key_file: client.pem,\n"
            "             server_name: prometheus.example}\n"
        )
        url = f"https://127.0.0.1:{secure.server_port}"
        job = {"job_name": "j", **yaml.safe_load(config.read_text())}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
        subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True)
        done = advise("--prometheus", url, "--prometheus-http-config", str(config))
        assert "is cap-exporter scraped by this Prometheus" in done.stderr
        assert secure.queries

    def test_an_authority_that_is_not_trusted(self, secure: Server) -> None:
        done = advise("--prometheus", f"https://127.0.0.1:{secure.server_port}")
        assert "no TLS with https://127.0.0.1" in done.stderr
        assert "tls_config.ca_file" in done.stderr

    def test_a_tenant_in_a_header(self, tmp_path: Path, server: Server) -> None:
        server.wanted = {"X-Scope-OrgID": "a|b"}
        config = tmp_path / "http.yml"
        config.write_text("http_headers: {X-Scope-OrgID: {values: ['a|b']}}\n")
        url = f"http://127.0.0.1:{server.server_port}"
        assert "HTTP 401" in advise("--prometheus", url).stderr
        done = advise("--prometheus", url, "--prometheus-http-config", str(config))
        assert "is cap-exporter scraped" in done.stderr

    def test_a_wrong_file(self, tmp_path: Path) -> None:
        config = tmp_path / "http.yml"
        config.write_text("tls_config: {ca_file: none.pem}\n")
        url = "https://127.0.0.1:1"
        done = advise("--prometheus", url, "--prometheus-http-config", str(config))
        assert "tls_config.ca_file: cannot use" in done.stderr
        config.write_text("tls_confg: {}\n")
        done = advise("--prometheus", url, "--prometheus-http-config", str(config))
        assert done.returncode == 2
        assert "unknown key tls_confg; did you mean tls_config?" in done.stderr


POD = 'namespace="n",pod="p",container="c"'
WORKLOAD = 'workload_kind="Job",workload="w"'
TARGET = 'job="j",instance="i"'


@pytest.mark.needs("prometheus", "promtool")
class TestLabels:
    def stored(
        self,
        folder: Path,
        *targets: str,
        own: str = POD,
        info: str = f"{POD},{WORKLOAD}",
        overflow: int = 0,
    ) -> None:
        """One container that used one capability 5 times, as these targets show it. own: its
        labels. overflow: checks that had no room."""
        now = int(time.time())
        check = 'capability="CAP_KILL",verdict="allowed",user_namespace="init"'
        families = {
            "cap_exporter_counting_start_time_seconds": ("", now - 3000),
            "cap_exporter_build_info": ('version="1"', 1),
            "capability_container_info": (info, 1),
            "capability_checks_total": (f"{own},{check}", 5),
            "kube_pod_init_container_info": ('namespace="n",pod="p",container="first"', 1),
        }
        text = ""
        for name, (labels, value) in families.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            text += f"# TYPE {name.removesuffix('_total')} {kind}\n"
            for target in targets:
                joined = ",".join(filter(None, (labels, target)))
                text += "".join(f"{name}{{{joined}}} {value} {now - age}\n" for age in (120, 60, 0))
        if overflow:
            names = f'namespace="",pod="",container="(overflow)",{check},{targets[0]}'
            text = text.replace(
                "# TYPE kube", f"capability_checks_total{{{names}}} {overflow} {now}\n# TYPE kube"
            )
        make_blocks(folder, text)

    def advice(self, folder: Path) -> dict[str, Any]:
        with Prometheus(folder, [], interval="1h") as server:
            done = advise("--prometheus", server.url, "-ojson", "--since=1h")
        assert (done.returncode, done.stderr) == (0, "")
        (one,) = json.loads(done.stdout)["advice"]
        assert one["needed"][0]["checks"] == 5
        assert (one["namespace"], one["workload_kind"], one["workload"]) == ("n", "Job", "w")
        return {**one}

    def test_init_containers_are_told_by_kube_state_metrics(self, tmp_path: Path) -> None:
        names = POD.replace('"c"', '"first"')
        self.stored(tmp_path, TARGET, own=names, info=f"{names},{WORKLOAD}")
        assert self.advice(tmp_path)["kind"] == "init"

    def test_workloads_instead_of_pods(self, tmp_path: Path) -> None:
        names = f'namespace="n",container="c",{WORKLOAD}'
        self.stored(tmp_path, TARGET, own=names, info=names)
        one = self.advice(tmp_path)
        assert (one["kind"], one["pods"]) == ("container", [])

    def test_what_had_no_room_makes_it_unsure(self, tmp_path: Path) -> None:
        self.stored(tmp_path, TARGET, overflow=3)
        with Prometheus(tmp_path, [], interval="1h") as server:
            for more in ("--since=1h", "--workload=n/job/w", "-nn"):
                done = advise("--prometheus", server.url, "-ojson", more)
                (one,) = json.loads(done.stdout)["advice"]
                reasons = one["confidence"]["reasons"]
                assert any("(overflow)" in reason for reason in reasons), more

    def test_counts_that_may_be_older_than_the_window_are_named(self, tmp_path: Path) -> None:
        self.stored(tmp_path, TARGET)
        with Prometheus(tmp_path, [], interval="1h") as server:
            done = advise("--prometheus", server.url, "-ojson", "--since=10m")
        assert "counts of n/p/c may be older than the window" in done.stderr
        assert json.loads(done.stdout)["advice"][0]["needed"][0]["checks"] == 5

    def test_two_prometheus_that_scrape_the_same_count_once(self, tmp_path: Path) -> None:
        self.stored(tmp_path, *(f'{TARGET},prometheus_replica="{name}"' for name in "ab"))
        with Prometheus(tmp_path, [], interval="1h") as server:
            done = advise("--prometheus", server.url, "-ojson", "--since=1h")
            (one,) = json.loads(done.stdout)["advice"]
            assert one["needed"][0]["checks"] == 5
            match = 'prometheus_replica="a"'
            arguments = ("--prometheus", server.url, "-ojson", "--since=1h", "--prometheus-match")
            (other,) = json.loads(advise(*arguments, match).stdout)["advice"]
            assert other["needed"] == one["needed"]
            done = advise(*arguments, 'cluster="none"')
            assert "is cap-exporter scraped" in done.stderr

    def test_without_honor_labels_it_says_so(self, tmp_path: Path) -> None:
        self.stored(tmp_path, TARGET, info=f'{POD},exported_container="c"')
        with Prometheus(tmp_path, [], interval="1h") as server:
            done = advise("--prometheus", server.url, "--since=1h")
        assert done.returncode == 1
        assert "honor_labels: true" in done.stderr
