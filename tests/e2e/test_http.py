# SPDX-License-Identifier: Apache-2.0
"""The HTTP servers and clients that are slow, many, garbled or malicious. After each the server
must still answer."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest

from cap_exporter.outputs import http
from tests.e2e.served import EVIL, Served, ask, connect, parse, read_all, send

#: So that tests need not wait long.
SHORT = 0.4

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """Fails the test where a server does not live through it, or logs an error."""
    monkeypatch.setattr(http, "HEAD_TIMEOUT", SHORT)
    monkeypatch.setattr(http, "SEND_TIMEOUT", SHORT)
    with Served(containers=500) as both:
        yield both
        for server, path in ((both.metrics, "/healthz"), (both.page, "/api/v1/profiles")):
            assert ask(server, path).status == 200
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def routes(served: Served) -> list[tuple[http.HttpServer, str]]:
    metrics = ["/", "/metrics", "/healthz", "/readyz"]
    page = [
        "/",
        "/container?container=(host)",
        "/feed",
        "/style.css",
        "/page.js",
        "/icon.svg",
        "/api/v1/profiles",
        "/api/v1/advice",
        "/api/v1/events",
    ]
    page += [f"/api/v1/schemas/{name}" for name in ("profile", "advice", "event")]
    return [(served.metrics, path) for path in metrics] + [(served.page, path) for path in page]


def head_of(connection: socket.socket) -> bytes:
    """One answer of /healthz, whose body ends with a newline."""
    raw = b""
    while not raw.endswith(b"ok\n"):
        part = connection.recv(4096)
        assert part, "the server closed"
        raw += part
    return raw


def seconds_until_cut(connection: socket.socket) -> float:
    began = time.monotonic()
    assert read_all(connection) == b""
    return time.monotonic() - began


def trickle(connection: socket.socket, raw: bytes, pause: float = 0.02) -> float:
    """Byte by byte; how long the server let that go on."""
    began = time.monotonic()
    try:
        for byte in raw:
            connection.sendall(bytes([byte]))
            time.sleep(pause)
    except OSError:
        pass
    return time.monotonic() - began


def test_a_head_that_comes_byte_by_byte_is_cut(served: Served) -> None:
    with connect(served.metrics) as connection:
        assert (
            SHORT / 2 < trickle(connection, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500) < 4 * SHORT
        )
        assert read_all(connection) == b""


def test_a_connection_without_a_request_is_cut(served: Served) -> None:
    with connect(served.metrics) as connection:
        assert SHORT / 2 < seconds_until_cut(connection) < 4 * SHORT


def test_a_second_head_has_a_deadline_too(served: Served) -> None:
    with connect(served.metrics) as connection:
        connection.sendall(HEAD)
        head_of(connection)
        time.sleep(2 * SHORT)  # idle: that is allowed
        connection.sendall(HEAD[:20])
        assert SHORT / 2 < seconds_until_cut(connection) < 4 * SHORT


def test_the_begin_of_a_second_head_that_came_with_the_first_has_one(served: Served) -> None:
    with connect(served.metrics) as connection:
        connection.sendall(HEAD + HEAD[:20])
        head_of(connection)
        assert SHORT / 2 < seconds_until_cut(connection) < 4 * SHORT


def test_a_head_in_two_parts_is_answered_each_time(served: Served) -> None:
    with connect(served.metrics) as connection:
        for _ in range(3):
            connection.sendall(HEAD[:20])
            time.sleep(SHORT / 2)
            connection.sendall(HEAD[20:])
            head_of(connection)
            time.sleep(1.5 * SHORT)


def test_an_idle_connection_lives_for_the_keep_alive_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", SHORT)
    monkeypatch.setattr(http, "KEEP_ALIVE", 3 * SHORT)
    with Served() as served, connect(served.metrics) as connection:
        connection.sendall(HEAD)
        head_of(connection)
        time.sleep(2 * SHORT)
        connection.sendall(HEAD)
        head_of(connection)
        assert 2 * SHORT < seconds_until_cut(connection) < 6 * SHORT


def test_who_does_not_read_the_answer_is_cut(served: Served) -> None:
    """Many answers' worth: the kernel's own buffers take some megabytes."""
    with connect(served.metrics, receive_buffer=4096) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 60)
        time.sleep(4 * SHORT)
        # Cut: what the kernel still held comes, and not what the server would have written then.
        assert len(read_all(connection)) < 60 * len(ask(served.metrics, "/metrics").body)


def test_a_reader_of_events_that_reads_nothing_gives_its_place_back(served: Served) -> None:
    connections = []
    for _ in range(16):
        connection = connect(served.page, receive_buffer=4096)
        connection.sendall(b"GET /api/v1/events?recent=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connections.append(connection)
    try:
        time.sleep(SHORT)
        assert ask(served.page, "/api/v1/events").status == 503
        record = {"padding": "x" * 100_000}
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            served.hub.publish(record)
            time.sleep(0.05)
            with connect(served.page) as one:
                one.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if one.recv(12).endswith(b"200"):
                    return
        raise AssertionError("the readers were not cut")
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000,  # without an end
        b"a" * 100_000,
    ],
    ids=["target", "header", "headers", "endless", "garbage"],
)
def test_a_head_over_the_limit_is_refused(served: Served, raw: bytes) -> None:
    for server in (served.metrics, served.page):
        with connect(server) as connection:
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was all sent
            answer = read_all(connection)
        # A reset may come before the answer.
        assert not answer or parse(answer).status in (400, 431)


def test_a_large_head_that_comes_as_one_piece_is_answered_with_431(served: Served) -> None:
    assert ask(served.metrics, "/metrics", X="a" * http.HEAD_LIMIT).status == 431
    assert ask(served.metrics, "/metrics", X="a" * (http.HEAD_LIMIT - 200)).status == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000000000000\r\n", b"Transfer-Encoding: chunked\r\n"]
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_a_body_is_not_read(served: Served, framing: bytes, method: bytes) -> None:
    """An endless one: the server hangs up after little of it."""
    for server, path in ((served.metrics, b"/metrics"), (served.page, b"/api/v1/events")):
        with connect(server) as connection:
            connection.sendall(
                b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (method, path, framing)
            )
            answer = parse(read_all(connection))
            assert answer.status == (405 if method == b"POST" else 413)
            assert answer.headers["connection"] == "close"
            with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
                connection.sendall((b"1000\r\n" + b"a" * 4096 + b"\r\n") * 10_000)


def test_who_waits_for_100_continue_is_told_no(served: Served) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    assert send(served.metrics, raw).startswith(b"HTTP/1.1 413")


def test_an_empty_body_is_none(served: Served) -> None:
    assert ask(served.metrics, "/healthz", Content_Length="0").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"])
def test_other_methods_are_405_and_told_what_there_is(served: Served, method: str) -> None:
    for server, path in [*routes(served), (served.page, "/nothing")]:
        answer = ask(server, path, method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert b"GET and HEAD" in answer.body


def test_connect_and_the_asterisk_are_refused(served: Served) -> None:
    assert ask(served.metrics, "example.com:443", "CONNECT").status == 405
    assert ask(served.metrics, "*", "OPTIONS").status == 405


def test_head_has_the_headers_of_get_and_no_body(served: Served) -> None:
    for server, path in routes(served):
        answer = ask(server, path, "HEAD")
        assert (answer.status, answer.body) == (200, b""), path
        assert answer.headers["content-type"]
        if path != "/api/v1/events":
            got = ask(server, path)
            assert got.headers.keys() == answer.headers.keys(), path
            assert len(got.body) > 1


@pytest.mark.parametrize(
    "target",
    [
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/api/v1/schemas/../../../../etc/passwd",
        "/api/v1/schemas/..%2f..%2f..%2fetc%2fpasswd",
        "/api/v1/schemas/%2e%2e",
        "/api/v1/schemas/profile%00",
        "/api/v1/schemas/",
        "//",
        "//example.com",
        "//example.com/metrics/",
        "/metrics/",
        "/metrics%00",
        "/metrics%0d%0aX:%20y",
        "/%ff%fe",
        "/%",
        "/%zz",
        "/;x=y",
        "/\\",
        "http://example.com/metrics",
        "metrics",
        "?",
    ],
)  # fmt: skip
def test_a_path_that_is_none_of_ours_is_not_found(served: Served, target: str) -> None:
    for server in (served.metrics, served.page):
        answer = ask(server, target)
        assert answer.status == 404
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "location" not in answer.headers
        assert "x" not in answer.headers
        assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /metrics HTTP/0.9\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xc3\xbc HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\nHost localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        bytes(range(256)) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 507,  # TLS client hello
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_bad_one(served: Served, raw: bytes) -> None:
    for server in (served.metrics, served.page):
        answer = parse(send(server, raw))
        assert 400 <= answer.status < 500
        assert answer.headers["connection"] == "close"
        assert "date" in answer.headers


@pytest.mark.parametrize("raw", [b"GET /\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\xff"])
def test_what_never_becomes_a_request_is_cut(served: Served, raw: bytes) -> None:
    """HTTP/0.9 has no end that could be told."""
    for server in (served.metrics, served.page):
        with connect(server) as connection:
            connection.sendall(raw)
            assert read_all(connection)[:12] in (b"", b"HTTP/1.1 400")


def test_what_follows_a_request_and_is_none_does_not_spoil_its_answer(served: Served) -> None:
    answers = send(served.metrics, HEAD + b"\x00\x01\r\n\r\n")
    assert answers.startswith(b"HTTP/1.1 200")
    assert answers.count(b"HTTP/1.1 400") == 1


def test_a_garbled_chunked_body_ends_the_connection(served: Served) -> None:
    raw = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
    with connect(served.metrics) as connection:
        connection.sendall(raw)
        read_all(connection)


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_upgrade_is_not_made(served: Served, upgrade: str) -> None:
    raw = (
        f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\n"
        f"Upgrade: {upgrade}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Version: 13\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    )
    assert send(served.metrics, raw.encode()).startswith(b"HTTP/1.1 200")


def test_headers_of_proxies_change_nothing(served: Served) -> None:
    plain = ask(served.page, "/")
    forwarded = ask(
        served.page, "/", X_Forwarded_For="10.0.0.1", X_Forwarded_Proto="https",
        X_Forwarded_Host="example.com", X_Original_URL="/api/v1/profiles",
        X_HTTP_Method_Override="DELETE", Forwarded="for=10.0.0.1",
    )  # fmt: skip
    assert forwarded.body == plain.body


def test_answers_have_a_date_and_do_not_tell_the_server(served: Served) -> None:
    for server, path in [*routes(served), (served.page, "/nothing")]:
        headers = ask(server, path, "HEAD").headers
        assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 5
        assert "server" not in headers


def test_two_hundred_idle_connections_do_not_lock_out_a_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deadlines are the real ones: only the limit helps."""
    with Served() as served:
        idle = [connect(served.metrics) for _ in range(200)]
        try:
            for connection in idle[::2]:
                connection.sendall(b"GET / HT")
            assert ask(served.metrics, "/metrics").status == 200
            lost = 0
            for connection in idle:
                connection.setblocking(False)
                try:
                    lost += connection.recv(1) == b""
                except BlockingIOError:
                    pass
                except ConnectionResetError:
                    lost += 1
            assert lost >= 200 - 128
        finally:
            for connection in idle:
                connection.close()


