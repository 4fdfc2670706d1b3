"""A real Chromium, and the demo page as it shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support import system

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
#: Milliseconds that anything may take on a busy machine.
LIMIT = 45_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = system.chromium()
    if program is None:
        pytest.skip("CHROMIUM IS MISSING: the demo page was not tested in a browser (Debian: apt-get install chromium)")
    expect.set_options(timeout=LIMIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.set_default_timeout(LIMIT)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def open_live(page: Page, url: str) -> None:
    """Opens the page and waits until both halves are live."""
    page.goto(url)
    for pill in ("#shape-status", "#stream-status"):
        expect(page.locator(pill)).to_have_attribute("data-state", "live", timeout=LIMIT)


def shown(page: Page) -> list[tuple[int, str, bool]]:
    """The table as the page shows it, oldest first."""
    found: list[Any] = page.eval_on_selector_all(
        "#rows tr:not(.gone)",
        "trs => trs.map(tr => [Number(tr.children[0].textContent), tr.children[1].textContent,"
        " tr.querySelector('input').checked])",
    )
    return sorted((row_id, title, done) for row_id, title, done in found)
