"""One connection of the upstream client and the exchange on it; `upstream` keeps the pool of them.

Invariants: one exchange at a time; the body's consumer paces the socket; a body without a length or chunks of its own
is refused, because its end could not be told from a cut; every wait has a deadline, which the pool's sweep enforces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol, cast

import httptools

from switchgear_wire.response import frame
from switchgear_wire.upstream_errors import (
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

HIGH_WATER = 262_144
MAX_HEAD_BYTES = 262_144
_NO_BODY = frozenset({204, 304})
_NEVER = float("inf")

Header = tuple[bytes, bytes]
Body = bytes | AsyncIterator[bytes] | None


class Pool(Protocol):
    """What a connection asks of its pool. `now` is a coarse clock (loop time)."""

    now: float

    def give_back(self, connection: UpstreamConnection) -> None: ...
    def forget(self, connection: UpstreamConnection) -> None: ...


class UpstreamResponse:
    """`headers`: lower-case names in order, repeats kept. The body is taken once, by one of `body_now`, `whole`,
    `chunks` and `pipe`; or `abort` is called, which closes the connection at once."""

    __slots__ = ("_buffer", "_connection", "_end", "_sink", "_waiter", "complete", "content_length", "error", "headers",
                 "reason", "status")  # fmt: skip

    def __init__(self, connection: UpstreamConnection, status: int, reason: bytes, headers: list[Header]) -> None:
        self._connection: UpstreamConnection | None = connection
        self._buffer: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._end: Callable[[UpstreamError | None], None] | None = None
        self.status = status
        self.reason = reason
        self.headers = headers
        self.content_length: int | None = None
        self.complete = False
        self.error: UpstreamError | None = None

    def body_now(self) -> bytes | None:
        """The whole body if it is here already, else None."""
        return self._take() if self.complete else None

    async def whole(self) -> bytes:
        """The body in one piece, for those who know that it is small. Cancelling closes it. Raises UpstreamCut."""
        try:
            return b"".join([piece async for piece in self.chunks()])
        except asyncio.CancelledError:
            self.abort()
            raise

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; the server is read only as fast as this is consumed. Raises UpstreamCut."""
        while True:
            if self._buffer:
                yield self._take()
            elif self.complete:
                return
            elif self.error is not None:
                raise self.error
            else:
                self.resume()
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None

    def pipe(self, write: Callable[[bytes], None], end: Callable[[UpstreamError | None], None]) -> None:
        """Call `write` with each piece at once and `end` once; `pause` and `resume` are the back-pressure."""
        self._sink, self._end = write, end
        self.flush()
        if not self.complete and self.error is None:
            self.resume()

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def abort(self) -> None:
        """Give up: the server sees the connection close."""
        self._sink = self._end = None
        connection, self._connection = self._connection, None
        if connection is not None and not self.complete:
            connection.fail(UpstreamCut("aborted"))

    # -- for the connection --

    def _take(self) -> bytes:
        buffer, self._buffer = self._buffer, []
        return buffer[0] if len(buffer) == 1 else b"".join(buffer)

    def feed(self, data: bytes) -> None:
        self._buffer.append(data)

    def finished(self, error: UpstreamError | None) -> None:
        self._connection = None
        if error is None:
            self.complete = True
        else:
            self.error = error
        self.flush()

    def flush(self) -> None:
        """Hand on what has come, once per read of the socket."""
        if self._sink is not None:
            if self._buffer:
                self._sink(self._take())
            end = self._end
            if (self.complete or self.error is not None) and end is not None:
                self._sink = self._end = None
                end(self.error)
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._connection is not None and sum(map(len, self._buffer)) >= HIGH_WATER:
            self._connection.pause()


