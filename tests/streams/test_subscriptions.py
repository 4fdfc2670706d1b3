"""Subscriptions over HTTP with real receivers, through kill -9 and restart."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchgear_local.processes import free_port
from tests.streams.receiver import Notification, Receiver
from tests.streams.server import JSON, TEXT, StreamsServer, read_messages

DEV = "--allow-loopback-webhooks"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def dev(own: StreamsServer) -> StreamsServer:
    own._flags = (DEV, "--checkpoint-bytes", "20000")
    return own.start(port=free_port())  # none that another server or a connection gets while it is away


def again(server: StreamsServer) -> None:
    """kill -9, and the same server at the same address."""
    server.kill()
    server.start(port=server.port)


def until(check: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


class Sub:
    """One subscription of a server, by its id."""

    def __init__(self, server: StreamsServer, client: httpx.Client, name: str = "") -> None:
        self.server, self.client = server, client
        self.id = name or f"sub-{uuid.uuid4().hex}"

    @property
    def url(self) -> str:
        return self.server.stream(f"__ds/subscriptions/{self.id}")

    def webhook(self, url: str, **more: Any) -> httpx.Response:
        return self.client.put(self.url, json={"type": "webhook", "webhook": {"url": url}, "pattern": "e/*", **more})

    def pull(self, **more: Any) -> httpx.Response:
        body = {"type": "pull-wake", "wake_stream": "wakes", "pattern": "e/*", "lease_ttl_ms": 1000, **more}
        return self.client.put(self.url, json=body)

    def show(self) -> dict[str, Any]:
        made: dict[str, Any] = self.client.get(self.url).json()
        return made

    def links(self) -> dict[str, dict[str, Any]]:
        return {one["path"]: one for one in self.show()["streams"]}

    def claim(self, worker: str = "w") -> httpx.Response:
        return self.client.post(f"{self.url}/claim", json={"worker": worker})

    def send(self, action: str, token: str, wake: dict[str, Any], **more: Any) -> httpx.Response:
        body = {"wake_id": wake["wake_id"], "generation": wake["generation"], **more}
        return self.client.post(f"{self.url}/{action}", json=body, headers={"authorization": f"Bearer {token}"})


def error(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status_code, answer.json()["error"]["code"]


def append(client: httpx.Client, server: StreamsServer, name: str, value: Any) -> str:
    url = server.stream(name)
    answer = client.post(url, headers=JSON, content=json.dumps([value]))
    if answer.status_code == 404:
        answer = client.put(url, headers=JSON, content=json.dumps([value]))
    assert answer.status_code in (201, 204), answer.text
    return answer.headers["stream-next-offset"]


def all_acks(wake: dict[str, Any]) -> list[dict[str, str]]:
    return [{"stream": one["path"], "offset": one["tail_offset"]} for one in wake["streams"]]


def test_a_failing_receiver_is_tried_again_and_keys_stay(
    dev: StreamsServer, client: httpx.Client, receiver: Receiver
) -> None:
    sub = Sub(dev, client)
    answers = iter([(500, {}), (302, {"done": True}), (200, {"done": True})])
    receiver.answer = lambda _: next(answers)
    made = sub.webhook(receiver.url).json()
    tail = append(client, dev, "e/a", 1)
    receiver.wait(1)
    again(dev)
    got = receiver.wait(3)
    assert len({one.body["wake_id"] for one in got}) == 1
    assert {one.body["generation"] for one in got} == {1}
    jwks = client.get(made["webhook"]["signing"]["jwks_url"])
    assert jwks.headers["content-type"] == "application/jwk-set+json"
    assert jwks.headers["cache-control"] == "public, max-age=300"
    assert {one.verify(jwks.json()) for one in got} == {made["webhook"]["signing"]["kid"]}
    until(lambda: sub.links()["e/a"]["acked_offset"] == tail)
    assert sub.show()["webhook"] == made["webhook"]
    assert sub.show()["created_at"] == made["created_at"]


def test_existing_streams_are_not_replayed_and_later_ones_are_seen_from_their_start(
    dev: StreamsServer, client: httpx.Client, receiver: Receiver
) -> None:
    old = append(client, dev, "e/old", 1)
    append(client, dev, "other/x", 1)
    sub = Sub(dev, client)
    assert sub.webhook(receiver.url, streams=["other/x", "not/yet"]).status_code == 201
    assert sub.links()["e/old"]["acked_offset"] == old
    assert not any(link["has_pending"] for link in sub.links().values())
    assert sub.links()["not/yet"] == {
        "path": "not/yet", "link_type": "explicit", "acked_offset": "-1", "tail_offset": "-1", "has_pending": False,
    }  # fmt: skip
    again(dev)
    receiver.answer = lambda _: (200, {})
    append(client, dev, "not/yet", 1)
    (first,) = receiver.wait(1)
    pending = [one for one in first.body["streams"] if one["has_pending"]]
    assert [one["path"] for one in pending] == ["not/yet"]
    acked = pending[0]["acked_offset"]
    assert client.get(dev.stream("not/yet"), params={"offset": acked}).json() == [1]


def test_pull_wake_leases_run_out_and_fence(dev: StreamsServer, client: httpx.Client) -> None:
    client.put(dev.stream("wakes"), headers=JSON)
    sub = Sub(dev, client)
    assert sub.pull(lease_ttl_ms=3000).status_code == 201
    tail = append(client, dev, "e/a", 1)
    (event,) = until(lambda: read_messages(client, dev.stream("wakes")))
    assert {name: event[name] for name in ("type", "subscription_id", "stream", "generation")} == {
        "type": "wake", "subscription_id": sub.id, "stream": "e/a", "generation": 1,
    }  # fmt: skip
    assert abs(event["ts"] / 1000 - time.time()) < 60
    first = sub.claim("one").json()
    assert first["generation"] == 1
    assert first["lease_ttl_ms"] == 3000
    again(dev)  # the lease and the token outlive the process
    second = sub.claim("two")
    if second.status_code != 200:  # else the lease ran out while the machine was slow
        assert error(second) == (409, "ALREADY_CLAIMED")
        assert second.json()["error"]["current_holder"] == "one"
        assert second.json()["error"]["generation"] == 1
        events = until(lambda: (found := read_messages(client, dev.stream("wakes"))) and len(found) > 1 and found)
        assert [one["generation"] for one in events] == [1, 2]
        assert error(sub.send("ack", first["token"], first, acks=all_acks(first), done=True)) == (409, "FENCED")
        second = sub.claim("two")
    second = second.json()
    assert second["generation"] == 2
    again(dev)
    assert error(sub.send("ack", first["token"], first, done=True)) == (409, "FENCED")
    assert error(sub.send("release", first["token"], second)) == (409, "FENCED")
    assert error(sub.send("ack", second["token"], {**second, "wake_id": first["wake_id"]})) == (409, "FENCED")
    done = sub.send("ack", second["token"], second, acks=[{"stream": "e/a", "offset": tail}], done=True)
    if done.status_code == 409:  # a machine so slow that the lease ran out
        assert error(done) == (409, "FENCED")
        return
    assert done.json() == {"ok": True, "next_wake": False}
    assert error(sub.claim()) == (409, "NO_PENDING_WORK")
    again(dev)
    assert sub.links()["e/a"]["acked_offset"] == tail
    assert error(sub.claim()) == (409, "NO_PENDING_WORK")


def test_heartbeats_keep_a_lease(dev: StreamsServer, client: httpx.Client) -> None:
    client.put(dev.stream("wakes"), headers=JSON)
    sub = Sub(dev, client)
    sub.pull(lease_ttl_ms=12_000)
    append(client, dev, "e/a", 1)
    wake = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
    until_time = time.monotonic() + 14
    while time.monotonic() < until_time:
        assert sub.send("ack", wake["token"], wake).json() == {"ok": True, "next_wake": False}
        assert error(sub.claim("other")) == (409, "ALREADY_CLAIMED")
        time.sleep(0.3)
    append(client, dev, "e/b", 1)
    assert sub.send("ack", wake["token"], wake, acks=all_acks(wake), done=True).json() == {
        "ok": True,
        "next_wake": True,
    }
    after = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
    assert after["generation"] == wake["generation"] + 1
    assert sub.send("release", after["token"], after).status_code == 204
    assert error(sub.send("release", after["token"], after)) == (409, "FENCED")


def test_acks_are_checked_and_all_or_nothing(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    sub.pull(lease_ttl_ms=60_000)
    for name in ("e/a", "e/b"):
        client.put(dev.stream(name), headers=JSON)
    middle = append(client, dev, "e/a", 1)
    tail = append(client, dev, "e/a", 2)
    append(client, dev, "f/x", 1)
    wake = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
    assert sub.send("ack", wake["token"], wake, acks=[{"stream": "e/a", "offset": middle}]).status_code == 200
    space, end = tail.split("_")
    bad = [
        "-1",
        "now",
        "",
        "x",
        "0" * 16 + "_" + "0" * 16,
        f"{space}_{int(end) + 1:016d}",
        f"{space}_{int(end) - 1:016d}",
    ]
    good = {"stream": "e/a", "offset": tail}
    for one in [*({"stream": "e/a", "offset": offset} for offset in bad), {"stream": "f/x", "offset": tail},
                {"stream": "none", "offset": tail}, {"stream": "e/b", "offset": tail}]:  # fmt: skip
        answer = sub.send("ack", wake["token"], wake, acks=[good, one])
        assert error(answer) == (409, "INVALID_OFFSET"), one
    assert sub.links()["e/a"]["acked_offset"] == middle
    assert sub.send("ack", wake["token"], wake, acks=[good], done=True).json() == {"ok": True, "next_wake": False}


def test_a_wake_stream_that_comes_late(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    sub.pull()
    append(client, dev, "e/a", 1)
    time.sleep(0.2)
    client.put(dev.stream("wakes"), headers=JSON)
    assert until(lambda: read_messages(client, dev.stream("wakes")))[0]["generation"] == 1


def test_a_subscription_to_everything_does_not_wake_itself(dev: StreamsServer, client: httpx.Client) -> None:
    client.put(dev.stream("wakes"), headers=JSON)
    sub = Sub(dev, client)
    sub.pull(pattern="**")
    append(client, dev, "deep/er", 1)
    until(lambda: read_messages(client, dev.stream("wakes")))
    time.sleep(0.3)
    assert len(read_messages(client, dev.stream("wakes"))) == 1
    assert list(sub.links()) == ["deep/er"]


def test_recreated_streams_and_subscriptions_start_anew(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    sub.pull(lease_ttl_ms=60_000, streams=["e/a"])
    append(client, dev, "e/a", "old")
    wake = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
    assert sub.send("ack", wake["token"], wake, acks=all_acks(wake), done=True).status_code == 200
    assert client.delete(dev.stream("e/a")).status_code == 204
    append(client, dev, "e/a", "new")
    again(dev)
    wake = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
    offset = wake["streams"][0]["acked_offset"]
    assert client.get(dev.stream("e/a"), params={"offset": offset}).json() == ["new"]
    assert client.delete(sub.url).status_code == 204
    assert client.delete(sub.url).status_code == 204
    again(dev)
    assert error(client.get(sub.url)) == (404, "SUBSCRIPTION_NOT_FOUND")
    assert error(sub.send("ack", wake["token"], wake)) == (404, "SUBSCRIPTION_NOT_FOUND")
    assert sub.pull(lease_ttl_ms=60_000, streams=["e/a"]).status_code == 201
    append(client, dev, "e/a", 2)
    until(lambda: sub.claim().status_code == 200)
    assert error(sub.send("ack", wake["token"], wake, done=True)) == (409, "FENCED")


def test_a_long_history_is_replaced(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    sub.pull()
    paths = [f"{'p' * 900}/{number}" for number in range(250)]
    for _ in range(8):
        assert client.post(f"{sub.url}/streams", json={"streams": paths}).status_code == 204
    for path in paths[:-1]:
        assert client.delete(f"{sub.url}/streams/{path.replace('/', '%2F')}").status_code == 204
    again(dev)
    assert list(sub.links()) == paths[-1:]
    assert sub.show()["streams"][0]["link_type"] == "explicit"
    until(lambda: dev.metric("streams_streams") == 2)  # keys and one for the subscription
    assert dev.stop() == 0
    dev.start()
    assert list(sub.links()) == paths[-1:]


def test_configurations_are_compared(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    assert sub.pull(streams=["b", "a"]).status_code == 201
    assert sub.pull(streams=["a", "b", "a"]).status_code == 200
    client.post(f"{sub.url}/streams", json={"streams": ["c"]})
    assert sub.pull(streams=["a", "b"]).status_code == 200
    for change in ({"lease_ttl_ms": 2000}, {"pattern": "x"}, {"streams": ["a"]}, {"description": "d"}):
        assert error(sub.pull(**{"streams": ["a", "b"], **change})) == (409, "SUBSCRIPTION_ALREADY_EXISTS")
    again(dev)
    assert sub.pull(streams=["a", "b"]).status_code == 200


BAD_CONFIGS: list[Any] = [
    None, [], "x", 5, {}, {"type": "x", "pattern": "a"}, {"type": ["webhook"]}, {"type": "pull-wake", "pattern": "a"},
    {"type": "webhook", "pattern": "a"}, {"type": "webhook", "pattern": "a", "webhook": "https://example.com/"},
    {"type": "webhook", "pattern": "a", "webhook": {"url": 5}},
    *({"type": "pull-wake", "wake_stream": "w", **more} for more in (
        {}, {"pattern": ""}, {"pattern": 5}, {"pattern": "x" * 2000}, {"streams": []}, {"streams": "a"},
        {"streams": [5]}, {"streams": [""]}, {"streams": ["a/../b"]}, {"streams": ["__ds/x"]}, {"streams": ["a\0b"]},
        {"streams": ["w"]}, {"streams": ["a"] * 2000}, {"pattern": "a", "wake_stream": "__ds"},
        {"pattern": "a", "wake_stream": None}, {"pattern": "a", "wake_stream": "\0keys/1"},
        {"pattern": "a", "lease_ttl_ms": 999}, {"pattern": "a", "lease_ttl_ms": 600_001},
        {"pattern": "a", "lease_ttl_ms": 1000.5}, {"pattern": "a", "lease_ttl_ms": True},
        {"pattern": "a", "lease_ttl_ms": "1000"}, {"pattern": "a", "description": 5},
        {"pattern": "a", "description": "x" * 2000}, {"pattern": "a", "lease_ttl_ms": 1e300},
    )),
]  # fmt: skip


def test_bad_input_is_refused_and_leaves_nothing(server: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(server, client)
    for body in BAD_CONFIGS:
        assert error(client.put(sub.url, content=json.dumps(body))) == (400, "INVALID_REQUEST"), body
    for raw in (b"", b"{", b"\xff", b"[" * 100_000, b'{"type":"\\ud800"}', b"NaN"):
        assert error(client.put(sub.url, content=raw)) == (400, "INVALID_REQUEST"), raw
    assert error(client.put(sub.url, content=b"x" * 300_000)) == (413, "BODY_TOO_LARGE")
    for url in ("http://10.0.0.1/", "https://169.254.169.254/", "http://127.0.0.1:1/", "http://localhost/", "x"):
        assert error(sub.webhook(url)) == (400, "WEBHOOK_URL_REJECTED")
    assert error(client.get(sub.url)) == (404, "SUBSCRIPTION_NOT_FOUND")
    for name in ("%00", "a%2Fb", "%ff", "..%2f", "x" * 300, "%20", ".hidden"):
        assert error(client.get(server.stream(f"__ds/subscriptions/{name}"))) == (400, "INVALID_REQUEST"), name
    for method, path, expected in [
        ("GET", "__ds", 404), ("GET", "__ds/", 404), ("PUT", "__ds/x", 404), ("POST", "__ds", 404),
        ("GET", "__ds/subscriptions", 404), ("DELETE", "__ds/jwks.json", 405), ("POST", "__ds/subscriptions/a", 405),
        ("GET", "__ds/subscriptions/a/claim", 405), ("POST", "__ds/subscriptions/a/nope", 404),
        ("POST", "__ds/subscriptions/a/claim/x", 404), ("PUT", "__ds/subscriptions/a/streams/x", 405),
    ]:  # fmt: skip
        assert client.request(method, server.stream(path)).status_code == expected, (method, path)
    for path in ("%5f%5fds/x", "_%5Fds", "__ds%2Fsubscriptions"):
        for method in ("PUT", "POST", "GET", "DELETE"):
            answer = client.request(method, server.stream(path), content=b"x" if method[0] == "P" else None)
            assert 400 <= answer.status_code < 500, (method, path)
    assert client.get(server.stream("__ds/jwks.json")).json() == {"keys": []}


def test_bad_progress_is_refused(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    sub.pull(lease_ttl_ms=60_000)
    hook = Sub(dev, client)
    hook.webhook("http://127.0.0.1:9/", pattern="never")
    append(client, dev, "e/a", 1)
    for body in ({}, {"worker": ""}, {"worker": 5}, {"worker": "x" * 2000}, []):
        assert error(client.post(f"{sub.url}/claim", json=body)) == (400, "INVALID_REQUEST")
    wake = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
    token = {"authorization": f"Bearer {wake['token']}"}
    for action in ("ack", "release", "callback"):
        for headers in ({}, {"authorization": "Bearer x.y"}, {"authorization": wake["token"]}):
            answer = client.post(f"{sub.url}/{action}", json={}, headers=headers)
            assert error(answer) == (401, "TOKEN_INVALID")
    assert error(client.post(f"{hook.url}/ack", json={}, headers=token)) == (401, "TOKEN_INVALID")
    assert error(client.post(f"{sub.url}/callback", json={}, headers=token)) == (401, "TOKEN_INVALID")
    base = {"wake_id": wake["wake_id"], "generation": wake["generation"]}
    for body in ({}, {"wake_id": 5, "generation": 1}, {**base, "generation": "1"}, {**base, "generation": -1},
                 {**base, "generation": 1.5}, {**base, "generation": 10**30}, {**base, "done": "yes"},
                 {**base, "acks": {}}, {**base, "acks": [5]}, {**base, "acks": [{"stream": "e/a"}]},
                 {**base, "acks": [{"stream": 5, "offset": "x"}]}, {**base, "acks": [{}] * 2000}):  # fmt: skip
        assert error(client.post(f"{sub.url}/ack", json=body, headers=token)) == (400, "INVALID_REQUEST"), body
    assert error(hook.claim()) == (400, "INVALID_REQUEST")
    assert error(Sub(dev, client).claim()) == (404, "SUBSCRIPTION_NOT_FOUND")
    assert sub.send("ack", wake["token"], wake, acks=all_acks(wake), done=True).status_code == 200


def test_the_hidden_streams_are_out_of_reach(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client, "s")
    sub.pull(pattern="**")
    assert sub.show()["streams"] == []
    for path in ("%00keys/1", "%00subscription/s/1"):
        assert client.get(dev.stream(path)).status_code == 400
        assert client.post(dev.stream(path), headers=TEXT, content=b"x").status_code == 400
        fork = {**TEXT, "stream-forked-from": f"/v1/stream/{path}"}
        assert client.put(dev.stream("stolen"), headers=fork).status_code == 400
    assert client.get(dev.stream("stolen")).status_code == 404


def test_with_a_secret(tmp_path: Path, client: httpx.Client, receiver: Receiver) -> None:
    flags = (DEV, "--root-path", "/v1/stream/svc-test", "--public-url", "https://streams.example.com/base")
    server = StreamsServer(tmp_path / "server", *flags, secret="the-secret")
    owner = {"authorization": "Bearer the-secret"}
    receiver.answer = lambda _: (200, {})
    try:
        server.start()
        root = f"{server.url}/v1/stream/svc-test"
        url = f"{root}/__ds/subscriptions/s"
        asked = {"type": "webhook", "pattern": "**", "webhook": {"url": receiver.url}}
        for method, path in (("PUT", ""), ("GET", ""), ("DELETE", ""), ("POST", "/claim"), ("POST", "/streams")):
            assert client.request(method, url + path, json=asked).status_code == 401
        assert client.post(f"{root}/__ds/jwks.json").status_code == 401
        assert error(client.post(f"{url}/callback", json={})) == (401, "TOKEN_INVALID")
        made = client.put(url, json=asked, headers=owner).json()
        public = "https://streams.example.com/base/v1/stream/svc-test/__ds"
        assert made["webhook"]["signing"]["jwks_url"] == f"{public}/jwks.json"
        assert len(client.get(f"{root}/__ds/jwks.json").json()["keys"]) == 1
        client.put(f"{root}/a", headers={**JSON, **owner}, content=b"1")
        (wake,) = receiver.wait(1)
        assert wake.body["callback_url"] == f"{public}/subscriptions/s/callback"
        body = {"wake_id": wake.body["wake_id"], "generation": 1, "acks": all_acks(wake.body), "done": True}
        token = {"authorization": f"Bearer {wake.body['callback_token']}"}
        assert client.get(url, headers=token).status_code == 401
        assert client.post(f"{url}/callback", json=body, headers=token).json() == {"ok": True, "next_wake": False}
        assert server.stop() == 0
        assert "the-secret" not in server.log
        assert wake.body["callback_token"] not in server.log
    finally:
        server.end()


@pytest.mark.crash
def test_no_wake_is_lost_through_kills(dev: StreamsServer, client: httpx.Client, receiver: Receiver) -> None:
    """Writers append through kills; the receiver reads what each wake names; in the end it has seen all of it."""
    chance = random.Random(7)
    seen: dict[str, set[int]] = {}
    lock = threading.Lock()

    def read(wake: Notification) -> tuple[int, dict[str, Any]]:
        with httpx.Client(trust_env=False, timeout=60) as own:
            for one in wake.body["streams"]:
                if not one["has_pending"]:
                    continue
                try:
                    got = own.get(dev.stream(one["path"]), params={"offset": one["acked_offset"]})
                except httpx.TransportError:
                    return 500, {}
                assert got.status_code == 200, got.text
                with lock:
                    seen.setdefault(one["path"], set()).update(got.json())
        return (200, {"done": True}) if chance.random() < 0.8 else (503, {})

    receiver.answer = read
    sub = Sub(dev, client)
    sub.webhook(receiver.url, pattern="e/**", lease_ttl_ms=1000)
    written: dict[str, set[int]] = {}
    tails: dict[str, str] = {}
    number = 0
    for _ in range(8):
        for _ in range(chance.randrange(1, 25)):
            number += 1
            name = f"e/{chance.randrange(4)}/x"
            tails[name] = append(client, dev, name, number)
            written.setdefault(name, set()).add(number)
        time.sleep(chance.random() * 0.3)
        again(dev)
    until(lambda: {path: one["acked_offset"] for path, one in sub.links().items()} == tails, 90)
    with lock:
        assert {path: numbers - seen[path] for path, numbers in written.items()} == {path: set() for path in written}
    got = list(receiver.got)
    generations = [one.body["generation"] for one in got]
    assert generations == sorted(generations)
    wakes = {one.body["generation"]: set() for one in got}
    for one in got:
        wakes[one.body["generation"]].add(one.body["wake_id"])
    assert all(len(ids) == 1 for ids in wakes.values())
    print(f"kills: 8, wakes: {len(wakes)}, deliveries: {len(got)}, messages: {number}")


@pytest.mark.crash
def test_generations_only_grow_through_kills(dev: StreamsServer, client: httpx.Client) -> None:
    sub = Sub(dev, client)
    sub.pull(lease_ttl_ms=600_000)
    old: list[dict[str, Any]] = []
    for number in range(8):
        append(client, dev, "e/a", number)
        wake = until(lambda: (found := sub.claim()).status_code == 200 and found.json())
        assert not old or wake["generation"] > old[-1]["generation"]
        if number % 2:
            again(dev)
        assert error(sub.claim("other")) == (409, "ALREADY_CLAIMED")
        for one in old:
            assert error(sub.send("ack", one["token"], one, acks=all_acks(wake), done=True)) == (409, "FENCED")
        action = "release" if number % 3 else "ack"
        answer = sub.send(action, wake["token"], wake, done=True)
        assert answer.status_code in (200, 204)
        if number % 3 == 1:
            again(dev)
        old.append(wake)


def test_an_idle_server_stays_small(own: StreamsServer, client: httpx.Client) -> None:
    """45 MB, with a subscription and its keys, too."""
    own.start()
    assert own.process is not None
    status = Path(f"/proc/{own.process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc here")

    def resident() -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))

    assert resident() < 45_000
    assert Sub(own, client).webhook("https://example.com/").status_code == 201
    assert resident() < 45_000


def test_receivers_that_hang_do_not_hold_up_the_others(dev: StreamsServer, client: httpx.Client) -> None:
    ended, called, count = threading.Event(), set(), 70

    def answer(notification: Notification) -> tuple[int, dict[str, Any]]:
        name = notification.body["subscription_id"]
        if name in called:
            ended.wait(240)
        called.add(name)
        return 500, {}

    bad, good = Receiver(answer), Receiver()
    try:
        for number in range(count):
            assert Sub(dev, client, f"bad-{number}").webhook(bad.url, pattern="bad/*").status_code == 201
        assert Sub(dev, client, "good").webhook(good.url, pattern="good/*").status_code == 201
        client.put(dev.stream("bad/a"), headers=TEXT, content=b"x")
        bad.wait(count + 16, 90)
        time.sleep(1.5)  # as many of them as there may be
        client.put(dev.stream("good/a"), headers=TEXT, content=b"x")
        good.wait(1, 60)
    finally:
        ended.set()
        bad.close()
        good.close()
