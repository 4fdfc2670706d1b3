"""Long-polls and SSE: waiting, waking, framing, slow readers, and the end of the server."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.streams.server import HOST, JSON, OCTETS, TEXT, StreamsServer, control, events


@contextmanager
def sse(url: str, offset: str, cursor: str = "") -> Iterator[Sse]:
    made = Sse(url, offset, cursor)
    try:
        yield made
    finally:
        made.client.close()


class Sse:
    """An SSE response that is read as it comes."""

    def __init__(self, url: str, offset: str, cursor: str = "") -> None:
        self.client = httpx.Client(trust_env=False, timeout=60)
        query = {"offset": offset, "live": "sse", **({"cursor": cursor} if cursor else {})}
        request = self.client.build_request("GET", url, params=query)
        self.response = self.client.send(request, stream=True)
        self.text = ""
        self._chunks = self.response.iter_text()
        self.ended = False

    def until(self, number: int) -> list[tuple[str, str]]:
        """At least `number` events."""
        while len(events(self.text)) < number:
            self.text += next(self._chunks)
        return events(self.text)

    def to_the_end(self) -> list[tuple[str, str]]:
        for chunk in self._chunks:
            self.text += chunk
        self.ended = True
        return events(self.text)


def when_polled(server: StreamsServer, method: str, url: str, **kwargs: Any) -> threading.Thread:
    """Do a request as soon as somebody long-polls the server."""

    def run() -> None:
        with httpx.Client(trust_env=False, timeout=60) as own:
            while not server.metric("streams_long_polls"):
                time.sleep(0.01)
            own.request(method, url, **kwargs)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_long_poll_times_out(client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON)
    tail = client.head(url).headers["stream-next-offset"]
    nothing = client.get(url, params={"offset": tail, "live": "long-poll", "cursor": "99999999999"})
    assert nothing.status_code == 204
    assert (nothing.headers["stream-next-offset"], nothing.headers["stream-up-to-date"]) == (tail, "true")
    assert nothing.headers["cache-control"] == "no-store"
    assert int(nothing.headers["stream-cursor"]) > 99_999_999_999


def test_long_poll_waits_and_wakes(client: httpx.Client, patient: StreamsServer) -> None:
    url = patient.stream("wakes")
    client.put(url, headers=JSON)
    thread = when_polled(patient, "POST", url, headers=JSON, content=b"[1, 2]")
    tail = client.head(url).headers["stream-next-offset"]
    woken = client.get(url, params={"offset": tail, "live": "long-poll"})
    thread.join()
    assert (woken.status_code, woken.json()) == (200, [1, 2])
    assert woken.headers["stream-cursor"].isdigit()
    assert woken.headers["stream-up-to-date"] == "true"
    assert woken.headers["etag"] == client.get(url, params={"offset": tail}).headers["etag"]


def test_long_poll_ends_with_the_stream(client: httpx.Client, patient: StreamsServer) -> None:
    url = patient.stream("ends")
    client.put(url, headers=TEXT)
    thread = when_polled(patient, "POST", url, headers={"stream-closed": "true"})
    closed = client.get(url, params={"offset": "now", "live": "long-poll"})
    thread.join()
    assert (closed.status_code, closed.headers["stream-closed"]) == (204, "true")
    client.delete(url)
    client.put(url, headers=TEXT)
    thread = when_polled(patient, "DELETE", url)
    assert client.get(url, params={"offset": "now", "live": "long-poll"}).status_code == 404
    thread.join()


def test_many_long_polls_get_the_same_bytes(client: httpx.Client, patient: StreamsServer) -> None:
    url = patient.stream("many")
    client.put(url, headers=TEXT)

    async def everyone() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as own:
            query = {"offset": "now", "live": "long-poll"}
            waiting = [asyncio.ensure_future(own.get(url, params=query)) for _ in range(100)]
            while patient.metric("streams_long_polls") < 100:
                assert not any(task.done() for task in waiting)
                await asyncio.sleep(0.05)
            await own.post(url, headers=TEXT, content=b"all of you")
            return list(await asyncio.gather(*waiting))

    answers = asyncio.run(everyone())
    assert {answer.content for answer in answers} == {b"all of you"}
    assert patient.metric("streams_long_polls") == 0


def test_a_long_poll_whose_client_left_is_forgotten(client: httpx.Client, patient: StreamsServer) -> None:
    url = patient.stream("left")
    client.put(url, headers=TEXT)
    with socket.create_connection((HOST, patient.port)) as sock:
        sock.sendall(b"GET /v1/stream/left?offset=now&live=long-poll HTTP/1.1\r\nHost: x\r\n\r\n")
        while patient.metric("streams_long_polls") != 1:
            time.sleep(0.01)
    deadline = time.monotonic() + 60
    while patient.metric("streams_long_polls"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sse_pairs_data_with_control(client: httpx.Client, url: str) -> None:
    client.put(url, headers=JSON, content=b"[1,2]")
    with sse(url, "-1") as reader:
        assert reader.response.headers["content-type"] == "text/event-stream"
        assert "content-length" not in reader.response.headers
        assert reader.response.headers["x-content-type-options"] == "nosniff"
        first = reader.until(2)
        assert [name for name, _ in first] == ["data", "control"]
        assert json.loads(first[0][1]) == [1, 2]
        state = control(first[1][1])
        assert state["upToDate"] is True
        assert state["streamNextOffset"] == client.head(url).headers["stream-next-offset"]
        client.post(url, headers=JSON, content=b'{"a": "b c"}')
        second = reader.until(4)[2:]
        assert json.loads(second[0][1]) == [{"a": "b c"}]
        assert int(control(second[1][1])["streamCursor"]) >= int(state["streamCursor"])
        client.post(url, headers={**JSON, "stream-closed": "true"}, content=b"3")
        last = reader.to_the_end()[4:]
        assert json.loads(last[0][1]) == [3]
        end = control(last[1][1])
        assert end["streamClosed"] is True
        assert "streamCursor" not in end
    with sse(url, end["streamNextOffset"]) as reader:
        assert [name for name, _ in reader.to_the_end()] == ["control"]


def test_sse_cursor_goes_beyond_the_clients(client: httpx.Client, url: str) -> None:
    client.put(url, headers=TEXT)
    with sse(url, "now", cursor="99999999999") as reader:
        first = int(control(reader.until(1)[0][1])["streamCursor"])
        assert first > 99_999_999_999
        client.post(url, headers=TEXT, content=b"x")
        assert int(control(reader.until(3)[2][1])["streamCursor"]) >= first


def test_sse_base64(client: httpx.Client, url: str) -> None:
    blob = bytes(range(256)) * 3000
    client.put(url, headers=OCTETS, content=blob)
    with sse(url, "-1") as reader:
        assert reader.response.headers["stream-sse-data-encoding"] == "base64"
        client.post(url, headers={**OCTETS, "stream-closed": "true"}, content=b"\x00end")
        seen = reader.to_the_end()
    assert [name for name, _ in seen[::2]] == ["data"] * (len(seen) // 2)
    assert [name for name, _ in seen[1::2]] == ["control"] * (len(seen) // 2)
    assert b"".join(base64.b64decode(data, validate=True) for _, data in seen[::2]) == blob + b"\x00end"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(alphabet=st.sampled_from("ab :é😀\r\n\t"), min_size=1, max_size=12), min_size=1, max_size=4))
def test_sse_text_lines(client: httpx.Client, server: StreamsServer, parts: list[str]) -> None:
    url = server.stream(f"lines/{time.time_ns()}")
    client.put(url, headers=TEXT)
    for part in parts:
        client.post(url, headers=TEXT, content=part.encode())
    client.post(url, headers={"stream-closed": "true"})
    with sse(url, "-1") as reader:
        seen = reader.to_the_end()
    assert [name for name, _ in seen] == ["data", "control"]
    assert seen[0][1] == "".join(parts).replace("\r\n", "\n").replace("\r", "\n")


def test_sse_text_is_cut_between_characters(client: httpx.Client, url: str) -> None:
    text = "x" + "😀é€" * 80_000
    client.put(url, headers={**TEXT, "stream-closed": "true"}, content=text.encode())
    with sse(url, "-1") as reader:
        seen = reader.to_the_end()
    data = [data for name, data in seen if name == "data"]
    assert len(data) > 1
    assert "".join(data) == text
    assert [("upToDate" in control(c), "streamClosed" in control(c)) for name, c in seen if name == "control"][-2:] == [
        (False, False),
        (True, True),
    ]


def test_a_large_append_reaches_live_readers_in_pieces(client: httpx.Client, patient: StreamsServer) -> None:
    """It would lie in front of each of them: all readers' memory is the append's size times their number."""
    url = patient.stream("large")
    client.put(url, headers=OCTETS)
    tail = client.head(url).headers["stream-next-offset"]
    sent = bytes(range(256)) * 8192
    with sse(url, tail) as one:
        one.until(1)
        thread = when_polled(patient, "POST", url, headers=OCTETS, content=sent)
        woken = client.get(url, params={"offset": tail, "live": "long-poll"})
        thread.join()
        client.post(url, headers={**OCTETS, "stream-closed": "true"}, content=b"end")
        found = one.to_the_end()[1:]
    assert woken.status_code == 200
    assert 0 < len(woken.content) <= 262_144
    assert sent.startswith(woken.content)
    assert "stream-up-to-date" not in woken.headers
    rest = client.get(url, params={"offset": woken.headers["stream-next-offset"], "live": "long-poll"})
    assert woken.content + rest.content == sent + b"end"
    assert [name for name, _ in found] == ["data", "control"] * (len(found) // 2)
    pieces = [base64.b64decode(data) for name, data in found if name == "data"]
    assert b"".join(pieces) == sent + b"end"
    assert max(map(len, pieces)) <= 262_144
    assert [control(data).get("streamClosed", False) for _, data in found[1::2]] == [False] * (len(pieces) - 1) + [True]


def test_a_deleted_stream_ends_sse(client: httpx.Client, url: str) -> None:
    client.put(url, headers=TEXT)
    with sse(url, "now") as reader:
        reader.until(1)
        client.delete(url)
        assert len(reader.to_the_end()) == 1


def tail_socket(server: StreamsServer, buffer: int | None = None) -> socket.socket:
    """An SSE reader at the tail of stream `slow`, its first event read."""
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(60)
    sock.connect((HOST, server.port))
    sock.sendall(b"GET /v1/stream/slow?offset=now&live=sse HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in sock.recv(4096)
    return sock


def numbers_to_the_end(sock: socket.socket) -> list[int]:
    """What the writer below numbered, read until the stream is closed."""
    seen = b""
    while b'"streamClosed":true' not in seen[-200:]:
        got = sock.recv(1 << 20)
        assert got
        seen += got
    return [int(part[:6]) for part in seen.split(b"data:")[1:] if part[:6].isdigit() and part[6:7] == b"\n"]


def test_a_slow_reader_costs_a_bounded_amount_and_gets_everything(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    url = own.stream("slow")
    client.put(url, headers=TEXT)
    slow, fast = tail_socket(own, 4096), tail_socket(own)
    with ThreadPoolExecutor() as pool:
        quick = pool.submit(numbers_to_the_end, fast)
        # As few requests as will do: a reader that takes nothing at all is cut after 30 s.
        for number in range(60):
            client.post(url, headers=TEXT, content=b"%06d\n" % number + b"z" * 199_990 + b"\n")
        assert own.metric("streams_sse_subscribers") == 2
        assert own.metric("streams_sse_demoted_total") >= 1
        assert own.metric("streams_sse_buffered_bytes") < 3_000_000, "the slow reader's backlog is kept for it"
        client.post(url, headers={"stream-closed": "true"})
        assert quick.result() == list(range(60))
    assert numbers_to_the_end(slow) == list(range(60))
    slow.close()
    fast.close()


def test_stopping_ends_live_reads_in_a_retryable_way(own: StreamsServer, client: httpx.Client) -> None:
    own._long_poll_ms = 60_000
    own.start()
    url = own.stream("x")
    client.put(url, headers=TEXT, content=b"data")
    answers: list[httpx.Response] = []
    poll = threading.Thread(
        target=lambda: answers.append(
            httpx.get(url, params={"offset": "now", "live": "long-poll"}, trust_env=False, timeout=30)
        )
    )
    with sse(url, "-1") as reader:
        reader.until(2)
        poll.start()
        while own.metric("streams_long_polls") != 1:
            time.sleep(0.01)
        assert own.stop() == 0
        seen = reader.to_the_end()
        assert len(seen) == 2
        assert "streamClosed" not in seen[-1][1]
    poll.join(30)
    assert answers[0].status_code == 204
    assert "stream-closed" not in answers[0].headers
    assert "Traceback" not in own.log
    own.start()
    assert client.get(own.stream("x")).content == b"data"


@pytest.mark.parametrize("query", ["offset=now&live=sse", "offset=now&live=long-poll"])
def test_live_reads_of_nothing(client: httpx.Client, url: str, query: str) -> None:
    assert client.get(f"{url}?{query}").status_code == 404
