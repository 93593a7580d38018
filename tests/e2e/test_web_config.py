# SPDX-License-Identifier: Apache-2.0
"""TLS and passwords in front of the HTTP servers, by a web configuration file."""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cap_exporter.config import ConfigError
from cap_exporter.outputs import http, web_config_file
from tests.e2e.served import Served, ask, connect, parse, read_all, send, shrink
from tests.e2e.web_config import PASSWORD, WebFiles, basic, hash_of

SHORT = 0.4

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebFiles:
    monkeypatch.setattr(web_config_file, "_LOOK", 0.0)
    return WebFiles(tmp_path)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Nothing that a client does may be logged; neither by asyncio's own logger."""
    caplog.set_level(logging.INFO)
    return caplog


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in log.records if one.levelno >= logging.WARNING]


def certificate(served: Served, client: ssl.SSLContext) -> str:
    with connect(served.metrics, client) as connection:
        assert isinstance(connection, ssl.SSLSocket)
        return hashlib.sha256(connection.getpeercert(True) or b"").hexdigest()


def refused(served: Served, client: ssl.SSLContext) -> bool:
    """Whether the handshake, or what follows (TLS 1.3), fails."""
    try:
        return send(served.metrics, HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
                    client) == b""  # fmt: skip
    except (ssl.SSLError, ConnectionError):
        return True


def test_pages_and_metrics_are_served_over_tls(files: WebFiles) -> None:
    with Served(web_config=files.write_tls(), page_web_config=files.config) as served:
        client = files.client()
        for server, path in ((served.metrics, "/metrics"), (served.page, "/api/v1/profiles")):
            for _ in range(3):
                answer = ask(server, path, tls=client)
                assert (answer.status, answer.headers["referrer-policy"]) == (200, "no-referrer")


def test_a_large_page_comes_whole_over_tls(files: WebFiles) -> None:
    with Served(3000, web_config=files.write_tls()) as served:
        answer = ask(served.metrics, "/metrics", tls=files.client())
        assert len(answer.body) > 500_000
        assert answer.body.endswith(b"\n")
        with connect(served.metrics, files.client()) as connection:
            connection.sendall(HEAD * 50)  # pipelined
            raw = b""
            while raw.count(b"ok\n") < 50:
                part = connection.recv(65536)
                assert part
                raw += part


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(files: WebFiles) -> None:
    """In the same segment, as fast clients do."""
    with Served(web_config=files.write_tls()) as served:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = files.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with connect(served.metrics) as connection:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
            tls.write(HEAD)
            connection.sendall(outgoing.read())
            answer = b""
            while not answer.endswith(b"ok\n"):
                try:
                    answer += tls.read(65536)
                except ssl.SSLWantReadError:
                    incoming.write(connection.recv(65536))
            assert answer.startswith(b"HTTP/1.1 200")


def test_a_handshake_in_many_pieces_stands(files: WebFiles) -> None:
    with Served(web_config=files.write_tls()) as served:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = files.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with connect(served.metrics) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            hello = outgoing.read()
            for start in range(0, len(hello), 100):
                connection.sendall(hello[start : start + 100])
                time.sleep(0.01)
            assert connection.recv(1) == b"\x16"


def test_plain_http_on_a_tls_port_is_told_so(files: WebFiles) -> None:
    with Served(web_config=files.write_tls()) as served:
        answer = parse(send(served.metrics, HEAD))
        assert answer.status == 400
        assert answer.body == b"Client sent an HTTP request to an HTTPS server.\n"


def test_garbage_on_a_tls_port_is_cut_and_not_logged(
    files: WebFiles, log: pytest.LogCaptureFixture
) -> None:
    garbage = (
        b"\x00" * 100,
        b"\x16" * 500,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 507,
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\xff",
    )
    with Served(web_config=files.write_tls()) as served:
        for raw in garbage * 10:
            with connect(served.metrics) as connection:
                try:
                    connection.sendall(raw)
                except OSError:
                    continue
                assert len(read_all(connection)) < 100
        assert ask(served.metrics, "/healthz", tls=files.client()).status == 200
    assert warnings(log) == []


