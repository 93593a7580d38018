# SPDX-License-Identifier: Apache-2.0
"""What reads bytes from outside, each with the errors that it may raise, and examples to begin
with. Anything else that comes out is a fault."""

from __future__ import annotations

import ctypes
import json
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click

from cap_exporter import engine_names
from cap_exporter.assembly import Settings, make_exporter
from cap_exporter.cgroups.processes import parse_process_cgroups
from cap_exporter.cgroups.reference import parse
from cap_exporter.cli import gather, known_options, run
from cap_exporter.cli import group as commands
from cap_exporter.cli.reread import reread
from cap_exporter.config import ConfigError
from cap_exporter.fleet.http_config import HttpConfigError, read_http_config
from cap_exporter.fleet.prometheus import Prometheus, PrometheusError
from cap_exporter.model import (
    CgroupChange,
    CgroupEvent,
    CgroupKey,
    CheckClass,
    CheckKey,
    Event,
    Identity,
    SourceError,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.event_record import line_of, record_of
from cap_exporter.outputs.web_config import read_web_config
from cap_exporter.pods.errors import ApiError
from cap_exporter.pods.store import PodStore
from cap_exporter.pods.watch import PodWatch
from cap_exporter.profiles.manifests import ManifestError, read_manifests
from cap_exporter.sources import held, layout
from cap_exporter.sources.events import EventReader, EventSettings
from cap_exporter.sources.kept.left import Left, Unreadable
from cap_exporter.sources.reading import Shape
from tests.kube.objects import pod

FOLDER = Path(tempfile.gettempdir())


class Target(NamedTuple):
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


@contextmanager
def file_of(data: bytes, suffix: str = "") -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


# -- the kernel ----------------------------------------------------------------------------------


def cgroup_path(data: bytes) -> None:
    reference = parse(data)
    assert reference == parse(data.decode("utf-8", "surrogateescape"))
    parse_process_cgroups(data)


def ring_record(data: bytes) -> None:
    event = EventReader((2, 1, 0)).read(data)
    record = record_of(event, Identity(container="c"), "node", lambda address: f"f+{address:#x}")
    assert line_of(record).isprintable()
    json.dumps(record).encode()


def left_by_another(data: bytes) -> None:
    left = Left.parse(data)
    assert Left.parse(left.text()) == left


def held_records(data: bytes) -> None:
    for granted in held.read_held(data, (2, 1, 0)).values():
        assert granted.processes > 0


# -- files ---------------------------------------------------------------------------------------


def _print(event: Event, identity: Identity) -> None:
    line_of(record_of(event, identity, "node"))


def recording(data: bytes) -> None:
    with file_of(data, ".gz" if data.startswith(b"\x1f\x8b") else "") as path:
        exporter, ledger = make_exporter(
            Settings(source=f"replay:{path}", paced=False, pod_patience=0, events=EventSettings()),
            on_event=_print,
        )
        try:
            exporter.open()
        except SourceError:
            exporter._source.close()
            raise
        exporter.play_to_end()
        ledger.accounts()


_OPTIONS = known_options(click.Context(commands))


def configuration(data: bytes) -> None:
    context = run.command.make_context("run", [])
    with file_of(data) as path:
        values = reread(context, path, _OPTIONS)
    assert values["drain_interval"] >= 0


def web_configuration(data: bytes) -> None:
    with file_of(data) as path:
        read_web_config(path)


def http_configuration(data: bytes) -> None:
    with file_of(data) as path:
        read_http_config(path)


def manifests(data: bytes) -> None:
    with file_of(data, ".yaml") as path:
        read_manifests(path)


def profile_file(data: bytes) -> None:
    with file_of(data) as path:
        gather.read(path)


# -- servers -------------------------------------------------------------------------------------


class _Api:
    """Answers each request with the same bytes, in pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @contextmanager
    def get(self, _path: str, _query: Mapping[str, str], **_: float) -> Iterator[_Api]:
        yield self

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), 100):
            yield self._data[start : start + 100]

    def reload(self) -> None: ...
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


def _watch(data: bytes) -> tuple[PodWatch, PodStore]:
    store = PodStore()
    return PodWatch(_Api(data), store, "node", labels=("app",)), store  # type: ignore[arg-type]


def pod_list(data: bytes) -> None:
    watch, store = _watch(data)
    try:
        watch._list()
    finally:
        store.size()


def pod_watch(data: bytes) -> None:
    watch, _ = _watch(data)
    watch._resource_version = "1"
    watch._follow()


class _Answer(NamedTuple):
    status: int
    data: bytes
    headers: Mapping[str, str]


def prometheus_answer(data: bytes) -> None:
    server = Prometheus("http://localhost:9")
    status = (200, 400, 503)[len(data) % 3] if data[:1] != b"{" else 200
    with mock.patch.object(server, "_request", return_value=_Answer(status, data, {})):
        for series in server.query("up", 0.0):
            assert all(isinstance(value, float) for _, value in series.samples)


def engine_answer(data: bytes) -> None:
    client, server = socket.socketpair()
    with server:
        server.setblocking(False)
        server.send(data[:60_000])
        server.shutdown(socket.SHUT_WR)

        def connect(self: Any) -> None:
            self.sock = client

        names = engine_names.EngineNames(Path("/nowhere"))
        with client, mock.patch.object(engine_names._UnixConnection, "connect", connect):
            assert isinstance(names._ask("a" * 64), str)


# -- all -----------------------------------------------------------------------------------------

_POD = pod("api-1", "shop", {"app": "a" * 64}, uid="u-1", labels={"app": "x"})
_LIST = {"kind": "PodList", "metadata": {"resourceVersion": "5", "continue": ""}, "items": [_POD]}
_HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
_PROM = {
    "status": "success",
    "data": {
        "resultType": "matrix",
        "result": [{"metric": {"pod": "x"}, "values": [[1.5, "2"], [2, "NaN"]]}],
    },
}
_PROFILE = {
    "containers": [
        {
            "namespace": "", "pod": "", "container": "c", "container_id": "", "used": {},
            "denied": {"CAP_KILL": 2}, "in_user_namespace": {"used": {}, "denied": {}},
            "first_seen": "2026-01-01T00:00:00Z",
        }
    ]
}  # fmt: skip


def _line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _record() -> bytes:
    raw = layout.CheckEventLong()
    ctypes.memset(ctypes.byref(raw), 0x41, ctypes.sizeof(raw))
    return bytes(raw)


_CGROUP = CgroupKey(1, 5)
_CHECK = CheckKey(_CGROUP, 21, Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL)
_LEFT = Left(
    set_id="a", attach="tp_btf", lossy="",
    shape=Shape("checks_tp_btf", (2, 1, 0), 8, 4096, 4096, 1.0, True),
    increments=[(_CHECK, 3)], news=[CgroupEvent(CgroupChange.CREATED, _CGROUP, "/a")],
    document={"paths": [[1, 5, "/a"]]},
)  # fmt: skip
_EVENT_SIZE = ctypes.sizeof(layout.CheckEvent)
_RECORDING = _line(
    {"format": "cap-exporter recording", "version": 1, "source": "libbpf", "attach": "tp_btf",
     "time": 1.0, "kernel": "6.18"}
) + _line(
    {"time": 2.0, "increments": [[0, 5, 21, "denied", "init", "meaningful", 3]],
     "cgroups": [["created", 0, 5, "/docker/" + "a" * 64]], "cgroup_events_lost": 0,
     "missed": {"recursion": 0}, "events": [], "events_lost": {}, "entered": [], "held": [],
     "slots_used": 1, "slots_total": 2}
)  # fmt: skip

TARGETS: dict[str, Target] = {
    "cgroup_path": Target(
        cgroup_path,
        (),
        (
            b"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"
            b"12345678_1234_1234_1234_123456789abc.slice/cri-containerd-" + b"a" * 64 + b".scope",
            b"/system.slice/docker-" + b"b" * 64 + b".scope",
            b"/machine.slice/machine-a\\x2db.scope/payload\n0::/user.slice/user@1000.service/x",
        ),
    ),
    "ring_record": Target(ring_record, (ValueError,), (_record(), _record()[:_EVENT_SIZE])),
    "left_by_another": Target(left_by_another, (Unreadable,), (_LEFT.text(),)),
    "held_records": Target(held_records, (), (bytes(range(held.SIZE)) * 3,)),
    "recording": Target(recording, (SourceError,), (_RECORDING,)),
    "configuration": Target(
        configuration,
        (ConfigError,),
        (
            b"drain-interval: 5s\nscope: pods\nnamespaces: [a, b]\nmax-series: 5\n",
            b"listen: ':1'\nevent-interval: 1m\npod-selector: a=b,c!=d\nlog-level: debug\n",
        ),
    ),
    "web_configuration": Target(
        web_configuration,
        (ConfigError,),
        (
            b"tls_server_config:\n  cert_file: a\n  key_file: b\n  min_version: TLS13\n",
            b"basic_auth_users:\n  a: $2y$10$" + b"a" * 53 + b"\nrate_limit: {interval: 1s}\n",
            b"http_server_config:\n  http2: false\n  headers: {X-Frame-Options: deny}\n",
        ),
    ),
    "http_configuration": Target(
        http_configuration,
        (HttpConfigError,),
        (b"basic_auth: {username: a, password: b}\n", b"authorization: {credentials: x}\n"),
    ),
    "manifests": Target(
        manifests,
        (ManifestError,),
        (
            b"kind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: y\n"
            b"    securityContext: {capabilities: {drop: [ALL], add: [KILL]}}\n"
            b"---\nkind: List\nitems: []\n",
        ),
    ),
    "profile_file": Target(profile_file, (click.ClickException,), (_line(_PROFILE),)),
    "pod_list": Target(pod_list, (ApiError,), (_line(_LIST),)),
    "pod_watch": Target(
        pod_watch,
        (ApiError,),
        (
            _line({"type": "ADDED", "object": _POD})
            + _line({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}),
            _line({"type": "ERROR", "object": {"code": 410, "message": "old"}}),
        ),
    ),
    "prometheus_answer": Target(
        prometheus_answer,
        (PrometheusError,),
        (_line(_PROM), _line({"status": "error", "error": "query timed out"})),
    ),
    "engine_answer": Target(
        engine_answer,
        (),
        (
            _HTTP % (17, b'{"Name": "/web1"}'),
            b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
    ),
}
