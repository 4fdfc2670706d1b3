"""GET and HEAD of streams: catch-up reads, long-polls, SSE, and the tail as it is now.

What it must not do: authenticate (`service` does), or wait: who waits is kept by `live`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from switchgear_streams import answers, live, reads, segments
from switchgear_streams import request as commands
from switchgear_streams.limits import Others
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_wire.files import SENDFILE_FROM
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, FileResponse, Response, StreamResponse, Writer

log = logging.getLogger("switchgear.streams")

_RETRY = b"retry-after: 1\r\n"

Answer = AnyResponse | Awaitable[AnyResponse]


class ReadRequests:
    """`most`: live reads at once, those of `others` included. `refused`: told of each answer that this limit gives."""

    def __init__(
        self,
        store: Store,
        reader: reads.Reader,
        hub: live.Hub,
        cacheable: bytes,
        most: int | None,
        others: Others,
        refused: Callable[[Response], Response],
    ) -> None:
        self._store = store
        self._reader = reader
        self._hub = hub
        self._unread = reads.Unread()
        self._clock = store.clock
        self._cacheable = cacheable
        self._most = most
        self._others = others
        self._refused = refused
        self.stopping = False
        """Live reads get an answer at once, so that they come back to another process."""

    def _visible(self, key: bytes, touch: bool) -> Stream | Response:
        """The stream as readers may see it, or the answer instead."""
        stream = self._store.get(key)
        if stream is None or not stream.durable_born:
            return answers.not_found()
        if stream.gone:
            return answers.gone()
        now = self._clock()
        if stream.expired(now):
            return answers.not_found()
        if touch:
            self._store.touch(stream, now)
        return stream

    def head(self, key: bytes) -> Response:
        """What there is, without a byte of it. It keeps no stream alive."""
        stream = self._visible(key, touch=False)
        if isinstance(stream, Response):
            return Response(stream.status, stream.headers)
        return answers.head(stream)

    def get(self, request: Request, key: bytes) -> Answer:
        """What its query asks for."""
        return self.read(request, key, commands.read(request.query))

    def read(self, request: Request, key: bytes, command: commands.Read) -> Answer:
        """A read of any kind."""
        stream = self._visible(key, touch=True)
        if isinstance(stream, Response):
            return stream
        try:
            position = self._reader.position(stream, command.offset)
            self._reader.check(stream, position)
            if command.live is not None and self._hub.busy(self._most, self._others.live):
                return self._refused(
                    answers.problem(429, "TOO_MANY_LIVE_READS", "As many live reads as this service may have.", _RETRY)
                )
            if command.live == "sse":
                return self._sse(stream, position, command.cursor)
            if command.live == "long-poll":
                return self._long_poll(request, stream, position, command.cursor)
            if command.offset is None:
                return self._now(stream)
            return self._catch_up(request, stream, position)
        except OSError as error:
            log.error("cannot read %r: %s", key, error)
            return answers.problem(
                503, "READ_FAILED", "The server cannot read this part of its disk.", b"retry-after: 5\r\n"
            )

    def _now(self, stream: Stream) -> Response:
        headers = (
            answers.BASE
            + answers.NO_STORE
            + answers.content_type(stream)
            + answers.next_offset(stream, stream.visible)
            + answers.UP_TO_DATE
            + (answers.CLOSED if stream.visible_closed else b"")
        )
        return Response(200, headers, b"[]" if stream.json else b"")

    def _catch_up(self, request: Request, stream: Stream, position: int, cursor: bytes = b"") -> AnyResponse:
        found = self._reader.range(stream, position, self._unread.limit())
        closed = found.tail and stream.visible_closed
        etag = answers.etag(stream, position, found.end, closed)
        headers = answers.BASE + self._cacheable + b"etag: %b\r\n" % etag
        # A proxy that compresses makes our tags weak (W/"…").
        known = request.headers.get(b"if-none-match", b"").replace(b" ", b"").replace(b"W/", b"")
        if etag in known.split(b","):
            self._reader.release(found.held)
            return Response(304, headers + cursor)
        headers += (
            answers.content_type(stream)
            + answers.next_offset(stream, found.end)
            + (answers.UP_TO_DATE if found.tail else b"")
            + (answers.CLOSED if closed else b"")
            + cursor
        )
        parts = reads.json_parts(found.parts) if stream.json else found.parts
        if not found.held and found.end - found.start < SENDFILE_FROM:
            return Response(200, headers, b"".join(part for part in parts if isinstance(part, bytes)))
        release = segments.releaser(self._store.packs, found.held)
        return FileResponse(200, headers, parts, self._unread.until(parts, release))

    def _long_poll(self, request: Request, stream: Stream, position: int, cursor: int | None) -> Answer:
        if position < stream.visible:
            line = b"stream-cursor: %d\r\n" % live.cursor_for(cursor, time.time())
            return self._catch_up(request, stream, position, line)
        waiting = self._hub.at(stream)
        if stream.visible_closed or self.stopping:
            self._hub.forget(waiting)
            return waiting.nothing_new(cursor)
        future = waiting.wait(cursor)
        request.on_close(lambda: waiting.drop_waiter(future))
        return future

    def _sse(self, stream: Stream, position: int, cursor: int | None) -> AnyResponse:
        headers = (
            answers.BASE
            + b"content-type: text/event-stream\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
            + (b"" if reads.is_text(stream) else b"stream-sse-data-encoding: base64\r\n")
        )
        if self.stopping:
            return answers.problem(503, "STOPPING", "The server is stopping; come back.", b"retry-after: 1\r\n")

        def start(writer: Writer) -> None:
            live.Subscriber(self._hub.at(stream), writer, position, cursor).begin()

        return StreamResponse(200, headers, start)
