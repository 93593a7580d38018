# SPDX-License-Identifier: Apache-2.0
"""Rates, order and filter of `top`, what its keys do, and which bytes are keys."""

from __future__ import annotations

from typing import Any

import pytest

from cap_exporter.top.feed import LastEvents
from cap_exporter.top.keys import decode
from cap_exporter.top.model import History, Key, Row, Sort, arrange
from cap_exporter.top.state import State, press


def profile(container: str = "web", **changes: Any) -> dict[str, Any]:
    return {
        "container_id": f"id-{container}",
        "namespace": "shop",
        "pod": f"{container}-1",
        "container": container,
        "workload_kind": "Deployment",
        "workload": container,
        "image": "",
        "runtime": "",
        "used": {},
        "denied": {},
        "in_user_namespace": {"used": {}, "denied": {}},
        "background": {},
        "granted": None,
        **changes,
    }


def rows_of(*documents: tuple[float, list[dict[str, Any]]]) -> list[Row]:
    history = History()
    rows: list[Row] = []
    for at, containers in documents:
        rows = history.add(containers, at)
    return rows


def names(rows: list[Row]) -> list[str]:
    return [row.key.container for row in rows]


def test_the_first_document_has_no_rates() -> None:
    (row,) = rows_of((5, [profile(used={"CAP_CHOWN": 3}, denied={"CAP_SYSLOG": 1})]))
    assert (row.used, row.denied) == (3, 1)
    assert row.used_rate is None
    assert row.denied_rate is None
    assert {use.used_rate for use in row.uses} == {None}


def test_a_rate_is_what_was_added_over_the_time_between() -> None:
    (row,) = rows_of(
        (100, [profile(used={"CAP_CHOWN": 3}, denied={"CAP_SYSLOG": 1})]),
        (104, [profile(used={"CAP_CHOWN": 5, "CAP_KILL": 4}, denied={"CAP_SYSLOG": 11})]),
    )
    assert row.used_rate == 1.5
    assert row.denied_rate == 2.5
    assert {use.name: use.used_rate for use in row.uses} == {
        "CAP_SYSLOG": 0,
        "CAP_CHOWN": 0.5,
        "CAP_KILL": 1,
    }


