# SPDX-License-Identifier: Apache-2.0
"""What is recorded is played back; what is no recording is told so."""

from __future__ import annotations

import gzip
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
    SourceError,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.sources.recording import Header, Reader, RecordingError, Writer
from cap_exporter.sources.replay import ReplaySource

HEADER = Header(SourceInfo("libbpf", "tp_btf"), 1000.0, "6.18")

cgroups = st.builds(CgroupKey, st.integers(0, 20), st.integers(0, 1 << 50)) | st.just(
    CgroupKey(-1, 0)
)
names = st.binary(max_size=20).map(lambda b: "/" + b.decode("utf-8", "surrogateescape"))
drains = st.builds(
    Drain,
    time=st.floats(1000, 2000),
    increments=st.lists(
        st.tuples(
            st.builds(
                CheckKey,
                cgroups,
                st.integers(0, 127),
                st.sampled_from(Verdict),
                st.sampled_from(UserNamespace),
                st.sampled_from(CheckClass),
            ),
            st.integers(1, 1 << 63),
        )
    ),
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
