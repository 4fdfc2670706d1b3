"""The protocol over HTTP, where the public conformance suite does not look: bytes, headers, limits, answers' codes."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from switchgear_streams.settings import SettingsError, load
from tests.streams.server import HOST, JSON, OCTETS, TEXT, ZERO, StreamsServer, read_all, read_messages


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-allow-origin"] == "*"
    return answer.status_code, answer.json()["code"]


def test_a_stream_from_creation_to_deletion(client: httpx.Client, url: str) -> None:
    made = client.put(url, headers=TEXT)
    assert made.status_code == 201
    assert made.headers["location"] == url
    zero = made.headers["stream-next-offset"]
    first = client.post(url, headers=TEXT, content=b"one")
    assert first.status_code == 204
    assert first.headers["stream-next-offset"] > zero
    assert client.get(url, params={"offset": zero}).content == b"one"
    closed = client.post(url, headers={**TEXT, "stream-closed": "TRUE"}, content=b"two")
    assert (closed.status_code, closed.headers["stream-closed"]) == (204, "true")
    rest = client.get(url, params={"offset": first.headers["stream-next-offset"]})
    assert (rest.content, rest.headers["stream-closed"], rest.headers["stream-up-to-date"]) == (b"two", "true", "true")
    head = client.head(url)
    assert head.headers["stream-closed"] == "true"
    assert head.headers["stream-next-offset"] == closed.headers["stream-next-offset"]
    assert client.post(url, headers={"stream-closed": "true"}).status_code == 204
    refused = client.post(url, headers=TEXT, content=b"three")
    assert code(refused) == (409, "STREAM_CLOSED")
    assert refused.headers["stream-next-offset"] == closed.headers["stream-next-offset"]
    assert client.delete(url).status_code == 204
    assert code(client.get(url)) == (404, "STREAM_NOT_FOUND")
    assert client.head(url).status_code == 404
    assert code(client.delete(url)) == (404, "STREAM_NOT_FOUND")
    assert code(client.post(url, headers=TEXT, content=b"x")) == (404, "STREAM_NOT_FOUND")


def test_an_offset_of_an_earlier_stream_is_gone(client: httpx.Client, url: str) -> None:
    client.put(url, headers=TEXT, content=b"old data")
    old = client.head(url).headers["stream-next-offset"]
    etag = client.get(url).headers["etag"]
    client.delete(url)
    client.put(url, headers=TEXT, content=b"new data")
    assert code(client.get(url, params={"offset": old})) == (410, "OFFSET_GONE")
    assert client.get(url, headers={"if-none-match": etag}).status_code == 200
    assert client.get(url, params={"offset": ZERO}).content == b"new data"
    new = client.head(url).headers["stream-next-offset"]
    beyond = new[:-1] + chr(ord(new[-1]) + 1)
    assert code(client.get(url, params={"offset": beyond})) == (400, "OFFSET_BEYOND_TAIL")


def test_offsets_within_a_json_message_are_refused(client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON, content=b'[{"a":1},{"b":2}]')
    tail = client.head(url).headers["stream-next-offset"]
    space, end = tail.split("_")
    allowed = []
    for position in range(int(end) + 1):
        answer = client.get(url, params={"offset": f"{space}_{position:016d}"})
        if answer.status_code == 200:
            allowed.append(answer.json())
        else:
            assert code(answer) == (400, "INVALID_OFFSET")
    assert allowed == [[{"a": 1}, {"b": 2}], [{"b": 2}], []]


def test_json_values_keep_their_bytes(client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON)
    client.post(url, headers=JSON, content=b"[1.0, 1e400, -0]")
    client.post(url, headers=JSON, content=b'{"big": 123456789012345678901234567890, "k": 1, "k": 2}')
    client.post(url, headers={"content-type": "Application/JSON; charset=utf-8"}, content=b' "\\ud83d\\ude00 \\ud800" ')
    got = client.get(url)
    assert got.headers["content-type"] == "application/json"
    assert got.content.replace(b"\n", b"") == (
        b'[1.0,1e400,-0,{"big":123456789012345678901234567890,"k":1,"k":2},"\\ud83d\\ude00 \\ud800"]'
    )


@pytest.mark.parametrize("body", [b"{", b"NaN", b"[1,]", b'"\xff"', b"[" * 20_000, b'"\x01"'])
def test_bad_json_changes_nothing(client: httpx.Client, url: str, body: bytes) -> None:
    assert code(client.put(url, headers=JSON, content=body)) == (400, "INVALID_JSON")
    assert client.head(url).status_code == 404
    client.put(url, headers=JSON, content=b"[]")
    tail = client.head(url).headers["stream-next-offset"]
    producer = {**JSON, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
    assert code(client.post(url, headers=producer, content=body)) == (400, "INVALID_JSON")
    assert code(client.post(url, headers=producer, content=b"[]")) == (400, "EMPTY_ARRAY")
    assert client.head(url).headers["stream-next-offset"] == tail
    assert client.post(url, headers=producer, content=b"1").status_code == 200


def test_long_streams_come_in_chunks_cut_between_messages(client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON)
    chance = random.Random(1)
    sent = []
    for number in range(30):
        batch = [{"n": number, "x": "é" * chance.randrange(18_000)} for _ in range(20)]
        sent += batch
        assert client.post(url, headers=JSON, content=json.dumps(batch)).status_code == 204
    offset, got, answers = "-1", [], 0
    while True:
        answer = client.get(url, params={"offset": offset})
        answers += 1
        got += answer.json()
        offset = answer.headers["stream-next-offset"]
        if "stream-up-to-date" in answer.headers:
            break
        assert "stream-closed" not in answer.headers
    assert got == sent
    assert answers > 1
    one = [{"huge": "y" * 6_000_000}]
    assert client.post(url, headers=JSON, content=json.dumps(one)).status_code == 204
    assert client.get(url, params={"offset": offset}).json() == one
    assert read_messages(client, url) == sent + one


def test_binary_comes_back_exactly_over_packs_and_memory(client: httpx.Client, url: str) -> None:
    client.put(url, headers=OCTETS)
    chance = random.Random(2)
    whole, places = b"", []
    for _ in range(120):
        part = chance.randbytes(chance.choice((1, 100, 5000, 70_000)))
        answer = client.post(url, headers=OCTETS, content=part)
        whole += part
        places.append((len(whole), answer.headers["stream-next-offset"]))
    assert read_all(client, url)[0] == whole
    for length, offset in chance.sample(places, 30):
        assert client.get(url, params={"offset": offset}).content == whole[length : length + 4 * 1_048_576]


def test_etags(client: httpx.Client, url: str) -> None:
    client.put(url, headers=TEXT, content=b"x")
    etag = client.get(url).headers["etag"]
    same = client.get(url, headers={"if-none-match": f'"other", {etag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert client.get(url, headers={"if-none-match": f"W/{etag}"}).status_code == 304
    client.post(url, headers={"stream-closed": "true"})
    closed = client.get(url, headers={"if-none-match": etag})
    assert closed.status_code == 200
    assert closed.headers["etag"].endswith(':c"')
    assert "etag" not in client.get(url, params={"offset": "now"}).headers


def test_a_put_is_compared_with_what_is_there(client: httpx.Client, url: str) -> None:
    expires = {"stream-expires-at": "2099-01-01T12:00:00Z"}
    assert client.put(url, headers={**TEXT, **expires}).status_code == 201
    again = client.put(
        url, headers={"content-type": "TEXT/plain; x=y", "stream-expires-at": "2099-01-01T14:00:00+02:00"}
    )
    assert (again.status_code, again.headers["stream-expires-at"]) == (200, "2099-01-01T12:00:00Z")
    for other in (TEXT, {**JSON, **expires}, {**TEXT, **expires, "stream-closed": "true"}, {**TEXT, "stream-ttl": "5"}):
        assert code(client.put(url, headers=other)) == (409, "STREAM_EXISTS")


@pytest.mark.parametrize(
    ("method", "headers", "query", "answer"),
    [
        ("PUT", {"stream-ttl": "1", "stream-expires-at": "2099-01-01T00:00:00Z"}, "", "TTL_AND_EXPIRES_AT"),
        ("PUT", {"stream-fork-offset": ZERO}, "", "FORK_SOURCE_MISSING"),
        ("PUT", {"stream-forked-from": "/elsewhere/x"}, "", "INVALID_FORK_SOURCE"),
        ("PUT", {"stream-forked-from": "/v1/stream/x", "stream-fork-offset": "-1"}, "", "INVALID_FORK_OFFSET"),
        ("POST", {"producer-id": "p"}, "", "PRODUCER_HEADERS_INCOMPLETE"),
        ("POST", {"producer-id": "p", "producer-epoch": "x", "producer-seq": "0"}, "", "INVALID_PRODUCER_NUMBER"),
        ("POST", {"stream-seq": ""}, "", "INVALID_SEQ"),
        ("POST", {}, "", "BODY_EMPTY"),
        ("GET", {}, "offset=", "INVALID_OFFSET"),
        ("GET", {}, "offset=-1&offset=-1", "INVALID_OFFSET"),
        ("GET", {}, "offset=1%2C2", "INVALID_OFFSET"),
        ("GET", {}, "live=sse", "OFFSET_MISSING"),
        ("GET", {}, "offset=-1&live=yes", "INVALID_LIVE"),
    ],
)  # fmt: skip
def test_bad_requests_name_their_mistake(
    client: httpx.Client, url: str, method: str, headers: dict[str, str], query: str, answer: str
) -> None:
    if method != "PUT":
        client.put(url, headers=TEXT)
    assert code(client.request(method, f"{url}?{query}", headers=headers)) == (400, answer)


def test_paths(client: httpx.Client, server: StreamsServer) -> None:
    for name in ("a%2F..%2Fb", "%00", "%ff", "x" * 1100):
        assert code(client.put(server.stream(name), headers=TEXT)) == (400, "INVALID_PATH")
    assert code(client.put(server.stream("%5f_ds"), headers=TEXT)) == (400, "RESERVED_PATH")
    assert code(client.post(server.stream("__ds%2Fx"), headers=TEXT, content=b"x")) == (400, "RESERVED_PATH")
    assert code(client.get(server.stream(""))) == (404, "NOT_FOUND")
    assert code(client.get(f"{server.url}/other")) == (404, "NOT_FOUND")
    deep = server.stream("tenants/ä/%F0%9F%98%80/1")
    assert client.put(deep, headers=TEXT, content=b"deep").status_code == 201
    assert client.get(server.stream("tenants%2F%C3%A4/😀/1")).content == b"deep"


def test_an_encoded_percent_sign_is_another_stream(client: httpx.Client, server: StreamsServer) -> None:
    plain, encoded = server.stream("pc-A"), server.stream("pc-%2541")
    for url in (plain, encoded):
        assert client.put(url, headers=TEXT).status_code == 201
    assert client.post(server.stream("pc-%41"), headers=TEXT, content=b"plain").status_code == 204
    assert client.post(encoded, headers=TEXT, content=b"encoded").status_code == 204
    assert client.get(plain).content == b"plain"
    assert client.get(encoded).content == b"encoded"


def test_json_bodies_have_a_limit(client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON)
    assert code(client.post(url, headers=JSON, content=b"[" + b"1," * 4_500_000 + b"1]")) == (413, "JSON_TOO_LARGE")
    assert client.post(url, headers=JSON, content=b"[" + b"1," * 100_000 + b"1]").status_code == 204
    assert sum(read_messages(client, url)) == 100_001


def test_other_methods(client: httpx.Client, url: str) -> None:
    answer = client.request("PATCH", url)
    assert code(answer) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in answer.headers["allow"]


def test_preflight(client: httpx.Client, url: str) -> None:
    answer = client.options(url, headers={"origin": "https://x.example", "access-control-request-method": "PUT"})
    assert answer.status_code == 204
    allowed = answer.headers["access-control-allow-headers"].lower()
    for name in ("if-none-match", "authorization", "stream-closed", "producer-epoch", "stream-fork-sub-offset"):
        assert name in allowed
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    exposed = client.get(url).headers["access-control-expose-headers"].lower()
    for name in ("stream-next-offset", "stream-cursor", "etag", "location", "producer-expected-seq", "retry-after"):
        assert name in exposed


def test_health_and_metrics(client: httpx.Client, server: StreamsServer, url: str) -> None:
    for path in ("/health", "/ready", "/live"):
        assert client.get(server.url + path).status_code == 200
        assert client.head(server.url + path).content == b""
    client.put(url, headers=TEXT, content=b"x")
    assert server.metric("streams_streams") >= 1
    assert server.metric("streams_wal_syncs_total") >= 1
    assert client.post(server.url + "/ready").status_code == 405


def test_chunked_bodies_and_limits(tmp_path: Path, client: httpx.Client) -> None:
    small = StreamsServer(tmp_path, "--max-body-bytes", "5000", "--max-streams", "2")
    try:
        small.start()
        url = small.stream("a")
        assert client.put(url, headers=TEXT, content=iter([b"he", b"llo"])).status_code == 201
        assert client.post(url, headers=TEXT, content=iter([b" ", b"you"])).status_code == 204
        assert client.get(url).content == b"hello you"
        assert code(client.post(url, headers=TEXT, content=b"x" * 5001)) == (413, "BODY_TOO_LARGE")
        assert code(client.post(url, headers=TEXT, content=iter([b"x" * 3000] * 2))) == (413, "BODY_TOO_LARGE")
        assert client.post(url, headers=TEXT, content=b"x" * 5000).status_code == 204
        assert client.put(small.stream("b"), headers=TEXT).status_code == 201
        refused = client.put(small.stream("c"), headers=TEXT)
        assert code(refused) == (429, "TOO_MANY_STREAMS")
        assert refused.headers["retry-after"]
        client.delete(url)
        assert client.put(small.stream("c"), headers=TEXT).status_code == 201
    finally:
        small.end()


def test_pipelined_appends_stay_in_order(server: StreamsServer, client: httpx.Client, url: str) -> None:
    client.put(url, headers=TEXT)
    path = url.removeprefix(server.url)
    one = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n"
    with socket.create_connection((HOST, server.port), timeout=60) as sock:
        sock.sendall(b"".join(one.encode() + b"%03d," % number for number in range(50)))
        seen = b""
        while seen.count(b"HTTP/1.1 204") < 50:
            got = sock.recv(65536)
            assert got
            seen += got
    assert client.get(url).content == b"".join(b"%03d," % number for number in range(50))


def test_concurrent_writers_lose_nothing(server: StreamsServer, client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON)

    def write(writer: int) -> list[str]:
        with httpx.Client(trust_env=False, timeout=30) as own:
            answers = [own.post(url, headers=JSON, content=json.dumps([writer, n]).join("[]")) for n in range(40)]
        assert {answer.status_code for answer in answers} == {204}
        return [answer.headers["stream-next-offset"] for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        offsets = list(pool.map(write, range(8)))
    messages = read_messages(client, url)
    assert len(messages) == 320
    for writer in range(8):
        assert [n for w, n in messages if w == writer] == list(range(40))
        assert offsets[writer] == sorted(offsets[writer])
    assert len({offset for some in offsets for offset in some}) == 320


# -- secrets, paths and addresses --


def test_the_secret_comes_first(tmp_path: Path, client: httpx.Client) -> None:
    guarded = StreamsServer(tmp_path, "--root-path", "/v1/stream/svc-one", "--public-url", "https://x.example/base",
                            secret="s3cret-s3cret")  # fmt: skip
    try:
        guarded.start()
        url = f"{guarded.url}/v1/stream/svc-one/a"
        good = {"authorization": "Bearer s3cret-s3cret"}
        made = client.put(url, headers={**TEXT, **good}, content=b"x")
        assert made.status_code == 201
        assert made.headers["location"] == "https://x.example/base/v1/stream/svc-one/a"
        bodies = set()
        for where in (url, url + "-missing", url + "/../x", f"{guarded.url}/v1/stream/svc-one/__ds/subscriptions/s"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret-s3cret"}):
                for method in ("GET", "PUT", "POST", "DELETE", "PATCH"):
                    answer = client.request(method, where, headers=headers)
                    assert code(answer) == (401, "UNAUTHORIZED")
                    bodies.add(answer.content)
                assert client.head(where, headers=headers).status_code == 401
        assert len(bodies) == 1
        assert client.options(url).status_code == 204
        assert client.get(f"{guarded.url}/ready").status_code == 200
        assert client.get(url, headers=good).content == b"x"
        assert client.get(url, headers={"authorization": "bearer  s3cret-s3cret"}).status_code == 200
        assert client.get(url, headers=good).headers["cache-control"].startswith("private")
        assert code(client.get(f"{guarded.url}/v1/stream/a", headers=good)) == (404, "NOT_FOUND")
        fork = {**good, "stream-forked-from": "/v1/stream/svc-one/a"}
        assert client.put(url + "-fork", headers=fork).status_code == 201
        foreign = {**good, "stream-forked-from": "/v1/stream/svc-two/a"}
        assert code(client.put(url + "-fork2", headers=foreign)) == (400, "INVALID_FORK_SOURCE")
        assert "s3cret" not in guarded.log
        command = Path(f"/proc/{guarded.process.pid}/cmdline").read_bytes() if guarded.process else b""
        assert b"s3cret" not in command
    finally:
        guarded.end()


def test_a_secret_from_a_file(tmp_path: Path, client: httpx.Client) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    command = [sys.executable, "-m", "switchgear_streams", "--data-dir", str(tmp_path / "d"), "--port", "0"]
    command += ["--secret-file", str(tmp_path / "secret")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while "listening on" not in (text := (tmp_path / "log").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        base = text.split("listening on ")[1].split()[0]
        assert client.get(f"{base}/x", headers={"authorization": "Bearer from-a-file"}).status_code == 404
        assert client.get(f"{base}/x").status_code == 401
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ([], {}, ["--data-dir", "exactly one of"]),
        (["--insecure"], {"STREAMS_SECRET": "x"}, ["exactly one of"]),
        (["--insecure", "--port", "x", "--root-path", "v1/"], {}, ["--port", "--root-path"]),
        (["--secret-file", "/nowhere/at/all"], {}, ["--secret-file cannot be read"]),
        (["--insecure", "--long-poll-timeout-ms", "0", "--public-url", "x"], {}, ["--long-poll", "--public-url"]),
        ([], {"STREAMS_SECRET": " "}, ["secret is empty"]),
    ],
)
def test_wrong_settings_are_all_listed(flags: list[str], environment: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags, environment)
    for word in words:
        assert any(word in problem for problem in caught.value.problems), caught.value.problems
