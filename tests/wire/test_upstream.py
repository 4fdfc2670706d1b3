"""The pooled HTTP client against real sockets: reuse, retries, framing, back-pressure and servers that misbehave."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from switchgear_wire import AnyResponse, FileResponse, Limits, Request, Response, Server, StreamResponse, Writer, serve
from switchgear_wire.upstream import (
    Upstream,
    UpstreamCut,
    UpstreamProtocolError,
    UpstreamResponse,
    UpstreamTimeout,
    UpstreamUnavailable,
    request_head,
)

Answer = Callable[[Request], AnyResponse | Awaitable[AnyResponse]]
HOST = "127.0.0.1"


@asynccontextmanager
async def running(handler: Answer, **limits: float) -> AsyncIterator[Server]:
    server = await serve(handler, HOST, 0, limits=Limits(**limits))  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def client(**options: float) -> AsyncIterator[Upstream]:
    upstream = Upstream(**options)  # type: ignore[arg-type]
    try:
        yield upstream
    finally:
        upstream.close()
        await asyncio.sleep(0)


class Raw:
    """A server of raw bytes: each connection gets the next script, which says what to do with it."""

    def __init__(self, *scripts: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.scripts = list(scripts)
        self.accepted = 0
        self.port = 0
        self.server: asyncio.Server | None = None

    async def __aenter__(self) -> Raw:
        self.server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.accepted, len(self.scripts) - 1)]
        self.accepted += 1
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def says(*parts: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Answers one request with `parts`, then closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)

    return script


async def whole(response: UpstreamResponse) -> bytes:
    return b"".join([part async for part in response.chunks()])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_one_connection_carries_many_requests() -> None:
    peers = set()

    def handler(request: Request) -> Response:
        peers.add(id(request._source))
        return Response(200, b"x-got: %b\r\n" % request.headers.get(b"x-a", b"-"), request.method.encode())

    async with running(handler) as server, client() as upstream:
        for method in ("GET", "POST", "HEAD", "PUT", "HEAD", "DELETE"):
            response = await upstream.request(HOST, server.port, method, b"/p?q=1", [(b"host", b"h"), (b"x-a", b"1")])
            assert response.status == 200
            assert response.reason == b"OK"
            assert (b"x-got", b"1") in response.headers
            assert await whole(response) == (b"" if method == "HEAD" else method.encode())
            assert response.content_length == len(method)
        assert len(peers) == 1
        assert (upstream.connections, upstream.idle) == (1, 1)


async def test_small_answer_is_whole_at_once() -> None:
    async with running(lambda r: Response(200, b"", b"abc")) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [(b"host", b"h")])
        assert response.body_now() == b"abc"


async def test_bodies_go_up_with_their_length_or_in_chunks() -> None:
    async def handler(request: Request) -> Response:
        framing = request.headers.get(b"transfer-encoding", b"") + b"|" + request.headers.get(b"content-length", b"")
        return Response(200, b"", framing + b"|" + await request.read(10_000))

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"ab", b"", b"cd"):
            await asyncio.sleep(0)
            yield piece

    async with running(handler) as server, client() as upstream:
        for body, length, expected in (
            (b"abcd", None, b"|4|abcd"),
            (pieces(), 4, b"|4|abcd"),
            (pieces(), None, b"chunked||abcd"),
            (b"", None, b"|0|"),
            (None, None, b"||"),
        ):
            response = await upstream.request(
                HOST,
                server.port,
                "POST",
                b"/",
                [(b"host", b"h")],
                body,  # type: ignore[arg-type]
                content_length=length,
            )
            assert await whole(response) == expected
        assert upstream.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(status: int) -> None:
    head = b"HTTP/1.1 %d X\r\netag: a\r\n\r\n" % status
    async with Raw(says(head)) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        assert (response.status, response.body_now()) == (status, b"")


async def test_interim_answers_are_skipped() -> None:
    parts = (
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"content-length: 1\r\n\r\nz",
    )
    async with Raw(says(*parts)) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        assert (response.status, response.headers) == (200, [(b"content-length", b"1")])
        assert await whole(response) == b"z"


async def test_safe_requests_survive_a_connection_that_the_server_dropped() -> None:
    async def once_then_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")
        await reader.readuntil(b"\r\n\r\n")  # takes the second request, and dies with it

    async with (
        Raw(once_then_silent, says(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2")) as server,
        client() as upstream,
    ):
        first = await upstream.request(HOST, server.port, "GET", b"/", [])
        assert await whole(first) == b"1"
        second = await upstream.request(HOST, server.port, "GET", b"/", [])
        assert await whole(second) == b"2"
        assert server.accepted == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_request_with_an_effect_is_never_sent_twice(method: str) -> None:
    async def once_then_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")
        await reader.readuntil(b"\r\n\r\n")

    async with Raw(once_then_silent) as server, client() as upstream:
        assert await whole(await upstream.request(HOST, server.port, "GET", b"/", [])) == b"1"
        with pytest.raises(UpstreamUnavailable) as caught:
            await upstream.request(HOST, server.port, method, b"/", [], b"body")
        assert caught.value.sent
        assert server.accepted == 1


async def test_a_dead_idle_connection_is_noticed_before_an_unsafe_request() -> None:
    """The close is in the kernel, but the loop has not run since: only a look at the socket can tell."""
    writers: list[asyncio.StreamWriter] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")
        await reader.read()

    async with Raw(script) as server, client() as upstream:
        assert await whole(await upstream.request(HOST, server.port, "POST", b"/", [], b"")) == b"1"
        writers[0].transport.abort()  # closes in the loop's next round, before the client's reader runs
        await asyncio.sleep(0)
        response = await upstream.request(HOST, server.port, "POST", b"/", [], b"")
        assert await whole(response) == b"1"
        assert server.accepted == 2


async def test_nothing_listens() -> None:
    async with Raw(says()) as server:
        port = server.port
    async with client() as upstream:
        with pytest.raises(UpstreamUnavailable) as caught:
            await upstream.request(HOST, port, "POST", b"/", [], b"x")
        assert not caught.value.sent
        assert upstream.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno length, ended by the close",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000,
    ],
)
async def test_no_valid_answer(answer: bytes) -> None:
    async with Raw(says(answer)) as server, client() as upstream:
        with pytest.raises(UpstreamProtocolError):
            await upstream.request(HOST, server.port, "GET", b"/", [])
        assert upstream.connections == 0


@pytest.mark.parametrize(
    "framing", [b"content-length: 10\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_a_cut_body_is_an_error(framing: bytes) -> None:
    async with Raw(says(b"HTTP/1.1 200 OK\r\n" + framing)) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        got = b""
        with pytest.raises(UpstreamCut):
            async for part in response.chunks():
                got += part
        assert got == b"abc"


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    extra = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(extra)
        await asyncio.sleep(0.05)
        writer.write(extra)
        await reader.read()

    async with Raw(script) as server, client() as upstream:
        assert await whole(await upstream.request(HOST, server.port, "GET", b"/", [])) == b"1"
        await until(lambda: upstream.connections == 0)


async def test_head_and_body_have_deadlines() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
        await reader.read()

    async with Raw(silent, half) as server, client() as upstream:
        with pytest.raises(UpstreamTimeout):
            await upstream.request(HOST, server.port, "GET", b"/", [], head_timeout=0.2)
        response = await upstream.request(HOST, server.port, "GET", b"/", [], body_timeout=0.2)
        with pytest.raises(UpstreamCut):
            await whole(response)


async def test_idle_connections_go_and_are_bounded() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return Response(200, b"", b"x")

    async with running(handler) as server, client(max_idle_per_host=3, idle_timeout=2) as upstream:
        waiting = [asyncio.ensure_future(upstream.request(HOST, server.port, "GET", b"/", [])) for _ in range(8)]
        await until(lambda: server.connections == 8)
        gate.set()
        for response in await asyncio.gather(*waiting):
            assert await whole(response) == b"x"
        assert upstream.idle == 3
        await until(lambda: upstream.idle == 0 and upstream.connections == 0 and server.connections == 0)


async def test_cancelling_closes_the_connection() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Response:
        request.on_close(gone.set)
        asked.set()
        await asyncio.sleep(30)
        return Response(200)

    async with running(handler) as server, client() as upstream:
        task = asyncio.ensure_future(upstream.request(HOST, server.port, "GET", b"/", []))
        await asyncio.wait_for(asked.wait(), 60)
        task.cancel()
        await asyncio.wait_for(gone.wait(), 60)
        assert upstream.connections == 0


async def test_aborting_a_body_closes_the_connection() -> None:
    gone = asyncio.Event()

    def start(writer: Writer) -> None:
        writer.write(b"first")
        writer.on_close(gone.set)

    async with running(lambda r: StreamResponse(200, b"", start)) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        assert await anext(response.chunks()) == b"first"
        response.abort()
        await asyncio.wait_for(gone.wait(), 60)
        assert upstream.connections == 0


async def test_a_slow_reader_stops_the_server() -> None:
    sent = 0

    def start(writer: Writer) -> None:
        async def produce() -> None:
            nonlocal sent
            for _ in range(640):
                writer.write(b"x" * 65_536)
                sent += 65_536
                await writer.drain()
            writer.finish()

        tasks.append(asyncio.ensure_future(produce()))

    tasks: list[asyncio.Future[None]] = []
    async with running(lambda r: StreamResponse(200, b"", start)) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        await asyncio.sleep(0.5)
        before = sent
        assert before < 20_000_000  # the sockets' own buffers, and ours
        assert len(await whole(response)) == 640 * 65_536
        assert upstream.idle == 1


async def test_a_slow_server_stops_the_sender() -> None:
    gate = asyncio.Event()
    given = 0

    async def handler(request: Request) -> Response:
        await gate.wait()
        size = 0
        async for part in request.chunks():
            size += len(part)
        return Response(200, b"", b"%d" % size)

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(640):
            given += 65_536
            yield b"y" * 65_536

    async with running(handler) as server, client() as upstream:
        task = asyncio.ensure_future(upstream.request(HOST, server.port, "POST", b"/", [], source()))
        await asyncio.sleep(0.5)
        assert given < 20_000_000
        gate.set()
        assert await whole(await task) == b"%d" % (640 * 65_536)


async def test_an_early_answer_ends_the_upload() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"z" * 65_536
            await asyncio.sleep(0)

    async with running(lambda r: Response(413, b"", b"too much")) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "POST", b"/", [], endless())
        assert response.status == 413
        assert await whole(response) == b"too much"
        assert upstream.connections == 0


async def test_a_connection_is_lost_only_once(caplog: pytest.LogCaptureFixture) -> None:
    """An early answer while much of the request still waits to be sent, then the server's close: however the two meet,
    asyncio must have nothing to complain about."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(256):
            yield b"z" * 65_536

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)  # until the sender's socket is full
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 1\r\n\r\n1")
        await asyncio.sleep(0.05)
        await reader.read()

    async with Raw(early) as server, client() as upstream:
        for _ in range(3):
            response = await upstream.request(HOST, server.port, "POST", b"/", [], pieces())
            assert await whole(response) == b"1"
            response.abort()
        await until(lambda: upstream.connections == 0)
        await asyncio.sleep(0.5)
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_failing_source_cuts_the_request() -> None:
    seen: list[str] = []

    async def handler(request: Request) -> Response:
        try:
            await request.read(1_000_000)
            seen.append("whole")
        except Exception as error:
            seen.append(type(error).__name__)
        return Response(200)

    async def failing() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.sleep(0.05)
        raise RuntimeError("the source broke")

    async with running(handler) as server, client() as upstream:
        with pytest.raises(RuntimeError, match="the source broke"):
            await upstream.request(HOST, server.port, "POST", b"/", [], failing())
        await until(lambda: bool(seen))
        assert seen == ["BodyBroken"]


