"""Live readers of a stream: long-polls that wait and SSE subscribers at the tail.

When an append becomes durable, it is encoded once and the same bytes go to all subscribers. A subscriber whose socket
falls behind is taken off the tail and reads on from the log at its own pace (`Subscriber.catch_up`), so that a slow
reader costs at most about `MAX_BUFFERED`; one that takes nothing at all is cut by the connection's write-stall limit.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from switchgear_streams import answers, reads
from switchgear_streams.rules import cursors, messages
from switchgear_streams.stream import Stream
from switchgear_wire.errors import ClientGone, HttpError
from switchgear_wire.response import Response, Writer, frame
from switchgear_wire.sse import event

if TYPE_CHECKING:
    from switchgear_streams.store import Store

log = logging.getLogger("switchgear.streams.live")

MAX_BUFFERED = 1_048_576
KEEP_ALIVE = 15.0
LIFETIME = 60.0


def cursor_for(client: int | None, now: float) -> int:
    return cursors.respond(client, cursors.interval(now), random.randint(1, cursors.MAX_JITTER_SECONDS))  # noqa: S311


class Hub:
    """All live readers of a process: finds or makes a stream's `Live`, ticks them, ends them."""

    def __init__(self, store: Store, reader: reads.Reader, timeout: float, cacheable: bytes) -> None:
        self.store = store
        self.cacheable = cacheable
        """The cache-control line of answers that caches may keep."""
        self.reader = reader
        self.timeout = timeout
        """Seconds a long-poll waits."""
        self.lives: dict[Stream, Live] = {}
        self.long_polls = 0
        self.subscribers = 0
        self.demoted = 0
        self.stopping = False

    def long_poll_data(self, stream: Stream, start: int, end: int, body: bytes, cursor: int | None) -> Response:
        """200 for a long-poll at `start` with the bytes up to `end`."""
        tail = end == stream.visible
        closed = tail and stream.visible_closed
        return Response(
            200,
            answers.BASE
            + self.cacheable
            + answers.content_type(stream)
            + b"etag: %b\r\n" % answers.etag(stream, start, end, closed)
            + answers.next_offset(stream, end)
            + (answers.UP_TO_DATE if tail else b"")
            + (answers.CLOSED if closed else b"")
            + b"stream-cursor: %d\r\n" % cursor_for(cursor, time.time()),
            body,
        )

    def at(self, stream: Stream) -> Live:
        live = stream.live
        if live is None:
            live = stream.live = self.lives[stream] = Live(self, stream)
        return live

    def forget(self, live: Live) -> None:
        """Drop it when nobody is left."""
        if not live.waiters and not live.tailing and not live.catching:
            stream = live.stream
            if self.lives.pop(stream, None) is not None and not stream.gone:
                self.store.touch(stream, self.store.clock())
            stream.live = None

    def busy(self, most: int | None, others: int = 0) -> bool:
        """Are there as many live reads as there may be? `others`: those in other processes."""
        return most is not None and self.long_polls + self.subscribers + others >= most

    def buffered(self) -> int:
        """Bytes that wait for SSE subscribers' sockets."""
        return sum(one.writer.buffered for live in self.lives.values() for one in (*live.tailing, *live.catching))

    def tick(self) -> None:
        """About once a second: keep-alives, lifetimes, and live readers keep sliding lifetimes going."""
        now = time.monotonic()
        wall = self.store.clock()
        for live in list(self.lives.values()):
            if live.stream.ttl is not None and not live.stream.gone:
                self.store.touch(live.stream, wall)
            live.tick(now)

    def stop(self) -> None:
        """End every live read in a way that clients retry."""
        self.stopping = True
        for live in list(self.lives.values()):
            live.end()


