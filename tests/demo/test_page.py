"""The demo page in a real browser: rows and messages appear, change and go; nothing secret gets there."""

from __future__ import annotations

import signal

import psycopg
import pytest
from playwright.sync_api import Page, expect

from switchgear_local.demo import TABLE
from tests.demo.browser import LIMIT, open_live, shown
from tests.demo.conftest import MakeWorld
from tests.demo.world import rows

pytestmark = [pytest.mark.pg, pytest.mark.browser]


def test_rows_and_messages_live(worlds: MakeWorld, page: Page) -> None:
    world = worlds(interval=3600)
    world.start("shapes", "streams", "demo")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url + str(request.headers)))
    open_live(page, world.url)
    assert shown(page) == rows(world)

    with psycopg.connect(world.database_url, autocommit=True) as connection:
        (row_id,) = connection.execute(
            f"INSERT INTO {TABLE} (title) VALUES ('<b>made by psycopg</b>') RETURNING id"
        ).fetchone() or (0,)
        new = page.locator(f'#rows tr[data-id="{row_id}"]')
        expect(new.locator(".title")).to_have_text("<b>made by psycopg</b>", timeout=LIMIT)
        expect(new).to_have_class("added")
        connection.execute(f"UPDATE {TABLE} SET title = 'changed', done = true WHERE id = %s", [row_id])
        expect(new.locator(".title")).to_have_text("changed", timeout=LIMIT)
        expect(new.locator("input")).to_be_checked()
        connection.execute(f"DELETE FROM {TABLE} WHERE id = %s", [row_id])
        expect(new).to_have_count(0, timeout=LIMIT)

    page.fill("#title", "typed on the page")
    page.click("text=Insert >> nth=-1")
    typed = page.locator("#rows tr", has_text="typed on the page")
    expect(typed).to_have_count(1, timeout=LIMIT)
    message = page.locator("#events li", has_text="typed on the page")
    expect(message.locator(".kind")).to_have_text("added", timeout=LIMIT)
    typed.locator("input").click()
    expect(page.locator("#events li", has_text="finished")).to_have_count(1, timeout=LIMIT)
    expect(typed).to_have_class("done changed", timeout=LIMIT)
    assert shown(page) == rows(world)

    everything = "".join(asked) + page.content()
    for secret in (world.sync_secret, world.streams_secret, world.database_url, "secret=", "Bearer"):
        assert secret not in everything
    assert all(url.startswith((world.url, "data:")) for url in asked), "nothing is loaded from elsewhere"


def test_a_shape_that_begins_again_is_read_again(worlds: MakeWorld, page: Page) -> None:
    world = worlds(interval=3600)
    world.start("shapes", "streams", "demo")
    refetched: list[int] = []
    page.on("response", lambda response: refetched.append(response.status))
    open_live(page, world.url)
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLE}")
        connection.execute(f"INSERT INTO {TABLE} (title) VALUES ('after the truncate')")
    expect(page.locator("#rows tr")).to_have_count(1, timeout=LIMIT)
    expect(page.locator("#rows .title")).to_have_text("after the truncate", timeout=LIMIT)
    assert 409 in refetched


def test_servers_that_go_and_come_back(worlds: MakeWorld, page: Page) -> None:
    world = worlds(interval=3600)
    world.start("shapes", "streams", "demo")
    open_live(page, world.url)
    count = page.locator("#events li").count()
    for name in ("shapes", "streams"):
        world.of(name).stop(signal.SIGKILL)
    for pill in ("#shape-status", "#stream-status"):
        expect(page.locator(pill)).to_have_attribute("data-state", "waiting", timeout=LIMIT)
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        connection.execute(f"INSERT INTO {TABLE} (title) VALUES ('while it was away')")
    world.start("shapes", "streams")
    expect(page.locator("#rows tr", has_text="while it was away")).to_have_count(1, timeout=LIMIT)
    for pill in ("#shape-status", "#stream-status"):
        expect(page.locator(pill)).to_have_attribute("data-state", "live", timeout=LIMIT)
    assert shown(page) == rows(world)
    assert page.locator("#events li").count() == count, "no message is lost and none comes twice"


def test_it_can_be_used_without_seeing_it(worlds: MakeWorld, page: Page) -> None:
    world = worlds(interval=3600)
    world.start("shapes", "streams", "demo")
    open_live(page, world.url)
    assert page.get_attribute("html", "lang") == "en"
    expect(page.get_by_role("region", name="Postgres Sync")).to_be_visible()
    expect(page.get_by_role("region", name="Durable Streams")).to_be_visible()
    expect(page.get_by_label("New row")).to_be_visible()
    expect(page.get_by_role("button", name="Insert")).to_be_visible()
    names = page.eval_on_selector_all("#rows input", "boxes => boxes.map(box => box.getAttribute('aria-label'))")
    assert names and all(name.endswith(" is done") for name in names)
    assert page.get_by_role("status").count() == 2
    assert page.get_by_role("columnheader").all_inner_texts() == ["id", "title", "done", "updated_at"]