async def test_large_bodies_pass_in_bounded_memory() -> None:
    def start(writer: Writer) -> None:
        async def produce() -> None:
            for _ in range(1600):
                writer.write(b"x" * 65_536)
                await writer.drain()
            writer.finish()

        tasks.append(asyncio.ensure_future(produce()))

    tasks: list[asyncio.Future[None]] = []
    async with running(lambda r: StreamResponse(200, b"", start, length=1600 * 65_536)) as server, client() as upstream:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        size = 0
        async for part in response.chunks():
            size += len(part)
        assert size == 1600 * 65_536
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000


async def test_pipe_hands_on_each_piece_and_one_end() -> None:
    def start(writer: Writer) -> None:
        async def produce() -> None:
            for part in (b"a", b"b", b"c"):
                writer.write(part)
                await asyncio.sleep(0.02)
            writer.finish()

        tasks.append(asyncio.ensure_future(produce()))

    tasks: list[asyncio.Future[None]] = []
    async with running(lambda r: StreamResponse(200, b"", start)) as server, client() as upstream:
        response = await upstream.request(HOST, server.port, "GET", b"/", [])
        got: list[bytes] = []
        ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        response.pipe(got.append, ended.set_result)
        assert await asyncio.wait_for(ended, 60) is None
        assert b"".join(got) == b"abc"


async def test_head_of_a_file_keeps_its_length() -> None:
    async with running(lambda r: FileResponse(200, b"", [b"12345"])) as server, client() as upstream:
        for _ in range(2):
            response = await upstream.request(HOST, server.port, "HEAD", b"/", [])
            assert (response.content_length, response.body_now()) == (5, b"")


@pytest.mark.parametrize("name,value", [(b"x", b"a\r\nb: c"), (b"x\n", b"a"), (b"x", b"a\0")])
def test_no_header_can_split_a_request(name: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", b"/", [(name, value)], None, False)


def test_no_target_can_split_a_request() -> None:
    with pytest.raises(ValueError, match="space"):
        request_head("GET", b"/ HTTP/1.1", [], None, False)