class UpstreamConnection(asyncio.Protocol):
    """One socket to a server. Made by the pool."""

    __slots__ = ("_body_timeout", "_drained", "_head", "_head_bytes", "_head_timeout", "_headers", "_keep", "_lost",
                 "_method", "_parser", "_paused", "_pool", "_pump", "_reason", "_response", "_sent", "deadline",
                 "idle_since", "key", "received", "transport")  # fmt: skip

    def __init__(self, pool: Pool, key: tuple[str, int]) -> None:
        self._pool = pool
        self.key = key
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser: httptools.HttpResponseParser | None = None
        self._head: asyncio.Future[UpstreamResponse] | None = None
        self._response: UpstreamResponse | None = None
        self._headers: list[Header] = []
        self._reason = b""
        self._method = ""
        self._pump: asyncio.Task[None] | None = None
        self._drained: asyncio.Event | None = None
        self._keep = False
        self._sent = False
        self._lost = False
        self._paused = False
        self._head_bytes = 0
        self._head_timeout = 0.0
        self._body_timeout: float | None = None
        self.received = False
        self.deadline = _NEVER
        self.idle_since = 0.0

    # -- one exchange --

    def exchange(
        self, method: str, head: bytes, body: Body, chunked: bool, head_timeout: float, body_timeout: float | None
    ) -> asyncio.Future[UpstreamResponse]:
        """Send; the future is the response's head (its body may be whole by then)."""
        self._head = asyncio.get_running_loop().create_future()
        self._response = None
        self._headers = []
        self._reason = b""
        self._method = method
        self._head_bytes = 0
        self._keep = self._sent = self.received = False
        self._head_timeout, self._body_timeout = head_timeout, body_timeout
        self.deadline = self._pool.now + head_timeout
        if self.transport.is_closing():
            self._head.set_exception(UpstreamUnavailable("the server closed the connection", sent=False))
            return self._head
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        if body is None or isinstance(body, bytes):
            self._sent = True
            self.transport.write(head + body if body else head)
        else:
            self.transport.write(head)
            self._pump = asyncio.ensure_future(self._send_body(body, chunked))
        return self._head

    async def _send_body(self, body: AsyncIterator[bytes], chunked: bool) -> None:
        transport = self.transport
        try:
            while True:
                self.deadline = _NEVER  # the source has limits of its own
                try:
                    data = await anext(body)
                except StopAsyncIteration:
                    break
                if data:
                    transport.write(frame(data) if chunked else data)
                self.deadline = self._pool.now + self._head_timeout
                if self._drained is not None:
                    await self._drained.wait()
                if transport.is_closing():
                    return
            if chunked:
                transport.write(b"0\r\n\r\n")
        except Exception as error:  # the source failed: half a body was sent, so nothing can come of it
            self.fail(UpstreamUnavailable("the request's body ended early", sent=True), cause=error)
            return
        self._sent = True
        self.deadline = self._pool.now + self._head_timeout
        if self._response is not None:
            self._set_body_deadline()

    def fail(self, error: UpstreamError, cause: Exception | None = None) -> None:
        """End the exchange and the connection. Whoever waits gets `error` (or, for the head, its `cause`)."""
        self.close_now()
        self._pool.forget(self)
        self.deadline = _NEVER
        if self._drained is not None:
            self._drained.set()
        pump, self._pump = self._pump, None
        if pump is not None and not pump.done() and cause is None:
            pump.cancel()
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_exception(cause or error)
        response, self._response = self._response, None
        if response is not None and not response.complete:
            response.finished(error if isinstance(error, UpstreamCut) else UpstreamCut(str(error)))

    def close_now(self) -> None:
        """Drop the socket with what waits in it. A transport that has said connection_lost must not be touched: asyncio
        would call it a second time."""
        if not self._lost:
            self.transport.abort()

    def expired(self) -> None:
        """The deadline has passed."""
        if self._response is None:
            self.fail(UpstreamTimeout(f"no answer within {self._head_timeout:g} s", sent=True))
        else:
            self.fail(UpstreamCut("the body stalled"))

    def _release(self) -> None:
        """The response is whole: keep the connection if both sides may, else close it."""
        self._response = None
        self.deadline = _NEVER
        pump, self._pump = self._pump, None
        if not self._sent and pump is not None:
            pump.cancel()
        if self._keep and self._sent and not self.transport.is_closing():
            if self._paused:
                self.resume()
            self._pool.give_back(self)
        else:
            self._pool.forget(self)
            self.close_now()  # what is left of the request would go to a server that has already answered it

    # -- back-pressure --

    def pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
            self.deadline = _NEVER  # it is our side that waits

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
            self._set_body_deadline()

    def _set_body_deadline(self) -> None:
        wait = self._body_timeout
        self.deadline = _NEVER if wait is None or self._paused else self._pool.now + wait

    def pause_writing(self) -> None:
        self._drained = asyncio.Event()

    def resume_writing(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        why = f": {exc}" if exc is not None else ""
        self.fail(UpstreamUnavailable(f"the server closed the connection before it answered{why}", sent=True))

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or (self._head is None and self._response is None):
            self.fail(UpstreamProtocolError("bytes that nobody asked for"))
            return
        self.received = True
        if self._response is None:
            self._head_bytes += len(data)
        elif self._body_timeout is not None:
            self._set_body_deadline()
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__
            self.fail(
                cause if isinstance(cause, UpstreamError) else UpstreamProtocolError("no valid HTTP/1.1 response")
            )
            return
        response = self._response
        if response is None:
            if self._head_bytes > MAX_HEAD_BYTES:
                self.fail(UpstreamProtocolError("the response's head is too large"))
            return
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_result(response)
        if response.complete:
            self._release()
            response.finished(None)
        else:
            response.flush()

    # -- httptools --

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is None:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = cast("httptools.HttpResponseParser", self._parser)
        status = parser.get_status_code()
        if self._response is not None:
            raise UpstreamProtocolError("a second response")
        if status == 101:
            raise UpstreamProtocolError("the server switched protocols unasked")
        if status < 200:
            return
        response = self._response = UpstreamResponse(self, status, self._reason, self._headers)
        chunked = False
        for name, value in self._headers:
            if name == b"content-length" and value.isdigit():
                response.content_length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
        self._keep = parser.should_keep_alive()
        if self._method == "HEAD":
            self._parser = None  # this one would wait for a body
            response.complete = True
        elif response.content_length is None and not chunked and status not in _NO_BODY:
            raise UpstreamProtocolError("a response without a length: its end could not be told from a cut")
        self._set_body_deadline()

    def on_body(self, data: bytes) -> None:
        response = self._response
        if response is None or response.complete:
            raise UpstreamProtocolError("a body where none can be")
        response.feed(data)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None:  # a 1xx: the real one follows
            self._headers = []
            self._reason = b""
            self._head_bytes = 0
        else:
            response.complete = True