def test_a_handshake_has_a_deadline(
    files: WebFiles, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", SHORT)
    with Served(web_config=files.write_tls()) as served, ExitStack() as stack:
        connections = [stack.enter_context(connect(served.metrics)) for _ in range(3)]
        for connection, sent in zip(connections, (b"", b"\x16", b"\x16\x03\x01\x02"), strict=True):
            connection.sendall(sent)
        began = time.monotonic()
        for connection in connections:
            assert read_all(connection) == b""
            assert SHORT / 2 < time.monotonic() - began < 4 * SHORT
    assert warnings(log) == []


def test_heads_and_readers_have_their_deadlines_over_tls_too(
    files: WebFiles, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", SHORT)
    monkeypatch.setattr(http, "SEND_TIMEOUT", SHORT)
    with Served(500, web_config=files.write_tls()) as served:
        shrink(served.metrics)
        client = files.client()
        with connect(served.metrics, client) as connection:
            connection.sendall(HEAD[:20])
            began = time.monotonic()
            assert read_all(connection) == b""
            assert SHORT / 2 < time.monotonic() - began < 4 * SHORT
        # One page: TLS hands it on as a whole, and the server is not told that it is not read.
        whole = len(ask(served.metrics, "/metrics", tls=client).body)
        with connect(served.metrics, client, receive_buffer=4096) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(4 * SHORT)
            assert len(read_all(connection)) < whole
        assert ask(served.metrics, "/healthz", tls=client).status == 200
    assert warnings(log) == []


def test_connections_in_a_handshake_count_as_well(files: WebFiles) -> None:
    """The deadlines are the real ones: only the limit helps."""
    with Served(web_config=files.write_tls()) as served:
        idle = [connect(served.metrics) for _ in range(150)]
        try:
            for connection in idle[::2]:
                connection.sendall(b"\x16\x03\x01")
            assert ask(served.metrics, "/metrics", tls=files.client()).status == 200
            assert sum(is_closed(connection) for connection in idle) >= 150 - 128
        finally:
            for connection in idle:
                connection.close()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_client_needs_a_certificate_of_the_authority(
    files: WebFiles, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    path = files.write_tls(client_ca_file="ca.pem", client_auth_type="RequireAndVerifyClientCert")
    (tmp_path / "other").mkdir()
    other = WebFiles(tmp_path / "other")
    stranger = other.client("prometheus.example")
    stranger.load_verify_locations(files.ca)
    with Served(web_config=path) as served:
        assert refused(served, files.client())
        assert refused(served, stranger)
        assert not refused(served, files.client("prometheus.example"))
    assert warnings(log) == []


def test_a_certificate_may_be_left_out_but_not_be_wrong(files: WebFiles, tmp_path: Path) -> None:
    path = files.write_tls(client_ca_file="ca.pem", client_auth_type="VerifyClientCertIfGiven")
    (tmp_path / "other").mkdir()
    stranger = WebFiles(tmp_path / "other").client("prometheus.example")
    stranger.load_verify_locations(files.ca)
    with Served(web_config=path) as served:
        assert not refused(served, files.client())
        assert not refused(served, files.client("prometheus.example"))
        assert refused(served, stranger)


def test_a_clients_certificate_must_have_one_of_the_names(files: WebFiles) -> None:
    def write(*allowed: str) -> Path:
        return files.write_tls(
            client_ca_file="ca.pem",
            client_auth_type="RequireAndVerifyClientCert",
            client_allowed_sans=["nobody.example", *allowed],
        )

    with Served(web_config=write()) as served:
        for name, allowed, right in (
            ("prometheus.example", "prometheus.example", True),
            ("prometheus.example", "prometheus.exampl", False),
            ("prometheus.example", "*.example", False),
            ("10.0.0.7", "10.0.0.7", True),
            ("2001:db8::7", "2001:db8::7", True),
            ("2001:db8::7", "2001:db8::8", False),
            ("someone@example.com", "someone@example.com", True),
        ):
            write(allowed)
            assert refused(served, files.client(name)) is not right, (name, allowed)


def test_versions_ciphers_and_curves_are_what_the_file_says(files: WebFiles) -> None:
    def version(**more: Any) -> tuple[str, str] | None:
        with Served(web_config=files.write_tls(**more)) as served:
            client = files.client()
            client.maximum_version = highest
            try:
                with connect(served.metrics, client) as connection:
                    assert isinstance(connection, ssl.SSLSocket)
                    return connection.version() or "", (connection.cipher() or ("",))[0]
            except (ssl.SSLError, ConnectionError):
                return None

    highest = ssl.TLSVersion.TLSv1_3
    assert (version() or "")[0] == "TLSv1.3"
    assert (version(max_version="TLS12") or "")[0] == "TLSv1.2"
    highest = ssl.TLSVersion.TLSv1_2
    assert version(min_version="TLS13") is None
    assert version(cipher_suites=["TLS_AES_128_GCM_SHA256"]) is None
    first, second = (
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    )
    assert version(cipher_suites=[first]) == ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA")
    assert version(cipher_suites=[first, second]) == ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA")
    assert version(cipher_suites=[first, second], prefer_server_cipher_suites=False) == (
        "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384",
    )  # fmt: skip
    assert version(curve_preferences=["CurveP384"]) is not None


def test_a_curve_that_the_client_has_not_is_none_in_common(files: WebFiles) -> None:
    with Served(web_config=files.write_tls(curve_preferences=["CurveP384"])) as served:
        client = files.client()
        client.set_ecdh_curve("prime256v1")
        assert refused(served, client)
        client.set_ecdh_curve("secp384r1")
        assert not refused(served, client)


def test_certificates_may_stand_in_the_file(files: WebFiles) -> None:
    config = {
        "cert": (files.folder / "cert.pem").read_text(),
        "key": (files.folder / "key.pem").read_text(),
        "client_ca": files.ca.read_text(),
        "client_auth_type": "RequireAndVerifyClientCert",
    }
    client = files.client("prometheus.example")
    for name in ("cert.pem", "key.pem"):
        (files.folder / name).unlink()
    with Served(web_config=files.write(tls_server_config=config)) as served:
        assert not refused(served, client)


def test_a_renewed_certificate_is_taken_for_new_connections(files: WebFiles) -> None:
    client = files.client()
    with (
        Served(web_config=files.write_tls()) as served,
        connect(served.metrics, client) as old,
    ):
        first = certificate(served, client)
        files.renew()
        assert certificate(served, client) != first
        old.sendall(HEAD)
        assert old.recv(12) == b"HTTP/1.1 200"


def test_an_exchanged_link_is_a_change(files: WebFiles) -> None:
    """As a Secret is mounted: ..data is a link that is exchanged."""
    for name in ("one", "two"):
        (files.folder / name).mkdir()
        files.issue(f"{name}/tls.crt", f"{name}/tls.key", "localhost")
    link = files.folder / "..data"
    link.symlink_to("one")
    path = files.write_tls(cert_file="..data/tls.crt", key_file="..data/tls.key")
    with Served(web_config=path) as served:
        first = certificate(served, files.client())
        new = files.folder / "..new"
        new.symlink_to("two")
        new.rename(link)
        assert certificate(served, files.client()) != first


def test_a_new_file_that_is_broken_changes_nothing_and_is_told_once(
    files: WebFiles, log: pytest.LogCaptureFixture
) -> None:
    spoils: tuple[Callable[[], object], ...] = (
        lambda: files.config.write_text("tls_server_config: {cert: 1"),
        lambda: files.config.write_text(""),
        files.config.unlink,
        lambda: files.write(tls_server_config={"cert_file": "cert.pem"}),
        lambda: (files.folder / "cert.pem").write_text("no PEM"),
        (files.folder / "key.pem").unlink,
        lambda: files.issue("cert.pem", "other-key.pem", "localhost"),
    )
    with Served(web_config=files.write_tls()) as served:
        client = files.client()
        for number, spoil in enumerate(spoils):
            first = certificate(served, client)
            log.clear()
            spoil()
            assert [certificate(served, client) for _ in range(3)] == [first] * 3, number
            (told,) = warnings(log)
            assert "stays as it was" in told
            assert str(files.folder) in told
            files.renew()
            files.write_tls()
            assert certificate(served, client) != first, number


def test_nobody_gets_in_without_a_right_password(files: WebFiles) -> None:
    users = {"prometheus": hash_of(PASSWORD), "zoë": hash_of("päss:wörd")}
    path = files.write(basic_auth_users=users)
    with Served(web_config=path, page_web_config=path) as served:
        both = ((served.metrics, "/metrics"), (served.metrics, "/"), (served.page, "/"),
                (served.page, "/api/v1/events"), (served.page, "/nothing"))  # fmt: skip
        for server, target in both:
            for wrong in (
                basic("prometheus", "wrong"),
                basic("prometheus", ""),
                basic("nobody", PASSWORD),
                basic("", ""),
                "Basic",
                "Basic !!!",
                "Basic cHJvbWV0aGV1cw==",
                "Bearer " + basic("prometheus", PASSWORD)[6:],
                PASSWORD,
            ):
                answer = ask(server, target, Authorization=wrong)
                assert answer.status == 401, wrong
                assert answer.headers["www-authenticate"].startswith("Basic ")
                assert b"capability_" not in answer.body
            assert ask(server, target).status == 401
            assert ask(server, target, "HEAD").status == 401
        for right in (
            basic("prometheus", PASSWORD),
            basic("prometheus", PASSWORD).replace("Basic", "basic"),
            basic("zoë", "päss:wörd"),
        ):
            assert ask(served.metrics, "/metrics", Authorization=right).status == 200
            assert ask(served.page, "/api/v1/profiles", Authorization=right).status == 200


def test_probes_need_no_password(files: WebFiles) -> None:
    path = files.write(
        basic_auth_users={"a": hash_of("b")}, rate_limit={"interval": "1h", "burst": 1}
    )
    with Served(web_config=path) as served:
        for target in ("/healthz", "/readyz", "/healthz", "/healthz?x=/metrics"):
            assert ask(served.metrics, target).status == 200
        for target in ("/healthz/", "/healthz/../metrics", "//healthz", "/healthz%2f..%2fmetrics"):
            assert ask(served.metrics, target).status in (401, 429)


def test_a_password_is_cut_after_72_bytes_as_other_exporters_do(files: WebFiles) -> None:
    def write(version: str) -> Path:
        hashed = hash_of("x" * 72).replace("2b", version, 1)
        return files.write(basic_auth_users={"a": hashed})

    with Served(web_config=write("2b")) as served:
        for version in ("2a", "2b", "2y"):
            write(version)
            for password, status in (("x" * 72, 200), ("x" * 100, 200), ("x" * 71, 401)):
                answer = ask(served.metrics, "/metrics", Authorization=basic("a", password))
                assert answer.status == status, version
        assert ask(served.metrics, "/metrics", Authorization=basic("a", b"x\0y")).status == 401


def test_a_changed_password_counts_at_once(files: WebFiles) -> None:
    with Served(web_config=files.write(basic_auth_users={"a": hash_of("old")})) as served:

        def status(password: str) -> int:
            return ask(served.metrics, "/metrics", Authorization=basic("a", password)).status

        assert (status("old"), status("new")) == (200, 401)
        files.write(basic_auth_users={"a": hash_of("new")})
        assert (status("old"), status("new")) == (401, 200)
        files.write()  # nobody may get in because of a half-written file
        assert (status("old"), status("new"), ask(served.metrics, "/").status) == (401, 200, 401)


def test_a_flood_of_wrong_passwords_does_not_hold_up_scrapes(files: WebFiles) -> None:
    """With a hash that takes long."""
    right = basic("prometheus", PASSWORD)
    path = files.write(basic_auth_users={"prometheus": hash_of(PASSWORD, cost=11)})
    with Served(web_config=path) as served:
        assert ask(served.metrics, "/metrics", Authorization=right).status == 200
        end = threading.Event()

        def flood(number: int) -> set[int]:
            seen = set()
            count = 0
            while not end.is_set():
                count += 1
                wrong = basic("prometheus", f"{number}-{count}")
                seen.add(ask(served.metrics, "/metrics", Authorization=wrong).status)
            return seen

        with ThreadPoolExecutor(8) as pool:
            floods = [pool.submit(flood, number) for number in range(8)]
            try:
                for _ in range(10):
                    began = time.monotonic()
                    assert ask(served.metrics, "/metrics", Authorization=right).status == 200
                    assert ask(served.metrics, "/healthz").status == 200
                    assert time.monotonic() - began < 3
            finally:
                end.set()
            assert {status for one in floods for status in one.result()} <= {401, 429}


def test_one_computation_serves_all_who_ask_the_same(files: WebFiles) -> None:
    """A browser's first requests come together."""
    right = basic("a", PASSWORD)
    path = files.write(basic_auth_users={"a": hash_of(PASSWORD, cost=10)})
    with Served(web_config=path) as served, ThreadPoolExecutor(20) as pool:
        found = pool.map(lambda _: ask(served.metrics, "/metrics", Authorization=right), range(20))
        assert {answer.status for answer in found} == {200}


def test_who_is_no_user_takes_as_long_as_a_wrong_password(files: WebFiles) -> None:
    path = files.write(basic_auth_users={"a": hash_of(PASSWORD, cost=11)})
    with Served(web_config=path) as served:

        def seconds(user: str, password: str) -> float:
            began = time.process_time()
            assert ask(served.metrics, "/", Authorization=basic(user, password)).status == 401
            return time.process_time() - began

        known = min(seconds("a", f"wrong-{n}") for n in range(3))
        unknown = min(seconds("b", f"wrong-{n}") for n in range(3))
        assert known / 2 < unknown < known * 2
        assert unknown > 0.03


def test_headers_are_set_and_the_others_stay(files: WebFiles) -> None:
    headers = {
        "Strict-Transport-Security": "max-age=31536000",
        "X-Frame-Options": "deny",
        "Content-Security-Policy": "default-src 'self'",
        "X-XSS-Protection": "",
    }
    with Served(web_config=files.write(http_server_config={"headers": headers})) as served:
        for target in ("/metrics", "/nothing"):
            found = ask(served.metrics, target).headers
            assert found["strict-transport-security"] == "max-age=31536000"
            assert found["x-frame-options"] == "deny"
            assert found["content-security-policy"] == "default-src 'self'"
            assert found["x-content-type-options"] == "nosniff"
            assert "x-xss-protection" not in found


def test_requests_beyond_the_rate_are_told_to_come_later(files: WebFiles) -> None:
    path = files.write(rate_limit={"interval": "200ms", "burst": 3})
    with Served(web_config=path) as served:
        statuses = [ask(served.metrics, "/").status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert "retry-after" in ask(served.metrics, "/").headers
        time.sleep(0.25)
        assert [ask(served.metrics, "/").status for _ in range(2)] == [200, 429]


def test_an_empty_file_is_plain_http_open_to_all(
    files: WebFiles, log: pytest.LogCaptureFixture
) -> None:
    files.config.write_text("# nothing\n")
    with Served(web_config=files.config) as served:
        assert ask(served.metrics, "/metrics").status == 200
        files.write_tls()
        assert ask(served.metrics, "/metrics", tls=files.client()).status == 200
    assert warnings(log) == []


def test_http2_is_not_offered_and_said_once(files: WebFiles, log: pytest.LogCaptureFixture) -> None:
    path = files.write(
        tls_server_config={"cert_file": "cert.pem", "key_file": "key.pem"},
        http_server_config={"http2": True},
    )
    with Served(web_config=path) as served:
        client = files.client()
        client.set_alpn_protocols(["h2", "http/1.1"])
        for _ in range(2):
            with connect(served.metrics, client) as connection:
                assert isinstance(connection, ssl.SSLSocket)
                assert connection.selected_alpn_protocol() == "http/1.1"
    assert [one.getMessage() for one in log.records if "http2" in one.getMessage()] == [
        f"{path}: http2: HTTP/1.1 is spoken here"
    ]


def test_a_broken_file_is_an_error_at_the_start(files: WebFiles) -> None:
    (files.folder / "key.pem").unlink()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError, match=r"key\.pem: No such file"):
        Served(web_config=files.write_tls())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
