# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, served by a real exporter: without JavaScript, with it, live, and
while the exporter is gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from cap_exporter.outputs.page.overview import NAME_LENGTH
from cap_exporter.terminal import printable
from tests.e2e.browser import NARROW, WIDE, chromium, opened
from tests.e2e.exporter import RunningExporter
from tests.e2e.played import (
    DENIED,
    HOSTILE,
    HOSTILE_PROGRAM,
    LONG,
    QUIET,
    USING,
    write_recording,
)
from tests.e2e.served import Served, ask
from tests.kernel.containers import Container
from tests.ports import free_port

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording") / "recording")


@pytest.fixture(scope="module")
def exporter(
    tmp_path_factory: pytest.TempPathFactory, recording: Path
) -> Iterator[RunningExporter]:
    with RunningExporter(
        tmp_path_factory.mktemp("exporter"), f"--source=replay:{recording}", "--node-name=node-7"
    ) as one:
        yield one


@pytest.fixture(scope="module")
def url(exporter: RunningExporter) -> str:
    return f"http://127.0.0.1:{exporter.page_port}"


def rows(page: Page) -> list[str]:
    """The list's containers."""
    return page.locator(".containers tbody th a").all_inner_texts()


def denied(page: Page) -> int:
    """Of the container that is denied again and again."""
    row = page.locator(".containers tbody tr", has_text=DENIED[:12])
    return int(row.locator(".denied").inner_text())


def follow(link: Locator) -> None:
    """Click, and wait for the page that comes."""
    with link.page.expect_navigation():
        link.click()


def newest_event(page: Page) -> str:
    return page.locator(".feed time").first.inner_text()


def until(page: Page, reached: Callable[[], bool]) -> None:
    """Playwright's own way needs eval, which the page forbids."""
    for _ in range(100):
        if reached():
            return
        page.wait_for_timeout(50)
    pytest.fail(page.locator("main").inner_text())


def status(page: Page) -> str:
    return page.locator("#status").inner_text()


# Without JavaScript


def test_without_javascript_everything_is_there_and_nothing_that_does_nothing(
    browser: Browser, url: str
) -> None:
    with opened(browser, url, java_script_enabled=False) as page:
        assert page.title() == "Capability checks on node-7 \u2013 cap-exporter"
        node = page.locator("#node").inner_text()
        assert "Counting" in node
        assert "replay, attached by tp_btf" in node
        assert rows(page)[0] == DENIED[:12]
        before = denied(page)
        page.wait_for_timeout(600)
        assert page.locator("button").all_inner_texts() == ["Filter"]
        assert not page.locator("meta[http-equiv]").count()
        follow(page.get_by_role("link", name="Reload"))
        assert denied(page) > before

        page.get_by_label("Words of a name").fill("chown")
        follow(page.get_by_role("button", name="Filter"))
        assert rows(page) == [USING[:12]]
        assert page.get_by_label("Words of a name").input_value() == "chown"
        follow(page.get_by_role("link", name="Clear the filter"))
        assert QUIET[:12] not in rows(page)
        follow(page.get_by_role("link", name="Also show background checks"))
        assert QUIET[:12] in rows(page)
        follow(page.get_by_role("link", name="Background", exact=True))
        assert rows(page)[0] == QUIET[:12]
        heading = page.get_by_role("columnheader", name="Background")
        assert heading.get_attribute("aria-sort") == "descending"

        follow(page.get_by_role("link", name=USING[:12]).first)
        assert page.get_by_role("heading", level=1).inner_text() == USING[:12]
        assert not page.locator("button").count()
        assert "--cap-add=CHOWN --cap-add=KILL" in page.locator("#advice").inner_text()
        assert page.get_by_role("img", name="7 used in the last").count() == 1


def test_a_container_that_nobody_knows_is_404_and_says_what_to_do(
    browser: Browser, url: str
) -> None:
    with opened(browser, f"{url}/container?id=0123", complaints=True) as page:
        assert page.request.get(page.url).status == 404
        assert "knows no container 0123" in page.locator("main").inner_text()
        follow(page.get_by_role("link", name="look through all containers"))
        assert QUIET[:12] in rows(page)


