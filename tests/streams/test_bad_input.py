"""Whatever is sent: a refusal, never a 500, a hang, or memory that grows with it."""

from __future__ import annotations

import contextlib
import random
import re
import socket
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.streams.server import HOST, StreamsServer, read_all

REQUESTS = 1500
# What requests are put together from; every part may be spoilt besides.
METHODS = ["GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH", "get", "G ET", "\x00", "X" * 300]
PATHS = [
    "/v1/stream/a", "/v1/stream/b/c", "/v1/stream/", "/v1/stream", "/", "*", "//", "/v1/stream/%00", "/v1/stream/%ff",
    "/v1/stream/..", "/v1/stream/%2e%2e/x", "/v1/stream/" + "x" * 2000, "/v1/stream/%", "/v1/stream/ä",
    "/v1/stream/__ds", "/v1/stream/__ds/subscriptions/s", "/v1/stream/__ds/subscriptions/s/ack",
    "/v1/stream/__ds/jwks.json", "/v1/stream/a%2",
    "/v1/stream/%5f_ds/x", "/v1/yjs/s/docs/a", "/v1/yjs/s/docs/%2e", "/health", "/metrics", "http://x/v1/stream/a",
]  # fmt: skip
QUERIES = [
    "", "offset=-1", "offset=now", "offset=", "offset=-1&offset=-1", "offset=9999999999999999_9999999999999999",
    "offset=0000000000000001_0000000000000003", "offset=1_1", "offset=%00", "live=sse", "live=long-poll&offset=x",
    "live=%", "cursor=" + "9" * 400, "offset=-1&live=sse&cursor=-1", "awareness=", "awareness=a", "offset=snapshot",
    "offset=0000000000000001_0000000000000000_snapshot", "&&&=;=&", "offset=١_٢",
]  # fmt: skip
HEADERS = [
    "content-type: application/json", "content-type: text/plain", "content-type: application/octet-stream",
    "content-type:", "content-type: \xff", "stream-ttl: 1", "stream-ttl: -1", "stream-ttl: " + "9" * 400,
    "stream-ttl: ١",
    "stream-expires-at: 2030-01-01T00:00:00Z", "stream-expires-at: 9999-99-99T99:99:99Z", "stream-closed: true",
    "stream-seq: \xff", "stream-seq:", "producer-id: p", "producer-epoch: 0", "producer-seq: 0", "producer-seq: 1e3",
    "producer-epoch: " + "9" * 40, "stream-forked-from: /v1/stream/a", "stream-forked-from: /v1/stream/\xff",
    "stream-fork-offset: -1", "stream-fork-sub-offset: 99999999999999999999", "stream-retention-bytes: -5",
    "stream-retention-seconds: x", "if-none-match: *", 'if-none-match: "' + "x" * 5000, "authorization: Bearer",
    "x: " + "y" * 20_000, "transfer-encoding: gzip", "expect: 100-continue", "content-length: 5", "content-length: -1",
    "content-length: 99999999999999999999", "no colon", ": empty", "a\x00b: c", "connection: upgrade",
]  # fmt: skip
BODIES = [
    b"", b"{}", b"[]", b"[1,2", b"nul", b"NaN", b"[" * 100_000, b'"\\ud800"', b"\xff\xfe", b"1e999999", b'{"a":' * 5000,
    b"\xef\xbb\xbf{}", b"\x02ab", b"\xff" * 50, b'{"type":"webhook","webhook":{"url":"http://169.254.169.254/"}}',
    b'{"type":"pull-wake","pattern":"**/**/**/**/**/**/**/a","wake_stream":"w"}', b'{"worker":null}', b"x" * 70_000,
]  # fmt: skip


