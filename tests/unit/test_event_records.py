# SPDX-License-Identifier: Apache-2.0
"""Records of the ring, their JSON, and the queue between the loop and its readers."""

from __future__ import annotations

import ctypes
import json
import threading
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.capabilities import names_of
from cap_exporter.event_hub import BEHIND, KEPT, MAX_READERS, EventHub, TooManyReaders
from cap_exporter.event_names import EventNames
from cap_exporter.model import CgroupKey, Event, Identity
from cap_exporter.outputs.event_record import line_of, record_of
from cap_exporter.outputs.profile_routes import load_schema
from cap_exporter.sources import layout
from cap_exporter.sources.events import EventReader, EventSettings, path_of
from cap_exporter.sources.kallsyms import Functions
from cap_exporter.syscalls import name_of
from tests.otlp.events import XWING
from tests.otlp.events import event as seed_event

SCHEMA = load_schema("event")
SIZE = ctypes.sizeof(layout.CheckEvent)
BOOT, WALL = 1_000, 1_700_000_000_000_000_000


def reader() -> EventReader:
    return EventReader((0, 8, 4), wall=lambda: WALL, boot=lambda: BOOT)


def raw(**fields: object) -> layout.CheckEvent:
    event = layout.CheckEvent()
    event.key = 5 << layout.KEY_CGROUP_SHIFT | layout.KEY_DENIED | 34
    for name, value in fields.items():
        setattr(event, name, value)
    return event


def event_of(**fields: object) -> Event:
    return reader().read(bytes(raw(**fields)))


def test_times_are_of_the_wall_clock() -> None:
    event = event_of(time=BOOT)
    assert event.time == WALL / 1e9


def test_what_the_hook_does_not_tell_is_missing_and_not_zero() -> None:
    event = event_of(syscall=-1, auid=(1 << 32) - 1)
    assert (event.syscall, event.auid, event.audit, event.insetid) == (None, None, None, None)
    record = record_of(event, Identity(container="c"))
    assert not {"syscall", "insetid", "stack", "container_id", "node"} & record.keys()
    assert "auid" not in record["process"]
    told = event_of(has_opts=1, opts=4, syscall=0)
    assert (told.audit, told.insetid, told.syscall) == (True, True, 0)


@pytest.mark.parametrize(
    ("raw_names", "path"),
    [
        (b"", ""),
        (b"dmesg\0bin\0usr\0", "/usr/bin/dmesg"),
        (b"a b\0\xff\0", "/\udcff/a b"),
        (b"cut", ""),
    ],
)
def test_paths_are_put_together_from_their_names(raw_names: bytes, path: str) -> None:
    assert path_of(raw_names) == path
    assert path_of(b"", root="/") == "/"


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_any_record_of_the_right_size_is_read_and_can_be_printed(record: bytes) -> None:
    event = reader().read(record[:8] + b"\0" * 8 + record[16:])
    made = record_of(event, Identity(container="\udcff\x1b[31m"), symbol=hex)
    json.loads(json.dumps(made))
    assert line_of(made).isprintable()


