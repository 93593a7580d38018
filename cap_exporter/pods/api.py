# SPDX-License-Identifier: Apache-2.0
"""GET requests to the Kubernetes API server, with what the `kubernetes` package knows of it.

Configuration, tokens, TLS and proxies are the package's; requests and their errors are ours,
because a watch needs timeouts, a way to be interrupted, and to tell failures apart.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from urllib.parse import urlencode

from cap_exporter import __version__
from cap_exporter.pods.client_library import client_library, load_kubeconfig
from cap_exporter.pods.errors import (
    ApiError,
    ConnectFailed,
    Garbage,
    Interrupted,
    NoConfiguration,
    TimedOut,
    TlsFailed,
    error_of_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from cap_exporter.pods.client_library import Configuration

_log = logging.getLogger(__name__)

#: Where Kubernetes mounts a pod's credentials.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# An error's body is a Status object; what is longer is none.
_MAX_ERROR_BODY = 65_536
_CHUNK = 65_536


class Body(Protocol):
    """The body of an answer with status 200, as it comes. Leaving the `with` lets go of it."""

    def chunks(self) -> Iterator[bytes]:
        """Bytes as they arrive; ends where the server ended it. Raises ApiError."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Api(Protocol):
    """What the watch needs of an API server."""

    def get(
        self, path: str, query: Mapping[str, str], *, answer_timeout: float, read_timeout: float
    ) -> Body:
        """Ask. Raises ApiError, also for every status but 200.

        answer_timeout: seconds until the server begins to answer. read_timeout: seconds of silence
        after that.
        """

    def reload(self) -> None:
        """Read address and credentials anew before the next request."""

    def interrupt(self) -> None:
        """From another thread: end what is going on, and refuse what comes after."""

    def close(self) -> None:
        """Close idle connections. For when no request is under way."""


