"""A pooled HTTP/1.1 client: one request out, one response back, both streamed with back-pressure.

What it must not do: follow redirects, decode bodies, or send anything twice whose first outcome is unknown.
Invariants: a request is repeated only if a kept-alive connection ended before the first byte of an answer and the
method is safe; idle connections and all waits have bounds. Failures are UpstreamError.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl as tls
from collections.abc import Sequence
from typing import cast

from switchgear_wire.clock import SWEEP_SECONDS, Clock
from switchgear_wire.upstream_connection import Body, Header, UpstreamConnection, UpstreamResponse
from switchgear_wire.upstream_errors import (
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

__all__ = [
    "SAFE_METHODS",
    "Upstream",
    "UpstreamCut",
    "UpstreamError",
    "UpstreamProtocolError",
    "UpstreamResponse",
    "UpstreamTimeout",
    "UpstreamUnavailable",
    "request_head",
]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Upstream:
    """The pool. `max_idle` bounds all kept-alive connections, `max_idle_per_host` those to one (host, port).

    Connections idle for `idle_timeout` seconds go before the server's own limit (75 s for ours).
    """

    def __init__(
        self,
        *,
        max_idle_per_host: int = 256,
        max_idle: int = 4096,
        idle_timeout: float = 50.0,
        ssl: tls.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> None:
        self._idle: dict[tuple[str, int], list[UpstreamConnection]] = {}
        self._all: set[UpstreamConnection] = set()
        self._idle_count = 0
        self._max_idle_per_host = max_idle_per_host
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._clock = Clock()
        self.now = 0.0

    @property
    def connections(self) -> int:
        return len(self._all)

    @property
    def idle(self) -> int:
        return self._idle_count

    async def request(
        self,
        host: str,
        port: int,
        method: str,
        target: bytes,
        headers: Sequence[Header],
        body: Body = None,
        *,
        content_length: int | None = None,
        connect_timeout: float = 5.0,
        head_timeout: float = 120.0,
        body_timeout: float | None = None,
    ) -> UpstreamResponse:
        """Send and wait for the head of the answer. `headers` must not frame the body: that is done here, with
        `content_length` for an iterator whose size is known, else chunked. `body_timeout` bounds each wait for a piece
        of the response's body (None: no limit, for live ones). Cancelling closes the connection.

        Raises UpstreamUnavailable, UpstreamTimeout, UpstreamProtocolError, ValueError (a line break in `headers`), and
        whatever the body's iterator raises.
        """
        stream = body is not None and not isinstance(body, bytes)
        chunked = stream and content_length is None
        size = content_length if stream else len(cast("bytes", body)) if body is not None else None
        head = request_head(method, target, headers, size if size or method not in SAFE_METHODS else None, chunked)
        if self._sweep is None:
            self._tick()
        safe = method in SAFE_METHODS and not stream
        connection = self._pooled((host, port), check=not safe)
        fresh = connection is None
        while True:
            if connection is None:
                connection = await self._connect(host, port, connect_timeout)
            future = connection.exchange(method, head, body, chunked, head_timeout, body_timeout)
            try:
                return await future
            except UpstreamUnavailable:
                if fresh or not safe or connection.received:
                    raise
            except asyncio.CancelledError:
                connection.fail(UpstreamCut("cancelled"))
                raise
            connection, fresh = None, True

    def close(self) -> None:
        """Close every connection, those at work too."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.fail(UpstreamUnavailable("the client is closing", sent=True))

    # -- the pool --

    async def _connect(self, host: str, port: int, timeout: float) -> UpstreamConnection:  # noqa: ASYNC109
        loop = asyncio.get_running_loop()
        name = (self._server_hostname or host) if self._ssl else None
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self, (host, port)), host, port, ssl=self._ssl, server_hostname=name
                )
        except TimeoutError:
            raise UpstreamUnavailable(f"no connection within {timeout:g} s", sent=False) from None
        except OSError as error:
            raise UpstreamUnavailable(f"cannot connect: {error}", sent=False) from error
        _keep_alive(connection.transport.get_extra_info("socket"))
        self._all.add(connection)
        return connection

    def _pooled(self, key: tuple[str, int], *, check: bool) -> UpstreamConnection | None:
        """A kept-alive connection. With `check` (the request must not be repeated) one on which nothing waits to be
        read: an end or a reset that the loop has not seen yet would lose the request."""
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if not idle:
                del self._idle[key]
            if connection.transport.is_closing() or (check and _readable(connection.transport)):
                self.forget(connection)
                connection.close_now()
                continue
            connection.idle_since = 0.0
            return connection
        return None

    def give_back(self, connection: UpstreamConnection) -> None:
        idle = self._idle.setdefault(connection.key, [])
        if self._closed or len(idle) >= self._max_idle_per_host or self._idle_count >= self._max_idle:
            if not idle:
                del self._idle[connection.key]
            self._all.discard(connection)
            connection.transport.close()
            return
        connection.idle_since = self.now or 1e-9
        self._idle_count += 1
        idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if not connection.idle_since:
            return
        connection.idle_since = 0.0
        idle = self._idle.get(connection.key)
        if idle is not None and connection in idle:
            idle.remove(connection)
            self._idle_count -= 1
            if not idle:
                del self._idle[connection.key]

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = now = self._clock.tick(loop.time())
        for connection in list(self._all):
            if connection.idle_since:
                if now - connection.idle_since > self._idle_timeout:
                    self.forget(connection)
                    connection.transport.close()
            elif now > connection.deadline:
                connection.expired()
        self._sweep = None if self._closed else loop.call_later(SWEEP_SECONDS, self._tick)


def request_head(
    method: str, target: bytes, headers: Sequence[Header], content_length: int | None, chunked: bool
) -> bytes:
    """The request's head. Raises ValueError if a line break or NUL would make it say something else."""
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    elif content_length is not None:
        lines.append(b"content-length: %d" % content_length)
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    breaks = len(lines) + 1
    if head.count(b"\r") != breaks or head.count(b"\n") != breaks or b"\0" in head or b" " in target:
        raise ValueError("a request's line or header has a line break, a NUL or a space where none may be")
    return head


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out within about 30 s that the other side is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _readable(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))
