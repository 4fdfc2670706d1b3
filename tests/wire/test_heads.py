"""Remembered header fields: the same bytes, however they are cut, give the same requests and answers as without."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import switchgear_edge
from switchgear_wire import AnyResponse, BodyBroken, Limits, Request, Response, Server
from switchgear_wire import heads as heads_module
from switchgear_wire.connection import Connection
from switchgear_wire.heads import MAX_FIELDS, MAX_RECEIVED, PATIENCE, Heads, plain

LINES = (
    b"GET /a HTTP/1.1\r\n",
    b"POST /a?offset=1_2&live=true HTTP/1.1\r\n",
    b"HEAD /b/%20c HTTP/1.1\r\n",
    b"PUT /b HTTP/1.0\r\n",
    b"DELETE http://other/x HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"POST  /a HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\n",
    b"POST /a#b HTTP/1.1\r\n",
    b'GET /a"<\\^`{|}>?"x HTTP/1.1\r\n',
    b"GET /\xc3\xa4 HTTP/1.1\r\n",
    b"get /a HTTP/1.1\r\n",
    b"GET /a HTTP/2.0\r\n",
    b"GET /a\r\n",
    b"GET /%b HTTP/1.1\r\n" % (b"p" * 180),
    b"GET /wait HTTP/1.1\r\n",
    b"",
)
LONG, WAIT = LINES[-3:-1]
FIELDS = (
    b"host: h\r\n\r\n",
    b"\r\n",
    b"Host: h\r\nX-A: 1\r\nx-a: 2\r\nCookie: a=b\r\ncookie: c\r\n\r\n",
    b"host: h\r\ncontent-length: 5\r\ncontent-type: text/plain\r\n\r\n",
    b"host: h\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n",
    b"content-length: 005\r\n\r\n",
    b"content-length: 5\r\ncontent-length: 5\r\n\r\n",
    b"content-length: x\r\n\r\n",
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n",
    b"transfer-encoding: gzip\r\n\r\n",
    b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n",
    b"connection: close\r\ncontent-length: 5\r\n\r\n",
    b"Connection: close\r\n\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\n",
    b"host: a\r\nhost: b\r\n\r\n",
    b"host: h\n\n\r\n\r\n",
    b"host: h\r\n folded\r\n\r\n",
    b"host: h\r\n\r\r\n\r\n",
    b"no colon\r\n\r\n",
    b"x: \0\r\n\r\n",
    b": y\r\n\r\n",
    b"x: %b\r\n\r\n" % (b"y" * 400),
    b"x: %b\r\n\r\n" % (b"y" * 150),
    b"".join(b"x%d: y\r\n" % number for number in range(12)) + b"\r\n",
)
BODIES = (
    b"",
    b"12345",
    b"1234",
    b"5\r\n12345\r\n0\r\n\r\n",
    b"5\r\n12345\r\n0\r\nx: y\r\n\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"GET ",
)
LIMITS = Limits(max_head_bytes=300, max_headers=10)

MESSAGE = st.tuples(st.sampled_from(LINES), st.sampled_from(FIELDS), st.sampled_from(BODIES)).map(b"".join)
ORDINARY = (
    LINES[0] + FIELDS[0],
    LINES[1] + FIELDS[3] + b"12345",
    LINES[1] + FIELDS[4],
    LINES[2] + FIELDS[2],
    LINES[0] + FIELDS[1],
    LINES[0] + FIELDS[24],
)
SENT = st.lists(st.sampled_from(ORDINARY) | MESSAGE, min_size=1, max_size=5).map(b"".join)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """What a client sends, as it arrives. Sometimes a byte of it is another one."""
    sent = draw(SENT)
    if draw(st.integers(0, 3)) == 0 and sent:
        at = draw(st.integers(0, len(sent) - 1))
        sent = sent[:at] + draw(st.sampled_from((b"", b"\r", b"\n", b" ", b"\0", b"a", b":"))) + sent[at + 1 :]
    cuts = sorted({0, len(sent), *draw(st.lists(st.integers(0, len(sent)), max_size=4))})
    return [sent[start:end] for start, end in pairwise(cuts)]


@dataclass
class Wire:
    """A transport without a socket. What happens to it is noted."""

    protocol: Connection
    happened: list[Any] = field(default_factory=list)
    closing: bool = False
    paused: bool = False

    def write(self, data: bytes) -> None:
        self.happened.append(("sent", re.sub(rb"date: [^\r]*\r\n", b"", bytes(data))))

    def write_eof(self) -> None:
        self.happened.append("eof")

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.happened.append("closed")
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)


def server(handled: list[Any], remember: bool) -> Server:
    """One that answers with what it was asked, and notes it."""

    def told(request: Request, body: bytes | str) -> Response:
        handled.append(
            (
                (request.method, request.path, request.query, request.http10, request.keep_alive, request.peer),
                (dict(request.headers), list(request.header_list), request.content_length, request.has_body),
                body,
            )
        )
        return Response(204 if request.method == "DELETE" else 200, b"", repr(handled[-1]).encode())

    async def slowly(request: Request) -> AnyResponse:
        try:
            for _ in range(20 if request.path == b"/wait" else 0):
                await asyncio.sleep(0)
            return told(request, await request.read(1000))
        except BodyBroken:
            return told(request, "broken")

    def handle(request: Request) -> AnyResponse | Awaitable[AnyResponse]:
        body = request.body_now() if request.query or request.path == b"/a" else None
        return slowly(request) if body is None else told(request, body)

    return Server(handle, LIMITS, lambda request: b"x-mark: 1\r\n", remember_heads=remember)


async def converse(to: Server, handled: list[Any], sent: list[bytes]) -> list[Any]:
    """One connection: everything that is to be seen of it."""
    handled.clear()
    made = Connection(to)
    wire = Wire(made)
    made.connection_made(cast("asyncio.Transport", wire))
    for piece in sent:
        if wire.closing:
            break
        made.get_buffer(-1)[: len(piece)] = piece
        made.buffer_updated(len(piece))
        wire.happened.append(("heard", len(handled), wire.paused))
        for _ in range(6):
            await asyncio.sleep(0)
    for _ in range(300):
        if wire.closing or made.idle:
            break
        await asyncio.sleep(0)
    wire.happened.append(("waits", made.idle, made.deadline > 0))
    wire.close()
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}  # what still works on an answer for nobody
    if others:
        await asyncio.wait(others)
    return [*wire.happened, *handled]


async def differences(sent: list[bytes], times: int = 3) -> None:
    handled: list[Any] = []
    expected = await converse(server(handled, False), handled, sent)
    remembering = server(handled, True)
    for one in 2 * ORDINARY:
        await converse(remembering, handled, [one])
    assert remembering.heads is not None and len(remembering.heads.recent) == len(ORDINARY)
    for _ in range(times):
        assert await converse(remembering, handled, sent) == expected


@settings(max_examples=200, deadline=None)
@given(pieces())
@example([LINES[1] + FIELDS[3] + b"12345"] * 4)
@example([b"\r\n\r\n" + LINES[0] + FIELDS[0], LINES[0] + FIELDS[0]])
@example([LINES[0] + FIELDS[13], LINES[0] + FIELDS[0]])
@example([LINES[0] + FIELDS[14], LINES[0] + FIELDS[0], LINES[0] + FIELDS[0]])
@example([LINES[1] + FIELDS[11], b"12345", LINES[1] + FIELDS[11] + b"12345"])
@example([LINES[1] + FIELDS[3] + b"12", b"345" + LINES[0] + FIELDS[0]])
@example([LINES[0] + FIELDS[0] + b"GE", b"T /a HTTP/1.1\r\n\r\n"])
@example([LINES[1] + FIELDS[4] + b"12345"])
@example([LINES[1] + FIELDS[3] + b"12345"] * 8)
@example([LINES[0] + FIELDS[24], LONG + FIELDS[24]])
@example([LINES[0] + FIELDS[0], LINES[1] + b"content-length: 28\r\n\r\n", LINES[0] + FIELDS[0]])
@example([LINES[0] + FIELDS[0], WAIT + FIELDS[13], LINES[0] + FIELDS[0]])
@example([LINES[0] + FIELDS[0], WAIT + FIELDS[14], LINES[0] + FIELDS[0]])
@example([LINES[0] + FIELDS[0], WAIT + FIELDS[0], LINES[0] + FIELDS[0] + LINES[0] + FIELDS[0]])
def test_the_same_bytes_get_the_same_answers(sent: list[bytes]) -> None:
    asyncio.run(differences(sent))


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("line", LINES)
async def test_every_head_behind_ones_that_are_remembered(line: bytes, fields: bytes) -> None:
    """Each of them three times on connections that have remembered others, with and without the body it speaks of."""
    for body in BODIES[:4]:
        message = line + fields + body
        await differences([LINES[0] + FIELDS[0], message, LINES[1] + FIELDS[3] + b"12345" + message, message], 3)


async def count(sent: bytes) -> list[int]:
    """How many bytes the parser gets, time by time."""
    handled: list[Any] = []
    to, fed = server(handled, True), []
    for _ in range(5):
        made = Connection(to)
        made.connection_made(cast("asyncio.Transport", Wire(made)))
        parser, got = made._parser, [0]

        class Counting:
            def feed_data(self, data: bytes, parser: Any = parser, got: list[int] = got) -> None:
                got[0] += len(data)
                parser.feed_data(data)

            def __getattr__(self, name: str, parser: Any = parser) -> Any:
                return getattr(parser, name)

        made._parser = cast("Any", Counting())
        made.get_buffer(-1)[: len(sent)] = sent
        made.buffer_updated(len(sent))
        fed.append(got[0])
    return fed


async def test_what_comes_again_passes_by_the_parser() -> None:
    one = LINES[1] + FIELDS[3] + b"12345"
    assert await count(one) == [len(one), len(one), 0, 0, 0]
    three = LINES[0] + FIELDS[0] + one + LINES[2] + FIELDS[0]
    assert (await count(three))[-1] == 0


@pytest.mark.parametrize("fields", [*FIELDS[8:17], b"x: %b\r\n\r\n" % (b"y" * MAX_FIELDS)])
async def test_what_frames_a_message_otherwise_always_goes_to_the_parser(
    fields: bytes,
) -> None:
    sent = LINES[0] + fields
    assert await count(sent) == [len(sent)] * 5


async def test_a_connection_whose_fields_are_always_new_is_seldom_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []
    find = Heads.find

    def noted(held: Heads, raw: bytes) -> Any:
        looked.append(raw)
        return find(held, raw)

    monkeypatch.setattr(Heads, "find", noted)
    handled: list[Any] = []
    to = server(handled, True)
    made = Connection(to)
    made.connection_made(cast("asyncio.Transport", Wire(made)))
    for number in range(10 * PATIENCE):
        made._receive(memoryview(LINES[0] + b"x: %d\r\n\r\n" % number))
    assert len(handled) == 10 * PATIENCE
    assert PATIENCE <= len(looked) <= PATIENCE + 10
    for _ in range(4 * PATIENCE):  # the same again and again is found out, and from then on all is looked at
        made._receive(memoryview(LINES[0] + FIELDS[0]))
    assert len(handled) == 14 * PATIENCE
    assert made._misses == 0


async def test_a_large_receipt_goes_to_the_parser() -> None:
    sent = (LINES[0] + FIELDS[0]) * (MAX_RECEIVED // len(LINES[0] + FIELDS[0]) + 1)
    assert await count(sent) == [len(sent)] * 5


async def test_nobody_can_change_what_others_get() -> None:
    seen: list[Request] = []

    def handle(request: Request) -> Response:
        seen.append(request)
        request.keep_alive = True
        return Response(200)

    to = Server(handle, Limits(), lambda request: b"", remember_heads=True)
    for _ in range(4):
        made = Connection(to)
        made.connection_made(cast("asyncio.Transport", Wire(made)))
        made._receive(memoryview(LINES[0] + FIELDS[0]))
    first, second = seen[-2:]
    assert first is not second and first.headers is second.headers
    second.headers = {}
    assert first.headers == {b"host": b"h"}


def test_a_request_line_is_plain_or_the_parser_s() -> None:
    assert plain(b"GET /a/b?c=d HTTP/1.1") == ("GET", b"/a/b", b"c=d")
    assert plain(b"POST /a? HTTP/1.1") == ("POST", b"/a", b"")
    assert plain(b"GET /a?b?c HTTP/1.1") == ("GET", b"/a", b"b?c")
    for other in (
        b"GET",
        b"GET /a",
        b"GET /a HTTP/1.0",
        b"GET  /a HTTP/1.1",
        b"GET a HTTP/1.1",
        b"",
        b"GET /a\r HTTP/1.1",
    ):
        assert plain(other) is None


def made_of(**headers: str) -> Request:
    request = Request(cast("Any", None), "")
    request.headers = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return request


def test_only_ordinary_messages_are_remembered() -> None:
    held, last, old = Heads(), made_of(), made_of()
    last.keep_alive, old.http10 = False, True
    framed = [made_of(transfer_encoding="chunked"), made_of(upgrade="h2c"), made_of(expect="100-continue")]
    for request in (last, old, *framed):
        held.remember(b"x", request)
        assert held.find(b"x") is None
    held.remember(b"x", made_of(host="h"))
    assert held.find(b"x") is not None


def test_what_is_remembered_has_a_bound_and_an_age() -> None:
    most = heads_module._MOST
    held = Heads()
    for number in range(10 * most):
        held.remember(b"%d" % number, made_of())
        assert held.find(b"0") is not None, "what is asked for again and again stays"
        assert len(held.recent) <= most and len(held._old) <= most
    assert len(held.recent) + len(held._old) >= most
    for number in range(10 * most):
        held.due(b"%d" % number)
    assert len(held._seen) <= 2 * most
    held.sweep(1e6)
    assert held.find(b"0") is not None
    held.sweep(1e6 + 30)
    held.sweep(1e6 + 61)
    held.sweep(1e6 + 122)
    assert held.find(b"0") is None
    assert not held.recent and not held._old and not held._seen


def test_only_what_comes_again_is_remembered() -> None:
    held = Heads()
    assert not held.due(b"a")
    assert not held.due(b"b")
    assert held.due(b"a")
    assert not held.due(b"x" * (MAX_FIELDS + 1)) and not held.due(b"x" * (MAX_FIELDS + 1))


def test_the_edge_remembers_nothing() -> None:
    """It must know of a service's secret nothing but the hash."""
    files = list(Path(switchgear_edge.__file__).parent.rglob("*.py"))
    assert files and all("remember_heads" not in file.read_text() for file in files)
