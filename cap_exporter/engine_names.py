# SPDX-License-Identifier: Apache-2.0
"""Names of containers from a container engine's socket (Docker, or Podman's compatible API).

Asked in a thread of its own, since an engine may take its time: a name is not known until the
engine has answered, and checks wait for it like for a pod.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import socket
import threading
from collections import OrderedDict
from pathlib import Path

log = logging.getLogger(__name__)

#: Seconds for one question.
_TIMEOUT = 5.0

#: Names that are remembered.
_MOST = 10_000

#: An answer's longest body that is read, bytes.
_LONGEST = 8 << 20


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineNames:
    """``name(id)``: None while the engine has not answered, "" where it knows no name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: OrderedDict[str, str] = OrderedDict()
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._questions: queue.Queue[str | None] = queue.Queue()
        self._problem = ""
        #: Started by the first question: the privileges of now are not those it is to have.
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str:
        """Why the engine can't be asked, for a person; empty while it can."""
        return self._problem

    def name(self, container_id: str) -> str | None:
        with self._lock:
            known = self._names.get(container_id)
            if known is None and container_id not in self._asked:
                self._asked.add(container_id)
                self._questions.put(container_id)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._answer_all, name="engine-names", daemon=True
                    )
                    self._thread.start()
            return known

    def close(self) -> None:
        self._questions.put(None)
        if self._thread is not None:
            self._thread.join(_TIMEOUT + 1)

    def _answer_all(self) -> None:
        while (container_id := self._questions.get()) is not None:
            name = self._ask(container_id)
            with self._lock:
                self._asked.discard(container_id)
                self._names[container_id] = name
                if len(self._names) > _MOST:
                    self._names.popitem(last=False)

    def _ask(self, container_id: str) -> str:
        """https://docs.docker.com/reference/api/engine/: GET /containers/{id}/json"""
        if not container_id.isalnum():
            return ""
        connection = _UnixConnection(self._path)
        try:
            connection.request("GET", f"/containers/{container_id}/json")
            answer = connection.getresponse()
            body = answer.read(_LONGEST)
            if answer.status == 404:
                self._note("")
                return ""
            if answer.status != 200:
                self._note(f"the container engine answered {answer.status}")
                return ""
            found = json.loads(body)
            name = found.get("Name") if isinstance(found, dict) else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            self._note(f"the container engine at {self._path} cannot be asked: {error}")
            return ""
        finally:
            connection.close()
        self._note("")
        return name.removeprefix("/") if isinstance(name, str) else ""

    def _note(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s; containers are named by their ids", problem)
        self._problem = problem