def test_many_scrapes_at_one_time_are_all_answered_in_full(served: Served) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(served.metrics, "/metrics"), range(60)))
    for answer in answers:
        assert answer.status == 200
        assert answer.body.count(b"\ncapability_checks_total{") >= 500
    # The encoders are bounded, and so are the threads.
    assert sum(thread.name.startswith("asyncio") for thread in threading.enumerate()) <= 64


def test_names_that_a_container_chose_are_text_on_pages_and_in_headers(served: Served) -> None:
    for server, path in routes(served):
        if path == "/api/v1/events":
            continue
        answer = ask(server, path)
        assert "x" not in answer.headers
        if answer.headers["content-type"].startswith("text/html"):
            scripts = re.findall(rb"<script[^>]*>", answer.body)
            assert scripts in ([], [b'<script src="/page.js" defer>'])
    page = ask(served.page, "/").body.decode()
    assert "&lt;script&gt;alert(" in page
    assert EVIL not in page
    assert not re.search(r"\son\w+=|<style|style=", page)


def test_names_of_this_machine_are_answered_to(served: Served) -> None:
    names = ("localhost", "LOCALHOST:10839", "node.localhost", "127.0.0.1", "127.0.0.1:10839")
    for name in (*names, "[::1]", "[::1]:10839", "10.1.2.3:80"):
        for server in (served.metrics, served.page):
            assert ask(server, "/", Host=name).status == 200, name


def test_other_names_are_none_of_loopback(served: Served) -> None:
    """A page elsewhere leads a browser here under its own name (DNS rebinding), to read what is
    there."""
    names: tuple[str, ...] = ("example.com", "example.com:80", "localhost.example.com", "127.1")
    names += ("127.0.0.1.nip.io", "", ":80", "[::1", "notlocalhost", "2130706433", "localhost:8:8")
    for name in (*names, "evil@localhost", "local host"):
        for server in (served.metrics, served.page):
            for path in ("/", "/metrics", "/healthz", "/api/v1/events"):
                answer = ask(server, path, Host=name)
                assert answer.status == 421, name
                assert b"localhost" in answer.body


def test_an_address_that_others_reach_is_answered_to_under_any_name() -> None:
    server = http.HttpServer("0.0.0.0:0", [])
    server.start()
    try:
        assert ask(server, "/", Host="node-1.example.com").status == 404
    finally:
        server.stop()


def test_old_clients_without_a_host_are_answered(served: Served) -> None:
    assert send(served.metrics, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
