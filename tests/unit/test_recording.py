# SPDX-License-Identifier: Apache-2.0
"""What is recorded is played back; what is no recording is told so."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cap_exporter.model import (
    CgroupChange,
    CgroupEvent,
    CgroupKey,
    CheckClass,
    CheckKey,
    Drain,
    Event,
    Granted,
    Process,
    SourceError,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.sources.recording import Header, Reader, RecordingError, Writer
from cap_exporter.sources.replay import ReplaySource
from tests.otlp.events import event

HEADER = Header(SourceInfo("libbpf", "tp_btf"), 1000.0, "6.18")

cgroups = st.builds(CgroupKey, st.integers(0, 20), st.integers(0, 1 << 50)) | st.just(
    CgroupKey(-1, 0)
)
names = st.binary(max_size=20).map(lambda b: "/" + b.decode("utf-8", "surrogateescape"))
keys = st.builds(
    CheckKey,
    cgroups,
    st.integers(0, 127),
    st.sampled_from(Verdict),
    st.sampled_from(UserNamespace),
    st.sampled_from(CheckClass),
)
masks = st.integers(0, (1 << 64) - 1)
ids = st.integers(0, (1 << 32) - 1)
processes = st.builds(Process, ids, names, names, names, ids, st.floats(0, 1e10))
events = st.builds(
    Event,
    time=st.floats(0, 1e10),
    check=keys,
    process=processes,
    parent=processes,
    tid=ids,
    container_pid=ids,
    gid=ids,
    auid=st.none() | ids,
    return_value=st.sampled_from([0, -1]),
    suppressed=ids,
    target_level=st.integers(0, 32),
    target_uid=ids,
    target_gid=ids,
    target_inode=ids,
    effective=masks,
    permitted=masks,
    bounding=masks,
    namespaces=st.dictionaries(st.sampled_from(["mnt", "pid", "user"]), ids),
    syscall=st.none() | st.integers(0, 600),
    audit=st.none() | st.booleans(),
    insetid=st.none() | st.booleans(),
    stack=st.just(()),
    arguments=st.lists(names, max_size=3).map(tuple),
)
held = st.dictionaries(
    cgroups,
    st.builds(
        Granted,
        *[masks] * 5,
        uids=st.lists(ids, max_size=3).map(tuple),
        no_new_privs=st.none() | st.booleans(),
        processes=ids,
        user_namespace_is_host=st.booleans(),
    ),
    max_size=3,
)
drains = st.builds(
    Drain,
    time=st.floats(1000, 2000),
    increments=st.lists(st.tuples(keys, st.integers(1, 1 << 63)), max_size=5),
    events=st.lists(events, max_size=2),
    events_lost=st.dictionaries(st.sampled_from(["full", "limited"]), ids),
    entered=held,
    held=held,
    cgroup_events=st.lists(st.builds(CgroupEvent, st.sampled_from(CgroupChange), cgroups, names)),
    cgroup_events_lost=st.integers(0, 5),
    missed=st.dictionaries(st.text(max_size=5), st.integers(0, 9)),
    slots_used=st.integers(0, 9),
    slots_total=st.integers(0, 9),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(drains, max_size=4), st.sampled_from(["r.jsonl", "r.jsonl.gz"]))
def test_a_recording_is_read_as_it_was_written(
    tmp_path: Path, written: list[Drain], name: str
) -> None:
    with Writer(tmp_path / name, HEADER) as writer:
        for drain in written:
            writer.write(drain)
    with Reader(tmp_path / name) as reader:
        assert reader.header == HEADER
        assert list(reader.drains()) == written


@pytest.mark.parametrize("name", ["r", "r.gz"])
def test_a_recording_cut_in_its_last_line_is_read_up_to_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with Writer(path, HEADER) as writer:
        for second in range(200):
            writer.write(Drain(time=1000.0 + second))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with Reader(path) as reader:
        assert 1 <= len(list(reader.drains())) < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "first line"),
        ("hello\n", "first line"),
        ("[1]\n", "first line"),
        ('{"format": "cap-exporter recording", "version": 99}\n', "version 99"),
    ],
)
def test_what_is_no_recording_is_told_so(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x"
    path.write_text(content)
    with pytest.raises(RecordingError, match=said):
        Reader(path)
    with pytest.raises(SourceError, match="x"):
        ReplaySource(path).open()


GOOD = '[0, 5, 21, "denied", "init", "meaningful", 3]'


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        '{"time": 1, "increments": 5, "cgroups": []}',
        '{"time": "x", "increments": [], "cgroups": []}',
        '{"time": 1e999, "increments": [], "cgroups": []}',
        *(
            f'{{"time": 1, "increments": [{GOOD.replace(a, b)}], "cgroups": []}}'
            for a, b in (
                (" 3]", " -3]"),
                (" 3]", " true]"),
                (" 21,", " 900,"),
                ('"denied"', '"maybe"'),
                ('"meaningful"', '"x"'),
                ("[0,", '["a",'),
                (", 3]", "]"),
            )
        ),
        '{"time": 1, "increments": [], "cgroups": [["created", 0, 5, 7]]}',
        '{"time": 1, "increments": [], "cgroups": [["born", 0, 5, "/"]]}',
        *(
            f'{{"time": 1, "increments": [], "cgroups": [], {wrong}}}'
            for wrong in (
                '"events": [{}]',
                '"events": [7]',
                '"events_lost": {"full": -1}',
                '"held": [[0, 5, {}]]',
                '"entered": [[0, 5]]',
            )
        ),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x"
    with Writer(path, HEADER):
        pass
    with path.open("a") as file:
        file.write(line + "\n" + line + "\n")
    with Reader(path) as reader, pytest.raises(RecordingError, match="line 2"):
        list(reader.drains())


SAID = {
    "return_value": "x",
    "auid": -1,
    "audit": 1,
    "tid": 1.5,
    "time": "now",
    "process": {},
    "check": [0, 5, 34, "denied", "init"],
    "namespaces": {"mnt": None},
}


@pytest.mark.parametrize("field", SAID)
def test_a_wrong_field_of_an_event_is_named_with_its_line(tmp_path: Path, field: str) -> None:
    path = tmp_path / "x"
    with Writer(path, HEADER) as writer:
        writer.write(Drain(time=1001.0, events=[event()]))
    first, second = path.read_text().splitlines()
    drain = json.loads(second)
    drain["events"][0][field] = SAID[field]
    path.write_text(f"{first}\n{json.dumps(drain)}\n")
    with Reader(path) as reader, pytest.raises(RecordingError, match="line 2"):
        list(reader.drains())


def test_a_recording_without_events_is_read_like_one_that_has_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with Writer(path, HEADER):
        pass
    with path.open("a") as file:
        file.write('{"time": 1, "increments": [], "cgroups": []}\n')
    with Reader(path) as reader:
        (drain,) = reader.drains()
    assert (list(drain.events), dict(drain.held), dict(drain.entered)) == ([], {}, {})


def test_events_and_what_is_held_are_played_once_and_keep_their_time(tmp_path: Path) -> None:
    path = tmp_path / "r"
    cgroup = CgroupKey(0, 5)
    one = event(stack=(0xFFFFFFFF81000010,))
    with Writer(path, HEADER) as writer:
        writer.write(Drain(time=1001.0, events=[one], entered={cgroup: Granted(bounding=1)}))
        writer.write(Drain(time=1002.0, entered={cgroup: Granted(bounding=2)}))
        writer.write(Drain(time=1003.0, held={cgroup: Granted(bounding=4)}))
    assert "ffffffff" not in path.read_text()
    assert str(0xFFFFFFFF81000010) not in path.read_text()
    source = ReplaySource(path, paced=False)
    source.open()
    drain = source.drain()
    assert drain.events == [replace(one, stack=())]
    assert drain.entered[cgroup].bounding == 3
    assert drain.held[cgroup].bounding == 4
    again = source.drain()
    assert (again.events, again.entered, again.held) == ([], {}, {})
    source.close()


def test_a_replay_keeps_the_recording_s_pace(tmp_path: Path) -> None:
    path = tmp_path / "r"
    key = CheckKey(CgroupKey(0, 5), 1, Verdict.DENIED, UserNamespace.INIT, CheckClass.MEANINGFUL)
    with Writer(path, HEADER) as writer:
        for second in (1, 2, 10):
            writer.write(Drain(time=1000.0 + second, increments=[(key, second)]))
    now = [50.0]
    source = ReplaySource(path, monotonic=lambda: now[0])
    assert source.open() == ("replay", "tp_btf")
    assert source.drain().increments == []
    now[0] = 52.5
    assert [n for _, n in source.drain().increments] == [1, 2]
    assert source.finished is False
    now[0] = 60.0
    assert [n for _, n in source.drain().increments] == [10]
    assert bool(source.finished) is True
    assert source.drain().increments == []
    source.close()


def test_a_gzip_file_that_is_none_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(RecordingError, match=r"r\.gz"):
        Reader(path)
    path.write_bytes(gzip.compress(b"\xff\xfe"))
    with pytest.raises(RecordingError, match=r"r\.gz"):
        Reader(path)