def spoilt(chance: random.Random, data: bytes) -> bytes:
    """Some bytes changed, doubled or lost."""
    made = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(made) + 1)
        action = chance.randrange(3)
        if action == 0:
            made[at:at] = chance.choice([b"\r\n", b"\n", b"\0", b" ", b"%", b"\xff", b"\r\n\r\n", b":"])
        elif action == 1:
            del made[at : at + chance.randrange(1, 8)]
        else:
            made[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(made)


def request(chance: random.Random) -> bytes:
    query = chance.choice(QUERIES)
    target = chance.choice(PATHS) + ("?" + query if query else "")
    body = chance.choice(BODIES)
    lines = [f"{chance.choice(METHODS[:6] * 10 + METHODS)} {target} HTTP/1.{chance.choice('1110')}", "host: x"]
    lines += chance.sample(HEADERS, chance.choice((0, 0, 1, 1, 2, 4)))
    if chance.random() < 0.3:
        lines.append("transfer-encoding: chunked")
        size = chance.choice([b"%x" % len(body), b"-1", b"FFFFFFFFFFFFFFFFFF", b"", b"%x;ext=1" % len(body), b"1"])
        body = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
    else:
        lines.append(f"content-length: {len(body)}")
    head = "\r\n".join([*lines, "connection: close", "", ""]).encode("utf-8", "surrogateescape")
    whole = head + body
    return spoilt(chance, whole) if chance.random() < 0.3 else whole


def exchange(port: int, data: bytes, seconds: float = 0.25) -> bytes:
    """What comes back until the server closes, or has nothing to say."""
    got = b""
    with socket.create_connection((HOST, port), timeout=60) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.settimeout(seconds)
        while part := connection.recv(65_536):
            got += part
    return got


def memory(server: StreamsServer) -> int:
    """Resident bytes."""
    assert server.process is not None
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_fuzz(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    chance = random.Random(20)
    statuses: Counter[int] = Counter()
    for name in ("a", "b/c"):
        client.put(own.stream(name), headers={"content-type": "application/json"}, content=b"[1]")
    for number in range(REQUESTS):
        data = request(chance)
        answer = exchange(own.port, data)
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        status = int(found[1]) if found else 0
        statuses[status] += 1
        assert status not in (500, 502), (number, data[:500], answer[:500])
    assert client.get(f"{own.url}/ready").status_code == 200
    assert own.stop() == 0
    assert "Traceback" not in own.log, own.log[-3000:]
    print(f"{REQUESTS} requests: {dict(sorted(statuses.items()))} (0: no answer)")
    assert statuses[400] > 50
    assert statuses[200] > 20


@pytest.mark.parametrize("framing", ["content-length: 10737418240", "transfer-encoding: chunked"])
@pytest.mark.parametrize("target", ["PUT /v1/stream/big", "POST /v1/stream/big", "POST /v1/yjs/s/docs/big"])
def test_ten_gigabytes(own: StreamsServer, client: httpx.Client, framing: str, target: str) -> None:
    """Refused at its head, or when it has become too much; nothing of it is kept."""
    own.start()
    if target.startswith("POST"):
        assert client.put(own.url + target.split(" ")[1]).status_code == 201
    before = memory(own)
    piece = b"x" * 1_048_576
    chunk = b"%x\r\n" % len(piece) + piece + b"\r\n" if "chunked" in framing else piece
    sent = 0
    with socket.create_connection((HOST, own.port), timeout=60) as connection:
        connection.sendall(
            f"{target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n{framing}\r\n\r\n".encode()
        )
        with contextlib.suppress(ConnectionError):
            while sent < 10 * 1_073_741_824:
                connection.sendall(chunk)
                sent += len(piece)
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert sent < 100 * 1_048_576, "it was read to the end"
    assert memory(own) - before < 80 * 1_048_576
    assert client.get(f"{own.url}/ready").status_code == 200
    assert "Traceback" not in own.log


def test_those_that_never_finish(own: StreamsServer, client: httpx.Client) -> None:
    """Five hundred clients that stop in the middle of a head or a body cost little, and nobody waits for them."""
    own.start()
    assert client.put(own.stream("a"), headers={"content-type": "text/plain"}).status_code == 201
    before = memory(own)
    with contextlib.ExitStack() as stack:
        for number in range(500):
            connection = stack.enter_context(socket.create_connection((HOST, own.port), timeout=60))
            head = b"POST /v1/stream/a HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 1000000\r\n"
            connection.sendall(head if number % 2 else head + b"\r\n" + b"x" * 1000)
        for _ in range(20):
            assert client.post(own.stream("a"), headers={"content-type": "text/plain"}, content=b"y").status_code == 204
        assert memory(own) - before < 60 * 1_048_576
    assert client.get(own.stream("a")).content == b"y" * 20


def test_those_that_never_read(own: StreamsServer, client: httpx.Client) -> None:
    """What is still in memory waits for them, up to a bound for all of them together; who reads gets all of it."""
    own.start()
    headers = {"content-type": "application/octet-stream"}
    assert client.put(own.stream("a"), headers=headers).status_code == 201
    body = random.Random(1).randbytes(1_048_576)
    for _ in range(8):
        assert client.post(own.stream("a"), headers=headers, content=body).status_code == 204
    before = memory(own)
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect((HOST, own.port))
            connection.sendall(b"GET /v1/stream/a?offset=-1 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        # 64 MiB, then a quarter of a MiB for each.
        assert memory(own) - before < 160 * 1_048_576
        assert read_all(client, own.stream("a"))[0] == body * 8
    assert read_all(client, own.stream("a"))[0] == body * 8
