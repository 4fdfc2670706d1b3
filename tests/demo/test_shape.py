"""The shape through the demo's proxy."""

from __future__ import annotations

import httpx
import pytest

from tests.demo.conftest import MakeWorld
from tests.demo.world import World, rows

pytestmark = pytest.mark.pg


def follow_once(world: World) -> tuple[dict[str, dict[str, str]], httpx.Response]:
    """The rows by key, as a client of the shape protocol gets them through the proxy."""
    found: dict[str, dict[str, str]] = {}
    parameters = {"offset": "-1"}
    for _ in range(20):
        answer = httpx.get(f"{world.url}/shape", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        for message in answer.json():
            operation = message["headers"].get("operation")
            if operation == "delete":
                found.pop(message["key"], None)
            elif operation:
                found[message["key"]] = {**found.get(message["key"], {}), **message["value"]}
        parameters = {"offset": answer.headers["electric-offset"], "handle": answer.headers["electric-handle"]}
        if "electric-up-to-date" in answer.headers:
            return found, answer
    raise AssertionError("never up to date")


def test_the_shape_through_the_proxy(worlds: MakeWorld) -> None:
    world = worlds(interval=3600)
    world.start("shapes", "streams", "demo")
    found, answer = follow_once(world)
    assert sorted(v["title"] for v in found.values()) == sorted(title for _, title, _ in rows(world))
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cache-control"]
    # Another table, a where clause or another secret cannot be asked for.
    asked = {"offset": "-1", "table": "pg_authid", "where": "false", "columns": "id", "secret": "x", "source_id": "y"}
    same = httpx.get(f"{world.url}/shape", params=asked, timeout=30)
    assert same.status_code == 200
    first = httpx.get(f"{world.url}/shape", params={"offset": "-1"}, timeout=30)
    assert same.headers["electric-handle"] == first.headers["electric-handle"]
    assert world.sync_secret not in first.text + str(first.headers)


def test_a_change_reaches_a_live_request(worlds: MakeWorld) -> None:
    world = worlds(interval=3600)
    world.start("shapes", "streams", "demo")
    _, answer = follow_once(world)
    parameters = {
        "offset": answer.headers["electric-offset"],
        "handle": answer.headers["electric-handle"],
        "live": "true",
    }
    added = httpx.post(f"{world.url}/rows", json={"title": " Straight from the test "})
    assert added.json() == {"verb": "added", "title": "Straight from the test"}
    live = httpx.get(f"{world.url}/shape", params=parameters, timeout=60)
    titles = [m["value"]["title"] for m in live.json() if m["headers"].get("operation") == "insert"]
    assert titles == ["Straight from the test"]
