# SPDX-License-Identifier: Apache-2.0
"""What the page says, and how large it and its history can get."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from cap_exporter.capabilities import name_of
from cap_exporter.event_hub import EventHub
from cap_exporter.ledger import Ledger
from cap_exporter.model import (
    CgroupKey,
    CheckClass,
    CheckKey,
    Granted,
    Identity,
    SourceInfo,
    UserNamespace,
    Verdict,
)
from cap_exporter.outputs.event_record import record_of
from cap_exporter.outputs.page.container import container_view
from cap_exporter.outputs.page.feed import LISTED, feed
from cap_exporter.outputs.page.history import SAMPLES, SPACING, History, Rates, Totals
from cap_exporter.outputs.page.node import Node
from cap_exporter.outputs.page.overview import PER_PAGE, Query, container_url, find, overview
from cap_exporter.outputs.page.rendering import render
from cap_exporter.outputs.page.sparkline import sparkline
from cap_exporter.outputs.routes import Readiness
from cap_exporter.pods.store import StoreSize
from cap_exporter.profiles.profile import document
from cap_exporter.self_stats import SelfStats
from cap_exporter.top.model import Key
from tests.otlp.events import event

SYSLOG, CHOWN = 34, 0


def identity(number: int, **changes: Any) -> Identity:
    values = {"namespace": "shop", "pod": f"web-{number}", "container": "web"}
    return Identity(**{**values, "container_id": f"{number:064x}", **changes})


def count(
    ledger: Ledger,
    number: int,
    checks: int,
    verdict: Verdict = Verdict.DENIED,
    capability: int = SYSLOG,
    check_class: CheckClass = CheckClass.MEANINGFUL,
    **changes: Any,
) -> None:
    key = CheckKey(CgroupKey(0, number), capability, verdict, UserNamespace.INIT, check_class)
    ledger.apply([(identity(number, **changes), key, checks)], 1.0)


def profiles(ledger: Ledger) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(ledger.accounts())["containers"]
    return found


def parameters(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def listed(ledger: Ledger, **asked: str) -> list[str]:
    """Containers by their pods, as the list has them."""
    lines = overview(profiles(ledger), Query.of(asked)).lines
    return [line.place.split("/")[1] or line.name for line in lines]


@pytest.fixture
def three() -> Ledger:
    """web-1 is denied little and uses much, web-2 the other way round, web-3 makes background
    checks alone."""
    ledger = Ledger()
    count(ledger, 1, 1)
    count(ledger, 1, 50, Verdict.ALLOWED, CHOWN, workload_kind="Deployment", workload="web")
    count(ledger, 2, 9)
    count(ledger, 2, 2, Verdict.ALLOWED, CHOWN)
    count(ledger, 3, 70, check_class=CheckClass.NOAUDIT)
    ledger.observe(CgroupKey(0, 2), identity(2), 1.0, Granted(0b111))
    return ledger


# The list


def test_denied_comes_first_and_background_alone_is_left_out(three: Ledger) -> None:
    assert listed(three) == ["web-2", "web-1"]
    view = overview(profiles(three), Query())
    assert (view.found, view.quiet) == (2, 1)
    assert listed(three, all="1") == ["web-2", "web-1", "web-3"]
    assert [
        line.background for line in overview(profiles(three), Query(everything=True)).lines
    ] == [
        0,
        0,
        70,
    ]


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ({"sort": "used"}, ["web-1", "web-2", "web-3"]),
        ({"sort": "used", "order": "reversed"}, ["web-3", "web-2", "web-1"]),
        ({"sort": "container"}, ["web-1", "web-2", "web-3"]),
        ({"sort": "container", "order": "reversed"}, ["web-3", "web-2", "web-1"]),
        ({"sort": "unused"}, ["web-2", "web-1", "web-3"]),
        ({"sort": "background"}, ["web-3", "web-2", "web-1"]),
        ({"sort": "workload"}, ["web-2", "web-3", "web-1"]),
        ({"sort": "no such column"}, ["web-2", "web-1", "web-3"]),
    ],
)
def test_each_column_sorts(three: Ledger, asked: dict[str, str], order: Sequence[str]) -> None:
    assert listed(three, all="1", **asked) == order


def test_one_heading_is_sorted_by_and_leads_to_the_other_order() -> None:
    for query, sorted_by in ((Query(), "denied"), (Query(sort="container"), "container")):
        headings = overview([], query).headings
        (mine,) = [one for one in headings if one.aria_sort]
        assert mine.name == sorted_by
        assert Query.of(parameters(mine.url)) == Query(sort=sorted_by, is_reversed=True)
    assert overview([], Query(sort="container")).headings[0].aria_sort == "ascending"
    assert overview([], Query()).headings[2].aria_sort == "descending"


def test_a_filter_takes_all_words_of_names_workloads_and_capabilities(three: Ledger) -> None:
    assert listed(three, q="WEB-1") == ["web-1"]
    assert listed(three, q="syslog shop") == ["web-2", "web-1"]
    assert listed(three, q="syslog nothing") == []


def test_many_containers_come_in_parts_that_lead_to_each_other() -> None:
    ledger = Ledger()
    for number in range(1, 2 * PER_PAGE + 2):
        count(ledger, number, number)
    seen: list[str] = []
    url = "/?q=shop"
    while url:
        view = overview(profiles(ledger), Query.of(parameters(url)))
        assert view.first == len(seen) + 1
        assert len(view.lines) <= PER_PAGE
        seen += [line.place for line in view.lines]
        url = view.next_url
    assert len(seen) == len(set(seen)) == view.found == 2 * PER_PAGE + 1
    assert seen[0] == f"shop/web-{2 * PER_PAGE + 1}/"
    assert parameters(view.previous_url) == {"q": "shop", "page": "2"}


@pytest.mark.parametrize("page", ["0", "-1", "99999999999", "x", "٣", ""])
def test_a_part_that_is_none_is_one_that_there_is(three: Ledger, page: str) -> None:
    assert listed(three, page=page) == ["web-2", "web-1"]


def test_a_url_means_the_query_it_was_made_of() -> None:
    query = Query('a "b" & ?', "used", True, True, 3)
    assert Query.of(parameters(query.url(page=3))) == query
    assert Query().url() == "/"


# One container


def test_every_container_is_found_by_its_url(three: Ledger) -> None:
    count(three, 4, 1, namespace="", pod="", container="cron.service", container_id="")
    every = profiles(three)
    for one in every:
        key = Key(one["namespace"], one["pod"], one["container"], one["container_id"])
        assert find(every, parameters(container_url(key))) is one


def test_a_shortened_id_is_found_where_only_one_has_it(three: Ledger) -> None:
    count(three, 4, 1, container_id="abc" + "0" * 61)
    every = profiles(three)
    found = find(every, {"id": "abc"})
    assert found is not None
    assert found["pod"] == "web-4"
    assert find(every, {"id": "000"}) is None
    assert find(every, {"id": "x"}) is None
    assert find(every, {}) is None


def test_of_one_that_is_there_twice_the_one_that_runs_is_found() -> None:
    ledger = Ledger()
    count(ledger, 1, 1, namespace="", pod="", container="0" * 12)
    count(ledger, 1, 1)
    for asked in ({"id": f"{1:064x}"}, {"id": "0"}):
        found = find(profiles(ledger), asked)
        assert found is not None
        assert (found["pod"], found["running"]) == ("web-1", True)


def test_the_events_of_one_container_are_its_own_newest_first() -> None:
    hub = EventHub()
    for number in (1, 2, 1):
        hub.publish(record_of(event(suppressed=number), identity(number)))
    assert [line.suppressed for line in feed(hub.recent())] == [1, 2, 1]
    only = feed(hub.recent(), Key("shop", "web-2", "web", f"{2:064x}"))
    assert [(line.who, line.process) for line in only] == [("shop/web-2/web", "/bin/dmesg[73860]")]
    for _ in range(2 * LISTED):
        hub.publish(record_of(event(), identity(3)))
    assert len(feed(hub.recent())) == LISTED


@pytest.mark.parametrize(
    ("changes", "snippets"),
    [
        ({"workload_kind": "Deployment", "workload": "web"}, ["securityContext", "kubectl"]),
        ({"workload_kind": "Rollout", "workload": "web"}, ["securityContext"]),
        ({"namespace": "", "pod": ""}, ["--cap-drop=ALL", "cap_drop"]),
        (
            {"namespace": "", "pod": "", "container": "x.service", "container_id": ""},
            ["CapabilityBoundingSet"],
        ),
        ({"namespace": "", "pod": "", "container": "(host)", "container_id": ""}, []),
    ],
)
def test_the_advice_to_copy_is_in_the_form_that_it_is_needed_in(
    changes: dict[str, Any], snippets: list[str]
) -> None:
    ledger = Ledger()
    count(ledger, 1, 1, Verdict.ALLOWED, CHOWN, **changes)
    every = profiles(ledger)
    view = container_view(every[0], every, History(0.0))
    assert len(view.snippets) == len(snippets)
    for snippet, part in zip(view.snippets, snippets, strict=True):
        assert part in snippet.text
        assert "CHOWN" in snippet.text


def test_the_advice_is_for_all_of_its_workload_and_for_no_other() -> None:
    ledger = Ledger()
    web: dict[str, Any] = {"workload_kind": "Deployment", "workload": "web"}
    count(ledger, 1, 1, Verdict.ALLOWED, CHOWN, **web)
    count(ledger, 2, 1, Verdict.ALLOWED, SYSLOG, **web)
    count(ledger, 3, 1, Verdict.ALLOWED, 21, workload_kind="Deployment", workload="api")
    count(ledger, 4, 1, Verdict.ALLOWED, 12)
    count(ledger, 5, 1, Verdict.ALLOWED, 13)
    every = profiles(ledger)
    added = [container_view(one, every, History(0.0)).advice for one in every]
    names = [one["add"] for one in added if one]
    assert names == [
        ["CHOWN", "SYSLOG"],
        ["CHOWN", "SYSLOG"],
        ["SYS_ADMIN"],
        ["NET_ADMIN"],
        ["NET_RAW"],
    ]


def test_what_is_declared_is_shown_as_a_manifest_has_it() -> None:
    ledger = Ledger()
    count(ledger, 1, 1)
    (one,) = profiles(ledger)
    one["declared"] = {
        "capabilities_add": ["NET_RAW"],
        "capabilities_drop": ["ALL"],
        "privileged": False,
        "allow_privilege_escalation": None,
        "run_as_user": 0,
        "run_as_non_root": None,
        "proc_mount": "",
        "seccomp": "RuntimeDefault",
        "host_users": None,
        "host_network": True,
        "host_pid": False,
        "host_ipc": False,
        "sysctls": {},
        "runtime_class": "",
    }
    assert yaml.safe_load(container_view(one, [one], History(0.0)).declared) == {
        "securityContext": {
            "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]},
            "privileged": False,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "hostNetwork": True,
    }


# History


def minutes(history: History, ledger: Ledger, number: int, checks: Sequence[int]) -> None:
    """A sample after each of these numbers of checks."""
    for at, more in enumerate(checks):
        if more:
            count(ledger, number, more)
        history.add(ledger.accounts(), Totals(float(at), 0, 0))


def of(history: History, number: int, total: int) -> Sequence[int] | None:
    one = identity(number)
    key = Key(one.namespace, one.pod, one.container, one.container_id)
    return history.of(key, name_of(SYSLOG), Verdict.DENIED, total)


def test_history_is_checks_per_minute_with_the_one_that_runs() -> None:
    history, ledger = History(0.0), Ledger()
    minutes(history, ledger, 1, [3, 0, 4])
    assert of(history, 1, 9) == [3, 0, 4, 2]
    minutes(history, ledger, 2, [7])
    assert of(history, 2, 7) == [0, 0, 0, 7, 0]
    assert of(history, 3, 5) == [0, 0, 0, 0, 5]


def test_history_is_of_the_last_hour() -> None:
    history, ledger = History(0.0), Ledger()
    minutes(history, ledger, 1, list(range(1, 101)))
    assert of(history, 1, 5051) == [*range(100 - SAMPLES + 2, 101), 1]


def test_history_is_right_where_a_count_passes_what_it_is_kept_modulo() -> None:
    history, ledger = History(0.0), Ledger()
    minutes(history, ledger, 1, [(1 << 32) - 1, 5])
    assert of(history, 1, (1 << 32) + 10) == [(1 << 32) - 1, 5, 6]


def test_what_there_is_no_room_for_has_no_history_until_there_is() -> None:
    history, ledger = History(0.0, most_series=2), Ledger()
    for number in (1, 2, 3):
        count(ledger, number, number)
    minutes(history, ledger, 1, [0, 1])
    assert of(history, 1, 2) == [1, 1, 0]
    assert of(history, 3, 3) is None
    ledger.gone(CgroupKey(0, 1), 2.0)
    ledger.expire(10_000.0)
    minutes(history, ledger, 2, [0])
    assert of(history, 3, 3) == [0, 0, 3, 0]


def test_a_container_that_went_takes_its_history_along() -> None:
    history, ledger = History(0.0), Ledger()
    minutes(history, ledger, 1, [5])
    ledger.gone(CgroupKey(0, 1), 2.0)
    ledger.expire(10_000.0)
    history.add(ledger.accounts(), Totals(9.0, 0, 0))
    count(ledger, 1, 2)
    assert of(history, 1, 2) == [0, 0, 2]


def test_the_history_of_1000_containers_takes_no_more_than_2_mb() -> None:
    ledger = Ledger()
    for number in range(1, 1001):
        for capability in range(10):
            count(ledger, number, 1, capability=capability)
    history = History(0.0)
    tracemalloc.start()
    for at in range(SAMPLES + 30):
        history.add(ledger.accounts(), Totals(float(at), 0, 0))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 500_000 < kept < 2_000_000


def test_rates_are_over_the_last_minute_or_two() -> None:
    history = History(100.0)
    assert history.rates(Totals(100.5, 7, 0)) is None
    assert history.rates(Totals(110.0, 50, 5)) == Rates(5.0, 0.5)
    for minute in range(1, 6):
        history.add([], Totals(100 + minute * SPACING, 60 * minute, 0))
    assert history.rates(Totals(100 + 5.5 * SPACING, 60 * 5 + 120, 0)) == Rates(2.0, 0.0)


def test_a_sparkline_says_in_words_what_it_draws() -> None:
    line = sparkline([0, 4, 0, 2], "denied")
    assert (
        line.words
        == "6 denied in the last 4 minutes, in 2 of them; at most 4 in one, 2 in this one"
    )
    assert re.findall(r"M(\d+) 24v-(\d+)", line.path) == [("172", "23"), ("178", "12")]
    assert sparkline([0], "used").words == "none used in the last minute"
    assert sparkline([0], "used").path == ""


# The node


@dataclass
class Loop:
    stats: SelfStats = field(default_factory=SelfStats)
    interval: float = 5.0
    since: float = 1.0

    def seconds_since_drain(self) -> float:
        return self.since


def facts(loop: Loop, ready: bool = True, notes: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    node = Node(Ledger(), loop, Readiness(lambda: ready, lambda: list(notes)), **more)
    return {fact.name: (fact.text, fact.is_problem) for fact in node.facts()}


def test_the_node_s_facts_are_those_of_readyz_and_its_own_metrics() -> None:
    stats = SelfStats(source=SourceInfo("libbpf", "tp_btf"), slots_used=12, slots_total=32768)
    said = facts(Loop(stats), pods=lambda: StoreSize(3, 1, 5, 0))
    assert said["State"] == ("Counting", False)
    assert said["Source"] == ("libbpf, attached by tp_btf", False)
    assert said["Last drain"] == ("1 s ago, one each 5 s", False)
    assert said["Room for counters"] == ("12 of 32,768 taken", False)
    assert said["Pods"] == ("3 of this node known", False)
    assert said["Checks not seen"] == said["Events left out"] == ("none", False)


def test_what_is_wrong_is_a_problem_with_its_reason() -> None:
    stats = SelfStats(missed={"recursion": 7, "other": 0})
    stats.events = {"sent": 1, "full": 2, "limited": 3}
    said = facts(
        Loop(stats, since=60.0), notes=["pods: forbidden: no right to list pods"], pods=None
    )
    assert said["State"] == ("Stuck: no drain for 60 s", True)
    assert said["Source"] == ("not attached yet", True)
    assert said["Checks not seen"] == ("7 recursion", True)
    assert said["Events left out"] == (
        "2 for want of room, 3 beyond the rate of their cgroup",
        True,
    )
    assert said["Pods"] == ("forbidden: no right to list pods", True)
    assert facts(Loop(), ready=False)["State"][1]


def test_the_sampler_ends_when_it_is_told_to() -> None:
    node = Node(Ledger(), Loop(), Readiness(lambda: True, list))
    node.start()
    began = time.monotonic()
    node.stop()
    assert time.monotonic() - began < 1


def test_a_sample_is_of_what_the_ledger_has_counted() -> None:
    ledger = Ledger()
    node = Node(ledger, Loop(), Readiness(lambda: True, list))
    count(ledger, 1, 4)
    node.sample()
    assert of(node.history, 1, 6) == [4, 2]
    facts_of_now = {fact.name: fact.text for fact in node.facts()}
    assert facts_of_now["Checks counted"].split()[0] == "4"


# Rendering


def test_nothing_that_a_pod_is_called_gets_out_as_it_is() -> None:
    evil = "<script>alert(1)</script>'\"&\r\x1b[31m\u202e\u2028\x00"
    names: dict[str, Any] = dict.fromkeys(
        ("namespace", "pod", "container", "image", "workload_kind", "workload", "cgroup"), evil
    )
    ledger, hub = Ledger(), EventHub()
    for number, kind in enumerate((evil, "Deployment"), 1):
        count(ledger, number, 1, Verdict.ALLOWED, **{**names, "workload_kind": kind})
        count(ledger, number, 1, **{**names, "workload_kind": kind})
    hub.publish(record_of(event(), identity(1, **names)))
    every = profiles(ledger)
    for one in every:
        one["asked_by"] = {"CAP_SYSLOG": [evil]}
        shared = {"node": evil, "interval": 1, "now": "", "events": feed(hub.recent())}
        view = container_view(one, every, History(0.0))
        assert view.snippets
        pages = (
            render("container.html", view=view, state=view.facts[0], feed_url=evil, **shared),
            render("missing.html", asked=evil, **shared),
            render(
                "overview.html",
                view=overview(every, Query(words=evil)),
                per_page=PER_PAGE,
                facts=view.facts,
                **shared,
            ),
        )
        for page in pages:
            assert "\\u202e" in page
            assert not re.search("[\r\x1b\u202e\u2028\x00]|<script>|</script>'", page)


def test_a_page_of_100_containers_with_long_names_stays_below_60_kb() -> None:
    ledger = Ledger()
    for number in range(1, 101):
        for capability in range(8):
            names: dict[str, Any] = {
                "namespace": "n" * 63,
                "pod": f"{'p' * 60}{number:03}",
                "container": "c" * 63,
            }
            count(ledger, number, 10**6, capability=capability, **names)
    hub = EventHub()
    for number in range(1, 101):
        hub.publish(record_of(event(), identity(number)))
    node = Node(ledger, Loop(), Readiness(lambda: True, list), name="n" * 63)
    page = render(
        "overview.html",
        view=overview(profiles(ledger), Query(everything=True)),
        per_page=PER_PAGE,
        facts=node.facts(),
        events=feed(hub.recent()),
        node=node.name,
        interval=5000,
        now="",
    )
    assert page.count("<tr>") == 101
    assert page.count("<li>") == LISTED
    assert 20_000 < len(page.encode()) <= 60_000
