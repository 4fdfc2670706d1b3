"""The HTTP server over real sockets: framing, limits, order, and what hostile bytes get."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from switchgear_wire import (
    AnyResponse,
    BodyBroken,
    Deferred,
    FileResponse,
    FileSlice,
    HttpError,
    Limits,
    Request,
    Response,
    Server,
    StreamResponse,
    Writer,
    frame,
    header_block,
    serve,
)

Answer = Callable[[Request], AnyResponse | Deferred | Awaitable[AnyResponse]]


@asynccontextmanager
async def running(handler: Answer, **limits: float) -> AsyncIterator[Server]:
    server = await serve(handler, "127.0.0.1", 0, limits=Limits(**limits), error_headers=lambda r: b"x-mark: 1\r\n")  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


async def exchange(server: Server, data: bytes, *, close: bool = False) -> bytes:
    """Everything that the server sends until it closes (or, with `close`, until we have sent all)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def echo(request: Request) -> Response:
    return Response(200, b"", b"%b %b?%b" % (request.method.encode(), request.path, request.query))


async def test_answers_pipelined_requests_in_order() -> None:
    async def slow(request: Request) -> AnyResponse:
        await asyncio.sleep(0.05 if request.path == b"/a" else 0)
        return Response(200, b"", request.path)

    async with running(slow) as server:
        got = await exchange(
            server, b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
    assert [part.split(b"\r\n\r\n")[1] for part in got.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [b"/a", b"/b", b"/c"]


async def test_future_and_sync_answers_and_query() -> None:
    def handler(request: Request) -> AnyResponse | Awaitable[AnyResponse]:
        if request.path == b"/future":
            future: asyncio.Future[AnyResponse] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, future.set_result, Response(201))
            return future
        return echo(request)

    async with running(handler) as server:
        got = await exchange(server, b"GET /future HTTP/1.1\r\n\r\nGET /x?a=%20b HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 201 Created\r\n")
    assert got.endswith(b"GET /x?a=%20b")
    assert b"connection: close" in got


async def test_deferred_answers_keep_the_order_and_may_be_there_at_once() -> None:
    waiting: dict[bytes, Deferred] = {}

    def handler(request: Request) -> Deferred:
        found = waiting[request.path] = Deferred()
        if request.path == b"/now":
            found.settle(Response(200, b"", b"now"))
        return found

    async with running(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"".join(b"GET %b HTTP/1.1\r\nhost: h\r\n\r\n" % path for path in (b"/now", b"/a", b"/now", b"/b"))
        )
        assert (await asyncio.wait_for(reader.readuntil(b"now"), 60)).startswith(b"HTTP/1.1 200")
        await until(lambda: b"/a" in waiting)
        assert b"/b" not in waiting, "one request is handled at a time"
        waiting[b"/a"].settle(Response(200, b"", b"first"))
        found = await asyncio.wait_for(reader.readuntil(b"now"), 60)
        assert b"first" in found
        await until(lambda: b"/b" in waiting)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not server.connections)
        waiting[b"/b"].settle(Response(200, b"", b"too late"))  # nobody is there: nothing happens
    kept = Deferred()
    kept.settle(None)
    heard: list[AnyResponse | None] = []
    kept.listen(heard.append)
    kept.settle(Response(204))
    assert [answer and answer.status for answer in heard] == [204]


async def test_long_url_arrives_in_pieces() -> None:
    async with running(echo) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /" + b"p" * 70_000)
        await asyncio.sleep(0.05)
        writer.write(b"?")
        await asyncio.sleep(0.05)
        writer.write(b"q" * 70_000 + b" HTTP/1.1\r\nconnection: close\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert got.endswith(b"GET /" + b"p" * 70_000 + b"?" + b"q" * 70_000)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 10_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
)
async def test_bad_bytes_get_a_clear_answer_and_the_close(sent: bytes, status: bytes) -> None:
    async with running(lambda request: wait_body(request), max_head_bytes=4096) as server:
        got = await exchange(server, sent)
    assert got.startswith(b"HTTP/1.1 " + status), got[:100]
    assert b"x-mark: 1" in got
    assert b"connection: close" in got


async def wait_body(request: Request) -> AnyResponse:
    return Response(200, b"", await request.read(100))


async def answered(request: Request) -> AnyResponse:
    try:
        return await wait_body(request)
    except BodyBroken:
        return Response(400, b"", b"broken")


CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
SHORT = b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n"


