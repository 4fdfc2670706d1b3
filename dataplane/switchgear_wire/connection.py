"""One client connection: requests (`receiving`) to the handler, responses out (`sending`) in order.

What it must not do: know a route, a secret or a body's meaning.
Invariants: one request is handled at a time, the next ones of a pipeline wait; every state but a handler at work has a
deadline (the listener's sweep).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, cast

from switchgear_wire.answers import NO_BODY, closing, error_response
from switchgear_wire.errors import BodyBroken, ClientGone, HttpError
from switchgear_wire.files import SENDFILE_FROM
from switchgear_wire.handover import Arrival, Kept, descriptor
from switchgear_wire.receiving import Receiving
from switchgear_wire.request import Request
from switchgear_wire.response import (
    AnyResponse,
    Deferred,
    Elsewhere,
    FileResponse,
    Outcome,
    Response,
    StreamResponse,
)
from switchgear_wire.writer import BodyWriter

if TYPE_CHECKING:
    from switchgear_wire.listener import Server

log = logging.getLogger("switchgear.wire")

# After an answer that came before the end of a large body, the socket is read (and thrown away) for this long before it
# is closed: a close with unread bytes would be a reset, and the client might never see the answer.
LINGER_SECONDS = 2.0
_BROKEN = HttpError(400, "BAD_REQUEST", "The request's body is malformed or broke off; send it again as a whole.")
_NOT_KEPT = HttpError(
    503, "ANOTHER_PROCESS", "Send this again on a new connection, not behind a large request.", b"retry-after: 0\r\n"
)


class Connection(Receiving):
    """The protocol of one accepted socket."""

    __slots__ = ("_task", "_writer", "last_buffered", "stalled_since")

    def __init__(self, server: Server, arrival: Arrival | None = None) -> None:
        super().__init__(server, arrival)
        self._writer: BodyWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self.last_buffered = 0
        self.stalled_since = 0.0

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._server.limits.high_water)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        if not self._server.accept(self):
            busy = HttpError(
                503, "TOO_MANY_CONNECTIONS", "Too many connections; try again shortly.", b"retry-after: 1\r\n"
            )
            self.transport.write(closing(error_response(busy), self._server.error_headers(None)))
            self.transport.close()
            self._forget_arrival()
            return
        self.deadline = self._server.now + self._server.limits.head_timeout
        if self.arrival is not None:
            self._receive(memoryview(self.arrival.data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._server.lost(self)
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        self._queue.clear()
        self._landing = None
        self._forget_arrival()
        if self.lease is not None:
            self.lease.leave()
        for request in (self._incoming, self._active):
            if request is not None and not request.closed:
                request.gone()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.gone()

    # -- answering --

    def _dispatch(self) -> None:
        # Who does not read waits for answers: they are not made to lie in a buffer.
        while self._active is None and self._queue and not self.write_paused:
            request = self._active = self._queue.popleft()
            self._server.requests.value += 1
            if self._kept is not None:
                self._kept.handled += 1
            if request.body_complete:
                self.deadline = 0.0
            try:
                result = self._server.handler(request)
            except Exception as error:
                result = self._failed(request, error)
            if type(result) is Response:
                self._send(request, result)
            elif isinstance(result, (FileResponse, StreamResponse, Response, Elsewhere)):
                self._respond(request, result)
            elif isinstance(result, Deferred):
                result.listen(partial(self._on_one_of_many if result.in_a_row else self._on_answer, request))
            elif isinstance(result, asyncio.Future):
                result.add_done_callback(partial(self._on_result, request))
                return
            else:
                self._task = asyncio.ensure_future(self._await(request, result))
                return

    def _on_answer(self, request: Request, answer: AnyResponse | None) -> None:
        """A deferred answer is there. Whoever brings it has others to serve: nothing is raised."""
        if answer is None or request.closed:
            _unwanted(answer)
            return
        if type(answer) is Response:  # mostly one of many
            self._server.outgoing.add(self, request, answer)
        else:
            self._on_one_of_many(request, answer)

    def _on_one_of_many(self, request: Request, answer: AnyResponse | None) -> None:
        """The same of one whose neighbours are sent right before and after it."""
        if answer is None or request.closed:
            _unwanted(answer)
            return
        try:
            if type(answer) is Response:
                self._send(request, answer)
            else:
                self._respond(request, answer)
            if self._queue:
                self._dispatch()
        except Exception:
            log.exception("cannot answer %s %s", request.method, request.path)
            self.abort()

    def _on_result(self, request: Request, done: asyncio.Future[Outcome]) -> None:
        if request.closed:
            if not done.cancelled() and done.exception() is None:
                _unwanted(done.result())
            return
        try:
            result = done.result()
        except (Exception, asyncio.CancelledError) as error:
            result = self._failed(request, error)
        self._respond(request, result)
        self._dispatch()

    async def _await(self, request: Request, result: Awaitable[AnyResponse] | Awaitable[Outcome]) -> None:
        try:
            answer = await result
        except BodyBroken:
            answer = self._failed(request, _BROKEN)
        except ClientGone:
            self.transport.close()
            return
        except Exception as error:
            answer = self._failed(request, error)
        if request.closed:
            _unwanted(answer)
            return
        self._respond(request, answer)
        self._dispatch()

    def _failed(self, request: Request, error: BaseException) -> Response:
        if isinstance(error, HttpError):
            made = error_response(error)
        else:
            log.error("unhandled error in %s %s", request.method, request.path, exc_info=error)
            made = error_response(HttpError(500, "INTERNAL", "Internal server error"))
        made.headers += self._server.error_headers(request)
        return made

    def _respond(self, request: Request, response: Outcome) -> None:
        if isinstance(response, Response):
            self._send(request, response)
        elif isinstance(response, FileResponse):
            if response.length < SENDFILE_FROM and not self.write_paused:
                self._server.outgoing.add(self, request, response)
                return
            self.transport.write(self._head(request, response.status, response.headers, response.length))
            self._task = asyncio.ensure_future(self._send_file(request, response))
        elif isinstance(response, Elsewhere):
            self._move(request, response)
        else:
            self._start_stream(request, response)

    # -- going on elsewhere --

    def _move(self, request: Request, elsewhere: Elsewhere) -> None:
        """What was answered before goes out first."""
        if self._kept is None or self._kept.lost:
            elsewhere.drop()
            request.keep_alive = False
            answer = error_response(_NOT_KEPT)
            answer.headers += self._server.error_headers(request)
            self._send(request, answer)
            return
        self._moving = True
        self.update_reading()
        if self.transport.get_write_buffer_size():
            self._task = asyncio.ensure_future(self._move_later(elsewhere, self._kept))
        else:
            self._leave(elsewhere, self._kept)

    async def _move_later(self, elsewhere: Elsewhere, kept: Kept) -> None:
        # Rare, so asked again and again; `check` aborts one that takes nothing.
        while not self._lost and self.transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self._leave(elsewhere, kept)

    def _leave(self, elsewhere: Elsewhere, kept: Kept) -> None:
        try:
            fd = -1 if self._lost or self.transport.is_closing() else descriptor(self.transport)
        except OSError as error:
            log.error("cannot hand a connection over: %s", error)
            fd = -1
        if fd < 0:
            elsewhere.drop()
        else:
            elsewhere.take(fd, kept.bytes(), kept.handled - 1)
            for one in (self._incoming, self._active):
                if one is not None:
                    one.done()
            self._incoming = self._active = None
        self._queue.clear()
        self.abort()

    # -- what a response is over time --

    def _start_stream(self, request: Request, response: StreamResponse) -> None:
        self.transport.write(self._head(request, response.status, response.headers, response.length))
        chunked = response.length is None and not request.http10
        writer = self._writer = BodyWriter(self, request, chunked, response.length)
        if request.method == "HEAD" or response.status in NO_BODY:
            writer.silent = True
        try:
            response.start(writer)
        except Exception:
            log.exception("unhandled error while starting the body of %s %s", request.method, request.path)
            writer.abort()

    def stream_done(self, request: Request) -> None:
        self._writer = None
        self._finish(request)
        self._dispatch()

    def _finish(self, request: Request) -> None:
        request.done()
        self._active = None
        self._landing = None
        if self._kept is not None and self._incoming is None and not self._queue:
            self._kept.forget()
        if not request.keep_alive:
            self._queue.clear()
            if request.body_complete or self.transport.is_closing():
                self.transport.close()
            else:
                self._linger()
            return
        if not request.body_complete:
            request.discard()
            self._discarded = 0
        self.deadline = self._server.now + self._server.limits.idle_timeout
        if self._reading_paused:
            self.update_reading()

    def _linger(self) -> None:
        self._lingering = True
        self._discarded = 0
        try:
            self.transport.write_eof()
        except OSError:  # the client has gone meanwhile
            self.abort()
            return
        self.deadline = self._server.now + LINGER_SECONDS
        self.update_reading()

    # -- the listener's sweep --

    @property
    def idle(self) -> bool:
        return self._active is None and not self._queue

    def check(self, now: float, stall: float) -> None:
        """Called about once a second: enforce the deadline of a waiting state and of a client that does not read."""
        buffered = self.transport.get_write_buffer_size()
        if buffered and buffered >= self.last_buffered:
            self.stalled_since = self.stalled_since or now
            if now - self.stalled_since > stall:
                self.abort()
                return
        else:
            self.stalled_since = 0.0
        self.last_buffered = buffered
        active = self._active
        if active is not None:
            if active.broken:
                if now > self.deadline:
                    self.abort()
            elif active.waiting_for_body and now > self.deadline and not self._break_body():
                self.abort()
        elif self.deadline and now > self.deadline and not self._queue:
            if self._in_head and self._head_bytes and not self._lingering:
                self._refuse(HttpError(408, "REQUEST_TIMEOUT", "The request's head did not arrive in time."))
            else:
                self.transport.close()


def _unwanted(answer: Outcome | None) -> None:
    """An answer for nobody: it may hold something."""
    if isinstance(answer, FileResponse) and answer.on_done is not None:
        answer.on_done()
    elif isinstance(answer, Elsewhere):
        answer.drop()
