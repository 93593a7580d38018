# SPDX-License-Identifier: Apache-2.0
"""Keeps a PodStore as the API server has it: list once, then follow the changes.

Three layers: `_run` goes on for ever and decides how long to wait after what; `_list` and `_follow`
make one request each; `_event` takes one line. The resource version outlives the requests, so that
a connection that breaks is taken up where it broke, without a new list.

What the protocol is: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cap_exporter.pods.backoff import Backoff
from cap_exporter.pods.errors import (
    ApiError,
    EndedAtOnce,
    Expired,
    Garbage,
    Interrupted,
    TimedOut,
    Unauthorized,
    Unexpected,
    VersionWentBack,
    error_of_status,
)
from cap_exporter.pods.fields import InvalidPod, pod_from_json
from cap_exporter.pods.json_list import read_list
from cap_exporter.pods.lines import LineSplitter
from cap_exporter.pods.state import Phase, WatchState
from cap_exporter.pods.untrusted import integer, mapping, text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cap_exporter.pods.api import Api
    from cap_exporter.pods.store import PodStore

_log = logging.getLogger(__name__)

_PATH = "/api/v1/pods"

# Waiting a short while does not help where somebody has to change something first.
_SLOW_PHASES = frozenset({Phase.NO_CONFIGURATION, Phase.FORBIDDEN, Phase.NOT_FOUND})


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Times in seconds, sizes in bytes."""

    server_timeout: tuple[float, float] = (240.0, 300.0)
    """How long the server is asked to keep a watch: random between these, so that a cluster's nodes
    do not come back together."""
    grace: float = 10.0
    """Over the server's timeout, before we end a watch that the server has not."""
    stall_timeout: float = 150.0
    """Silence after which a watch counts as dead, where the server is known to send bookmarks: it
    does so about every minute."""
    answer_timeout: float = 30.0
    """Until the server begins to answer; also silence that ends a list."""
    list_deadline: float = 300.0
    """For a whole page of a list, however slowly it comes."""
    first_backoff: float = 1.0
    longest_backoff: float = 30.0
    slow_retry: float = 60.0
    """Where rights or configuration are missing."""
    longest_wait: float = 300.0
    """The most of a Retry-After that is obeyed."""
    healthy_after: float = 10.0
    """A watch that went well for this long ends the back-off."""
    page_size: int = 500
    """Pods a page. Servers that answer a list from their cache may send all at once."""
    longest_object: int = 8 * 1024 * 1024
    """Far above what the API can store (1.5 MB of protobuf, etcd's limit)."""