class Live:
    """The live readers of one stream. Invariant: everybody in `waiters` and `tailing` is at `stream.visible`."""

    __slots__ = ("catching", "hub", "stream", "tailing", "waiters")

    def __init__(self, hub: Hub, stream: Stream) -> None:
        self.hub = hub
        self.stream = stream
        self.waiters: dict[asyncio.Future[Response], Waiter] = {}
        self.tailing: dict[Subscriber, None] = {}
        self.catching: dict[Subscriber, None] = {}

    def wait(self, cursor: int | None) -> asyncio.Future[Response]:
        """A long-poll at the tail: the answer will be there when something happens."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        timer = loop.call_later(self.hub.timeout, self._timeout, future)
        self.waiters[future] = Waiter(cursor, self.stream.visible, timer)
        self.hub.long_polls += 1
        return future

    def drop_waiter(self, future: asyncio.Future[Response]) -> None:
        """The client went away."""
        waiter = self.waiters.pop(future, None)
        if waiter is not None:
            self.hub.long_polls -= 1
            waiter.timer.cancel()
            future.cancel()
            self.hub.forget(self)

    def _answer(self, make: Callable[[Waiter], Response]) -> None:
        waiters, self.waiters = self.waiters, {}
        self.hub.long_polls -= len(waiters)
        for future, waiter in waiters.items():
            waiter.timer.cancel()
            if not future.done():
                future.set_result(make(waiter))

    def _timeout(self, future: asyncio.Future[Response]) -> None:
        waiter = self.waiters.pop(future, None)
        if waiter is not None:
            self.hub.long_polls -= 1
            if not future.done():
                future.set_result(self.nothing_new(waiter.cursor))
            self.hub.forget(self)

    def nothing_new(self, cursor: int | None) -> Response:
        """204 at the tail: timed out, or closed."""
        stream = self.stream
        headers = answers.BASE + answers.NO_STORE + answers.next_offset(stream, stream.visible) + answers.UP_TO_DATE
        if stream.visible_closed:
            headers += answers.CLOSED
        return Response(204, headers + b"stream-cursor: %d\r\n" % cursor_for(cursor, time.time()))

    def publish(self, start: int, payload: bytes) -> None:
        """Bytes from `start` (and perhaps a close) became durable; `stream.visible` is at their end."""
        stream = self.stream
        if len(payload) > reads.SSE_CHUNK and (self.waiters or self.tailing):
            self._publish_large(start)
        if self.waiters:
            if payload:
                body = messages_body(stream, payload)
                end = stream.visible
                self._answer(lambda waiter: self.hub.long_poll_data(stream, start, end, body, waiter.cursor))
            elif stream.visible_closed:
                self._answer(lambda waiter: self.nothing_new(waiter.cursor))
        if self.tailing:
            self._broadcast(payload)
        self.hub.forget(self)

    def _publish_large(self, start: int) -> None:
        """Too much to lie in front of every reader's socket: each takes it in pieces, at its own pace."""
        stream, hub = self.stream, self.hub
        for subscriber in list(self.tailing):
            subscriber.leave_the_tail()
        if not self.waiters:
            return
        stored, end = hub.reader.take(stream, start, reads.SSE_CHUNK)  # from memory: it came just now
        body = messages_body(stream, stored)
        self._answer(lambda waiter: hub.long_poll_data(stream, start, end, body, waiter.cursor))

    def _broadcast(self, payload: bytes) -> None:
        stream = self.stream
        current = cursors.interval(time.time())
        data = data_event(stream, payload) if payload else b""
        shared = frame(data + control_event(stream, stream.visible, current, True, stream.visible_closed))
        closed = stream.visible_closed
        moment = time.monotonic()
        for subscriber in list(self.tailing):
            writer = subscriber.writer
            if writer.buffered > MAX_BUFFERED:
                subscriber.fall_behind()
                continue
            if subscriber.cursor <= current or closed:
                writer.write_chunk(shared)
            else:
                writer.write(data + control_event(stream, stream.visible, subscriber.cursor, True, False))
            subscriber.position = stream.visible
            subscriber.spoke = moment
            if closed:
                subscriber.finish()

    def tick(self, now: float) -> None:
        for subscriber in list(self.tailing):
            if now >= subscriber.until:
                subscriber.finish()
            elif now - subscriber.spoke >= KEEP_ALIVE and subscriber.writer.buffered < MAX_BUFFERED:
                subscriber.spoke = now
                cursor = max(subscriber.cursor, cursors.interval(time.time()))
                subscriber.writer.write(control_event(self.stream, self.stream.visible, cursor, True, False))
        self.hub.forget(self)

    def deleted(self) -> None:
        self._answer(lambda waiter: answers.not_found())
        self._finish_all()

    def end(self) -> None:
        """The server stops: answers that make clients come back."""
        self._answer(lambda waiter: self.nothing_new(waiter.cursor))
        self._finish_all()

    def _finish_all(self) -> None:
        for subscriber in (*self.tailing, *self.catching):
            subscriber.finish()
        self.hub.forget(self)


class Waiter:
    """A long-poll at `position`."""

    __slots__ = ("cursor", "position", "timer")

    def __init__(self, cursor: int | None, position: int, timer: asyncio.TimerHandle) -> None:
        self.cursor = cursor
        self.position = position
        self.timer = timer


