# SPDX-License-Identifier: Apache-2.0
"""Whether this node's pods can be read: what the pod watch asks, asked once."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Final

from cap_exporter.doctor.bounded import Check
from cap_exporter.doctor.finding import Finding, Status
from cap_exporter.doctor.wanted import Wanted
from cap_exporter.pods.api import KubernetesApi
from cap_exporter.pods.errors import (
    ApiError,
    Forbidden,
    NoConfiguration,
    NotFound,
    TlsFailed,
    Unauthorized,
)
from cap_exporter.terminal import printable

_PODS: Final = "/api/v1/pods"

#: Seconds: of a server that is there, each answer takes milliseconds.
_PATIENCE: Final = 2.0

#: Differences up to this are the rounding of HTTP's dates and the network, seconds.
_SKEW: Final = 2.0

_TITLE: Final = "Kubernetes API"


class _Api(KubernetesApi):
    def look(self) -> tuple[str, str, float | None]:
        """Its address, its version ("" where it does not tell), and how many seconds its clock is
        ahead of ours."""
        connection = self._configured()
        began = time.time()
        answer = connection.pools.request(
            "GET",
            f"{connection.host}/version",
            headers=connection.headers,
            timeout=_PATIENCE,
            retries=False,
            redirect=False,
        )
        local = (began + time.time()) / 2
        version, ahead = "", None
        with contextlib.suppress(ValueError, AttributeError):
            version = str(json.loads(answer.data).get("gitVersion", ""))
        with contextlib.suppress(ValueError, TypeError):
            # The date is cut to the second.
            date = parsedate_to_datetime(answer.headers["Date"])
            ahead = date.timestamp() + 0.5 - local
        return connection.host, version, ahead


def _kubernetes(wanted: Wanted) -> Iterator[Finding]:
    inside = bool(wanted.environ.get("KUBERNETES_SERVICE_HOST"))
    if wanted.kubernetes == "off":
        yield Finding("kubernetes.api", _TITLE, Status.INFO, "turned off (--kubernetes off)")
        return
    if wanted.kubernetes == "auto" and not (inside or wanted.kubeconfig):
        yield Finding(
            "kubernetes.api",
            _TITLE,
            Status.INFO,
            "not in a pod, and no --kubeconfig: containers are named by what is on this host",
        )
        return
    node = wanted.node_name
    if node:
        yield Finding("kubernetes.node", "node's name", Status.OK, printable(node))
    else:
        yield Finding(
            "kubernetes.node",
            "node's name",
            Status.FAILED,
            "NODE_NAME is not set, so `run` does not start: only this node's pods are watched",
            "in the manifest: env NODE_NAME from the downward API (fieldRef spec.nodeName); else: "
            "--node-name",
        )
    api = _Api(
        kubeconfig=str(wanted.kubeconfig) if wanted.kubeconfig else None,
        environ=wanted.environ,
        connect_timeout=_PATIENCE,
    )
    try:
        yield from _ask(api, node)
    finally:
        api.close()


def _ask(api: _Api, node: str | None) -> Iterator[Finding]:
    query = {"limit": "1", "fieldSelector": f"spec.nodeName={node}"} if node else {"limit": "1"}
    listed = _try(api, query)
    if listed is not None and not isinstance(listed, Forbidden):
        yield _unreachable(listed)
        return
    yield from _seen(api)
    # From the server's cache: it begins to answer at once.
    watched = _try(api, {"watch": "1", "timeoutSeconds": "1", "resourceVersion": "0", **query})
    for verb, error in (("list", listed), ("watch", watched)):
        title = f"right to {verb} pods"
        if error is None:
            yield Finding(f"kubernetes.{verb}", title, Status.OK, "given")
        elif not isinstance(error, Forbidden):
            yield Finding(
                f"kubernetes.{verb}",
                title,
                Status.LIMITED,
                printable(str(error)),
                "the API server may be busy: look once more",
            )
        else:
            yield Finding(
                f"kubernetes.{verb}",
                title,
                Status.FAILED,
                printable(str(error)),
                "give it by RBAC; the chart and deploy/kubernetes do. By hand:",
                _grant(str(error)),
            )


def _try(api: _Api, query: dict[str, str]) -> ApiError | None:
    try:
        with api.get(_PODS, query, answer_timeout=_PATIENCE, read_timeout=_PATIENCE):
            return None
    except ApiError as error:
        return error


def _unreachable(error: ApiError) -> Finding:
    remedy = {
        NoConfiguration: "run it in a pod with a service account, or give --kubeconfig FILE; "
        "--kubernetes off does without pods",
        Unauthorized: "the token is not (or no longer) valid: restart the pod, or renew the "
        "kubeconfig's credentials",
        TlsFailed: "the authority in the kubeconfig, or the pod's ca.crt, is not the server's",
        NotFound: "give the API server's own address in the kubeconfig",
    }.get(
        type(error),
        "is the address right, and does a NetworkPolicy or firewall let this host reach it?",
    )
    return Finding("kubernetes.api", _TITLE, Status.FAILED, printable(str(error)), remedy)


def _seen(api: _Api) -> Iterator[Finding]:
    host, version, ahead = api.look()
    yield Finding(
        "kubernetes.api", _TITLE, Status.OK, printable(" ".join(filter(None, (host, version))))
    )
    if ahead is None:
        return
    title = "clock of the API"
    if abs(ahead) <= _SKEW:
        yield Finding("kubernetes.clock", title, Status.OK, "agrees with this host's")
        return
    yield Finding(
        "kubernetes.clock",
        title,
        Status.LIMITED,
        f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this host's: tokens may seem "
        "expired, and times of events differ",
        "synchronise the clocks of both (NTP)",
    )


def _grant(said: str) -> str:
    """The commands that give the rights to whoever the server says we are."""
    account = re.search(r"system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)", said)
    user = re.search(r'User "([^"]+)"', said)
    if account:
        who = f"--serviceaccount={account[1]}:{account[2]}"
    elif user:
        who = f"--user={shlex.quote(printable(user[1]))}"
    else:
        who = "--serviceaccount=NAMESPACE:NAME"
    return (
        "kubectl create clusterrole cap-exporter --verb=get,list,watch --resource=pods && "
        f"kubectl create clusterrolebinding cap-exporter --clusterrole=cap-exporter {who}"
    )


CHECKS: Final = (Check("kubernetes", _TITLE, _kubernetes, limit=10.0),)