class PodWatch:
    """Follows the pods of one node in a thread of its own.

    store: what is kept up to date; deleted pods stay there for its retention.
    node_name: spec.nodeName of the pods; with "" a ValueError is raised, since a watch of all the
    cluster's pods on each node is never meant.
    labels: names of the pods' labels to keep.
    clock: seconds since the epoch. monotonic: seconds of a clock that never jumps. uniform(low,
    high): where the chance comes from.
    """

    def __init__(
        self,
        api: Api,
        store: PodStore,
        node_name: str,
        *,
        labels: Collection[str] = (),
        settings: WatchSettings | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if not node_name:
            raise ValueError("the name of this node is not known: set NODE_NAME (spec.nodeName)")
        self._api = api
        self._store = store
        self._selector = f"spec.nodeName={node_name}"
        self._labels = tuple(labels)
        self._settings = settings or WatchSettings()
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

        # Only the watch's thread uses these.
        self._backoff = Backoff(
            self._settings.first_backoff, self._settings.longest_backoff, uniform
        )
        self._resource_version: str | None = None  # None: list first
        self._healthy_since: float | None = None  # when the running watch was opened
        self._paging = True
        self._bookmarks = False
        self._reloaded = False
        self._garbage_at: str | None = None
        self._watches = 0

        # What the state is made of; the lock makes a snapshot whole.
        self._lock = threading.Lock()
        self._phase = Phase.STARTING
        self._message = ""
        self._synced = False
        self._ever_synced = False
        self._last_event_time: float | None = None
        self._count: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    @property
    def state(self) -> WatchState:
        """How it stands now. From any thread."""
        with self._lock:
            return WatchState(
                phase=self._phase,
                synced=self._synced,
                ever_synced=self._ever_synced,
                message=self._message,
                last_event_time=self._last_event_time,
                lists=self._count["lists"],
                restarts=self._count["restarts"],
                events=self._count["events"],
                invalid_pods=self._count["invalid_pods"],
                errors=dict(self._errors),
            )

    def start(self) -> None:
        """Start the thread. It needs neither API server nor configuration to be there yet."""
        if self._thread is not None:
            raise RuntimeError("a PodWatch is started once")
        self._thread = threading.Thread(target=self._run, name="pod-watch", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.5) -> None:
        """End it. Returns after `timeout` seconds at the latest.

        A read is interrupted. What cannot be is a look-up of the server's name or a connection
        being made: the thread then ends by itself after the connect timeout.
        """
        self._stopping.set()
        self._api.interrupt()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._lock:
            self._phase, self._synced, self._message = Phase.STOPPED, False, ""

    # The endless loop

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait = 0.0
            try:
                if self._resource_version is None:
                    self._list()
                self._follow()
            except ApiError as error:
                wait = self._failed(error)
            except Exception as error:
                if not self._stopping.is_set() and self._errors[Unexpected.reason] < 3:
                    _log.exception("pods: the watch failed in a way it should not")
                wait = self._failed(Unexpected(f"{type(error).__name__}: {error}"))
            self._stopping.wait(wait)
        self._api.close()

    def _failed(self, error: ApiError) -> float:
        """Count the failure, decide what comes next, and say how long to wait for it."""
        if self._stopping.is_set():
            return 0.0
        if error.list_again or self._same_garbage_again(error):
            self._resource_version = None
        self._note_health()
        self._healthy_since = None
        with self._lock:
            self._errors[error.reason] += 1
        _log.debug("pods: %s", error)

        if isinstance(error, Unauthorized):
            self._api.reload()
            if not self._reloaded:
                # Most often the token was exchanged, and the new one is there.
                self._reloaded = True
                return 0.0
        wait = self._backoff.failed()
        slow = error.phase in _SLOW_PHASES
        # A watch that broke after it went well is taken up at once; it is news if that fails.
        if slow or not self._synced or self._backoff.failures > 1:
            self._enter(error.phase, str(error))
        if slow:
            wait = self._uniform(self._settings.slow_retry / 2, self._settings.slow_retry)
        if error.wait is not None:
            # Not all at the same second either.
            wait += min(error.wait, self._settings.longest_wait)
        return wait

    def _same_garbage_again(self, error: ApiError) -> bool:
        """Whether going on from our resource version has brought the same twice."""
        if not isinstance(error, Garbage):
            return False
        again = self._garbage_at == self._resource_version
        self._garbage_at = self._resource_version
        return again

    def _note_health(self) -> None:
        if (
            self._healthy_since is not None
            and self._monotonic() - self._healthy_since >= self._settings.healthy_after
        ):
            self._backoff.succeeded()
            self._paging = True

    def _enter(self, phase: Phase, message: str = "") -> None:
        """Change the phase, with one line in the log where it is another one."""
        if self._stopping.is_set():
            return
        with self._lock:
            changed = phase is not self._phase
            self._phase = phase
            self._message = message
            self._synced = phase is Phase.WATCHING
            self._ever_synced = self._ever_synced or self._synced
        if not changed:
            return
        if phase is Phase.WATCHING:
            _log.info("pods: in step with the Kubernetes API")
        elif message:
            _log.warning("pods: %s; going on without, and trying again", message)

    # One request each

    def _list(self) -> None:
        """Read all pods of the node; whoever is not among them is gone."""
        if self._phase is Phase.STARTING:
            self._enter(Phase.LISTING)
        uids: set[str] = set()
        version, token = self._page("", uids)
        while token:
            try:
                version, token = self._page(token, uids)
            except Expired:
                # Pages that come too slowly for what the server remembers: all at once, next time.
                self._paging = False
                raise
        self._store.keep_only(uids)
        self._resource_version = version
        self._garbage_at = None
        with self._lock:
            self._count["lists"] += 1
            self._last_event_time = self._clock()

    def _page(self, token: str, uids: set[str]) -> tuple[str, str]:
        """Read a page: the one after `token`, or the first. Returns its resource version and the
        token of the next page, or ""."""
        settings = self._settings
        query = {"fieldSelector": self._selector}
        if self._paging:
            query["limit"] = str(settings.page_size)
        if token:
            # A token names the version itself; the server refuses one beside it.
            query["continue"] = token
        else:
            # From the server's cache: hundreds of nodes that list at once do not reach etcd.
            query["resourceVersion"] = "0"
        version = following = ""
        deadline = self._monotonic() + settings.list_deadline
        with self._api.get(
            _PATH,
            query,
            answer_timeout=settings.answer_timeout,
            read_timeout=settings.answer_timeout,
        ) as body:
            self._reloaded = False
            for key, value in read_list(body.chunks(), max_item=settings.longest_object):
                if key == "items":
                    self._pod(value, uids)
                elif key == "metadata":
                    version = text(mapping(value).get("resourceVersion"))
                    following = text(mapping(value).get("continue"))
                if self._monotonic() > deadline:
                    raise TimedOut(f"a list took longer than {settings.list_deadline:g} s")
                if self._stopping.is_set():
                    raise Interrupted("stopped")
        if not version:
            raise Garbage("a list without a resource version")
        return version, following

    def _follow(self) -> None:
        """One watch: take what comes until the server ends it."""
        settings = self._settings
        assert self._resource_version is not None
        seconds = self._uniform(*settings.server_timeout)
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "fieldSelector": self._selector,
            "resourceVersion": self._resource_version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        silence = seconds + settings.grace
        if self._bookmarks:
            silence = min(silence, settings.stall_timeout)
        with self._lock:
            self._count["restarts"] += self._watches > 0
        self._watches += 1
        lines = LineSplitter(settings.longest_object)
        anything = False
        opened = self._monotonic()
        try:
            with self._api.get(
                _PATH, query, answer_timeout=settings.answer_timeout, read_timeout=silence
            ) as body:
                self._reloaded = False
                self._healthy_since = opened = self._monotonic()
                self._enter(Phase.WATCHING)
                for chunk in body.chunks():
                    for line in lines.feed(chunk):
                        self._event(line)
                        anything = True
                    if self._stopping.is_set():
                        return
                    if self._monotonic() - opened > seconds + settings.grace:
                        break
        except TimedOut:
            # This server may not send bookmarks, after all.
            self._bookmarks = False
            raise
        if lines.incomplete:
            raise Interrupted("a watch ended in the middle of an event")
        if not anything and self._monotonic() - opened < min(1.0, seconds / 2):
            raise EndedAtOnce("the server ends each watch at once")
        self._note_health()

    # One event

    def _event(self, line: bytes) -> None:
        try:
            event = mapping(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise Garbage(f"a line of a watch that is no JSON: {line[:80]!r}") from error
        kind, found = text(event.get("type")), mapping(event.get("object"))
        if kind == "ERROR":
            raise error_of_status(integer(found.get("code")) or 500, found, now=self._clock())
        if not kind or not found:
            raise Garbage(f"a line of a watch that is no event: {line[:80]!r}")
        if kind == "BOOKMARK":
            self._bookmarks = True
        elif kind in {"ADDED", "MODIFIED", "DELETED"}:
            uids: set[str] = set()
            # What is deleted is told with its last state, which may name a container for the
            # first time.
            self._pod(found, uids)
            if kind == "DELETED":
                for uid in uids:
                    self._store.remove(uid)
        with self._lock:
            self._count["events"] += 1
            self._last_event_time = self._clock()
        self._advance(text(mapping(found.get("metadata")).get("resourceVersion")))

    def _pod(self, document: Any, uids: set[str]) -> None:
        """Take a pod, and add its uid to `uids`. One that is none is counted and left out."""
        try:
            pod = pod_from_json(document, self._labels)
        except InvalidPod as error:
            with self._lock:
                self._count["invalid_pods"] += 1
            _log.debug("pods: %s", error)
            return
        uids.add(pod.uid)
        self._store.apply(pod)

    def _advance(self, version: str) -> None:
        """Go on from this resource version. Raises VersionWentBack."""
        before = self._resource_version
        if not version or version == before:
            return
        self._resource_version = version
        # They are opaque by contract, but whole numbers with every server there is; Kubernetes
        # says since 1.35 that they may be compared (KEP-5504).
        if _number(version) < _number(before):
            raise VersionWentBack(
                f"the server's data was set back (resource version {before} → {version})"
            )


def _number(version: str | None) -> float:
    """For comparison; one that is no number is not below, and nothing is below it."""
    return int(version) if version and version.isascii() and version.isdecimal() else math.nan
