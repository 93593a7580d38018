# SPDX-License-Identifier: Apache-2.0
"""An API server on loopback that speaks the list and watch protocol of pods, and port-forward, over
HTTPS with token authentication; and that can be made to fail in the ways real ones do.

https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import trustme

from tests.kube.portforward import PortForward

_PODS = re.compile("/api/v1/(?:namespaces/([^/]+)/)?pods")


class Change(NamedTuple):
    version: int
    kind: str
    pod: dict[str, Any]


class Request(NamedTuple):
    path: str
    query: dict[str, str]
    token: str
    time: float

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") in {"1", "true"}


#: A fault gets the handler and the request, may answer it, and says whether it did.
Fault = Callable[["Handler", Request], bool]


class KubeServer:
    """``start()``, ``stop()`` (the port stays), ``close()``. Pods are changed by apply() and
    delete(). ``faults`` are asked for each request, in order, until one has answered; ``once()``
    makes one that goes away after its first answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = "first-token"
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.Condition()
        self.version = 1000
        self.oldest = 0
        """Changes up to this version are forgotten: a watch from there gets 410."""
        self.changes: list[Change] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.bookmark_every = 0.2
        self.forwards: dict[str, int] = {}
        """Where a port-forward to a pod leads, by the pod's name."""
        self._cut = 0
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self._tls)
        self._server: _Server | None = None
        self.port = 0
        self.start()
        self.token_file = folder / "token"
        self.write_token()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        server = _Server(("127.0.0.1", self.port), Handler)
        server.kube = self
        server.tls = self._tls
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Gone: connections are cut, new ones refused."""
        server, self._server = self._server, None
        if server is not None:
            self.cut()
            server.shutdown()
            server.server_close()
            server.drop_connections()

    def close(self) -> None:
        self.stop()

    def cut(self) -> None:
        """End every watch where it is."""
        with self.lock:
            self._cut += 1
            self.lock.notify_all()

    @property
    def cuts(self) -> int:
        return self._cut

    # -- credentials -----------------------------------------------------------------------------

    def write_token(self) -> None:
        self.token_file.write_text(self.token + "\n")

    def kubeconfig(self) -> Path:
        path = self.folder / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority": str(self.folder / "ca.pem"),
                            },
                        }
                    ],
                    "users": [{"name": "u", "user": {"tokenFile": str(self.token_file)}}],
                }
            )
        )
        return path

    # -- pods ------------------------------------------------------------------------------------

    def apply(self, pod: dict[str, Any]) -> str:
        """Create or change a pod; returns its uid."""
        uid = str(pod["metadata"]["uid"])
        with self.lock:
            kind = "MODIFIED" if uid in self.pods else "ADDED"
            self._record(kind, pod)
            self.pods[uid] = pod
            self.lock.notify_all()
        return uid

    def delete(self, uid: str) -> None:
        with self.lock:
            self._record("DELETED", self.pods.pop(uid))
            self.lock.notify_all()

    def _record(self, kind: str, pod: dict[str, Any]) -> None:
        self.version += 1
        pod["metadata"]["resourceVersion"] = str(self.version)
        self.changes.append(Change(self.version, kind, json.loads(json.dumps(pod))))

    def compact(self) -> None:
        """Forget all changes up to now."""
        with self.lock:
            self.oldest = self.version
            self.changes.clear()

    def go_back(self, to: int) -> None:
        """The data is restored from a backup: versions count from an earlier one again."""
        with self.lock:
            self.version = to
            self.oldest = to
            self.changes.clear()

    # -- faults ----------------------------------------------------------------------------------

    def once(self, fault: Fault, times: int = 1) -> None:
        left = [times]

        def limited(handler: Handler, request: Request) -> bool:
            with self.lock:
                if left[0] <= 0:
                    return False
                if not fault(handler, request):
                    return False
                left[0] -= 1
                return True

        self.faults.append(limited)

    def count(self, *, watch: bool) -> int:
        return sum(1 for request in self.requests if request.is_watch is watch)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    kube: KubeServer
    tls: ssl.SSLContext

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake belongs to the connection's thread: one that stalls holds up no other.
        request.settimeout(30)
        try:
            wrapped = self.tls.wrap_socket(request, server_side=True)
        except OSError:
            return
        self._connections.add(wrapped)
        try:
            super().finish_request(wrapped, client_address)
        finally:
            self._connections.discard(wrapped)
            with contextlib.suppress(OSError):
                wrapped.close()

    def drop_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *arguments: object) -> None:
        pass

    @property
    def kube(self) -> KubeServer:
        return self.server.kube

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        request = Request(split.path, query, token if scheme == "Bearer" else "", time.monotonic())
        kube = self.kube
        with kube.lock:
            kube.requests.append(request)
            faults = list(kube.faults)
        for fault in faults:
            if fault(self, request):
                return
        if request.token != kube.token:
            self.status(401, "Unauthorized")
        elif request.path.endswith("/portforward"):
            name = request.path.split("/")[-2]
            forward = PortForward(self.connection, self.headers.items(), self.path)
            forward.serve(int(request.query["ports"]), kube.forwards.get(name))
            self.close_connection = True
        elif not _PODS.fullmatch(request.path):
            self.status(404, "NotFound")
        elif request.is_watch:
            self.watch(request)
        else:
            self.list(request)

    # -- answers ---------------------------------------------------------------------------------

    def status(self, code: int, reason: str, *, retry_after: str = "", message: str = "") -> None:
        body = json.dumps(status_object(code, reason, message)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def list(self, request: Request) -> None:
        kube = self.kube
        with kube.lock:
            pods = list(self.selected(request))
            version = str(kube.version)
        start = int(request.query.get("continue", "0"))
        limit = int(request.query.get("limit", "0")) or len(pods)
        page = pods[start : start + limit]
        metadata = {"resourceVersion": version}
        if start + limit < len(pods):
            metadata["continue"] = str(start + limit)
        self.answer({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": page})

    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def event(self, kind: str, found: object) -> None:
        self.chunk(json.dumps({"type": kind, "object": found}).encode() + b"\n")

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def watch(self, request: Request) -> None:
        kube = self.kube
        at = int(request.query.get("resourceVersion", "0"))
        if at < kube.oldest:
            self.status(410, "Expired", message=f"too old resource version: {at}")
            return
        if at > kube.version:
            body = status_object(504, "Timeout", "Too large resource version")
            body["details"] = {"causes": [{"reason": "ResourceVersionTooLarge"}]}
            self.begin_stream()
            self.event("ERROR", body)
            self.end_stream()
            return
        deadline = time.monotonic() + float(request.query.get("timeoutSeconds", "300"))
        bookmarks = request.query.get("allowWatchBookmarks") == "true"
        cut = kube.cuts
        self.begin_stream()
        told = time.monotonic()
        while kube.cuts == cut and time.monotonic() < deadline:
            with kube.lock:
                if at < kube.oldest and kube.version != at:
                    expired = True
                    news: list[Change] = []
                else:
                    expired = False
                    news = [c for c in kube.changes if c.version > at]
                if not news and not expired:
                    kube.lock.wait(0.05)
            if expired:
                self.event("ERROR", status_object(410, "Expired", "too old resource version"))
                self.end_stream()
                return
            for change in news:
                at = change.version
                if self.is_selected(request, change.pod):
                    self.event(change.kind, change.pod)
            if bookmarks and time.monotonic() - told > kube.bookmark_every:
                told = time.monotonic()
                self.event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(at)}})
        if kube.cuts == cut:
            self.end_stream()
        else:
            self.close_connection = True

    # -- selection -------------------------------------------------------------------------------

    def selected(self, request: Request) -> Iterator[dict[str, Any]]:
        for pod in self.kube.pods.values():
            if self.is_selected(request, pod):
                yield pod

    def is_selected(self, request: Request, pod: dict[str, Any]) -> bool:
        wanted = request.query.get("fieldSelector", "")
        node = wanted.removeprefix("spec.nodeName=")
        if wanted and pod["spec"].get("nodeName") != node:
            return False
        path = _PODS.fullmatch(request.path)
        if path and path[1] and pod["metadata"]["namespace"] != path[1]:
            return False
        name, _, value = request.query.get("labelSelector", "").partition("=")
        return not name or pod["metadata"]["labels"].get(name) == value


def status_object(code: int, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": message or reason,
    }
