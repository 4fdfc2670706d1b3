"""The load: appends by wrk, SSE fan-out, long reads, large appends, creations. Each returns plain numbers."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.streams.servers import CLIENT_CORE, Running, pinned

HERE = Path(__file__).resolve().parent
JSON = {"content-type": "application/json"}
OCTETS = {"content-type": "application/octet-stream"}


@dataclass(frozen=True)
class Appends:
    rate: float
    p50: float
    p99: float
    cpu: float
    """Microseconds of the server's CPU for each."""


def create(server: Running, names: list[str], headers: dict[str, str]) -> None:
    with httpx.Client(trust_env=False) as client:
        for name in names:
            client.put(server.stream(name), headers=headers).raise_for_status()


def appends(server: Running, connections: int, streams: int, seconds: int) -> Appends:
    """100-byte JSON records, one a request, over keep-alive connections."""
    prefix = f"a{connections}-{streams}-"
    create(server, [f"{prefix}{number}" for number in range(streams)], JSON)
    before = server.cpu()
    command = [
        *pinned(CLIENT_CORE),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-s",
        str(HERE.parent / "append.lua"),
    ]
    done = subprocess.run(
        [*command, server.url, "--", str(streams), f"/v1/stream/{prefix}"],
        env=dict(os.environ, BENCH_SECRET="none"),
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    result = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()
    if result[4] != "0":
        raise RuntimeError(f"{result[4]} errors: {done.stdout}")
    rate = float(result[1])
    return Appends(rate, float(result[2]), float(result[3]), (server.cpu() - before) / (rate * seconds) * 1e6)


@dataclass(frozen=True)
class Fanout:
    p50: float
    p99: float
    delivered: float
    """Part of what should have arrived."""
    resident: float


def fanout(server: Running, subscribers: int, messages: int, interval: float) -> Fanout:
    """Milliseconds from sending an append to its arrival, over all subscribers and messages."""
    name = f"f{subscribers}"
    create(server, [name], JSON)
    readers = [_connect(server.port) for _ in range(subscribers)]
    head = f"GET /v1/stream/{name}?offset=now&live=sse HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
    poll = select.epoll()
    for reader in readers:
        reader.sendall(head)
        poll.register(reader, select.EPOLLIN)
    by_fd = {reader.fileno(): reader for reader in readers}
    _drain(poll, by_fd, time.monotonic() + max(1.0, subscribers / 500), lambda data, now: None)
    resident = server.resident()
    delays: list[float] = []

    def arrived(data: bytes, now: int) -> None:
        at = data.find(b'"t":')
        while at >= 0:
            delays.append((now - int(data[at + 4 : data.index(b"}", at)])) / 1e6)
            at = data.find(b'"t":', at + 4)

    writer = _connect(server.port)
    poll.register(writer, select.EPOLLIN)
    by_fd[writer.fileno()] = writer
    for _ in range(messages):
        until = time.monotonic() + interval
        body = b'{"pad":"%b","t":%d}' % (b"x" * 60, time.perf_counter_ns())
        writer.sendall(
            b"POST /v1/stream/%b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (name.encode(), len(body), body)
        )
        _drain(poll, by_fd, until, arrived)
    _drain(poll, by_fd, time.monotonic() + 2.0, arrived)
    for one in by_fd.values():
        one.close()
    delays.sort()
    if not delays:
        raise RuntimeError("nothing arrived")
    p50, p99 = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    return Fanout(p50, p99, len(delays) / (subscribers * messages), resident)


def _connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _drain(
    poll: select.epoll, by_fd: dict[int, socket.socket], until: float, arrived: Callable[[bytes, int], None]
) -> None:
    while (left := until - time.monotonic()) > 0:
        for fd, _ in poll.poll(left):
            data = by_fd[fd].recv(65_536)
            if not data:
                poll.unregister(fd)
                continue
            arrived(data, time.perf_counter_ns())


def large_appends(server: Running, count: int) -> float:
    """MB/s of appends of 1 MB, one after the other."""
    create(server, ["large"], OCTETS)
    body = os.urandom(1_000_000)
    with httpx.Client(trust_env=False, timeout=60) as client:
        began = time.perf_counter()
        for _ in range(count):
            client.post(server.stream("large"), headers=OCTETS, content=body).raise_for_status()
        return count / (time.perf_counter() - began)


def catch_up(server: Running) -> float:
    """MB/s of reading from the start what `large_appends` wrote, chunk by chunk as the server cuts it."""
    sock = _connect(server.port)
    offset, total = "-1", 0
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    while True:
        sock.sendall(f"GET /v1/stream/large?offset={offset} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        head, rest = _head(sock)
        if "content-length" in head:
            length = int(head["content-length"])
            _skip(sock, length - len(rest), buffer)
            total += length
        else:
            total += _chunked(sock, rest, buffer)
        offset = head["stream-next-offset"]
        if "stream-up-to-date" in head:
            break
    seconds = time.perf_counter() - began
    sock.close()
    if total < 100_000_000:
        raise RuntimeError(f"only {total} bytes were read")
    return total / 1e6 / seconds


def _skip(sock: socket.socket, left: int, buffer: bytearray) -> None:
    """Receive `left` bytes and no more."""
    while left > 0:
        got = sock.recv_into(buffer, min(len(buffer), left))
        if not got:
            raise RuntimeError("the body ends early")
        left -= got


def _chunked(sock: socket.socket, data: bytes, buffer: bytearray) -> int:
    """The length of a chunked body; `data` is what came with the head."""
    total = 0
    while True:
        while (end := data.find(b"\r\n")) < 0:
            data += _more(sock)
        size = int(data[:end].split(b";")[0], 16)
        data = data[end + 2 :]
        total += size
        if len(data) < size + 2:
            _skip(sock, size + 2 - len(data), buffer)
            data = b""
        else:
            data = data[size + 2 :]
        if not size:
            return total


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise RuntimeError("the connection ends early")
    return data


def _head(sock: socket.socket) -> tuple[dict[str, str], bytes]:
    """The head's fields, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    raw, _, rest = data.partition(b"\r\n\r\n")
    lines = raw.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, rest


def creations(server: Running, count: int, connections: int) -> float:
    """Seconds for `count` streams."""

    async def worker(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for index in range(number, count, connections):
            writer.write(
                b"PUT /v1/stream/c%d HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
                b"content-length: 0\r\n\r\n" % index
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 201 " not in head[:20]:
                raise RuntimeError(head.decode("latin-1"))
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
                elif line.startswith(b"transfer-encoding:"):
                    await reader.readuntil(b"0\r\n\r\n")
        writer.close()

    async def run() -> None:
        await asyncio.gather(*(worker(number) for number in range(connections)))

    began = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - began
