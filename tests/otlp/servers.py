# SPDX-License-Identifier: Apache-2.0
"""Real OTLP receivers on loopback, of the official protobuf package: one speaks gRPC, one HTTP.
Both can be stopped and started again on their port, use TLS, and fail in the ways real ones do."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from tests.otlp.received import Certificates, Received
from tests.ports import free_port


class Receiver(Protocol):
    received: Received

    @property
    def endpoint(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class GrpcReceiver:
    protocol = "grpc"

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.received = Received()
        self.port = free_port()
        self._certificates = certificates
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._certificates else 'http'}://localhost:{self.port}"

    def start(self) -> None:
        self.received.closing.clear()
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        service = _Service(self.received)
        add_logs: Any = logs_service_pb2_grpc.add_LogsServiceServicer_to_server
        add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        add_logs(service, server)
        add_metrics(service, server)
        address = f"127.0.0.1:{self.port}"
        if self._certificates:
            chain = self._certificates.server
            credentials = grpc.ssl_server_credentials(
                [(chain.private_key_pem.bytes(), chain.cert_chain_pems[0].bytes())]
            )
            server.add_secure_port(address, credentials)
        else:
            server.add_insecure_port(address)
        server.start()
        self._server = server

    def stop(self) -> None:
        self.received.closing.set()
        if self._server:
            self._server.stop(None).wait()
            self._server = None


class _Service:
    """Both services: each has one method of the same name."""

    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        fault = self._received.next_fault(metadata)
        if fault.silent:
            context.abort(grpc.StatusCode.CANCELLED, "the receiver is closed")
        if fault.status is not None:
            assert isinstance(fault.status, grpc.StatusCode)
            if fault.retry_after is not None:
                delay = Duration()
                delay.FromNanoseconds(int(fault.retry_after * 1e9))
                info = RetryInfo(retry_delay=delay)
                context.set_trailing_metadata(
                    (("google.rpc.retryinfo-bin", info.SerializeToString()),)
                )
            context.abort(fault.status, "as the test wants it")
        self._received.take(request)
        return fault.answer(request)


class HttpReceiver:
    protocol = "http/protobuf"

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.received = Received()
        self.port = free_port()
        self._certificates = certificates
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._certificates else 'http'}://localhost:{self.port}"

    def start(self) -> None:
        self.received.closing.clear()
        server = _HttpServer(("127.0.0.1", self.port), _Handler)
        server.received = self.received
        if self._certificates:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._certificates.server.configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.received.closing.set()
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    received: Received

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or didn't like the certificate."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer
    timeout = 5

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received = self.server.received
        fault = received.next_fault({k.lower(): v for k, v in self.headers.items()})
        if fault.silent:
            self.close_connection = True
            return
        if fault.status is not None:
            assert isinstance(fault.status, int)
            self.send_response(fault.status)
            if fault.retry_after is not None:
                self.send_header("Retry-After", f"{fault.retry_after:g}")
            self._end(b"")
            return
        encoding = self.headers.get("Content-Encoding", "")
        if encoding == "gzip":
            body = gzip.decompress(body)
        elif encoding == "deflate":
            body = zlib.decompress(body)
        request: Any
        if self.path == "/v1/logs":
            request = ExportLogsServiceRequest()
        elif self.path == "/v1/metrics":
            request = ExportMetricsServiceRequest()
        else:
            self.send_response(404)
            self._end(b"")
            return
        request.ParseFromString(body)
        received.take(request)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self._end(fault.answer(request).SerializeToString())

    def _end(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Relay:
    """Passes a connection's bytes on to ``port`` and keeps what the client sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                threading.Thread(
                    target=self._pass, args=(client, server, True), daemon=True
                ).start()
                threading.Thread(
                    target=self._pass, args=(server, client, False), daemon=True
                ).start()

    def _pass(self, source: socket.socket, target: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if keep:
                    self.sent += data
                target.sendall(data)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextlib.contextmanager
def running(receiver: GrpcReceiver | HttpReceiver) -> Iterator[GrpcReceiver | HttpReceiver]:
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
