# SPDX-License-Identifier: Apache-2.0
"""Where profiles and events come from while the screen is up: a running exporter, or counting
here."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from cap_exporter import privileges
from cap_exporter.client import NoAnswer, ask_exporter, follow_events
from cap_exporter.fleet.http_config import HttpConfig
from cap_exporter.model import SourceError
from cap_exporter.terminal import printable
from cap_exporter.top.model import Key, Profile, key_of

Record = dict[str, Any]

#: Events that are kept of one container.
_KEPT = 20

#: Containers whose events are kept; the longest silent go first.
_MOST_CONTAINERS = 2000

#: Seconds between two attempts to get the stream of events.
_AGAIN = 5.0


class LastEvents:
    """Of each container. One thread adds, any thread reads."""

    def __init__(self) -> None:
        self._found: OrderedDict[Key, deque[Record]] = OrderedDict()
        self._lock = threading.Lock()
        self.node = ""
        """As the events tell it."""

    def add(self, record: Record) -> None:
        key = key_of(record)
        with self._lock:
            self._found.setdefault(key, deque(maxlen=_KEPT)).append(record)
            self._found.move_to_end(key)
            if len(self._found) > _MOST_CONTAINERS:
                self._found.popitem(last=False)
            self.node = printable(record.get("node", ""))

    def of(self, key: Key) -> list[Record]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._found.get(key, ())))


class Feed(Protocol):
    name: str
    """For the screen's first line."""
    settles: float
    """Rates over less than this, seconds, mean nothing."""
    events: LastEvents

    def follow(self) -> None:
        """Events too, from now on; those that are kept first."""

    def profiles(self) -> tuple[Sequence[Profile], float]:
        """With the time until which they count, seconds of the monotonic clock. Raises NoAnswer,
        which may pass, or SourceError."""

    def close(self) -> None: ...


class Running:
    """A running exporter."""

    #: Its counts change with its drains; this is their default.
    settles = 5.0

    def __init__(self, url: str, config: HttpConfig | None = None) -> None:
        self._url = url
        self._config = config
        self.name = printable(urlsplit(url).netloc.rpartition("@")[2] or url)
        self.events = LastEvents()

    def profiles(self) -> tuple[Sequence[Profile], float]:
        return ask_exporter(self._url, self._config)["containers"], time.monotonic()

    def follow(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while True:
            try:
                for record in follow_events(self._url, True, self._config):
                    self.events.add(record)
            except NoAnswer:
                time.sleep(_AGAIN)

    def close(self) -> None:
        pass


class Here:
    """Counts by itself. Raises SourceError where this host can't."""

    name = "counting here"
    settles = 0.0

    def __init__(self, source: dict[str, Any], interval: float) -> None:
        import platform

        from cap_exporter.assembly import make_profiler
        from cap_exporter.model import Event, Identity
        from cap_exporter.outputs.event_record import record_of

        self.events = LastEvents()
        node = self.events.node = platform.node()

        def on_event(event: Event, identity: Identity) -> None:
            self.events.add(record_of(event, identity, node))

        self._exporter, self._profiles = make_profiler(
            source, interval=interval / 2, on_event=on_event
        )
        self._error: Exception | None = None
        self._exporter.open()
        if not str(source["source"]).startswith("replay:"):
            privileges.drop()
        # The source belongs to one thread: this one opened it and hands it over.
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def follow(self) -> None:
        """They come by themselves."""

    def _count(self) -> None:
        try:
            self._exporter.run()
        except Exception as error:
            self._error = error

    def profiles(self) -> tuple[Sequence[Profile], float]:
        if self._error:
            raise SourceError(f"counting has ended: {self._error}") from self._error
        at = time.monotonic() - self._exporter.seconds_since_drain()
        return self._profiles()["containers"], at

    def close(self) -> None:
        self._exporter.stop()
        self._thread.join(5)


class Answer(NamedTuple):
    at: float
    """Until when they count, seconds of the monotonic clock."""
    time: float
    """Seconds since the epoch (UTC)."""
    profiles: Sequence[Profile]
    problem: NoAnswer | SourceError | None
    """Why there are none."""


class Poller:
    """Asks the feed every ``interval`` seconds, on a thread of its own: an exporter that does not
    answer must not hold up the keys. ``wake`` is called, on that thread, for each answer."""

    def __init__(self, feed: Feed, interval: float, wake: Callable[[], None]) -> None:
        self._feed = feed
        self._interval = interval
        self._wake = wake
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> list[Answer]:
        """What came since."""
        return [self._answers.get() for _ in range(self._answers.qsize())]

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._answers.put(look(self._feed))
            self._wake()


def look(feed: Feed) -> Answer:
    """Ask once."""
    try:
        profiles, at = feed.profiles()
    except (NoAnswer, SourceError) as error:
        return Answer(0.0, 0.0, (), error)
    return Answer(at, time.time(), profiles, None)