# Live


def test_counts_and_events_come_by_themselves_and_rest_when_told(
    browser: Browser, url: str
) -> None:
    with opened(browser, url) as page:
        expect(page.locator("#status")).to_have_text("Live.")
        expect(page.locator("#reload")).to_be_hidden()
        before, newest = denied(page), newest_event(page)
        until(page, lambda: denied(page) > before)
        until(page, lambda: newest_event(page) > newest)
        with page.expect_request("**/feed"):
            pass
        page.get_by_role("button", name="Pause").click()
        page.wait_for_timeout(300)
        before = denied(page)
        page.wait_for_timeout(1000)
        assert denied(page) == before
        assert status(page) == "Paused."
        page.get_by_role("button", name="Go on").click()
        until(page, lambda: denied(page) > before)
        assert status(page) == "Live."


def test_a_hidden_tab_asks_for_nothing(browser: Browser, url: str) -> None:
    count = """() => {
        window.asked = 0;
        const [ask, Stream] = [window.fetch, window.EventSource];
        window.fetch = (...all) => { window.asked++; return ask(...all); };
        window.EventSource = class extends Stream {
            constructor(...all) { super(...all); window.asked++; }
        };
    }"""
    hide = """hidden => {
        window.asked = 0;
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with opened(browser, url) as page:
        expect(page.locator("#status")).to_have_text("Live.")
        page.evaluate(count)
        with page.expect_event("requestfailed", lambda one: one.url.endswith("/events")):
            page.evaluate(hide, True)
        page.wait_for_timeout(1000)
        assert page.evaluate("window.asked") == 0
        page.evaluate(hide, False)
        assert page.evaluate("window.asked") == 2


def test_the_filter_works_as_one_types_and_stays_through_updates(
    browser: Browser, url: str
) -> None:
    with opened(browser, f"{url}/?all=1") as page:
        expect(page.locator("#status")).to_have_text("Live.")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        box = page.get_by_label("Words of a name")
        box.focus()
        page.keyboard.type(f"syslog {DENIED[:3]}")
        until(page, lambda: len(rows(page)) == 1)
        assert rows(page) == [DENIED[:12]]
        before = denied(page)
        until(page, lambda: denied(page) > before)
        assert rows(page) == [DENIED[:12]]
        assert page.evaluate("document.activeElement.id") == "q"
        assert page.url == f"{url}/?q=syslog+{DENIED[:3]}&all=1"
        box.fill("nothing has this")
        expect(page.locator(".empty")).to_contain_text("No container has these words")


def test_the_focus_and_what_is_open_stay_through_updates(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.get_by_role("link", name="Used", exact=True).focus()
        before = denied(page)
        until(page, lambda: denied(page) > before)
        assert page.evaluate("document.activeElement.innerText") == "Used"
        page.goto(f"{url}/container?id={DENIED}")
        page.locator("summary").click()
        of_now = page.locator("#capabilities .denied").first
        text = of_now.inner_text()
        until(page, lambda: of_now.inner_text() != text)
        expect(page.locator("details")).to_have_attribute("open", "")
        assert "SYS_ADMIN 30" in page.locator("details").inner_text()
        assert page.evaluate("document.activeElement.localName") == "summary"


def test_advice_is_copied_by_its_button(browser: Browser, url: str) -> None:
    rights = ["clipboard-read", "clipboard-write"]
    with opened(browser, f"{url}/container?id={USING}", permissions=rights) as page:
        page.get_by_role("button", name="Copy: For docker run").click()
        expect(page.locator(".copy").first).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator("pre[data-copy]").first.inner_text()
        assert "--cap-drop=ALL --cap-add=CHOWN --cap-add=KILL" in copied


def test_it_says_when_the_exporter_is_gone_and_when_it_is_back(
    browser: Browser, tmp_path: Path, recording: Path
) -> None:
    port = free_port()
    arguments = f"--source=replay:{recording}", f"--page-listen=127.0.0.1:{port}"
    with RunningExporter(tmp_path, *arguments) as first:
        page_of = opened(browser, f"http://127.0.0.1:{port}", complaints=True)
        with page_of as page:
            expect(page.locator("#status")).to_have_text("Live.")
            first.stop()
            expect(page.locator("#status")).to_contain_text("has not answered since")
            assert DENIED[:12] in rows(page)
            with RunningExporter(tmp_path, *arguments):
                expect(page.locator("#status")).to_have_text("The exporter answers again.")
                before = denied(page)
                until(page, lambda: denied(page) > before)


# What containers choose


@pytest.mark.parametrize("javascript", [True, False])
def test_what_a_container_calls_itself_is_text(
    browser: Browser, url: str, *, javascript: bool
) -> None:
    with opened(browser, url, java_script_enabled=javascript) as page:
        page.on("dialog", lambda _: pytest.fail("a script of a container ran"))
        name = printable(HOSTILE)
        assert "\\n\\r\\x1b[31m\\u202e" in name
        assert name in rows(page)
        assert page.locator("main img, main script, tbody tr b b").count() == 0
        follow(page.locator(".containers a", has_text=name))
        assert page.get_by_role("heading", level=1).inner_text() == name
        asked = page.locator("#capabilities code").inner_text()
        assert asked == f"{printable(HOSTILE_PROGRAM)} (syslog)"
        assert page.locator("main img, main script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDE["width"]
        follow(page.get_by_role("link", name="All containers"))
        (long,) = [row for row in rows(page) if row.startswith("\\u202ex\\u202ex")]
        assert len(long) == NAME_LENGTH
        follow(page.locator(".containers a", has_text=long))
        assert page.get_by_role("heading", level=1).inner_text() == printable(LONG)
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDE["width"]


def test_no_answer_is_kept_sets_a_cookie_or_has_anything_inline() -> None:
    with Served() as served:
        for path in ("/", "/container?id=" + "a" * 64, "/container?id=x", "/feed", "/page.js"):
            answer = ask(served.page, path)
            assert answer.headers["cache-control"] == "no-store"
            assert "set-cookie" not in answer.headers
            assert ask(served.page, path, "POST").status == 405
            if path != "/page.js":
                assert not re.search(rb"\s(on\w+|style)=|<style|<script(?! src)", answer.body)
                assert not re.search(rb"(src|href|action)=\"?(https?:|//)", answer.body)


def test_the_script_is_small() -> None:
    with Served() as served:
        assert len(ask(served.page, "/page.js").body) <= 6 * 1024


# For everybody


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", NARROW)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    browser: Browser, url: str, scheme: Any, size: Any
) -> None:
    for path in ("/?all=1", f"/container?id={DENIED}", "/container?id=x"):
        with opened(
            browser,
            url + path,
            complaints=True,
            color_scheme=scheme,
            viewport=size,
            bypass_csp=True,
        ) as page:
            found = Axe().run(page)
            assert found.violations_count == 0, f"{path}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path


# The real kernel


@pytest.mark.kernel
@pytest.mark.needs("runc", "clang")
def test_a_real_container_that_is_denied_comes_first_with_its_program_and_its_advice(
    browser: Browser, tmp_path: Path, container: Callable[..., Container]
) -> None:
    one = container("CHOWN", "SYS_CHROOT")
    with (
        RunningExporter(tmp_path) as exporter,
        opened(browser, f"http://127.0.0.1:{exporter.page_port}") as page,
    ):
        one.start("sh", "-c", "chroot / true; while :; do dmesg; sleep 0.2; done")
        link = page.locator(".containers").get_by_role("link", name=one.container_id[:12])
        expect(link).to_be_visible()
        expect(page.locator(".feed")).to_contain_text("/bin/busybox")
        follow(link)
        expect(page.locator("#capabilities")).to_contain_text("SYS_CHROOT")
        expect(page.locator("#capabilities")).to_contain_text("/bin/busybox (syslog)")
        expect(page.locator("#capabilities")).to_contain_text("1 of 2: CHOWN")
        expect(page.locator("#advice pre").first).to_contain_text("--cap-add=SYS_CHROOT")
        expect(page.locator("#facts")).to_contain_text(one.container_id)
