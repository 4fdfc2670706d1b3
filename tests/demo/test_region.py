"""The demo page of a whole region, through the edge: what a newcomer sees after `switchgear up --demo`."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.demo.browser import LIMIT, open_live, shown
from tests.support import processes
from tests.support.region import Region

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture
def region() -> Iterator[Region]:
    root = Path(tempfile.mkdtemp(prefix="sg-page-"))
    root.chmod(0o755)
    region = Region(root / "region", "--demo")
    try:
        region.start()
        yield region
    finally:
        region.stop()
        region.cli("down", "--wipe", check=False)
        shutil.rmtree(root, ignore_errors=True)


def test_the_page_is_live_and_outlives_the_edge(region: Region, page: Page) -> None:
    match = re.search(r"Demo page\s+(http://\S+)", region.log)
    assert match is not None
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url + str(request.headers)))
    open_live(page, match[1])
    assert len(shown(page)) >= 5

    count = page.locator("#events li").count()
    expect(page.locator("#events li").nth(count + 1)).to_be_attached(timeout=LIMIT)
    assert page.locator("#rows tr.added, #rows tr.changed").count() > 0

    page.fill("#title", "typed by a newcomer")
    page.get_by_role("button", name="Insert").click()
    expect(page.locator("#rows tr", has_text="typed by a newcomer")).to_have_count(1, timeout=LIMIT)

    # The page itself goes on: it is not loaded again.
    count = page.locator("#events li").count()
    changes = int(page.inner_text("#change-count"))
    processes.kill("switchgear-edge", str(region.data_dir))
    expect(page.locator("#events li").nth(count + 1)).to_be_attached(timeout=LIMIT)
    page.wait_for_function("known => Number(document.querySelector('#change-count').textContent) > known", arg=changes)
    for pill in ("#shape-status", "#stream-status"):
        expect(page.locator(pill)).to_have_attribute("data-state", "live", timeout=LIMIT)

    sync = region.endpoint("syncsource", "quickstart", "app-production-db")
    streams = region.endpoint("streamsservice", "quickstart", "app-production-events")
    everything = "".join(asked) + page.content()
    for secret in (sync.secret, streams.secret, "Bearer "):
        assert secret not in everything