def test_the_schema_knows_every_field_and_no_other() -> None:
    event = seed_event(
        auid=1000, insetid=False, audit=True, stack=(1, 2), arguments=("dmesg", "-H", "\udcff")
    )
    who = replace(XWING, workload_kind="Deployment", workload="xwing")
    made = record_of(event, who, "node-1", symbol=hex)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(made, SCHEMA)
    assert made.keys() == SCHEMA["properties"].keys()
    assert made["process"].keys() == SCHEMA["properties"]["process"]["properties"].keys()
    assert made["pod_labels"] == {"class": "xwing", "org": "alliance"}
    for wrong in ({"more": 1}, {"verdict": "perhaps"}, {"suppressed": -1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(made | wrong, SCHEMA)


def test_a_short_record_is_an_error() -> None:
    with pytest.raises(ValueError, match="too small"):
        reader().read(b"short")


@pytest.mark.parametrize(
    "settings", [{"ring_bytes": 1000}, {"ring_bytes": 1 << 12}, {"rate": 0}, {"burst": 0}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"ring|rate"):
        EventSettings(**settings)  # type: ignore[arg-type]


def test_masks_become_names() -> None:
    assert names_of(1 << 0 | 1 << 12 | 1 << 45) == ["CAP_CHOWN", "CAP_NET_ADMIN", "CAP_45"]


def test_a_reader_gets_what_comes_and_on_request_what_was_kept() -> None:
    hub = EventHub()
    for number in range(3):
        hub.publish({"n": number})
    woken: list[int] = []
    new = hub.join(lambda: woken.append(1))
    again = hub.join(lambda: None, after=1)
    hub.publish({"n": 3})
    assert [one.record["n"] for one in new.take()] == [3]
    assert [one.number for one in again.take()] == [2, 3, 4]
    assert woken == [1]
    hub.leave(new)
    hub.publish({"n": 4})
    assert new.take() == []


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    hub = EventHub()
    slow = hub.join(lambda: None)
    for number in range(BEHIND + 5):
        hub.publish({"n": number})
    assert slow.lost == 5
    assert slow.take()[0].record["n"] == 5
    assert len(hub.recent()) == KEPT


def test_who_tells_much_pushes_out_none_of_another_s() -> None:
    hub = EventHub()
    slow = hub.join(lambda: None)
    hub.publish({"container": "victim", "n": 0})
    for number in range(1, 3 * KEPT):
        hub.publish({"container": "attacker", "n": number})
    for found in (hub.recent(), hub.join(lambda: None, after=0).take(), slow.take()):
        numbers = [one.record["n"] for one in found]
        assert numbers == [0, *range(2 * KEPT + 1, 3 * KEPT)]


def test_readers_are_bounded() -> None:
    hub = EventHub()
    for _ in range(MAX_READERS):
        hub.join(lambda: None)
    with pytest.raises(TooManyReaders):
        hub.join(lambda: None)


def test_events_and_readers_from_many_threads() -> None:
    hub = EventHub()
    one = hub.join(lambda: None)

    def publish() -> None:
        for _ in range(50):
            hub.publish({})

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [n.number for n in one.take()] == list(range(1, 401))


def test_events_wait_for_their_pod_and_go_out_without_it_in_the_end() -> None:
    known: dict[CgroupKey, Identity] = {}
    waiting = EventNames(known.get, lambda _: Identity(container="?"), patience=60)
    event = event_of()
    assert list(waiting.name([event], 0.0)) == []
    known[event.check.cgroup] = Identity(container="c")
    assert [one.identity.container for one in waiting.name([], 1.0)] == ["c"]
    known.clear()
    assert list(waiting.name([event], 2.0)) == []
    assert [one.identity.container for one in waiting.name([], 62.0)] == ["?"]


def test_stack_addresses_are_named_and_those_of_the_probe_left_out() -> None:
    functions = Functions(
        b"ffffffff81000000 T cap_capable\nffffffff81000100 T capable\nffffffffc0000000 t bpf_x\n"
    )
    assert functions(0xFFFFFFFF81000010) == "cap_capable+0x10"
    assert functions(1) is None
    event = event_of(frames=3)
    stack = (0xFFFFFFFFC0000004, 0xFFFFFFFF81000010, 0xFFFFFFFF81000104)
    record = record_of(
        Event(**{**{s: getattr(event, s) for s in event.__slots__}, "stack": stack}),
        Identity(),
        symbol=functions,
    )
    assert record["stack"] == ["cap_capable+0x10", "capable+0x4"]


def test_system_calls_are_named_by_machine() -> None:
    assert (name_of(103, "x86_64"), name_of(116, "aarch64")) == ("syslog", "syslog")
    assert name_of(9999, "x86_64") == "syscall_9999"
    assert name_of(-5, "x86_64") == "syscall_-5"
    assert name_of(1, "riscv64") == "syscall_1"
