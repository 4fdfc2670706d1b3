"""What only shows where several features meet: each of these once went wrong."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from switchgear_streams.rules import messages
from tests.streams.inside import Inside
from tests.streams.server import HOST, JSON, OCTETS, TEXT, ZERO, StreamsServer, read_messages
from tests.streams.test_yjs import Editor, framed, wait_for_snapshot


def test_a_stream_that_expired_before_1970_stops_nobody(own: StreamsServer, client: httpx.Client) -> None:
    """Its time was written unsigned: the checkpoint failed, the process ended, and so did each one after it."""
    own.start()
    for name, moment in (("old", "1960-01-01T00:00:00Z"), ("zero", "1970-01-01T00:00:00Z")):
        made = client.put(own.stream(name), headers=TEXT | {"stream-expires-at": moment}, content=b"late")
        assert (made.status_code, made.headers["stream-expires-at"]) == (201, moment)
        assert client.get(own.stream(name)).status_code == 404
    assert own.stop() == 0, own.log  # with a last checkpoint
    own.start()
    assert client.put(own.stream("old"), headers=TEXT).status_code == 201
    assert own.stop() == 0, own.log


def test_the_same_fork_of_what_is_left_twice(tmp_path: Path) -> None:
    """A repeated PUT is compared by the offset that was asked for, not by where that led."""

    async def scenario() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        try:
            source = inside.url("source")
            await inside.client.put(source, headers=TEXT | {"stream-retention-bytes": "100"})
            for _ in range(20):
                await inside.client.post(source, headers=TEXT, content=b"x" * 20)
            await inside.sweep()
            fork = {"stream-forked-from": "/v1/stream/source", "stream-fork-offset": ZERO}
            for status in (201, 200):
                made = await inside.client.put(inside.url("fork"), headers=fork)
                assert made.status_code == status, made.text
            await inside.checkpoint()
            await inside.restart()
            assert (await inside.client.put(inside.url("fork"), headers=fork)).status_code == 200
        finally:
            await inside.end()

    asyncio.run(scenario())


def test_a_trim_and_a_new_stream_of_the_name_at_once(tmp_path: Path) -> None:
    """What retention took from a stream whose successor was there before that was durable was counted twice."""

    async def scenario() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        try:
            url = inside.url("s")
            settings = TEXT | {"stream-retention-bytes": "100", "stream-ttl": "60"}
            await inside.client.put(url, headers=settings)
            for _ in range(20):
                await inside.client.post(url, headers=TEXT, content=b"x" * 20)
            await inside.idle()
            service = inside.service
            inside.now += 60_000
            stream = service.store.get(b"s")
            assert stream is not None
            service.store.trim(stream, 300)  # on its way when the PUT comes
            assert (await inside.client.put(url, headers=TEXT, content=b"new")).status_code == 201
            await inside.idle()
            assert service.store.usage.held == len(b"new")
        finally:
            await inside.end()

    asyncio.run(scenario())


def test_a_reader_that_waits_keeps_a_short_lifetime_going(tmp_path: Path) -> None:
    """Also between two rounds of the upkeep, however late the next one is."""

    async def scenario() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        try:
            url = inside.url("s")
            await inside.client.put(url, headers=TEXT | {"stream-ttl": "1"})
            async with inside.client.stream("GET", url, params={"offset": "now", "live": "sse"}) as answer:
                assert answer.status_code == 200
                inside.now += 2500
                assert (await inside.client.head(url)).status_code == 200
                assert (await inside.client.post(url, headers=TEXT, content=b"a")).status_code == 204
                inside.now += 2500
            while inside.service.hub.subscribers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await inside.client.head(url)).status_code == 200  # its time begins when the reader left
            inside.now += 1000
            assert (await inside.client.head(url)).status_code == 404
        finally:
            await inside.end()

    asyncio.run(scenario())


def test_what_counts_as_an_append(tmp_path: Path, client: httpx.Client) -> None:
    """The rate is of data: strangers cannot use it up by callbacks, workers need none of it, documents do."""
    server = StreamsServer(tmp_path, "--max-append-rate", "1", secret="word")
    try:
        server.start()
        mine = {"authorization": "Bearer word"}
        stream, subscriptions = server.stream("s"), server.stream("__ds/subscriptions")
        assert client.put(stream, headers=mine | TEXT).status_code == 201
        for _ in range(10):
            refused = client.post(f"{subscriptions}/x/callback", content=b"{}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "TOKEN_INVALID")
            unknown = client.post(f"{subscriptions}/x/claim", headers=mine, json={"worker": "w"})
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "SUBSCRIPTION_NOT_FOUND")
        assert client.post(stream, headers=mine | TEXT, content=b"a").status_code == 204

        document = f"{server.url}/v1/yjs/s/docs/d"
        assert client.put(document, headers=mine).status_code == 201
        answers = [client.post(document, headers=mine | OCTETS, content=b"\x02\x00\x00") for _ in range(10)]
        late = [answer for answer in answers if answer.status_code == 429]
        assert late
        assert late[0].json()["error"]["code"] == "RATE_LIMITED"
        assert "retry-after" in late[0].headers
    finally:
        server.end()


def test_names_of_services_do_not_leak_by_other_ways(tmp_path: Path, client: httpx.Client) -> None:
    (tmp_path / "secret").write_text("word")
    services = tmp_path / "services.json"
    services.write_text(json.dumps({"services": [{"id": "there", "secret_file": "secret"}]}))
    server = StreamsServer(tmp_path, "--services", str(services), flags_only=True)
    try:
        server.start()
        for method in ("GET", "PUT", "POST", "DELETE", "PATCH"):
            for path in ("/v1/stream/{}", "/v1/stream/{}/", "/v1/stream/{}/x", "/usage/{}"):
                there, nowhere = (
                    client.request(method, server.url + path.format(name)) for name in ("there", "nowhere")
                )
                assert (there.status_code, there.content) == (401, nowhere.content), (method, path)
        mine = {"authorization": "Bearer word"}
        assert client.get(f"{server.url}/v1/stream/there", headers=mine).status_code == 404
        assert client.post(f"{server.url}/usage/there", headers=mine).status_code == 405
    finally:
        server.end()


def test_wrong_methods_name_the_right_ones(server: StreamsServer, client: httpx.Client) -> None:
    for path in ("jwks.json", "subscriptions/x", "subscriptions/x/streams", "subscriptions/x/claim"):
        answer = client.request("PATCH", server.stream(f"__ds/{path}"))
        assert answer.status_code == 405
        assert "OPTIONS" in answer.headers["allow"], path


def test_a_page_may_read_every_header_of_an_answer(server: StreamsServer, client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON | {"stream-retention-keys": "state", "stream-ttl": "60"})
    answer = client.head(url)
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {name for name in answer.headers if name.startswith(("stream-", "producer-"))} <= exposed


def test_long_json_holds_up_nobody(server: StreamsServer, client: httpx.Client, url: str) -> None:
    """It is parsed beside the loop, in its place: duplicates, gaps and conflicts are told first, as of short bodies."""
    client.put(url, headers=JSON)
    batch = [
        {"type": "t", "key": f"k{number}", "value": {"name": 'a "b", [c]', "n": [number]}} for number in range(60_000)
    ]
    body = json.dumps(batch).encode()  # with blanks, as Python prints it
    pauses: list[float] = []
    done = threading.Event()

    def look() -> None:
        with httpx.Client(trust_env=False, timeout=60) as own:
            while not done.is_set():
                began = time.monotonic()
                assert own.get(f"{server.url}/health").status_code == 200
                pauses.append(time.monotonic() - began)

    watcher = threading.Thread(target=look)
    watcher.start()
    producer = JSON | {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
    try:
        assert client.post(url, headers=producer, content=body).status_code == 200
        assert client.post(url, headers=JSON, content=body).status_code == 204
    finally:
        done.set()
        watcher.join()
    # In one go it took several times as long as it takes to look 20 times: others must get their turns meanwhile.
    assert len(pauses) > 20
    assert client.post(url, headers=producer, content=body[:-1]).status_code == 204  # a duplicate, whatever is in it
    gap = producer | {"producer-seq": "5"}
    assert client.post(url, headers=gap, content=body[:-1]).status_code == 409
    broken = client.post(url, headers=JSON, content=body[:-1])
    assert (broken.status_code, broken.json()["code"]) == (400, "INVALID_JSON")
    assert read_messages(client, url) == batch * 2

    other = f"{url}/other"
    assert client.put(other, headers=JSON, content=body[:-1]).status_code == 400
    assert client.head(other).status_code == 404
    assert client.put(other, headers=JSON, content=body).status_code == 201
    fork = client.put(f"{url}/fork", headers={"stream-forked-from": httpx.URL(other).path}, content=body)
    assert fork.status_code == 201
    assert read_messages(client, f"{url}/fork") == batch * 2


def test_a_stream_that_is_watched_for_two_reasons_goes_once(tmp_path: Path) -> None:
    """It expired twice when it had a bound on its age, too: its source lost the bytes that another fork needs."""

    async def scenario() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        client, url = inside.client, inside.url
        try:
            await client.put(url("source"), headers=TEXT, content=b"for both")
            fork = TEXT | {"stream-forked-from": "/v1/stream/source"}
            short = {"stream-ttl": "5", "stream-retention-seconds": "100"}
            assert (await client.put(url("short"), headers=fork | short)).status_code == 201
            assert (await client.post(url("short"), headers=TEXT, content=b"its own")).status_code == 204
            assert (await client.put(url("long"), headers=fork)).status_code == 201
            assert (await client.delete(url("source"))).status_code == 204
            inside.now += 5000
            await inside.sweep()
            assert inside.service.store.usage.held == len(b"for both")
            assert (await client.get(url("long"))).content == b"for both"
            await inside.crash()
            assert (await client.get(url("long"))).content == b"for both"
        finally:
            await inside.end()

    asyncio.run(scenario())


def test_location_names_the_stream(server: StreamsServer, client: httpx.Client) -> None:
    """Whatever was written in the request line as it is."""
    for raw, shown in ((b"x#y", "x%23y"), (b'"<|>"', "%22%3C%7C%3E%22"), (b"50%", "50%25"), (b"a%2Fb", "a%2Fb")):
        with socket.create_connection((HOST, server.port)) as own:
            own.sendall(b"PUT /v1/stream/loc/" + raw + b" HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            head = b"".join(iter(lambda: own.recv(65_536), b""))
        assert head.startswith(b"HTTP/1.1 201"), head
        location = re.search(rb"location: http://h(\S+)\r\n", head)
        assert location is not None
        assert location[1].decode() == "/v1/stream/loc/" + shown
        assert client.head(server.url + location[1].decode()).status_code == 200


def test_what_the_server_makes_by_itself_is_none_of_the_streams_that_are_limited(
    tmp_path: Path, client: httpx.Client
) -> None:
    """Subscriptions and keys took up the number of streams; a document at the limit could not become smaller."""
    server = StreamsServer(tmp_path, "--max-streams", "3", "--yjs-compaction-bytes", "2000")
    subscription = {"type": "pull-wake", "pattern": "**", "wake_stream": "w"}
    try:
        server.start()
        document = f"{server.url}/v1/yjs/s/docs/d"
        for name in "ab":
            assert client.put(server.stream(f"__ds/subscriptions/{name}"), json=subscription).status_code == 201
        assert client.put(server.stream("one"), headers=TEXT).status_code == 201
        assert client.put(document).status_code == 201  # with its presence: three
        assert client.put(server.stream("two"), headers=TEXT).status_code == 429
        editor = Editor(1)
        for _ in range(5):
            assert client.post(document, content=framed(editor.edit(800))).status_code == 204
        wait_for_snapshot(client, document)
        server.kill()
        server.start()
        document = f"{server.url}/v1/yjs/s/docs/d"
        assert client.put(server.stream("two"), headers=TEXT).status_code == 429
        assert client.delete(server.stream("one")).status_code == 204
        assert client.put(server.stream("two"), headers=TEXT).status_code == 201
        assert client.delete(document).status_code == 204
        assert client.put(server.stream("three"), headers=TEXT).status_code == 201
        # One is left: a document has no room for its presence, and is there all the same.
        assert client.put(document).status_code == 201
        assert client.get(document).status_code == 200
        assert client.put(server.stream("four"), headers=TEXT).status_code == 429
    finally:
        server.end()


def test_a_short_batch_stays_behind_a_long_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer's requests come over several connections: while a long one is parsed, the next must not be a gap."""

    async def scenario() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        began, go = threading.Event(), threading.Event()
        parse = messages.prepare

        def slow(body: bytes) -> messages.Prepared:
            began.set()
            assert go.wait(30)
            return parse(body)

        monkeypatch.setattr(messages, "prepare", slow)
        try:
            url = inside.url("s")
            await inside.client.put(url, headers=JSON)
            batches = [b"[" + b"1," * 50_000 + b"1]", b"[2]", b"3"]
            sent = []
            for seq, body in enumerate(batches):
                producer = JSON | {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}
                sent.append(asyncio.ensure_future(inside.client.post(url, headers=producer, content=body)))
                while not began.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.05)
            plain = await inside.client.post(url, headers=JSON, content=b"0")  # who has no order does not wait
            assert plain.status_code == 204
            go.set()
            assert [answer.status_code for answer in await asyncio.gather(*sent)] == [200, 200, 200]
            assert (await inside.client.get(url)).json() == [0, *[1] * 50_001, 2, 3]
        finally:
            go.set()
            await inside.end()

    asyncio.run(scenario())
