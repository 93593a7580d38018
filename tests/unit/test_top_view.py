# SPDX-License-Identifier: Apache-2.0
"""The screens of `top`, as they are."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from cap_exporter.top.model import History, Key, Row, Sort, key_of
from cap_exporter.top.state import State
from cap_exporter.top.view import ASCII, Frame, draw, printout

if TYPE_CHECKING:
    from rich.text import Text

DATA = Path(__file__).parent.parent / "data/top"

HOSTILE = "a\x1b[2J\x1b]0;x\x07\u202eb\nc\x9b"

AT = 1764091460.0  # 2025-11-25 17:24:20 UTC


def profile(name: str, **changes: Any) -> dict[str, Any]:
    namespace, pod, container = name.split("/")
    return {
        "container_id": f"{container}-id",
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "cgroup": "/",
        "workload_kind": "",
        "workload": "",
        "image": "",
        "runtime": "",
        "kind": "container",
        "used": {},
        "denied": {},
        "in_user_namespace": {"used": {}, "denied": {}},
        "background": {},
        "asked_by": {},
        "granted": None,
        "declared": None,
        "first_seen": "2025-11-25T17:14:20Z",
        "last_seen": "2025-11-25T17:24:20Z",
        "running": True,
        "start_seen": True,
        "complete": True,
        **changes,
    }


def granted(*names: str) -> dict[str, Any]:
    return {
        "bounding": [f"CAP_{name}" for name in names],
        "uids": [0],
        "no_new_privs": True,
        "user_namespace_is_host": True,
    } | {field: [] for field in ("permitted", "effective", "ambient", "inheritable")}


def cluster(factor: int) -> list[dict[str, Any]]:
    return [
        profile(
            "shop/web-6d5f4c8b9-x2x7q/web",
            workload_kind="Deployment",
            workload="web",
            image="registry.example/shop/web:1.27",
            runtime="containerd",
            used={
                "CAP_NET_BIND_SERVICE": 1,
                "CAP_SETGID": 2 * factor,
                "CAP_SETUID": factor,
            },
            denied={"CAP_SYSLOG": 25 * factor},
            background={"noaudit": {"CAP_SYS_ADMIN": 218}},
            asked_by={"CAP_SYSLOG": ["/bin/dmesg (syslog)"]},
            granted=granted("CHOWN", "NET_BIND_SERVICE", "SETGID", "SETUID", "KILL"),
        ),
        profile("shop/db-0/postgres", used={"CAP_CHOWN": 123_456 * factor, "CAP_FOWNER": 1}),
        profile("kube-system/node-agent-of-a-long-name-7wq9z/agent", denied={"CAP_BPF": 3}),
        profile("shop/job-1/done", used={"CAP_KILL": 1}, running=False),
        profile("shop/idle-1/idle"),
        profile(
            "//build.service",
            container_id="",
            in_user_namespace={"used": {"CAP_SYS_ADMIN": 7}, "denied": {}},
        ),
    ]


WEB = Key("shop", "web-6d5f4c8b9-x2x7q", "web", "web-id")


def rows_of(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[Row]:
    history = History()
    history.add(before, 0.0)
    return history.add(after, 10.0)


@pytest.fixture
def frame() -> Frame:
    return Frame(
        state=State(),
        rows=rows_of(cluster(1), cluster(2)),
        time=AT,
        source="127.0.0.1:10839",
        node="worker-1",
    )


def event(executable: str = "/bin/dmesg", **changes: Any) -> dict[str, Any]:
    return {
        "time": "2025-11-25T17:24:19.123456Z",
        "verdict": "denied",
        "capability": {"name": "CAP_SYSLOG"},
        "namespace": "shop",
        "pod": "web-6d5f4c8b9-x2x7q",
        "container": "web",
        "process": {"executable": executable, "comm": "dmesg", "pid": 4711},
        "suppressed": 0,
        "syscall": {"name": "syslog"},
        **changes,
    }


def expected(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def screen(frame: Frame, width: int, height: int) -> str:
    lines = draw(frame, width, height).lines
    assert len(lines) == height
    assert max(cell_len(line.plain) for line in lines) <= width
    return "\n".join(line.plain.rstrip() for line in lines) + "\n"


OPENED = State(opened=WEB)
EVENTS = [event(), event("/bin/true", verdict="allowed", suppressed=3)]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10)])
@pytest.mark.parametrize(
    ("name", "state"), [("list", State()), ("opened", OPENED), ("help", State(help=True))]
)
def test_screens(frame: Frame, name: str, state: State, width: int, height: int) -> None:
    """tests/data/top has them, as they are seen."""
    frame = replace(frame, state=state, events=EVENTS)
    assert screen(frame, width, height) == expected(f"{name}-{width}x{height}")


def test_a_pipe_gets_all_of_it_and_nothing_is_cut(frame: Frame) -> None:
    lines = printout(replace(frame, state=State(everything=True)), None)
    assert "".join(f"{line.plain}\n" for line in lines) == expected("printed")


def test_a_terminal_gets_it_as_wide_as_it_is(frame: Frame) -> None:
    printed = [line.plain.rstrip() for line in printout(frame, 80)]
    shown = expected("list-80x24").replace("\n>", "\n ").splitlines()
    assert printed == shown[: len(printed)]
    assert len(printed) == 8


def last_lines(frame: Frame, width: int = 80) -> list[str]:
    return [line for line in screen(frame, width, 12).splitlines() if line][-2:]


def test_what_is_wrong_has_a_line_of_its_own_and_the_list_stays(frame: Frame) -> None:
    lost = replace(frame, problem="no answer from \x1b[2Jhttp://h: refused")
    assert last_lines(lost)[0] == "! no answer from \\x1b[2Jhttp://h: refused"
    assert screen(lost, 80, 12).splitlines()[:8] == expected("list-80x24").splitlines()[:8]
    assert last_lines(lost, 30)[0] == "! no answer from \\x1b[2Jhttp:…"


def test_what_is_typed_is_seen_as_it_is_typed(frame: Frame) -> None:
    typing = screen(replace(frame, state=State(words="syslog", typing=True)), 80, 12).splitlines()
    assert typing[-1] == "filter: syslog_   Enter keeps it, Esc clears it"
    assert typing[1].startswith("1 of 6 containers   filter: syslog ")
    assert [line[2:10] for line in typing[3:] if line][:-1] == ["shop/web"]


def test_an_empty_list_says_why(frame: Frame) -> None:
    for changes, text in (
        ({"state": State(words="nothing")}, "No container has these words; Esc clears the filter."),
        ({"rows": []}, "No containers yet."),
        ({"rows": rows_of([], [profile("a/b/c")])}, "No checks yet that mean something; a shows"),
    ):
        assert screen(replace(frame, **changes), 80, 8).splitlines()[3].startswith(text)


def test_it_says_that_it_is_paused_and_how_it_is_sorted(frame: Frame) -> None:
    paused = screen(replace(frame, state=State(paused=True, sort=Sort.NAME)), 40, 5).splitlines()
    assert paused[0] == "cap-exporter top   PAUSED   17:24:20 UTC"
    wide = screen(replace(frame, state=State(paused=True, sort=Sort.NAME)), 80, 5).splitlines()
    assert wide[0].startswith("cap-exporter top   PAUSED   17:24:20 UTC")
    assert wide[1].endswith("by name")


def test_the_selected_line_is_in_view_wherever_it_is(frame: Frame) -> None:
    many = [profile(f"ns/pod-{number}/c{number:03}", used={"CAP_KILL": 1}) for number in range(99)]
    rows = rows_of(many, many)
    for number in range(99):
        key = Key("ns", f"pod-{number}", f"c{number:03}", f"c{number:03}-id")
        state = State(selected=key, sort=Sort.NAME)
        drawn = draw(replace(frame, rows=rows, state=state), 80, 24)
        marked = [line.plain for line in drawn.lines if line.plain.startswith(">")]
        assert len(marked) == 1
        assert f"/c{number:03} " in marked[0]
        # A full page, at the ends too.
        assert sum(" ns/pod-" in line.plain for line in drawn.lines) == drawn.page == 20


def test_a_container_s_lines_scroll_until_the_last_is_in_view(frame: Frame) -> None:
    opened = replace(frame, state=OPENED, events=EVENTS)
    last = draw(opened, 80, 12).last
    assert "confidence" in screen(opened, 80, 60)
    assert "confidence" not in screen(opened, 80, 12)
    end = screen(replace(opened, state=replace(OPENED, scroll=last)), 80, 12).splitlines()
    assert "then is missing" in "".join(end[-4:])
    assert (
        screen(replace(opened, state=replace(OPENED, scroll=last + 9)), 80, 12).splitlines() == end
    )


def test_a_container_that_has_gone_meanwhile(frame: Frame) -> None:
    gone = replace(frame, state=State(opened=Key("shop", "gone", "x", "y")))
    assert screen(gone, 80, 8).splitlines()[2] == "This container is not known any more."


def test_a_unit_is_told_of_its_own_user_namespaces(frame: Frame) -> None:
    unit = replace(frame, state=State(opened=Key("", "", "build.service", "")))
    text = screen(unit, 80, 30)
    assert "No checks that mean something." in text
    assert "What it holds was not read." in text
    assert "In user namespaces of its own used: SYS_ADMIN 7" in text
    assert "ADVICE" in text


def test_the_host_gets_no_advice(frame: Frame) -> None:
    host = profile("//(host)", container_id="", used={"CAP_BPF": 1})
    text = screen(
        replace(frame, rows=rows_of([], [host]), state=State(opened=Key("", "", "(host)", ""))),
        80,
        30,
    )
    assert "BPF" in text
    assert "ADVICE" not in text


def test_advice_is_for_all_replicas_together(frame: Frame) -> None:
    other = profile(
        "shop/web-6d5f4c8b9-other/web",
        container_id="other-id",
        workload_kind="Deployment",
        workload="web",
        used={"CAP_KILL": 1},
        granted=granted("CHOWN", "KILL"),
    )
    stranger = profile("shop/web-2/web", container_id="2", used={"CAP_BPF": 1})
    rows = rows_of([], [*cluster(1), other, stranger])
    text = screen(replace(frame, rows=rows, state=OPENED), 120, 50)
    assert "needs       KILL, SETGID, SETUID, NET_BIND_SERVICE" in text
    assert "2 replicas" in text


SIZES = list(itertools.product((1, 2, 9, 20, 40, 63, 64, 80, 120, 200), (1, 3, 10, 24)))


def hostile_frames() -> list[Frame]:
    hostile = profile(
        f"{HOSTILE}/{HOSTILE}/{HOSTILE}",
        workload_kind=HOSTILE,
        workload=HOSTILE,
        image=HOSTILE,
        runtime=HOSTILE,
        used={f"CAP_{HOSTILE}": 1},
        denied={"CAP_SYSLOG": 1},
        in_user_namespace={"used": {HOSTILE: 1}, "denied": {}},
        asked_by={f"CAP_{HOSTILE}": [HOSTILE], "CAP_SYSLOG": [HOSTILE]},
        granted=granted("CHOWN", HOSTILE),
    )
    wide = profile("界界界界界界界界界界/éé\u0301\u0301\u0301x/👩\u200d👩\u200d👧" + "w" * 300)
    wide["used"] = {"CAP_KILL": 10**15}
    return [
        Frame(
            state=state,
            rows=rows_of([], [hostile, wide]),
            time=AT,
            source="h" * 100,
            node="n",
            problem=HOSTILE * 9,
            events=[event(HOSTILE * 3, capability={"name": HOSTILE})],
        )
        for opened in (None, hostile, wide)
        for state in (
            State(opened=key_of(opened) if opened else None, everything=True),
            State(words=HOSTILE, typing=True),
        )
    ]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_no_line_is_wider_than_the_screen_and_none_gives_orders(width: int, height: int) -> None:
    for frame in hostile_frames():
        for unicode in (True, False):
            lines = draw(frame, width, height, unicode=unicode).lines
            assert len(lines) == height
            for line in lines:
                assert cell_len(line.plain) <= width
                assert line.plain.isprintable(), line.plain
                assert unicode or line.plain.isascii()


def test_a_pipe_gets_no_orders_either() -> None:
    for frame in hostile_frames():
        for line in printout(frame, None):
            assert line.plain.isprintable(), line.plain


COLOUR = ("\x1b[3", "\x1b[9", ";3", ";9")


def painted(lines: list[Text], **environ: str) -> str:
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        width=80,
        _environ={"TERM": "xterm", **environ},
    )
    for line in lines:
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_color_leaves_all_marks_and_no_colour(frame: Frame) -> None:
    for state in (State(), OPENED, State(help=True)):
        lines = draw(replace(frame, state=state, events=EVENTS), 80, 24).lines
        assert any(code in painted(lines) for code in COLOUR)
        plain = painted(lines, NO_COLOR="1")
        assert not any(code in plain for code in COLOUR)
        assert "✗" in plain
        assert "●" in plain


def test_a_terminal_without_unicode_gets_marks_it_has(frame: Frame) -> None:
    for state in (State(), OPENED, State(help=True)):
        drawn = replace(frame, state=state, events=EVENTS)
        lines = [line.plain for line in draw(drawn, 80, 24, unicode=False).lines]
        assert "\n".join(lines).isascii()
        assert [line.plain.translate(ASCII) for line in draw(drawn, 80, 24).lines] == lines
    assert len(set(ASCII.values())) == len(ASCII)
