# SPDX-License-Identifier: Apache-2.0
"""The pod watch against an API server over HTTPS that fails in the ways real ones do. After each
fault the store has exactly the server's pods."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cap_exporter.pods.api import KubernetesApi
from cap_exporter.pods.state import Phase
from cap_exporter.pods.store import PodStore
from cap_exporter.pods.watch import PodWatch, WatchSettings
from tests.kube.objects import NODE, pod
from tests.kube.server import Handler, KubeServer, Request, status_object

FAST = WatchSettings(
    server_timeout=(20.0, 20.0),
    grace=2.0,
    stall_timeout=1.0,
    answer_timeout=2.0,
    first_backoff=0.02,
    longest_backoff=0.1,
    slow_retry=0.2,
    healthy_after=0.2,
    page_size=100,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubeServer]:
    one = KubeServer(tmp_path)
    try:
        yield one
    finally:
        one.close()


class Watching:
    """A watch that runs, and its store."""

    def __init__(self, server: KubeServer, settings: WatchSettings = FAST, **more: Any) -> None:
        self.server = server
        self.store = PodStore()
        self.api = KubernetesApi(kubeconfig=str(server.kubeconfig()), connect_timeout=1.0)
        self.watch = PodWatch(self.api, self.store, NODE, settings=settings, **more)
        self.watch.start()

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 15
        while not true():
            assert time.monotonic() < deadline, f"{what}: {self.watch.state}"
            time.sleep(0.01)

    def in_step(self) -> None:
        """The store becomes what the server has."""

        def same() -> bool:
            wanted = {
                uid for uid, one in self.server.pods.items() if one["spec"]["nodeName"] == NODE
            }
            return self.watch.state.synced and {p.uid for p in self.store.pods()} == wanted

        self.until(same, "not in step")

    def close(self) -> None:
        self.watch.stop()


@pytest.fixture
def watching(server: KubeServer) -> Iterator[Callable[..., Watching]]:
    made: list[Watching] = []

    def make(**more: Any) -> Watching:
        made.append(Watching(server, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_is_there_is_listed_and_what_changes_is_followed(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    uid = server.apply(pod("api-1", "shop", {"api": "a" * 64}))
    server.apply(pod("elsewhere", node="node-2"))
    one = watching()
    one.in_step()
    found = one.store.by_container_id("a" * 64)
    assert found is not None
    assert (found.pod.namespace, found.pod.name, found.container.name) == ("shop", "api-1", "api")
    # A restart: a new id under the same name.
    restarted = pod("api-1", "shop", {"api": "b" * 64}, uid=uid)
    server.apply(restarted)
    one.until(lambda: one.store.by_container_id("b" * 64) is not None, "the new id")
    old = one.store.by_container_id("a" * 64)
    assert old is not None
    assert not old.current
    server.delete(uid)
    one.in_step()
    # Gone, and still found for the last counts.
    assert one.store.by_container_id("b" * 64) is not None
    assert server.count(watch=False) == 1


def test_each_watch_asks_for_this_node_and_for_bookmarks_and_says_who_it_is(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    watching().in_step()
    assert {r.query.get("fieldSelector") for r in server.requests} == {f"spec.nodeName={NODE}"}
    assert {r.token for r in server.requests} == {"first-token"}
    assert [r.query["allowWatchBookmarks"] for r in server.requests if r.is_watch] == ["true"]


def test_five_thousand_pods_are_read_in_pages(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    for _ in range(5000):
        server.apply(pod(containers={"c": ""}, padding=200))
    one = watching()
    one.in_step()
    assert len(one.store.pods()) == 5000
    assert server.count(watch=False) == 50


def test_a_cut_connection_is_taken_up_where_it_broke(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    one = watching()
    one.in_step()
    for _ in range(3):
        server.cut()
        server.apply(pod())
        one.in_step()
    assert server.count(watch=False) == 1
    assert one.watch.state.errors["reset"] >= 1


def test_a_watch_that_breaks_in_the_middle_of_an_event_loses_none(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    def half(handler: Handler, request: Request) -> bool:
        if not request.is_watch:
            return False
        server.version += 1
        handler.begin_stream()
        text = json.dumps({"type": "ADDED", "object": pod("half")})
        handler.chunk(text[: len(text) // 2].encode())
        handler.close_connection = True
        return True

    server.once(half)
    one = watching()
    server.apply(pod("whole"))
    one.in_step()


@pytest.mark.parametrize("as_event", [False, True])
def test_gone_resource_versions_are_listed_anew(
    server: KubeServer, watching: Callable[..., Watching], as_event: bool
) -> None:
    first = server.apply(pod())
    one = watching()
    one.in_step()

    def expired(handler: Handler, request: Request) -> bool:
        if not request.is_watch:
            return False
        if as_event:
            handler.begin_stream()
            handler.event("ERROR", status_object(410, "Expired", "too old resource version"))
            handler.end_stream()
        else:
            handler.status(410, "Expired")
        return True

    server.once(expired)
    server.cut()
    # What happens meanwhile is told by no watch.
    server.delete(first)
    server.apply(pod())
    server.compact()
    one.in_step()
    assert one.watch.state.errors["expired"] >= 1
    assert one.watch.state.relists >= 1


def test_a_changed_token_is_read_from_its_file(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    one = watching()
    one.in_step()
    server.token = "second-token"
    server.cut()
    one.until(lambda: one.watch.state.errors.get("unauthorized", 0) > 0, "refused")
    server.write_token()
    server.apply(pod())
    one.in_step()
    assert server.requests[-1].token == "second-token"


def test_a_token_that_stays_wrong_does_not_make_it_spin(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    server.token = "other"
    one = watching(settings=WatchSettings(first_backoff=0.3, longest_backoff=0.3))
    one.until(lambda: one.watch.state.phase is Phase.UNAUTHORIZED, "said so")
    before = len(server.requests)
    time.sleep(1.0)
    assert len(server.requests) - before <= 8
    assert "credentials" in one.watch.state.message


def test_without_rights_it_says_which_and_waits(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    def forbidden(handler: Handler, _request: Request) -> bool:
        handler.status(403, "Forbidden", message="pods is forbidden")
        return True

    server.faults.append(forbidden)
    one = watching(settings=WatchSettings(slow_retry=0.6))
    one.until(lambda: one.watch.state.phase is Phase.FORBIDDEN, "said so")
    assert "get, list and watch on pods" in one.watch.state.message
    time.sleep(1.0)
    assert len(server.requests) <= 6
    # Somebody grants them.
    server.faults.clear()
    server.apply(pod())
    one.in_step()


def test_throttling_is_obeyed(server: KubeServer, watching: Callable[..., Watching]) -> None:
    def throttled(handler: Handler, _request: Request) -> bool:
        handler.status(429, "TooManyRequests", retry_after="1")
        return True

    server.once(throttled)
    one = watching()
    server.apply(pod())
    one.in_step()
    assert server.requests[1].time - server.requests[0].time >= 1.0
    assert one.watch.state.errors["throttled"] == 1


def test_a_server_that_answers_500_is_asked_less_and_less_often(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    def broken(handler: Handler, _request: Request) -> bool:
        handler.status(500, "InternalError")
        return True

    server.once(broken, times=6)
    one = watching(
        settings=WatchSettings(first_backoff=0.02, longest_backoff=1.0),
        uniform=lambda _low, high: high,
    )
    server.apply(pod())
    one.in_step()
    times = [request.time for request in server.requests[:7]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[-1] > 4 * gaps[0]
    assert one.watch.state.errors["server_error"] == 6


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json\n",
        b'{"type":"ADDED"}\n',
        b"[1, 2]\n",
        b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n",
        b"\xff\xfe\x00\n",
        b"<html>bad gateway</html>\n",
    ],
    ids=["text", "no-object", "array", "deep", "bytes", "html"],
)
def test_garbage_in_a_watch_costs_no_pod(
    server: KubeServer, watching: Callable[..., Watching], garbage: bytes
) -> None:
    def spoiled(handler: Handler, request: Request) -> bool:
        if not request.is_watch:
            return False
        handler.begin_stream()
        handler.chunk(garbage)
        handler.end_stream()
        return True

    server.apply(pod())
    server.once(spoiled, times=2)
    one = watching()
    one.until(lambda: one.watch.state.errors.get("garbage", 0) > 0, "noticed")
    server.apply(pod())
    one.in_step()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"items":[{', b'{"items":5}', b"\x00" * 100, b"<html>"]
)
def test_garbage_for_a_list_is_asked_for_again(
    server: KubeServer, watching: Callable[..., Watching], body: bytes
) -> None:
    def spoiled(handler: Handler, request: Request) -> bool:
        if request.is_watch:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True

    server.apply(pod())
    server.once(spoiled)
    one = watching()
    one.in_step()
    assert one.watch.state.errors["garbage"] >= 1


def test_an_object_that_is_no_pod_is_left_out_and_counted(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    nameless = pod()
    del nameless["metadata"]["namespace"]
    nameless_uid = server.apply(nameless)
    server.apply(pod(containers={"a": "c" * 64}))
    one = watching()
    one.until(lambda: one.watch.state.synced, "synced")
    assert one.store.by_container_id("c" * 64) is not None
    assert one.store.by_uid(nameless_uid) is None
    assert one.watch.state.invalid_pods == 1


def test_slow_bytes_arrive_as_whole_events(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    late = pod("slow", containers={"a": "d" * 64})

    def slow(handler: Handler, request: Request) -> bool:
        if not request.is_watch:
            return False
        handler.begin_stream()
        text = json.dumps({"type": "ADDED", "object": late}).encode() + b"\n"
        for i in range(0, len(text), 40):
            handler.chunk(text[i : i + 40])
            time.sleep(0.005)
        time.sleep(0.5)
        handler.end_stream()
        return True

    server.once(slow)
    one = watching()
    one.until(lambda: one.store.by_container_id("d" * 64) is not None, "the slow one")


def test_a_silent_watch_is_given_up(server: KubeServer, watching: Callable[..., Watching]) -> None:
    quiet = threading.Event()

    def silent(handler: Handler, request: Request) -> bool:
        if not request.is_watch or not quiet.is_set():
            return False
        handler.begin_stream()
        time.sleep(4)
        return True

    server.once(silent)
    one = watching()
    one.in_step()
    time.sleep(0.5)  # it has seen bookmarks: this server sends them
    quiet.set()
    server.cut()
    began = time.monotonic()
    one.until(lambda: one.watch.state.errors.get("timeout", 0) > 0, "given up")
    assert time.monotonic() - began < 3
    server.apply(pod())
    one.in_step()


def test_versions_that_go_back_make_a_new_list(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    for _ in range(5):
        server.apply(pod())
    one = watching()
    one.in_step()
    server.go_back(500)
    server.cut()
    server.apply(pod())
    one.in_step()


def test_a_server_that_is_gone_is_found_again(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    kept = server.apply(pod(containers={"a": "e" * 64}))
    one = watching()
    one.in_step()
    server.stop()
    one.until(lambda: not one.watch.state.synced, "noticed")
    # What is known stays known.
    assert one.store.by_container_id("e" * 64) is not None
    with server.lock:
        server.pods.pop(kept)
    server.apply(pod())
    server.compact()
    server.start()
    one.in_step()


def test_a_server_that_is_not_there_yet_is_waited_for(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    server.stop()
    one = watching()
    one.until(lambda: one.watch.state.phase is Phase.UNREACHABLE, "said so")
    server.start()
    server.apply(pod())
    one.in_step()


def test_it_ends_at_once_whatever_it_waits_for(
    server: KubeServer, watching: Callable[..., Watching]
) -> None:
    def silent(handler: Handler, request: Request) -> bool:
        time.sleep(3)
        return True

    server.once(silent)
    one = watching()
    one.until(lambda: len(server.requests) > 0, "asked")
    began = time.monotonic()
    one.watch.stop()
    assert time.monotonic() - began < 1.5


def test_a_certificate_of_somebody_else_is_refused_and_said(
    server: KubeServer, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = KubeServer(other)
    try:
        config = json.loads(server.kubeconfig().read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = str(other / "ca.pem")
        path = tmp_path / "wrong"
        path.write_text(json.dumps(config))
        watch = PodWatch(KubernetesApi(kubeconfig=str(path)), PodStore(), NODE, settings=FAST)
        watch.start()
        deadline = time.monotonic() + 10
        while "tls" not in watch.state.errors and time.monotonic() < deadline:
            time.sleep(0.02)
        watch.stop()
        assert watch.state.errors["tls"] >= 1
        assert server.requests == []
    finally:
        stranger.close()
