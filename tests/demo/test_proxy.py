"""The demo over HTTP: its stream proxy, its writes, its guard, and how it stops."""

from __future__ import annotations

import json
import signal
import time

import httpx
import psycopg
import pytest

from switchgear_local.demo import STREAM, TABLE
from tests.demo.conftest import MakeWorld
from tests.demo.world import World, rows, until

pytestmark = pytest.mark.pg


def test_the_stream_through_the_proxy(worlds: MakeWorld) -> None:
    world = worlds(interval=0.1)
    world.start("streams", "demo")
    answer = httpx.get(f"{world.url}/stream", params={"offset": "-1"})
    assert answer.status_code == 200
    assert answer.json()[0]["text"] == "The demo has started"
    assert world.streams_secret not in answer.text + str(answer.headers)
    seen = 0
    with httpx.stream("GET", f"{world.url}/stream", params={"offset": "-1", "live": "sse"}, timeout=30) as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        for line in live.iter_lines():
            if line.startswith(("data:[", "data: [")):
                seen += len(json.loads(line.partition(":")[2]))
            if seen >= 4:
                break
    assert seen >= 4


def test_it_writes_now_and_then_within_bounds(worlds: MakeWorld) -> None:
    world = worlds(interval=0.02)
    world.start("streams", "demo")
    until(lambda: "removed" in httpx.get(f"{world.url}/stream", params={"offset": "-1"}).text, "a row to be removed")
    assert 0 < len(rows(world)) <= 15


def test_what_the_page_may_write(worlds: MakeWorld) -> None:
    world = worlds(interval=3600)
    world.start("streams", "demo")
    (row_id, _, _), *_ = rows(world)
    done = httpx.post(f"{world.url}/rows/{row_id}", json={"done": True})
    assert (done.status_code, done.json()["verb"]) == (200, "finished")
    assert rows(world)[0][2] is True
    assert httpx.post(f"{world.url}/rows/999999999", json={"done": True}).status_code == 404
    before = rows(world)
    for body in ({}, {"title": ""}, {"title": "x" * 81}, {"title": 7}, {"title": "a\0b"}, [], {"title": "x" * 9000}):
        assert httpx.post(f"{world.url}/rows", json=body).status_code == 400, body
    assert httpx.post(f"{world.url}/rows/{row_id}", json={"done": "yes"}).status_code == 400
    assert httpx.post(f"{world.url}/rows", content='{"title": "x"}').status_code == 400, "a form's content type"
    hostile = "Robert'); DROP TABLE " + TABLE + ";--"
    assert httpx.post(f"{world.url}/rows", json={"title": hostile}).status_code == 200
    assert [title for _, title, _ in rows(world)] == [title for _, title, _ in before] + [hostile]


def test_another_name_for_this_machine_is_refused(worlds: MakeWorld) -> None:
    world = worlds()
    world.start("streams", "demo")
    for path in ("/", "/stream?offset=-1", "/shape?offset=-1", "/config.json"):
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
            answer = httpx.get(world.url + path, headers={"Host": host})
            assert answer.status_code == 403, (path, host)
    port = world.ports[2]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}"):
        assert httpx.get(world.url + "/", headers={"Host": host}).status_code == 200


def test_the_page_is_complete_and_has_no_secret(worlds: MakeWorld) -> None:
    world = worlds()
    world.start("streams", "demo")
    text = ""
    for path in ("/", "/style.css", "/app.js", "/shape.js", "/stream.js", "/config.json", "/ready"):
        answer = httpx.get(world.url + path)
        assert answer.status_code == 200, path
        text += answer.text
    assert "://" not in httpx.get(world.url + "/").text.replace("http://www.w3.org/2000/svg", ""), (
        "no address elsewhere"
    )
    assert "default-src 'none'" in httpx.get(world.url + "/").headers["content-security-policy"]
    for secret in (world.sync_secret, world.streams_secret, world.database_url):
        assert secret not in text
    assert STREAM in text


def test_it_outlives_what_it_stands_on(worlds: MakeWorld) -> None:
    world = worlds(interval=0.1)
    world.start("streams", "demo")
    world.streams.stop(signal.SIGKILL)
    answer = httpx.get(f"{world.url}/stream", params={"offset": "-1"})
    assert (answer.status_code, answer.json()["code"]) == (503, "EDGE_UNAVAILABLE")
    assert answer.headers["retry-after"]
    assert httpx.get(f"{world.url}/live").status_code == 200
    world.start("streams")
    until(lambda: httpx.get(f"{world.url}/ready").status_code == 200, "the demo to be ready again")
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        connection.execute(f"DROP TABLE {TABLE}")
    until(lambda: httpx.get(f"{world.url}/ready").status_code == 200 and rows_or_none(world), "the table to be back")


def test_it_stops_at_once_in_the_middle_of_a_live_request(worlds: MakeWorld) -> None:
    world = worlds(interval=3600)
    world.start("streams", "demo")
    with httpx.stream("GET", f"{world.url}/stream", params={"offset": "-1", "live": "sse"}, timeout=30) as live:
        next(live.iter_raw())
        begun = time.monotonic()
        assert world.demo.stop() == 0
        assert time.monotonic() - begun < 20


def rows_or_none(world: World) -> list[tuple[int, str, bool]] | None:
    try:
        return rows(world)
    except psycopg.Error:
        return None
