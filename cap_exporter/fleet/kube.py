# SPDX-License-Identifier: Apache-2.0
"""Asks every exporter of a cluster, through the API server's port-forward.

Port-forward, since the page and the API listen on the pod's loopback: a Service or the API
server's proxy subresource can't reach them. The kubelet speaks its protocol over websockets too
(subprotocol v4.channel.k8s.io; kubernetes staging/src/k8s.io/kubelet/pkg/cri/streaming/portforward/
websocket.go, v1.34), which is what the kubernetes package has: no kubectl is needed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cap_exporter.pods.client_library import load_kubeconfig
from cap_exporter.terminal import printable

#: The label that the chart and the manifests give the exporter's pods.
SELECTOR = "app.kubernetes.io/name=cap-exporter"
PORT = 10839

#: Exporters that are asked at once.
MOST_AT_ONCE = 16

#: An answer longer than this, in bytes, is none.
_MOST_BYTES = 256 << 20

#: A websocket begins with GET: kube-apiserver 1.34 asks for get alone (tests/k8s), 1.35 for create
#: too (feature AuthorizePodWebsocketUpgradeCreatePermission).
RIGHTS = """\
rules:
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/portforward]
  verbs: [get, create]"""


class KubeError(Exception):
    """No exporter could be asked; the text says why and what to do."""


class ExporterPod(NamedTuple):
    namespace: str
    name: str
    node: str
    phase: str

    def __str__(self) -> str:
        return f"{self.node or 'no node'} ({self.namespace}/{self.name})"


class Where(NamedTuple):
    """Which cluster, and which pods are exporters."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    """None: all."""
    selector: str = SELECTOR
    port: int = PORT
    timeout: float = 20.0
    """Of one exporter, in seconds."""
    headers: Mapping[str, str] = MappingProxyType({})
    """For the exporters, e.g. a log-in."""


class _Failed(Exception):
    """One exporter gave no answer."""


class Cluster:
    """Raises KubeError."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._configuration = _configuration(where)

    def profiles(self, progress: Callable[[float], None] = lambda _part: None) -> dict[str, Any]:
        """All exporters' profiles as one document: each with ``node``, and who gave none under
        ``incomplete``. progress: how much is done, 0…1."""
        pods = self.exporters()
        if not pods:
            place = f"in namespace {self._where.namespace}" if self._where.namespace else "anywhere"
            raise KubeError(
                f"no pod {place} has the label {self._where.selector}: is cap-exporter installed? "
                "Other labels: --kube-selector"
            )
        found: list[dict[str, Any]] = []
        failed: list[str] = []
        for done, (pod, answer) in enumerate(self._ask_all(pods), 1):
            progress(done / len(pods))
            if isinstance(answer, _Failed):
                failed.append(f"{pod}: {answer}")
            else:
                found += [{**one, "node": pod.node} for one in answer["containers"]]
        failed.sort()
        if len(failed) == len(pods):
            raise KubeError("no exporter gave an answer:\n" + "\n".join(failed))
        found.sort(
            key=lambda one: [
                str(one.get(name)) for name in ("namespace", "pod", "container", "node")
            ]
        )
        return {"containers": found, **({"incomplete": failed} if failed else {})}

    def exporters(self) -> list[ExporterPod]:
        """Pods with the label, sorted."""
        from kubernetes import client

        with client.ApiClient(self._configuration) as api:
            return sorted(self._list(client.CoreV1Api(api)))

    def _list(self, api: Any) -> list[ExporterPod]:
        from kubernetes.client import ApiException

        where = self._where
        found: list[ExporterPod] = []
        more: dict[str, Any] = {}
        while True:
            settings = {
                "label_selector": where.selector,
                "limit": 500,
                "_preload_content": False,
                "_request_timeout": (5, where.timeout),
                **more,
            }
            try:
                if where.namespace is None:
                    answer = api.list_pod_for_all_namespaces(**settings)
                else:
                    answer = api.list_namespaced_pod(where.namespace, **settings)
                body = answer.data
                if not 200 <= answer.status < 300:
                    raise ApiException(status=answer.status, reason=_message(body))
                document = json.loads(body)
                found += [_exporter(one) for one in document.get("items") or ()]
                token = (document.get("metadata") or {}).get("continue")
            except Exception as error:
                # Whatever urllib3, ssl and credential plug-ins raise.
                raise KubeError(self._why_no_list(error)) from error
            if not token:
                return found
            more = {"_continue": token}

    def _why_no_list(self, error: Exception) -> str:
        host = self._configuration.host
        status = getattr(error, "status", None)
        text = _words(error)
        if status == 401:
            return f"{host} does not know who asks (401): log in again, or take another --context"
        if status == 403:
            one = "" if self._where.namespace else " If you may in one namespace: --kube-namespace."
            return f"{host} does not let you list pods: {text}.{one} It takes\n{RIGHTS}"
        return f"no pods from {host}: {text}"

    def _ask_all(
        self, pods: list[ExporterPod]
    ) -> Iterator[tuple[ExporterPod, dict[str, Any] | _Failed]]:
        """As they answer. A thread that hangs is left behind; it does not keep the process."""
        answers: queue.SimpleQueue[tuple[ExporterPod, dict[str, Any] | _Failed]]
        answers = queue.SimpleQueue()

        def ask(pod: ExporterPod) -> None:
            try:
                answers.put((pod, self._ask(pod)))
            except _Failed as error:
                answers.put((pod, error))
            except Exception as error:  # an odd answer of one must not end the others
                answers.put((pod, _Failed(_words(error))))

        waiting, running = deque(pods), dict[ExporterPod, float]()
        with _quiet_threads():
            while waiting or running:
                while waiting and len(running) < MOST_AT_ONCE:
                    pod = waiting.popleft()
                    running[pod] = time.monotonic() + self._where.timeout
                    threading.Thread(target=ask, args=(pod,), daemon=True).start()
                try:
                    wait = max(0.0, min(running.values()) - time.monotonic())
                    pod, answer = answers.get(timeout=wait)
                except queue.Empty:
                    pod = min(running, key=running.__getitem__)
                    answer = _Failed(f"no answer in {self._where.timeout:g} s")
                # One that was given up may still answer.
                if running.pop(pod, None) is not None:
                    yield pod, answer

    def _ask(self, pod: ExporterPod) -> dict[str, Any]:
        if pod.phase != "Running":
            raise _Failed(f"the pod is {pod.phase or 'in no phase'}")
        from kubernetes import client
        from kubernetes.stream import portforward

        port = self._where.port
        try:
            # Each has its own: portforward() changes it.
            with client.ApiClient(self._configuration) as own:
                forward = portforward(
                    client.CoreV1Api(own).connect_get_namespaced_pod_portforward,
                    pod.name,
                    pod.namespace,
                    ports=str(port),
                )
        except client.ApiException as error:
            raise _Failed(_why_no_forward(error)) from error
        try:
            return _get_profiles(forward.socket(port), self._where)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # What the kubelet says of the port, if anything, tells more.
            told = printable(" ".join(str(forward.error(port) or "").split()))
            raise _Failed(told or _words(error)) from error
        finally:
            forward.close()
            # Else the package leaves these open where the other side closes first.
            for one in forward.local_ports.values():
                one.python.close()
            forward.websocket.shutdown()


