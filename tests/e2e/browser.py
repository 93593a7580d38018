# SPDX-License-Identifier: Apache-2.0
"""Chromium, as Debian has it, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Without its sandbox: tests run as root."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *, complaints: bool = False, **context: Any
) -> Iterator[Page]:
    """A page in a profile of its own. complaints: what the console says of it is expected; else
    it fails the test, e.g. for what the Content-Security-Policy has stopped."""
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    inside = browser.new_context(**{"viewport": WIDE, **context})
    inside.set_default_timeout(10_000)
    try:
        page = inside.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        yield page
        assert complaints or not said, said
    finally:
        inside.close()