class KubernetesApi:
    """The API server this process is configured for.

    In this order: `kubeconfig` (a path, or several as in $KUBECONFIG) with `context` where it is
    given; the pod's service account; $KUBECONFIG or ~/.kube/config. It is read at the first
    request, again every `refresh` seconds (tokens of pods are exchanged after less than an hour,
    the package re-reads them every minute) and after reload().

    Not thread-safe but for interrupt().
    """

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
        connect_timeout: float = 5.0,
        refresh: float = 60.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._environ = environ
        self._service_account = service_account
        self._connect_timeout = connect_timeout
        self._refresh = refresh
        self._clock = clock
        self._monotonic = monotonic
        self._sockets = _Sockets()
        self._connection: _Connection | None = None
        self._loaded_at = 0.0

    def get(
        self, path: str, query: Mapping[str, str], *, answer_timeout: float, read_timeout: float
    ) -> Body:
        connection = self._configured()
        # Here, not above: urllib3 comes with the client library, where that is used at all.
        import urllib3

        url = f"{connection.host}{path}?{urlencode(query)}"
        with _our_errors(connection.host):
            response = connection.pools.request(
                "GET",
                url,
                headers=connection.headers,
                timeout=urllib3.Timeout(connect=self._connect_timeout, read=answer_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        body = _ResponseBody(response, connection.host)
        if response.status != 200:
            with body:
                raise error_of_status(
                    response.status,
                    _status_object(body),
                    retry_after=response.headers.get("Retry-After"),
                    now=self._clock(),
                )
        body.set_timeout(read_timeout)
        return body

    def reload(self) -> None:
        self._loaded_at = float("-inf")

    def interrupt(self) -> None:
        self._sockets.shut()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.pools.clear()
            self._connection = None

    def _configured(self) -> _Connection:
        now = self._monotonic()
        if self._connection is None or now - self._loaded_at >= self._refresh:
            try:
                connection = self._load()
            except NoConfiguration as error:
                if self._connection is None:
                    raise
                # While a token is being exchanged its file may be missing for a moment.
                _log.debug("keeping the credentials as they were: %s", error)
            else:
                self.close()
                self._connection = connection
            self._loaded_at = now
        return self._connection

    def _load(self) -> _Connection:
        try:
            library = client_library()
        except ImportError as error:
            raise NoConfiguration(f"pods cannot be read: {error}") from error
        configuration = library.configuration()
        source = self._fill(configuration, library.in_cluster_loader)
        try:
            return _Connection(configuration, library.transport, self._sockets)
        except Exception as error:
            # The package passes on whatever ssl, urllib3 and its credential plug-ins raise.
            raise NoConfiguration(f"{source}: {_innermost(error)}") from error

    def _fill(self, configuration: Configuration, in_cluster_loader: Any) -> str:
        """Load the configuration and say where it was found."""
        paths = self._kubeconfig
        if paths is None and self._environ.get("KUBERNETES_SERVICE_HOST"):
            token = self._service_account / "token"
            try:
                in_cluster_loader(
                    token_filename=str(token),
                    cert_filename=str(self._service_account / "ca.crt"),
                    # We read it anew ourselves, with the rest.
                    try_refresh_token=False,
                    environ=self._environ,
                ).load_and_set(configuration)
            except Exception as error:
                raise NoConfiguration(
                    f"this pod's service account cannot be used: {error} ({token};"
                    " automountServiceAccountToken must not be false)"
                ) from error
            return str(token)
        if paths is None:
            home = self._environ.get("HOME", "/root")
            paths = self._environ.get("KUBECONFIG") or f"{home}/.kube/config"
            if not any(Path(path).exists() for path in paths.split(os.pathsep) if path):
                raise NoConfiguration(
                    "no Kubernetes API: not in a pod (KUBERNETES_SERVICE_HOST is not set) and no"
                    f" kubeconfig ({paths})"
                )
        try:
            load_kubeconfig(paths, self._context, configuration)
        except Exception as error:
            raise NoConfiguration(f"kubeconfig {paths}: {_innermost(error)}") from error
        return paths


class _Connection:
    """An address, the pool of connections to it, and the headers of each request."""

    def __init__(self, configuration: Configuration, transport: Any, sockets: _Sockets) -> None:
        self.host = configuration.host.rstrip("/")
        self.headers = {
            "Accept": "application/json",
            "User-Agent": f"cap-exporter/{__version__}",
        }
        for setting in configuration.auth_settings().values():
            if setting.get("in") == "header" and setting.get("value"):
                self.headers[setting["key"]] = _tidy(setting["value"])
        if configuration.api_key and len(self.headers) == 2:
            raise ValueError(
                "this version of the kubernetes package sends no token (36.0.0 does that);"
                " install another"
            )
        self.pools = transport(configuration).pool_manager
        self.pools.pool_classes_by_scheme = _interruptible_pools(sockets)


def _tidy(credentials: str) -> str:
    """The package keeps a token file's line end, and writes "bearer", which some proxies refuse."""
    if not credentials.strip().isprintable() or not credentials.isascii():
        raise ValueError("the token has characters that no token has")
    scheme, _, token = credentials.strip().partition(" ")
    return f"Bearer {token.strip()}" if scheme.lower() == "bearer" else credentials.strip()


class _Sockets:
    """The open connections, so that another thread can end a read on them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._shut = False

    def add(self, connected: socket.socket) -> socket.socket:
        """Remember a connection until remove() of what is returned.

        That is a second descriptor of it: the first one passes into TLS, and is closed and its
        number used again while we might be about to shut it.
        """
        with self._lock:
            if self._shut:
                connected.close()
                raise InterruptedError("stopped")
            second = connected.dup()
            self._open.add(second)
            return second

    def remove(self, second: socket.socket) -> None:
        with self._lock:
            self._open.discard(second)
            second.close()

    def shut(self) -> None:
        with self._lock:
            self._shut = True
            for second in self._open:
                with contextlib.suppress(OSError):
                    second.shutdown(socket.SHUT_RDWR)


def _interruptible_pools(sockets: _Sockets) -> dict[str, Any]:
    """urllib3's connection pools, with connections that are listed in `sockets`."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    keep_alive: list[tuple[int, int, int | bytes]] = [
        *HTTPConnection.default_socket_options,
        # A peer that is gone without a word is noticed after a minute.
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ]

    class _Listed:
        default_socket_options: ClassVar[list[tuple[int, int, int | bytes]]] = keep_alive
        _second: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            connected: socket.socket = super()._new_conn()  # type: ignore[misc]
            self._second = sockets.add(connected)
            return connected

        def close(self) -> None:
            super().close()  # type: ignore[misc]
            if self._second is not None:
                sockets.remove(self._second)
                self._second = None

    class _Plain(_Listed, HTTPConnection):
        pass

    class _Tls(_Listed, HTTPSConnection):
        pass

    class _PlainPool(HTTPConnectionPool):
        ConnectionCls = _Plain

    class _TlsPool(HTTPSConnectionPool):
        ConnectionCls = _Tls

    return {"http": _PlainPool, "https": _TlsPool}


class _ResponseBody:
    """Body over urllib3's response."""

    def __init__(self, response: Any, host: str) -> None:
        self._response = response
        self._host = host
        self._whole = False

    def set_timeout(self, seconds: float) -> None:
        connection = self._response.connection
        # None where the answer was so short that all of it is here already.
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(seconds)

    def chunks(self) -> Iterator[bytes]:
        with _our_errors(self._host):
            # read1: what has arrived, without waiting for more of the chunk the server announced.
            while data := self._response.read1(_CHUNK):
                yield data
        self._whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A connection with data still on its way cannot be used again.
        if self._whole:
            self._response.release_conn()
        else:
            connection = self._response.connection
            self._response.close()
            if connection is not None:
                connection.close()


def _status_object(body: Body) -> object:
    """The Status object that comes with an error, if one does."""
    data = b""
    with contextlib.suppress(ApiError, ValueError, RecursionError):
        for chunk in body.chunks():
            data += chunk
            if len(data) > _MAX_ERROR_BODY:
                break
        return json.loads(data)
    return None


@contextlib.contextmanager
def _our_errors(host: str) -> Iterator[None]:
    """Errors of urllib3 and below, as ours."""
    from urllib3 import exceptions

    try:
        yield
    except exceptions.SSLError as error:
        raise TlsFailed(f"{host}: {_innermost(error)}") from error
    except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError) as error:
        raise ConnectFailed(f"{host}: {_innermost(error)}") from error
    except exceptions.TimeoutError as error:
        raise TimedOut(f"{host}: no data: {_innermost(error)}") from error
    except (exceptions.ProtocolError, exceptions.DecodeError) as error:
        raise Interrupted(f"{host}: {_innermost(error)}") from error
    except (exceptions.LocationParseError, exceptions.InvalidHeader, UnicodeError) as error:
        raise Garbage(f"{host}: {_innermost(error)}") from error
    except (exceptions.HTTPError, OSError) as error:
        raise ConnectFailed(f"{host}: {_innermost(error)}") from error


def _innermost(error: BaseException) -> str:
    """What the lowest layer said, which is what tells a person something."""
    seen = {id(error)}
    while (below := error.__cause__ or error.__context__) and id(below) not in seen:
        seen.add(id(below))
        error = below
    return str(error) or type(error).__name__
