"""A live long-poll and a live event stream, as waiters on a shape.

Each holds one client; what they send is rendered once per shape and position by `Renderer` and shared by all.
Invariant: an event stream ends of itself only behind an `up-to-date`: the npm client forgets events that none follows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from switchgear_shapes.errors import ShapeError
from switchgear_shapes.live import Live
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.offsets import Offset
from switchgear_wire import AnyResponse, ClientGone, Deferred, Request, Response, StreamResponse, Writer, frame

MAX_EVENT_BUFFER = 2 * 1024 * 1024
"""A stream whose client has this much still to take, or is to get more at once, goes on at the client's pace."""
PIECE_BYTES = 262_144
KEEPALIVE = b": keep-alive\n\n"


class Answerer(Protocol):
    """Builds the answers of one request."""

    def data(self) -> AnyResponse | None:
        """The log from the request's position on, or None when there is nothing yet."""

    def nothing(self) -> Response:
        """The wait is over without a change."""

    def gone(self) -> Response:
        """The shape was dropped."""


class LongPoll(Deferred):
    """Waits for data, a timeout or the shape's end; the first one answers.

    `ended` is called with the answer before it is sent, or with None when the client went away.
    """

    __slots__ = ("_answerer", "_ended", "_live", "_timer", "shape")

    def __init__(
        self, shape: Shape, answerer: Answerer, live: Live, seconds: float, ended: Callable[[AnyResponse | None], None]
    ) -> None:
        super().__init__()
        self.shape = shape
        self._answerer = answerer
        self._live = live
        self._ended: Callable[[AnyResponse | None], None] | None = ended
        self._timer = asyncio.get_running_loop().call_later(seconds, self.on_stop)
        live.add(self)

    def on_change(self) -> None:
        response = self._answerer.data()
        if response is not None:
            self._finish(response)

    def on_drop(self) -> None:
        self._finish(self._answerer.gone())

    def on_stop(self) -> None:
        """The time is over, or the server stops."""
        self._finish(self._answerer.nothing())

    def cancel(self) -> None:
        """The client went away."""
        self._finish(None)

    def _finish(self, response: AnyResponse | None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._timer.cancel()
            self._live.remove(self)
            ended(response)
            self.settle(response)


class EventSource(Protocol):
    """Renders what a stream sends; shared by all streams at a position."""

    def events_after(self, shape: Shape, offset: Offset) -> tuple[bytes, Offset] | None:
        """A chunk-framed piece of the stream, and the offset it ends at; None when there is nothing."""


class EventStream:
    """Sends every change until its time is over, the shape ends, or the client goes away."""

    __slots__ = (
        "_behind",
        "_draining",
        "_ended",
        "_keepalive",
        "_keepalive_seconds",
        "_late",
        "_live",
        "_source",
        "_timer",
        "_writer",
        "offset",
        "on_end",
        "shape",
    )

    def __init__(
        self, shape: Shape, offset: Offset, source: EventSource, live: Live, seconds: float, keepalive: float
    ) -> None:
        self.shape = shape
        self.offset = offset
        self._source = source
        self._live = live
        self._keepalive_seconds = keepalive
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._on_time)
        self._behind = False
        """Whether more of the log is to be sent before an `up-to-date`."""
        self._late = False
        self._draining: asyncio.Future[None] | None = None
        self._keepalive = loop.call_later(keepalive, self._on_quiet)
        self._writer: Writer | None = None
        self._ended = False
        self.on_end: Callable[[], None] = lambda: None

    def response(self, status: int, headers: bytes, request: Request) -> StreamResponse:
        request.on_close(self.end)  # at once, if the client has gone: its stream will never start
        return StreamResponse(status, headers, self._start)

    def _start(self, writer: Writer) -> None:
        self._writer = writer
        writer.on_close(self.end)
        if self._ended or not self.shape.alive or self._live.stopped:
            self.on_stop()
            return
        self._live.add(self)
        self.on_change()

    def on_change(self) -> None:
        writer = self._writer
        if writer is None or writer.closed or self._draining is not None:
            return
        try:
            while (found := self._source.events_after(self.shape, self.offset)) is not None:
                framed, self.offset = found
                self._behind = self.offset < self.shape.log.latest
                if writer.buffered + len(framed) > MAX_EVENT_BUFFER:
                    self._draining = asyncio.ensure_future(self._send(writer, framed))
                    break
                writer.write_chunk(framed)
        except ShapeError:  # the client comes back, and is told
            self.on_stop()
            return
        if self._late and not self._unfinished:
            self.on_stop()
            return
        self._keepalive.cancel()
        self._keepalive = asyncio.get_running_loop().call_later(self._keepalive_seconds, self._on_quiet)

    async def _send(self, writer: Writer, framed: bytes) -> None:
        """In pieces, as the client takes them: all that wait hold the same frame, and little of their own."""
        body = memoryview(framed)[framed.index(b"\r\n") + 2 : -2]
        with contextlib.suppress(ClientGone):
            for start in range(0, len(body), PIECE_BYTES):
                await writer.drain()
                writer.write(bytes(body[start : start + PIECE_BYTES]))
            await writer.drain()
        self._draining = None
        self.on_change()

    @property
    def _unfinished(self) -> bool:
        return self._behind or self._draining is not None

    def _on_time(self) -> None:
        if self._unfinished:
            self._late = True
        else:
            self.on_stop()

    def on_drop(self) -> None:
        """The stream ends without a word; the client's next request learns the rest."""
        self.on_stop()

    def on_stop(self) -> None:
        self.end()
        if self._writer is not None and not self._writer.closed:
            self._writer.finish()

    def _on_quiet(self) -> None:
        if self._writer is not None and not self._writer.closed and self._draining is None:
            self._writer.write_chunk(_KEEPALIVE_FRAME)
        self._keepalive = asyncio.get_running_loop().call_later(self._keepalive_seconds, self._on_quiet)

    def end(self) -> None:
        """Stop waiting; what was sent stays as it is."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._keepalive.cancel()
            if self._draining is not None:
                self._draining.cancel()
            self._live.remove(self)
            self.on_end()


_KEEPALIVE_FRAME = frame(KEEPALIVE)