def _configuration(where: Where) -> Any:
    from kubernetes import client
    from kubernetes.config import incluster_config

    configuration: Any = client.Configuration()
    paths = str(where.kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube/config")
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    try:
        there = any(Path(path).exists() for path in paths.split(os.pathsep) if path)
        if in_pod and not there and where.kubeconfig is None:
            load: Any = incluster_config.load_incluster_config
            load(client_configuration=configuration)
        else:
            load_kubeconfig(paths, where.context, configuration)
    except Exception as error:
        raise KubeError(f"kubeconfig {paths}: {_words(error)}") from error
    # The package keeps a token file's line end.
    configuration.api_key = {name: key.strip() for name, key in configuration.api_key.items()}
    configuration.refresh_api_key_hook = None  # would bring it back
    return configuration


def _exporter(pod: dict[str, Any]) -> ExporterPod:
    metadata, spec, status = (pod.get(part) or {} for part in ("metadata", "spec", "status"))
    return ExporterPod(
        str(metadata["namespace"]),
        str(metadata["name"]),
        str(spec.get("nodeName") or ""),
        str(status.get("phase") or ""),
    )


def _get_profiles(connected: Any, where: Where) -> dict[str, Any]:
    connection = http.client.HTTPConnection("localhost", where.port)
    connected.settimeout(where.timeout)
    connection.sock = connected
    headers = {**where.headers, "Connection": "close"}
    with contextlib.closing(connection):
        connection.request("GET", "/api/v1/profiles", headers=headers)
        with connection.getresponse() as answer:
            body = answer.read(_MOST_BYTES + 1)
    if answer.status == 401:
        raise _Failed("it wants a log-in (HTTP 401): --http-config names a file with basic_auth")
    if answer.status != 200:
        words = " ".join(body[:200].decode("utf-8", "replace").split())
        raise _Failed(printable(f"HTTP {answer.status}: {words or answer.reason}"))
    if len(body) > _MOST_BYTES:
        raise _Failed("its answer has no end")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Failed("its answer is no JSON: is that port an exporter's page?") from error
    containers = document.get("containers") if isinstance(document, dict) else None
    if not isinstance(containers, list) or not all(isinstance(one, dict) for one in containers):
        raise _Failed("its answer has no containers: is that port an exporter's page?")
    return {**document}


def _why_no_forward(error: Exception) -> str:
    """websocket-client's text: ``Handshake status 403 Forbidden -+-+- headers -+-+- body``."""
    text = str(getattr(error, "reason", None) or error)
    status = re.match(r"Handshake status (\d+) ?(.*?)(?: -\+-\+- |$)", text, re.DOTALL)
    if status is None:
        return _words(error)
    if status[1] == "403":
        return f"you may not forward ports to its pod; that takes\n{RIGHTS}"
    found = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', text)
    return printable(f"port-forward: HTTP {status[1]} {found[1] if found else status[2]}".strip())


def _message(body: bytes) -> str:
    """Of the API's Status object."""
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(body).get("message"))
    return body[:200].decode("utf-8", "replace")


def _words(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while True:
        inner = getattr(error, "reason", None)
        inner = inner if isinstance(inner, BaseException) else error.__cause__
        if inner is None:
            break
        error = inner
    text = _message(body.encode()) if (body := getattr(error, "body", None)) else ""
    text = text or str(getattr(error, "reason", None) or error) or type(error).__name__
    return printable(" ".join(text.rpartition(">: ")[2].split()))


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """The package's proxy threads end with an exception where a connection breaks: it is reported
    by who reads from them."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.thread is None or "port forward proxy" not in arguments.thread.name:
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
