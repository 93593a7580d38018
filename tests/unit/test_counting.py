# SPDX-License-Identifier: Apache-2.0
"""What a counter's samples mean, whatever happened between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cap_exporter.fleet.counting import Scrapes, State, grown

SINCE = 1000.0


def test_a_value_that_falls_began_at_0_again() -> None:
    scrapes: Scrapes = [(1060.0, None), (1120.0, None)]
    before = State(10, alive=True)
    found = grown(before, [(1060.0, 12), (1120.0, 3)], scrapes, SINCE, True, None)
    assert found == (2 + 3, State(3, alive=True), False)


def test_a_first_value_of_an_old_exporter_is_carried() -> None:
    def first(start: float | None, known_before: bool) -> tuple[float, State | None, bool]:
        return grown(None, [(1060.0, 7)], [(1060.0, start)], SINCE, known_before, None)

    assert first(500.0, False) == (7, State(7, alive=True), True)
    assert first(None, False) == (7, State(7, alive=True), True)
    assert first(1001.0, False) == (7, State(7, alive=True), False)
    assert first(500.0, True) == (7, State(7, alive=True), False)


def test_what_is_not_in_the_last_scrape_has_gone() -> None:
    scrapes: Scrapes = [(1060.0, 1.0), (1120.0, 1.0)]
    grew, state, _ = grown(State(1, alive=True), [(1060.0, 2)], scrapes, SINCE, True, 1.0)
    assert (grew, state) == (1, State(2, alive=False))
    # The same name comes again, with more than before.
    later: Scrapes = [(1180.0, 1.0)]
    assert grown(state, [(1180.0, 5)], later, SINCE, True, 1.0)[0] == 5


def test_an_exporter_that_nobody_knows_is_no_gap() -> None:
    found = grown(State(1, alive=True), [(1060.0, 2), (1500.0, 4)], [], SINCE, True, None)
    assert found == (3, State(4, alive=True), False)


@given(
    st.lists(
        st.tuples(st.sampled_from(["count", "gone", "restart", "no scrape"]), st.integers(1, 9)),
        max_size=40,
    ),
    st.integers(1, 40),
)
def test_in_whatever_chunks_the_sum_is_what_was_counted(
    story: list[tuple[str, int]], chunk: int
) -> None:
    """One step a minute, with a scrape at its end but for "no scrape"."""
    value, start, true = 0, 1.0, 0
    samples: list[tuple[float, float]] = []
    scrapes: Scrapes = []
    for minute, (what, n) in enumerate(story):
        now = SINCE + 60.0 * (minute + 1)
        if what == "gone":
            value = 0
        else:
            if what == "restart":
                value, start = 0, now - 30
            value += n
            true += n
            if what != "no scrape":
                samples.append((now, value))
        if what != "no scrape":
            scrapes.append((now, start))
    # Of what Prometheus did not see before it ended, nobody knows.
    lost, pending = 0, 0
    for what, n in story:
        if what in ("gone", "restart"):
            lost += pending
        pending = pending + n if what == "no scrape" else 0
    lost += pending
    total: float = 0
    state: State | None = None
    known, started = True, 1.0
    for begin in range(0, len(story), chunk):
        inside = (SINCE + 60 * begin, SINCE + 60 * (begin + chunk))
        some = [one for one in samples if inside[0] < one[0] <= inside[1]]
        seen = [one for one in scrapes if inside[0] < one[0] <= inside[1]]
        if some:
            grew, state, carried = grown(state, some, seen, SINCE, known, started)
            total += grew
            assert not carried
        elif seen:
            state = None
        if seen:
            started = seen[-1][1] or 0.0
    assert total == true - lost