class Subscriber:
    """One SSE response."""

    __slots__ = ("cursor", "live", "position", "spoke", "task", "until", "writer")

    def __init__(self, live: Live, writer: Writer, position: int, cursor: int | None) -> None:
        self.live = live
        self.writer = writer
        self.position = position
        self.cursor = cursor_for(cursor, time.time())
        """The last one that it was sent, or the first one that it will be."""
        self.spoke = time.monotonic()
        # Spread, so that subscribers that came together do not come back together.
        self.until = self.spoke + LIFETIME * random.uniform(0.9, 1.1)  # noqa: S311
        self.task: asyncio.Task[None] | None = None
        live.hub.subscribers += 1
        writer.on_close(self._gone)

    def begin(self) -> None:
        """The head is out: catch up, then tail."""
        stream = self.live.stream
        if stream.visible - self.position > reads.SSE_CHUNK:
            self._start_catching()
            return
        try:
            self._send_next()
        except (HttpError, OSError) as error:
            self._fail(error)
            return
        if not self.writer.closed:
            self.live.tailing[self] = None

    def fall_behind(self) -> None:
        """Its socket is full: from now on it reads from the log, as fast as it takes it."""
        self.live.hub.demoted += 1
        self.leave_the_tail()

    def leave_the_tail(self) -> None:
        """Read what follows from the log."""
        self.live.tailing.pop(self, None)
        self._start_catching()

    def _start_catching(self) -> None:
        self.live.catching[self] = None
        self.task = asyncio.ensure_future(self.catch_up())

    async def catch_up(self) -> None:
        """Chunk by chunk from the log; joins the tail when it is there."""
        stream = self.live.stream
        first = True
        try:
            while True:
                await self.writer.drain()
                if self.writer.closed or stream.gone:
                    self.finish()
                    return
                if first or self.position < stream.visible or stream.visible_closed:
                    self._send_next()
                    first = False
                    if self.writer.closed:
                        return
                    await asyncio.sleep(0)
                if self.position == stream.visible:
                    self.live.catching.pop(self, None)
                    self.live.tailing[self] = None
                    self.task = None
                    return
        except (HttpError, OSError) as error:
            self._fail(error)
        except ClientGone:
            pass

    def _send_next(self) -> None:
        """One data event with its control event (a control event alone at the tail). Finishes at a closed end."""
        stream = self.live.stream
        data = b""
        if self.position < stream.visible:
            stored, self.position = self.live.hub.reader.take(stream, self.position, reads.SSE_CHUNK)
            data = data_event(stream, stored)
        at_tail = self.position == stream.visible
        closed = at_tail and stream.visible_closed
        self.cursor = max(self.cursor, cursors.interval(time.time()))
        self.writer.write(data + control_event(stream, self.position, self.cursor, at_tail, closed))
        self.spoke = time.monotonic()
        if closed:
            self.finish()

    def _fail(self, error: Exception) -> None:
        """What comes next cannot be read: the client sees a cut body and gets the error on its retry."""
        if isinstance(error, OSError):
            log.error("cannot read %r: %s", self.live.stream.key, error)
        self._leave()
        self.writer.abort()

    def finish(self) -> None:
        """A clean end: the client comes back (unless the stream is closed)."""
        self._leave()
        self.writer.finish()

    def _gone(self) -> None:
        self._leave()

    def _leave(self) -> None:
        live = self.live
        if self.until:
            self.until = 0.0
            live.hub.subscribers -= 1
        live.tailing.pop(self, None)
        live.catching.pop(self, None)
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self.task = None
        live.hub.forget(live)


def messages_body(stream: Stream, payload: bytes) -> bytes:
    """A stored range as a GET body."""
    return b"[" + payload[: -len(messages.END)] + b"]" if stream.json else payload


def data_event(stream: Stream, stored: bytes) -> bytes:
    return event(b"data", reads.sse_payload(stream, stored))


def control_event(stream: Stream, position: int, cursor: int, up_to_date: bool, closed: bool) -> bytes:
    """The event that follows every data event."""
    if closed:
        body = b'{"streamNextOffset":"%b","upToDate":true,"streamClosed":true}' % answers.token(stream, position)
    else:
        body = b'{"streamNextOffset":"%b","streamCursor":"%d"%b}' % (
            answers.token(stream, position),
            cursor,
            b',"upToDate":true' if up_to_date else b"",
        )
    return event(b"control", body)