@pytest.mark.parametrize(("looks", "drains"), [(2.03, 5.0), (0.5, 5.0), (2.0, 0.2), (30.0, 5.0)])
def test_a_steady_rate_stays_so_though_counts_come_with_the_drains(
    looks: float, drains: float
) -> None:
    """100 checks a second."""
    history = History()
    for number in range(200):
        at = number * looks
        checks = round(100 * drains * (at // drains))
        (row,) = history.add([profile(used={"CAP_KILL": checks})], at)
        if at > 12 and number > 1:
            assert row.used_rate == pytest.approx(100, rel=0.25)


def test_rates_are_from_drain_to_drain_as_soon_as_two_were_seen() -> None:
    """The first look is some time after one: what it is before the next is not a whole drain."""
    (row,) = rows_of(
        (0, [profile()]),
        (2, [profile(used={"CAP_KILL": 500})]),
        (7, [profile(used={"CAP_KILL": 1000})]),
    )
    assert row.used_rate == 100


def test_a_rate_ends_when_nothing_changes_any_more() -> None:
    history = History()
    for at in range(60):
        (row,) = history.add([profile(used={"CAP_KILL": min(at, 20)})], float(at))
        if 1 < at <= 20:
            assert row.used_rate == 1
        if at > 32:
            assert row.used_rate == 0


def test_another_container_s_change_says_that_this_one_has_none() -> None:
    history = History()
    for at in range(30):
        busy = profile("busy", used={"CAP_KILL": at})
        row, _ = history.add([profile(used={"CAP_KILL": min(at, 2)}), busy], float(at))
    assert row.used_rate == 0


def test_after_an_outage_rates_are_over_the_outage_once_and_then_over_the_last_looks() -> None:
    before = (0.0, [profile(used={"CAP_KILL": 10})])
    after = (300.0, [profile(used={"CAP_KILL": 310})])
    assert rows_of(before, after)[0].used_rate == 1
    assert rows_of(before, after, (302.0, [profile(used={"CAP_KILL": 318})]))[0].used_rate == 4


@pytest.mark.parametrize("now", [{"CAP_CHOWN": 4}, {"CAP_KILL": 4}])
def test_a_count_that_went_back_or_away_means_the_exporter_began_anew(now: dict[str, int]) -> None:
    (row,) = rows_of((0, [profile(used={"CAP_CHOWN": 100})]), (2, [profile(used=now)]))
    assert row.used_rate == 2


def test_a_container_that_was_not_there_has_made_all_its_checks_since() -> None:
    rows = rows_of((0, []), (2, [profile(denied={"CAP_SYSLOG": 6})]))
    assert rows[0].denied_rate == 3


def test_the_same_name_with_another_id_is_another_container() -> None:
    (row,) = rows_of(
        (0, [profile(used={"CAP_KILL": 10}, container_id="a")]),
        (2, [profile(used={"CAP_KILL": 12}, container_id="b")]),
    )
    assert row.used_rate == 6


def test_denied_capabilities_come_first_then_those_used_most() -> None:
    (row,) = rows_of(
        (
            0,
            [
                profile(
                    used={"CAP_CHOWN": 1, "CAP_KILL": 9},
                    denied={"CAP_SYSLOG": 1, "CAP_BPF": 2},
                    granted={"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]},
                )
            ],
        )
    )
    assert [use.name for use in row.uses] == ["CAP_BPF", "CAP_SYSLOG", "CAP_KILL", "CAP_CHOWN"]
    assert [use.granted for use in row.uses] == [False, False, True, True]
    assert row.unused == ("CAP_SETUID",)


def test_what_nobody_has_looked_at_is_neither_granted_nor_unused() -> None:
    (row,) = rows_of((0, [profile(used={"CAP_CHOWN": 1})]))
    assert row.uses[0].granted is None
    assert row.unused is None


@pytest.fixture
def rows() -> list[Row]:
    def at(factor: int) -> list[dict[str, Any]]:
        return [
            profile("quiet"),
            profile("busy", used={"CAP_CHOWN": 100 * factor}),
            profile("denied-once", denied={"CAP_SYSLOG": 1000}),
            profile("denied-now", denied={"CAP_NET_ADMIN": 10 * factor}, used={"CAP_KILL": 5}),
            profile("inner", in_user_namespace={"used": {"CAP_SYS_ADMIN": 1}, "denied": {}}),
        ]

    return rows_of((0, at(1)), (10, at(2)))


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (Sort.DENIED, ["denied-now", "denied-once", "busy", "inner", "quiet"]),
        (Sort.USED, ["busy", "denied-now", "denied-once", "inner", "quiet"]),
        (Sort.NAME, ["busy", "denied-now", "denied-once", "inner", "quiet"]),
    ],
)
def test_order(rows: list[Row], sort: Sort, expected: list[str]) -> None:
    assert names(arrange(rows, sort)) == expected
    assert names(arrange(reversed(rows), sort)) == expected


def test_names_are_in_order_without_regard_to_counts(rows: list[Row]) -> None:
    more = rows_of((0, [profile("zebra", used={"CAP_KILL": 1}), profile("ant")]))
    assert names(arrange(more, Sort.NAME)) == ["ant", "zebra"]
    assert names(arrange(more, Sort.USED)) == ["zebra", "ant"]


def test_sorts_follow_each_other_in_a_circle() -> None:
    assert Sort.DENIED.next() is Sort.USED
    assert Sort.DENIED.next().next().next() is Sort.DENIED


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["busy", "denied-now", "denied-once", "inner", "quiet"]),
        ("DENIED", ["denied-now", "denied-once"]),
        ("denied syslog", ["denied-once"]),
        ("deployment/busy", []),
        ("deployment busy", ["busy"]),
        ("net_admin", ["denied-now"]),
        ("shop/busy-1/busy", ["busy"]),
        ("nothing", []),
    ],
)
def test_a_filter_takes_what_has_all_of_its_words(
    rows: list[Row], words: str, expected: list[str]
) -> None:
    assert names(arrange(rows, Sort.NAME, words)) == expected


def test_containers_without_a_check_that_means_something_can_be_left_out(rows: list[Row]) -> None:
    assert "quiet" not in names(arrange(rows, Sort.NAME, everything=False))
    assert "inner" in names(arrange(rows, Sort.NAME, everything=False))


def test_a_name_s_orders_to_the_terminal_are_text() -> None:
    (row,) = rows_of((0, [profile("a\x1b[31mb\u202e")]))
    assert row.place == "shop/a\\x1b[31mb\\u202e-1/a\\x1b[31mb\\u202e"


# Keys


def pressed(state: State, rows: list[Row], *keys: str, page: int = 2, last: int = 0) -> State:
    for key in keys:
        shown = arrange(rows, state.sort, state.words)
        state = press(state, key, shown, page, last)
    return state


def selected(state: State) -> str | None:
    return state.selected.container if state.selected else None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["down"], "denied-now"),
        (["j", "j"], "denied-once"),
        (["j", "k"], "busy"),
        (["end"], "quiet"),
        (["end", "down"], "quiet"),
        (["end", "home"], "busy"),
        (["up"], None),
        (["pagedown"], "denied-once"),
        (["end", "pageup"], "denied-once"),
        (["pagedown", "pagedown", "pagedown", "pageup"], "denied-once"),
    ],
)
def test_moving(rows: list[Row], keys: list[str], expected: str | None) -> None:
    assert selected(pressed(State(sort=Sort.NAME), rows, *keys)) == expected


def test_what_is_selected_stays_so_in_another_order(rows: list[Row]) -> None:
    state = pressed(State(sort=Sort.USED), rows, "down", "s")
    assert (state.sort, selected(state)) == (Sort.NAME, "denied-now")
    assert selected(pressed(state, rows, "down")) == "denied-once"


