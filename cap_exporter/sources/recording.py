# SPDX-License-Identifier: Apache-2.0
"""The file that `record` writes and `--source replay:FILE` reads: what a source gave, line by line.

JSON lines, gzip-compressed where the name ends in .gz. The first line describes the recording,
each later one is a drain:

    {"format": "cap-exporter recording", "version": 1, "source": "libbpf", "attach": "tp_btf", …}
    {"time": 1700000000.0, "increments": [[hierarchy, cgroup, capability, verdict, user_namespace,
     class, checks], …], "cgroups": [["created", hierarchy, cgroup, path], …],
     "events": [{…}, …], "entered": [[hierarchy, cgroup, {…}], …], "held": …, …}
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from cap_exporter.model import CgroupChange, CgroupEvent, Drain, SourceInfo
from cap_exporter.sources.recorded_events import (
    cgroup,
    check_key,
    count,
    event_from_json,
    event_to_json,
    granted_from_json,
    granted_to_json,
    number,
)

FORMAT = "cap-exporter recording"
VERSION = 1

#: A line longer than this is no line of ours, bytes.
_LINE_LIMIT = 64 << 20


class RecordingError(Exception):
    """The file is not a recording that can be read; the text names file, line and fault."""


class Header(NamedTuple):
    info: SourceInfo
    time: float
    kernel: str


def _opened(path: Path, mode: str) -> IO[str]:
    # Surrogates stand for bytes of a cgroup's name; JSON writes them as \udcXX.
    if path.suffix == ".gz":
        return gzip.open(path, mode + "t", encoding="utf-8")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8")


class Writer:
    """Writes drains as they come; each is on disk (in the page cache) when write() returns."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raises OSError."""
        self._file = _opened(path, "w")
        self._line(
            {
                "format": FORMAT,
                "version": VERSION,
                "source": header.info.source,
                "attach": header.info.attach,
                "time": header.time,
                "kernel": header.kernel,
            }
        )

    def write(self, drain: Drain) -> None:
        """Raises OSError, e.g. for a full disk; what was written before stays readable."""
        self._line(
            {
                "time": drain.time,
                "increments": [[*key.cgroup, *key[1:], n] for key, n in drain.increments],
                "cgroups": [[e.change, *e.cgroup, e.path] for e in drain.cgroup_events],
                "cgroup_events_lost": drain.cgroup_events_lost,
                "missed": dict(drain.missed),
                "events": [event_to_json(event) for event in drain.events],
                "events_lost": dict(drain.events_lost),
                "entered": [granted_to_json(*one) for one in drain.entered.items()],
                "held": [granted_to_json(*one) for one in drain.held.items()],
                "slots_used": drain.slots_used,
                "slots_total": drain.slots_total,
            }
        )

    def _line(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reader:
    """Reads a recording. A cut last line (the recorder was killed) ends it without an error."""

    def __init__(self, path: Path) -> None:
        """Raises RecordingError."""
        self._path = path
        self._number = 1
        try:
            self._file = _opened(path, "r")
        except OSError as error:
            raise RecordingError(f"cannot read the recording {path}: {error}") from error
        try:
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise

    def _header(self) -> Header:
        try:
            record = self._parse(self._next_line())
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise RecordingError(f"cannot read the recording {self._path}: {error}") from error
        if record is None or record.get("format") != FORMAT:
            raise RecordingError(
                f"{self._path} is not a recording: its first line has no "
                f'"format": "{FORMAT}" (`cap-exporter record FILE` writes one)'
            )
        if record.get("version") != VERSION:
            raise RecordingError(
                f"{self._path} is a recording of version {record.get('version')!r}; "
                f"this program reads version {VERSION}"
            )
        try:
            time = number(record.get("time", 0))
        except ValueError as error:
            raise RecordingError(f"{self._path}, line 1: {error}") from error
        return Header(
            SourceInfo(str(record.get("source", "")), str(record.get("attach", ""))),
            time,
            str(record.get("kernel", "")),
        )

    def drains(self) -> Iterator[Drain]:
        """Raises RecordingError where a line is not what it should be."""
        while True:
            self._number += 1
            try:
                line = self._next_line()
            except EOFError:
                return  # a gzip stream that was cut
            except (OSError, UnicodeDecodeError) as error:
                raise RecordingError(f"{self._path}, line {self._number}: {error}") from error
            if not line:
                return
            record = self._parse(line)
            if record is None:
                if not line.endswith("\n"):
                    return
                raise RecordingError(f"{self._path}, line {self._number}: not a JSON object")
            try:
                yield _drain(record)
            except (KeyError, TypeError, ValueError) as error:
                raise RecordingError(
                    f"{self._path}, line {self._number}: not a drain ({error!r})"
                ) from error

    def _next_line(self) -> str:
        return self._file.readline(_LINE_LIMIT)

    @staticmethod
    def _parse(line: str) -> dict[str, Any] | None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _drain(record: dict[str, Any]) -> Drain:
    increments = [(check_key(row[:-1]), count(row[-1])) for row in record["increments"]]
    cgroup_events = []
    for change, hierarchy, its_id, path in record["cgroups"]:
        if not isinstance(path, str):
            raise ValueError(f"a path was expected, not {path!r}")
        cgroup_events.append(CgroupEvent(CgroupChange(change), cgroup(hierarchy, its_id), path))
    return Drain(
        time=number(record["time"]),
        increments=increments,
        cgroup_events=cgroup_events,
        cgroup_events_lost=count(record.get("cgroup_events_lost", 0)),
        missed=_counts(record.get("missed", {})),
        events=[event_from_json(event) for event in record.get("events", ())],
        events_lost=_counts(record.get("events_lost", {})),
        entered=dict(granted_from_json(one) for one in record.get("entered", ())),
        held=dict(granted_from_json(one) for one in record.get("held", ())),
        slots_used=count(record.get("slots_used", 0)),
        slots_total=count(record.get("slots_total", 0)),
    )


def _counts(record: Any) -> dict[str, int]:
    return {str(name): count(value) for name, value in dict(record).items()}