@pytest.mark.parametrize("own", [True, False], ids=["by its handler", "by none"])
@pytest.mark.parametrize("pause", [True, False], ids=["later", "at once"])
@pytest.mark.parametrize(
    ("head", "then", "end"),
    [(CHUNKED, b"zz\r\n", False), (CHUNKED, b"5\r\nab", True), (SHORT, b"abc", True), (SHORT, b"abc", False)],
    ids=["malformed", "a chunk breaks off", "it breaks off", "it stalls"],
)
async def test_a_body_that_cannot_be_read_is_answered(
    head: bytes, then: bytes, end: bool, pause: bool, own: bool
) -> None:
    handler = answered if own else wait_body
    async with running(handler, body_stall_timeout=0.2 if then == b"abc" and not end else 60) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write((b"GET / HTTP/1.1\r\n\r\n" if pause else b"") + head)
        if pause:
            await reader.readuntil(b"200 OK")
        writer.write(then)
        if end:
            writer.write_eof()
        got = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert got.count(b"HTTP/1.1 400 ") == 1, got
    assert got.endswith(b"broken") == own
    assert b"connection: close" in got


async def test_errors_have_codes_and_no_details() -> None:
    def handler(request: Request) -> Response:
        if request.path == b"/known":
            raise HttpError(418, "TEAPOT", "short and stout", header_block((b"retry-after", b"1")))
        raise RuntimeError("secret detail")

    async with running(handler) as server:
        got = await exchange(server, b"GET /known HTTP/1.1\r\n\r\nGET /bug HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert b'{"code":"TEAPOT","message":"short and stout"}' in got
    assert b"retry-after: 1" in got
    assert b"HTTP/1.1 500" in got
    assert b"secret detail" not in got
    assert got.count(b"x-mark: 1") == 2


async def test_large_body_is_refused_before_it_is_read_and_the_client_sees_why() -> None:
    async with running(wait_body) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 5000000\r\n\r\n")
        writer.write(b"z" * 3_000_000)
        got = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert got.startswith(b"HTTP/1.1 413")


async def test_expect_continue_is_honoured_only_when_the_body_is_read() -> None:
    async def handler(request: Request) -> AnyResponse:
        if request.path == b"/no":
            raise HttpError(401, "NO", "no")
        return Response(200, b"", await request.read(10))

    async with running(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"hi")
        assert b"200 OK" in await reader.readuntil(b"hi")
        writer.write(b"POST /no HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert got.startswith(b"HTTP/1.1 401")


async def test_body_is_read_at_the_handlers_pace() -> None:
    seen: list[int] = []
    go = asyncio.Event()

    async def handler(request: Request) -> AnyResponse:
        await go.wait()
        async for chunk in request.chunks():
            seen.append(len(chunk))
        return Response(200, b"", b"%d" % sum(seen))

    async with running(handler, high_water=65_536) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 20000000\r\nconnection: close\r\n\r\n")
        writer.write(b"z" * 20_000_000)
        await asyncio.sleep(0.2)
        assert writer.transport.get_write_buffer_size() > 5_000_000, "the server took the body though nobody read it"
        go.set()
        got = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert got.endswith(b"20000000")
    assert max(seen) < 1_000_000


async def test_stream_frames_are_shared_and_end_properly() -> None:
    shared = frame(b"tick")

    def handler(request: Request) -> AnyResponse:
        def start(writer: Writer) -> None:
            writer.write_chunk(shared)
            writer.write(b"tock")
            writer.finish()

        return StreamResponse(200, b"", start)

    async with running(handler) as server:
        got = await exchange(server, b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n")
        head = await exchange(server, b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n")
    first, second = got.split(b"HTTP/1.1 200 OK")[1:]
    assert first.endswith(b"4\r\ntick\r\n4\r\ntock\r\n0\r\n\r\n")
    assert second.endswith(b"\r\n\r\nticktock")
    assert head.endswith(b"\r\n\r\n")
    assert b"tick" not in head


async def test_client_gone_is_told_once() -> None:
    events: list[str] = []

    def handler(request: Request) -> AnyResponse:
        request.on_close(lambda: events.append("request"))
        events.append("asked")
        return StreamResponse(200, b"", lambda writer: writer.on_close(lambda: events.append("writer")))

    async with running(handler) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: "asked" in events)
        writer.close()
        await until(lambda: server.connections == 0)
    events.remove("asked")
    assert sorted(events) == ["request", "writer"]


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
async def test_file_slices(tmp_path: Path, size: int) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1000) + b"m" * size + b"tail")
    fd = os.open(path, os.O_RDONLY)
    done: list[bool] = []

    def handler(request: Request) -> AnyResponse:
        return FileResponse(200, b"", [b"[", FileSlice(fd, 1000, size), b"]"], lambda: done.append(True))

    async with running(handler) as server:
        got = await exchange(server, b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    os.close(fd)
    body = b"[" + b"m" * size + b"]"
    assert got.count(body) == 2
    assert got.endswith(body)
    assert b"content-length: %d" % len(body) in got
    assert done == [True, True]


async def test_short_files_reach_a_slow_reader_whole(tmp_path: Path) -> None:
    """Many answers at once, more than the socket takes: what the kernel did not take follows in order."""
    content = bytes(range(256)) * 1000
    (tmp_path / "f").write_bytes(content)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    done: list[bool] = []

    def handler(request: Request) -> AnyResponse:
        parts: list[bytes | FileSlice] = [b"[", FileSlice(fd, 10, 60_000), b"|", FileSlice(fd, 7, 100), b"|"]
        parts += [FileSlice(fd, 100_000, 150_000), b"]"]
        return FileResponse(200, b"", parts, lambda: done.append(True))

    expected = b"[" + content[10:60_010] + b"|" + content[7:107] + b"|" + content[100_000:250_000] + b"]"
    async with running(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 20)
        await asyncio.sleep(0.2)
        for _ in range(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % len(expected) in head
            assert await reader.readexactly(len(expected)) == expected
        writer.close()
    os.close(fd)
    assert done == [True] * 20


async def test_short_files_keep_their_place_and_a_broken_one_hurts_no_other(tmp_path: Path) -> None:
    """They are sent after everything that came together is handled."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 400)
    fd = os.open(path, os.O_RDONLY)
    done: list[bytes] = []

    def handler(request: Request) -> AnyResponse:
        if request.path == b"/text":
            return Response(200, b"", request.query)
        # The gap's file ends before what is promised.
        piece = FileSlice(fd, int(request.query), 10) if request.path == b"/file" else FileSlice(fd, 100_000, 100_000)
        return FileResponse(200, b"", [b"[", piece, b"]"], lambda: done.append(request.path))

    def get(target: str, close: bool = False) -> bytes:
        return f"GET {target} HTTP/1.1\r\n{'connection: close' if close else 'a: b'}\r\n\r\n".encode()

    piped = b"".join([get("/file?0"), get("/text?a"), get("/file?10"), get("/file?20"), get("/text?b", close=True)])
    async with running(handler) as server:
        answers = [exchange(server, piped) for _ in range(20)]
        broken = [exchange(server, get("/gap") + get("/text?c")) for _ in range(3)]
        found = await asyncio.gather(*broken, *answers)
        assert not any(b"\r\n\r\nc" in one for one in found[:3])
        for got in found[3:]:
            bodies = [part.split(b"\r\n\r\n", 1)[1] for part in got.split(b"HTTP/1.1 200 OK\r\n")[1:]]
            files = [b"[" + bytes(range(start, start + 10)) + b"]" for start in (0, 10, 20)]
            assert bodies == [files[0], b"a", files[1], files[2], b"b"]
        await until(lambda: server.connections == 0)
    assert sorted(done) == [b"/file"] * 60 + [b"/gap"] * 3
    os.close(fd)


async def test_a_client_that_does_not_read_is_dropped() -> None:
    asked = asyncio.Event()

    def handler(request: Request) -> AnyResponse:
        asked.set()
        return StreamResponse(200, b"", lambda writer: [writer.write(b"x" * 1_000_000) for _ in range(20)] and None)

    async with running(handler, write_stall_timeout=1.0) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: asked.is_set() and server.connections == 0)
        writer.close()


async def test_a_client_that_asks_and_does_not_read_waits_for_its_answers() -> None:
    handled = 0

    def handler(request: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(200, b"", b"x" * 60_000)

    async with running(handler, high_water=1 << 16) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /a HTTP/1.1\r\n\r\n" * 999 + b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n")
        await until(lambda: handled > 1)
        await asyncio.sleep(0.2)
        assert handled < 700, "answers are not made for the buffer"
        assert (await asyncio.wait_for(reader.read(), 60)).count(b"HTTP/1.1 200 OK") == handled == 1000
        writer.close()


@pytest.mark.parametrize(
    ("begun", "endless"),
    [(b"0\r\n", b"t: x\r\n"), (b"0\r\n", b"t"), (b"1;x=", b"y")],
    ids=["fields", "one field", "chunk extension"],
)
async def test_what_surrounds_a_chunked_body_has_a_bound(begun: bytes, endless: bytes) -> None:
    async def read(request: Request) -> AnyResponse:
        return Response(200, b"", await request.read(10))

    async with running(read) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + begun)
        sent, more = 0, endless * (100_000 // len(endless))
        with contextlib.suppress(ConnectionError):
            while sent < 5_000_000:
                writer.write(more)
                sent += len(more)
                await asyncio.sleep(0.01)
                await writer.drain()
        assert sent < 5_000_000, "the connection is cut"
        writer.close()


async def test_trailers_are_no_headers() -> None:
    async def handler(request: Request) -> AnyResponse:
        await request.read(10)
        names = [name for name, _ in request.header_list]
        return Response(200, b"", b" ".join(sorted(request.headers) + names))

    sent = b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nauthorization: me\r\n\r\n"
    async with running(handler) as server:
        got = await exchange(server, sent + b"GET /b HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"transfer-encoding transfer-encoding",
        b"connection connection",
    ]


async def test_too_many_headers_are_refused() -> None:
    async with running(echo) as server:
        for count, status in ((500, b"200"), (501, b"431")):
            sent = b"GET /a HTTP/1.1\r\n" + b"a:\r\n" * (count - 1) + b"Connection: close\r\n\r\n"
            assert (await exchange(server, sent)).startswith(b"HTTP/1.1 " + status)


async def test_slow_heads_and_idle_connections_end() -> None:
    async with running(echo, head_timeout=1.5, idle_timeout=0.5) as server:
        slow = await exchange(server, b"GET / HTTP/1.1\r\nx")
        idle = await exchange(server, b"GET / HTTP/1.1\r\n\r\n")
    assert slow.startswith(b"HTTP/1.1 408")
    assert idle.startswith(b"HTTP/1.1 200")


async def test_time_that_the_server_stood_still_is_held_against_nobody() -> None:
    """A machine that is paused, or gives the process no processor: its clients could not be heard meanwhile."""
    asked = asyncio.Event()

    async def handler(request: Request) -> AnyResponse:
        asked.set()
        return await wait_body(request)

    async with running(handler, body_stall_timeout=2.5, head_timeout=2.5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        other_reader, other = await asyncio.open_connection("127.0.0.1", server.port)
        other.write(b"GET / HT")
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc")
        await asyncio.wait_for(asked.wait(), 60)
        time.sleep(4.0)  # noqa: ASYNC251
        await asyncio.sleep(0.1)
        writer.write(b"defghi")
        other.write(b"TP/1.1\r\n\r\n")
        for each in (reader, other_reader):
            assert (await asyncio.wait_for(each.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        other.close()


async def test_too_many_connections_are_told_so() -> None:
    async with running(echo, max_connections=1) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: server.connections == 1)
        got = await exchange(server, b"GET / HTTP/1.1\r\n\r\n")
        writer.close()
    assert got.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in got


async def test_drain_lets_work_end_and_then_closes() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> AnyResponse:
        asked.set()
        await release.wait()
        return Response(200, b"", b"done")

    async with running(handler) as server:
        busy = asyncio.create_task(exchange(server, b"GET / HTTP/1.1\r\n\r\n"))
        _, idle = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: asked.is_set() and server.connections == 2)
        draining = asyncio.create_task(server.drain(20))
        await until(lambda: server.connections == 1)
        assert not busy.done()
        release.set()
        got = await busy
        await asyncio.wait_for(draining, 60)
        idle.close()
    assert got.endswith(b"done")
    assert b"connection: close" in got


def test_header_values_cannot_split_a_response() -> None:
    with pytest.raises(ValueError, match="line break"):
        header_block((b"x", b"a\r\nset-cookie: b"))


async def test_head_of_a_stream_with_a_length_has_no_body_and_keeps_the_connection() -> None:
    def handler(request: Request) -> AnyResponse:
        def start(writer: Writer) -> None:
            writer.write(b"four")
            writer.finish()

        return StreamResponse(200, b"", start, length=4)

    async with running(handler) as server:
        got = await exchange(server, b"HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    head, body = got.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert head.endswith(b"content-length: 4\r\n\r\n")
    assert body.endswith(b"\r\n\r\nfour")
