"""What passes between client and pod, in both directions and at whose pace: a real edge, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import httpx
import pytest

from switchgear_model import kinds
from switchgear_wire import (
    AnyResponse,
    ClientGone,
    FileResponse,
    Request,
    Response,
    StreamResponse,
    Writer,
    header_block,
)
from tests.edge.world import HOST, EdgeProcess, Pod, Service, World, code, raw, start_pod, until

EVENTS = header_block((b"content-type", b"text/event-stream"), (b"stream-cursor", b"7"))
tasks: list[asyncio.Future[None]] = []


async def served(edge: EdgeProcess, world: World, kind: str = kinds.STREAMS_SERVICE) -> tuple[Service, Pod]:
    pod = await start_pod()
    service = world.service(kind)
    world.pod(service, pod.port)
    await asyncio.to_thread(edge.wait_route, service)
    return service, pod


def producing(
    produce: Callable[[Writer], AsyncIterator[None]], headers: bytes = b"", length: int | None = None
) -> StreamResponse:
    """A body that a generator writes; it ends with the generator."""

    def start(writer: Writer) -> None:
        async def run() -> None:
            with contextlib.suppress(ClientGone):
                async for _ in produce(writer):
                    pass
                writer.finish()

        tasks.append(asyncio.ensure_future(run()))

    return StreamResponse(200, headers, start, length)


def peak(edge: EdgeProcess) -> int:
    """The edge's highest resident memory so far, bytes."""
    lines = Path(f"/proc/{edge.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


async def test_bytes_pass_unchanged_but_for_the_secret(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)
    sid, secret = service.service_id.encode(), service.secret.encode()
    await raw(
        edge.port,
        b"POST /v1/streams/" + sid + b"/a%2Fb//c%20?x=%41+b&secret=" + secret + b"&&y&tok%65n=" + secret + b"&z=%C3%A4"
        b"&api_secret=" + secret + b" HTTP/1.1\r\nHost: api.example.test\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
        b"Authorization: Bearer "
        + secret
        + b"\r\nCookie: s="
        + secret
        + b"\r\nReferer: http://x/?secret="
        + secret
        + b"\r\nX-Request-Id: r1\r\nStream-Seq: 5\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 3\r\n\r\nabc",
    )
    (seen,) = pod.seen
    assert seen.path == b"/v1/stream/" + sid + b"/a%2Fb//c%20"
    assert seen.query == b"x=%41+b&y&z=%C3%A4"
    assert secret not in repr(seen).encode()
    assert dict(seen.headers) == {
        b"x-request-id": b"r1",
        b"stream-seq": b"5",
        b"content-type": b"text/plain",
        b"content-length": b"3",
        b"host": b"api.example.test",
        b"authorization": b"Bearer " + service.pod_key.encode(),
        b"x-forwarded-for": b"127.0.0.1",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"api.example.test",
    }


async def test_answers_pass_with_their_headers(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    service, pod = await served(edge, world)
    sent = (
        (b"etag", b'"1:2"'),
        (b"cache-control", b"public, max-age=5"),
        (b"stream-next-offset", b"3"),
        (b"set-x", b"1"),
        (b"set-x", b"2"),
        (b"access-control-allow-origin", b"https://pod"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
    )
    pod.answer = lambda r: Response(201, header_block(*sent), b"body")
    answer = await client.put(f"/v1/stream/{service.service_id}/a", headers=service.bearer)
    assert (answer.status_code, answer.content) == (201, b"body")
    for name, value in sent[:6]:
        assert (name, value) in answer.headers.raw
    assert "x-hop" not in answer.headers
    assert answer.headers.get_list("access-control-allow-origin") == ["https://pod"]
    assert answer.headers.get_list("date") and len(answer.headers.get_list("date")) == 1


@pytest.mark.parametrize("status", [200, 204, 304, 400, 409, 500])
async def test_statuses_and_methods(edge: EdgeProcess, world: World, client: httpx.AsyncClient, status: int) -> None:
    service, pod = await served(edge, world)

    async def answer(request: Request) -> Response:
        return Response(status, b"x-method: %b\r\n" % request.method.encode(), await request.read(1000))

    pod.answer = answer
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
        body = b"sent" if method in ("POST", "PUT", "PATCH") else b""
        got = await client.request(method, f"/v1/stream/{service.service_id}/a", headers=service.bearer, content=body)
        assert (got.status_code, got.headers["x-method"]) == (status, method)
        assert got.content == (b"" if status in (204, 304) else body)
    assert edge.metrics()


async def test_head_keeps_the_length(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    service, pod = await served(edge, world, kinds.SYNC_SOURCE)
    pod.answer = lambda r: FileResponse(200, b"etag: 1\r\n", [b"x" * 12345])
    for _ in range(2):
        answer = await client.head(service.shape())
        assert (answer.headers["content-length"], answer.headers["etag"], answer.content) == ("12345", "1", b"")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_uploads_keep_their_framing(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, framing: str
) -> None:
    service, pod = await served(edge, world)

    async def answer(request: Request) -> Response:
        return Response(200, b"", await request.read(10_000_000))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"0123456789" * 10_000
            await asyncio.sleep(0.002)

    pod.answer = answer
    headers = service.bearer | ({"Content-Length": "2000000"} if framing == "length" else {})
    got = await client.post(f"/v1/stream/{service.service_id}/a", headers=headers, content=pieces())
    assert got.content == b"0123456789" * 200_000
    seen = pod.seen[0]
    if framing == "length":
        assert (seen.get(b"content-length"), seen.get(b"transfer-encoding")) == (b"2000000", None)
    else:
        assert (seen.get(b"content-length"), seen.get(b"transfer-encoding")) == (None, b"chunked")


async def test_events_are_passed_on_at_once(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    """The pod sends each event only when the client has the one before: nothing may wait for more."""
    service, pod = await served(edge, world)
    have = asyncio.Queue[None]()

    async def events(writer: Writer) -> AsyncIterator[None]:
        for number in range(5):
            writer.write(b"data: %d\n\n" % number)
            await have.get()
            yield

    pod.answer = lambda r: producing(events, EVENTS)
    url = f"/v1/stream/{service.service_id}/a?live=sse&offset=now"
    async with client.stream("GET", url, headers=service.bearer) as answer:
        assert (answer.headers["content-type"], answer.headers["stream-cursor"]) == ("text/event-stream", "7")
        got = b""
        async with asyncio.timeout(60):
            async for part in answer.aiter_raw():
                got += part
                if got.endswith(b"\n\n"):
                    have.put_nowait(None)
    assert got == b"".join(b"data: %d\n\n" % n for n in range(5))


async def test_a_long_poll_waits_for_its_answer(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    service, pod = await served(edge, world, kinds.SYNC_SOURCE)
    gate = asyncio.Event()

    async def answer(request: Request) -> Response:
        await gate.wait()
        return Response(200, b"electric-up-to-date: \r\n", b"[]")

    pod.answer = answer
    waiting = asyncio.ensure_future(client.get(service.shape("table=t&offset=0_0&handle=h&live=true")))
    await until(lambda: len(pod.seen) == 1)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    gate.set()
    assert (await waiting).content == b"[]"


async def leave(asked: Coroutine[object, object, httpx.Response], when: Callable[[], bool]) -> None:
    """Begin a request, and close its connection once `when` holds."""
    task = asyncio.ensure_future(asked)
    await until(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_leaves_ends_the_work_at_the_pod(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient
) -> None:
    service, pod = await served(edge, world)

    async def silence(writer: Writer) -> AsyncIterator[None]:
        writer.write(b"data: 1\n\n")
        await asyncio.sleep(60)
        yield

    async def never(request: Request) -> Response:
        await asyncio.sleep(60)
        return Response(200)

    url = f"/v1/stream/{service.service_id}/a"
    pod.answer = never
    await leave(client.get(url, headers=service.bearer), lambda: len(pod.seen) == 1)
    await until(lambda: pod.gone == 1)
    pod.answer = lambda r: producing(silence, EVENTS)
    async with client.stream("GET", url, headers=service.bearer) as answer:
        await anext(answer.aiter_raw())
    await until(lambda: pod.gone == 2)

    async def slow_upload() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(60)

    broken: list[BaseException] = []

    async def reading(request: Request) -> Response:
        try:
            await request.read(1000)
        except ClientGone as error:
            broken.append(error)
            raise
        return Response(200)

    pod.answer = reading
    await leave(client.post(url, headers=service.bearer, content=slow_upload()), lambda: len(pod.seen) == 3)
    await until(lambda: len(broken) == 1)
    await until(lambda: "switchgear_edge_requests_running 0\n" in edge.metrics())


async def half(writer: Writer) -> AsyncIterator[None]:
    """A body that breaks off."""
    writer.write(b"half")
    await asyncio.sleep(0.1)
    writer.abort()
    yield


@pytest.mark.parametrize("length", [None, 100_000])
async def test_a_body_that_the_pod_cuts_is_cut_for_the_client(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, length: int | None
) -> None:
    service, pod = await served(edge, world)

    pod.answer = lambda r: producing(half, b"", length)
    got = b""
    with pytest.raises(httpx.HTTPError):
        async with client.stream("GET", f"/v1/stream/{service.service_id}/a", headers=service.bearer) as answer:
            async for part in answer.aiter_raw():
                got += part
    assert got == b"half"
    assert service.secret not in edge.log


@pytest.mark.parametrize(
    ("method", "status", "code"), [("GET", 503, "SERVICE_UNAVAILABLE"), ("POST", 502, "OUTCOME_UNKNOWN")]
)
async def test_a_small_body_that_the_pod_cuts_is_an_error(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, method: str, status: int, code: str
) -> None:
    """Electric's client tries again after an error, and gives up after half a body."""
    service, pod = await served(edge, world)

    pod.answer = lambda r: producing(half, b"", 1000)
    answer = await client.request(method, f"/v1/stream/{service.service_id}/a", headers=service.bearer)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_small_body_that_comes_in_pieces(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    service, pod = await served(edge, world)
    part = b"x" * 16_384

    async def slowly(writer: Writer) -> AsyncIterator[None]:
        for _ in range(4):
            writer.write(part)
            await asyncio.sleep(0.02)
            yield

    pod.answer = lambda r: producing(slowly, b"", 4 * len(part))
    url = f"/v1/stream/{service.service_id}/a"
    assert (await client.get(url, headers=service.bearer)).content == 4 * part
    await leave(client.get(url, headers=service.bearer), lambda: len(pod.seen) == 2)
    await until(lambda: "switchgear_edge_requests_running 0\n" in edge.metrics())


async def test_large_bodies_in_bounded_memory(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    service, pod = await served(edge, world)
    size, part = 64 * 1_048_576, b"x" * 65_536

    async def download(writer: Writer) -> AsyncIterator[None]:
        for _ in range(size // len(part)):
            writer.write(part)
            await writer.drain()
            yield

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(size // len(part)):
            yield part

    async def count(request: Request) -> Response:
        total = 0
        async for piece in request.chunks():
            total += len(piece)
        return Response(200, b"", b"%d" % total)

    url = f"/v1/stream/{service.service_id}/a"
    before = peak(edge)
    pod.answer = lambda r: producing(download, b"", size)
    total = 0
    async with client.stream("GET", url, headers=service.bearer) as answer:
        async for piece in answer.aiter_raw():
            total += len(piece)
    assert total == size
    pod.answer = count
    assert (await client.post(url, headers=service.bearer, content=upload())).content == b"%d" % size
    assert peak(edge) - before < 16 * 1_048_576


async def test_a_client_that_does_not_read_stops_the_pod(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)
    sent = 0

    async def endless(writer: Writer) -> AsyncIterator[None]:
        nonlocal sent
        while sent < 400_000_000:
            writer.write(b"x" * 65_536)
            sent += 65_536
            await writer.drain()
            yield

    pod.answer = lambda r: producing(endless)
    before = peak(edge)
    reader, writer = await asyncio.open_connection(HOST, edge.port, limit=1024)
    request = (
        f"GET /v1/stream/{service.service_id}/a HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {service.secret}\r\n\r\n"
    )
    writer.write(request.encode())
    await reader.readline()
    last = -1
    async with asyncio.timeout(60):
        while sent != last or not sent:
            last = sent
            await asyncio.sleep(0.5)
    assert sent < 50_000_000
    assert peak(edge) - before < 16 * 1_048_576
    writer.transport.abort()
    await until(lambda: pod.gone == 1)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (b"Content-Length: 3\r\nContent-Length: 4\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: chunked, identity\r\n", 400),
        (b"Content-Length: 3, 3\r\n", 400),
        (b"Content-Length: +3\r\n", 400),
        (b"Host: other\r\n", 400),
        (b"X : y\r\n", 400),
    ],
)
async def test_two_readings_of_a_request_are_not_passed_on(
    edge: EdgeProcess, world: World, lines: bytes, status: int
) -> None:
    service, pod = await served(edge, world)
    head = f"POST /v1/stream/{service.service_id}/a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {service.secret}\r\n"
    got = await raw(edge.port, head.encode() + lines + b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert pod.seen == []


async def test_a_missing_host_and_an_old_client(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)
    line = f"GET /v1/stream/{service.service_id}/a?token={service.secret} HTTP/1."
    assert b"BAD_HOST" in await raw(edge.port, f"{line}1\r\nconnection: close\r\n\r\n".encode())
    assert pod.seen == []
    assert (await raw(edge.port, f"{line}0\r\n\r\n".encode())).endswith(b"\r\n\r\nok")
    assert pod.seen[0].get(b"host") == f"{HOST}:{pod.port}".encode()


async def test_an_upload_that_waits_for_permission(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)

    async def answer(request: Request) -> Response:
        return Response(200, b"", await request.read(100))

    pod.answer = answer
    reader, writer = await asyncio.open_connection(HOST, edge.port)
    head = f"POST /v1/stream/{service.service_id}/a?token={service.secret} HTTP/1.1\r\nHost: h\r\n"
    writer.write(f"{head}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    async with asyncio.timeout(60):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(4) == b"body"
    assert pod.seen[0].get(b"expect") is None
    writer.close()


async def test_an_upload_that_the_pod_refuses_early(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)
    pod.answer = lambda r: Response(413, b"", b"too much")
    head = f"POST /v1/stream/{service.service_id}/a?token={service.secret} HTTP/1.1\r\nHost: h\r\n"
    got = await raw(edge.port, f"{head}Content-Length: 8000000\r\n\r\n".encode() + b"x" * 4_000_000)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert got.endswith(b"too much")


async def test_an_empty_body_is_told_as_it_came(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)
    head = f"POST /v1/stream/{service.service_id}/a?token={service.secret} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    await raw(edge.port, f"{head}Content-Length: 0\r\n\r\n".encode())
    await raw(edge.port, f"{head}\r\n".encode())
    assert [seen.get(b"content-length") for seen in pod.seen] == [b"0", None]


async def test_nothing_echoes_the_key_of_a_pod(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)
    line = f"/v1/stream/{service.service_id}/a?token={service.secret} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    for method in ("TRACE", "CONNECT"):
        got = await raw(edge.port, f"{method} {line}".encode())
        assert got[9:12] in (b"405", b"400")
        assert service.pod_key.encode() not in got
    assert pod.seen == []


async def test_a_pod_that_refuses_the_regions_key(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    service, pod = await served(edge, world)
    pod.answer = lambda r: Response(401, b"", b"whose key is this")
    answer = await client.get(f"/v1/stream/{service.service_id}/a", headers=service.bearer)
    assert (answer.status_code, code(answer)) == (503, "SERVICE_UNAVAILABLE")


async def test_pipelined_requests_are_answered_in_order(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)

    async def echo(request: Request) -> Response:
        await asyncio.sleep(0.1 if request.path.endswith(b"/1") else 0)
        return Response(200, b"", request.path[-1:])

    pod.answer = echo
    head = f"Host: h\r\nAuthorization: Bearer {service.secret}\r\n"
    requests = [f"GET /v1/stream/{service.service_id}/{n} HTTP/1.1\r\n{head}\r\n" for n in (1, 2)]
    requests.append(f"GET /v1/stream/{service.service_id}/3 HTTP/1.1\r\n{head}Connection: close\r\n\r\n")
    got = await raw(edge.port, "".join(requests).encode())
    assert [part[-1:] for part in got.split(b"HTTP/1.1 200 OK")[1:]] == [b"1", b"2", b"3"]


async def test_a_pod_that_answers_nonsense(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, HOST, 0)
    service = world.service(kinds.STREAMS_SERVICE)
    world.pod(service, server.sockets[0].getsockname()[1])
    await asyncio.to_thread(edge.wait_route, service)
    url = f"/v1/stream/{service.service_id}/a"
    answer = await client.get(url, headers=service.bearer)
    assert (answer.status_code, code(answer)) == (502, "BAD_UPSTREAM_ANSWER")
    answer = await client.post(url, headers=service.bearer, content=b"x")
    assert (answer.status_code, code(answer)) == (502, "OUTCOME_UNKNOWN")
    server.close()


async def test_an_append_whose_answer_is_lost_is_not_repeated(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient
) -> None:
    service, pod = await served(edge, world)
    url = f"/v1/stream/{service.service_id}/a"
    assert (await client.get(url, headers=service.bearer)).status_code == 200  # a connection is in the pool

    async def die(request: Request) -> AnyResponse:
        for connection in list(pod.server._connections):  # type: ignore[union-attr]
            connection.transport.abort()
        return Response(200)

    pod.answer = die
    answer = await client.post(url, headers=service.bearer, content=b"x")
    assert (answer.status_code, code(answer)) == (502, "OUTCOME_UNKNOWN")
    assert len(pod.seen) == 2
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_read_survives_a_connection_that_the_pod_closed(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient
) -> None:
    service, pod = await served(edge, world)
    url = f"/v1/stream/{service.service_id}/a"
    for _ in range(20):
        assert (await client.get(url, headers=service.bearer)).status_code == 200
        for connection in list(pod.server._connections):  # type: ignore[union-attr]
            connection.transport.abort()


async def test_many_at_once(edge: EdgeProcess, world: World) -> None:
    service, pod = await served(edge, world)

    async def echo(request: Request) -> Response:
        await asyncio.sleep(0.01)
        return Response(200, b"", request.query)

    pod.answer = echo
    url = f"/v1/stream/{service.service_id}/a?n="

    async def some(worker: int) -> list[bytes]:
        async with httpx.AsyncClient(base_url=edge.url, trust_env=False, timeout=60) as client:
            return [(await client.get(f"{url}{worker}.{n}", headers=service.bearer)).content for n in range(10)]

    answers = await asyncio.gather(*(some(worker) for worker in range(50)))
    assert answers == [[b"n=%d.%d" % (worker, n) for n in range(10)] for worker in range(50)]