def test_typing_takes_the_keys_that_else_mean_something(rows: list[Row]) -> None:
    state = pressed(State(), rows, "/", "q", "s", "j", "backspace", " ", "up")
    assert (state.words, state.typing, state.done, state.sort) == ("qs ", True, False, Sort.DENIED)
    kept = pressed(state, rows, "enter")
    assert (kept.words, kept.typing) == ("qs ", False)
    assert pressed(state, rows, "escape").words == ""


def test_enter_opens_what_is_on_the_line_and_back_leads_to_it(rows: list[Row]) -> None:
    opened = pressed(State(sort=Sort.NAME), rows, "down", "enter")
    assert opened.opened == Key("shop", "denied-now-1", "denied-now", "id-denied-now")
    for key in ("q", "escape"):
        back = pressed(opened, rows, key)
        assert (back.opened, back.done, selected(back)) == (None, False, "denied-now")


def test_enter_on_an_empty_list_opens_nothing() -> None:
    assert pressed(State(), [], "enter", "down").opened is None


def test_back_goes_one_step_each_time(rows: list[Row]) -> None:
    state = pressed(State(), rows, "/", "b", "enter", "enter", "?")
    assert state.help
    state = pressed(state, rows, "escape")
    assert (state.help, bool(state.opened)) == (False, True)
    state = pressed(state, rows, "escape")
    assert (state.opened, state.words) == (None, "b")
    assert pressed(state, rows, "q").done
    state = pressed(state, rows, "escape")
    assert (state.words, state.done) == ("", False)
    assert pressed(state, rows, "escape").done


def test_what_is_longer_than_the_screen_scrolls_to_its_end_and_no_further(rows: list[Row]) -> None:
    opened = pressed(State(), rows, "enter")
    assert pressed(opened, rows, "end", last=7).scroll == 7
    assert pressed(opened, rows, "end", "down", "up", last=7).scroll == 6
    assert pressed(opened, rows, "pagedown", page=5, last=7).scroll == 5
    # It has become shorter meanwhile.
    assert pressed(pressed(opened, rows, "end", last=7), rows, "up", last=3).scroll == 2


def test_pause_and_all_are_switches(rows: list[Row]) -> None:
    assert pressed(State(), rows, "p").paused
    assert not pressed(State(), rows, "p", " ").paused
    assert pressed(State(), rows, "enter", "p").paused
    assert pressed(State(), rows, "a").everything
    assert not pressed(State(), rows, "a", "a").everything


@pytest.mark.parametrize(
    ("data", "keys", "rest"),
    [
        (b"jq", ["j", "q"], b""),
        (b"\x1b[A\x1b[B", ["up", "down"], b""),
        (b"\x1bOA\x1bOH\x1bOF", ["up", "home", "end"], b""),
        (b"\x1b[5~\x1b[6~\x1b[1~\x1b[4~", ["pageup", "pagedown", "home", "end"], b""),
        (b"\r\n\x7f\x08", ["enter", "enter", "backspace", "backspace"], b""),
        ("é界".encode(), ["é", "界"], b""),
        ("界".encode()[:2], [], "界".encode()[:2]),
        (b"\x1b", [], b"\x1b"),
        (b"\x1b[", [], b"\x1b["),
        (b"\x1b[1;5", [], b"\x1b[1;5"),
        (b"\x1bq", ["escape", "q"], b""),
        (b"\x1b\x1b[A", ["escape", "up"], b""),
        (b"\x1b[1;5Ax", ["x"], b""),  # Ctrl-Up is nothing here
        (b"\x1b[200~a\x1b[201~", ["a"], b""),
        (b"\x00\x01\xff\xc3(a", ["(", "a"], b""),
    ],
)
def test_bytes_of_a_terminal(data: bytes, keys: list[str], rest: bytes) -> None:
    assert decode(data) == (keys, rest)


def test_a_sequence_in_pieces_is_one_key() -> None:
    whole = b"\x1b[6~\xc3\xa9\x1bOB"
    found: list[str] = []
    rest = b""
    for i in range(len(whole)):
        keys, rest = decode(rest + whole[i : i + 1])
        found += keys
    assert (found, rest) == (["pagedown", "é", "down"], b"")


def test_the_last_events_of_each_container_are_kept_the_newest_first() -> None:
    events = LastEvents()
    for number in range(100):
        events.add({"namespace": "", "pod": "", "container": "noisy", "number": number})
    events.add({**profile("quiet"), "number": 1, "node": "a\x1b"})
    events.add({"namespace": "", "pod": "", "container": "noisy", "number": 100})
    noisy = [record["number"] for record in events.of(Key("", "", "noisy", ""))]
    assert noisy == list(range(100, 80, -1))
    quiet = Key("shop", "quiet-1", "quiet", "id-quiet")
    assert [record["number"] for record in events.of(quiet)] == [1]
    assert events.of(Key("", "", "other", "")) == []


def test_of_too_many_containers_those_that_are_silent_longest_lose_their_events() -> None:
    events = LastEvents()
    for number in (*range(2000), 0, 2000):
        events.add({"namespace": "", "pod": "", "container": str(number)})
    known = [bool(events.of(Key("", "", str(number), ""))) for number in (0, 1, 2, 2000)]
    assert known == [True, False, True, True]
