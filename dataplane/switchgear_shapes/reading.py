"""From a request and a shape to bytes: which part of the snapshot or the log, under which headers.

Everything here is synchronous and bounded: large parts are answered as file slices, never read into memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from switchgear_shapes import answers, offsets
from switchgear_shapes.errors import ShapeError, not_ready
from switchgear_shapes.log.files import FileCache
from switchgear_shapes.log.registry import Registry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.shape_log import Slice
from switchgear_shapes.offsets import END_OF_SNAPSHOT, Offset
from switchgear_shapes.prepared import ChunkResponse, Prepared, PreparedChunks
from switchgear_shapes.request import ShapeRequest
from switchgear_wire import AnyResponse, ClientGone, FileResponse, FileSlice, Request, Response, StreamResponse, Writer

log = logging.getLogger("switchgear.shapes.reading")

INLINE_BYTES = 65_536
"""Up to here a body is read and sent in one write; larger ones go as file slices."""
BLOCK_BYTES = 262_144
GROWTH_SECONDS = 60.0
"""How long a reader waits for the next bytes of a snapshot that is being written."""
_SEPARATOR = b",\n"
_ARRAY = (b"[", _SEPARATOR, b"]")
_EVENTS = (b"data: ", b"\n\ndata: ", b"\n\n")
"""What stands before, between and behind the lines of a body."""
CursorRule = Callable[[int], int]
"""The client's last cursor → the next one."""


def unreadable() -> ShapeError:
    return ShapeError(500, {"message": "Unable to retrieve shape log: storage error"})


def no_files(shape: Shape) -> None:
    """Who only reads along: its writer has ended the shape, and is about to say so."""
    raise not_ready("shape data to be loaded", retry_after=1)


class Reader:
    """Builds the answers that carry a shape's data."""

    def __init__(
        self,
        store: Registry,
        cache: answers.CacheRules,
        cursor: CursorRule,
        on_missing: Callable[[Shape], None] = no_files,
    ) -> None:
        self._store = store
        self._on_missing = on_missing
        """Ends a shape whose file is not there, or raises what the client is told."""
        self._cache = cache
        self._cursor = cursor
        self.prepared = PreparedChunks()
        self._memo_key: tuple[int, int, int, int] | None = None
        self._memo = b""
        self._live_key: tuple[object, ...] | None = None
        self._live_answer = (b"", b"")

    # -- headers --

    def headers(
        self,
        request: Request,
        base: bytes,
        sr: ShapeRequest,
        shape: Shape,
        offset: Offset,
        *,
        schema: bytes | None,
        reaches_end: bool = False,
        has_data: bool = True,
        content_type: bytes = answers.JSON_TYPE,
    ) -> bytes:
        """All headers of a 200. `schema` only for answers that are not live."""
        cursor = self._cursor(sr.cursor) if sr.live else 0
        return base + self._own_headers(
            request,
            sr,
            shape,
            offset,
            cursor,
            schema,
            reaches_end=reaches_end,
            has_data=has_data,
            content_type=content_type,
        )

    def _own_headers(
        self,
        request: Request,
        sr: ShapeRequest,
        shape: Shape,
        offset: Offset,
        cursor: int,
        schema: bytes | None,
        *,
        reaches_end: bool,
        has_data: bool = True,
        content_type: bytes = answers.JSON_TYPE,
    ) -> bytes:
        """The headers without those that every answer carries."""
        unique = None if has_data else time.monotonic_ns()
        parts = [
            content_type,
            self._cache.of(request, sr),
            b"electric-handle: %b\r\nelectric-offset: %b\r\nelectric-has-data: %b\r\n"
            % (shape.handle.encode(), offsets.render(offset).encode(), b"true" if has_data else b"false"),
        ]
        if content_type is answers.JSON_TYPE:
            parts.append(b'etag: "%b"\r\n' % answers.etag(shape.handle, sr.offset_text, offset, unique))
        if sr.live:
            parts.append(b"electric-cursor: %d\r\n" % cursor)
        elif schema is not None:
            parts.append(b"electric-schema: " + schema + b"\r\n")
        if reaches_end:
            parts.append(b"electric-up-to-date: \r\n")
        return b"".join(parts)

    def _not_modified(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, offset: Offset, reaches_end: bool
    ) -> Response | None:
        given = request.headers.get(b"if-none-match")
        if given is None or not answers.matches(given, answers.etag(shape.handle, sr.offset_text, offset)):
            return None
        return Response(304, self.headers(request, base, sr, shape, offset, schema=None, reaches_end=reaches_end))

    # -- complete chunks, asked for again --

    def again(self, prepared: Prepared, base: bytes) -> ChunkResponse | None:
        """None when the file cannot be opened."""
        try:
            return prepared.answer(base, self._store.files)
        except OSError:
            return None

    # -- the snapshot --

    def chunk(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, number: int, schema: bytes | None
    ) -> AnyResponse:
        """Snapshot chunk `number`, which exists or is being written."""
        offset = (0, number)
        events = sr.live and sr.sse
        not_modified = None if events else self._not_modified(request, base, sr, shape, offset, reaches_end=False)
        if not_modified is not None:
            return not_modified
        content_type = answers.EVENT_STREAM if events else answers.JSON_TYPE
        headers = self.headers(request, base, sr, shape, offset, schema=schema, content_type=content_type)
        snapshot = shape.snapshot
        start = snapshot.chunk_start(number)
        if snapshot.kept is not None and snapshot.complete:
            rows = snapshot.kept[start : snapshot.chunk_ends[number]]
            if events:
                return Response(200, headers, _events_of(rows))
            return self._body(request, base, headers, shape, Slice(None, 0, 0, rows), b"")
        try:
            handle = self._store.files.get(snapshot.path)
        except FileNotFoundError:
            self._on_missing(shape)
            return answers.must_refetch(request, base, None, sr.offset_text)
        except OSError as error:
            log.error("cannot read the snapshot of %s: %s", shape.handle, error)
            return answers.error_response(request, base, unreadable())
        if events or number >= len(snapshot.chunk_ends):
            handle.release()  # nobody may be there any more to start it
            form = _EVENTS if events else _ARRAY
            files = self._store.files
            return StreamResponse(200, headers, lambda writer: _stream(writer, shape, number, start, files, form))
        end = snapshot.chunk_ends[number]
        return self._body(request, base, headers, shape, Slice(handle, start, end - start, b""), b"")

    # -- the log --

    def after(
        self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, offset: Offset, schema: bytes | None
    ) -> AnyResponse | None:
        """The log behind `offset`; None for a live request when nothing is there. Raises ShapeError."""
        if not sr.live or sr.sse or request.method != "GET" or b"if-none-match" in request.headers:
            return self._after(request, base, sr, shape, offset, schema, self._cursor(sr.cursor) if sr.live else 0)
        # Live clients come together: what they get differs by what every answer carries only.
        cursor = self._cursor(sr.cursor)
        key = (shape.id, shape.generation, shape.log.visible, offset, sr.offset_text, cursor)
        if key != self._live_key:
            response = self._after(request, b"", sr, shape, offset, schema, cursor)
            if not isinstance(response, Response) or response.status != 200:
                if response is not None:
                    response.headers = base + response.headers
                return response
            self._live_key = key
            self._live_answer = (response.headers, response.body)
        headers, body = self._live_answer
        return Response(200, base + headers, body)

    def _after(
        self,
        request: Request,
        base: bytes,
        sr: ShapeRequest,
        shape: Shape,
        offset: Offset,
        schema: bytes | None,
        cursor: int,
    ) -> AnyResponse | None:
        shape_log = shape.log
        try:
            position = shape_log.position_of(offset, self._store.files)
        except FileNotFoundError:
            self._on_missing(shape)
            return answers.must_refetch(request, base, None, sr.offset_text)
        except (OSError, ValueError, AssertionError) as error:
            log.error("cannot find a position in the log of %s: %s", shape.handle, error)
            raise unreadable() from None
        end, end_offset = shape_log.chunk_after(position)
        if position >= end:
            return None if sr.live else self._empty(request, base, sr, shape, schema)
        reaches_end = end == shape_log.visible
        not_modified = self._not_modified(request, base, sr, shape, end_offset, reaches_end)
        if not_modified is not None:
            return not_modified
        control = b""
        if reaches_end:
            control = answers.up_to_date(end_offset[0] if sr.live else max(self._store.seen_by(shape), end_offset[0]))
        headers = base + self._own_headers(request, sr, shape, end_offset, cursor, schema, reaches_end=reaches_end)
        try:
            if end - position <= INLINE_BYTES:
                return Response(200, headers, self._small_body(shape, position, end, control))
            piece = shape_log.slice(position, end, self._store.files)
        except FileNotFoundError:
            self._on_missing(shape)
            return answers.must_refetch(request, base, None, sr.offset_text)
        except OSError as error:
            log.error("cannot read the log of %s: %s", shape.handle, error)
            raise unreadable() from None
        return self._body(request, base, headers, shape, piece, control)

    def nothing(self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, schema: bytes | None) -> Response:
        """No changes: a live request's time is over, or `offset=now`."""
        end = max(sr.offset or END_OF_SNAPSHOT, shape.log.latest)
        headers = self.headers(request, base, sr, shape, end, schema=schema, reaches_end=True, has_data=False)
        lsn = max(self._store.seen_by(shape), end[0])
        return Response(200, headers, b"[" + answers.up_to_date(lsn) + b"]")

    def _empty(self, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, schema: bytes | None) -> Response:
        end = max(sr.offset or END_OF_SNAPSHOT, shape.log.latest)
        not_modified = self._not_modified(request, base, sr, shape, end, reaches_end=True)
        if not_modified is not None:
            return not_modified
        headers = self.headers(request, base, sr, shape, end, schema=schema, reaches_end=True)
        return Response(200, headers, b"[" + answers.up_to_date(max(self._store.seen_by(shape), end[0])) + b"]")

    def _small_body(self, shape: Shape, start: int, end: int, control: bytes) -> bytes:
        """The body's bytes, kept for the next request at the same position: live clients come together."""
        key = (shape.id, shape.generation, start, end)
        if self._memo_key != key:
            self._memo = self._read(shape, start, end)
            self._memo_key = key
        data = self._memo
        return b"[" + data + control + b"]" if control else b"[" + data[: -len(_SEPARATOR)] + b"]"

    def _read(self, shape: Shape, start: int, end: int) -> bytes:
        return shape.log.slice(start, end, self._store.files).read()

    def _body(
        self, request: Request, base: bytes, headers: bytes, shape: Shape, piece: Slice, control: bytes
    ) -> AnyResponse:
        if piece.size <= INLINE_BYTES:
            try:
                data = piece.read()
            except OSError as error:
                log.error("cannot read a shape's file: %s", error)
                return answers.error_response(request, base, unreadable())
            return Response(200, headers, b"[" + (data + control if control else data[: -len(_SEPARATOR)]) + b"]")
        if piece.handle is not None and not piece.tail and not control:
            return ChunkResponse(headers, shape, piece.handle, piece.start, piece.length - len(_SEPARATOR))
        parts: list[bytes | FileSlice] = [b"["]
        if piece.handle is not None:
            parts.append(FileSlice(piece.handle.fd, piece.start, piece.length))
        parts.append(piece.tail + control + b"]" if control else piece.tail[: -len(_SEPARATOR)] + b"]")
        return FileResponse(200, headers, parts, None if piece.handle is None else piece.handle.release)

    # -- events --

    def events_after(self, shape: Shape, offset: Offset) -> tuple[bytes, Offset] | None:
        """The log behind `offset` as server-sent events (not framed), at most a chunk; and where they end.

        Raises ShapeError.
        """
        try:
            position = shape.log.position_of(offset, self._store.files)
            end, end_offset = shape.log.chunk_after(position)
            if position >= end:
                return None
            data = self._read(shape, position, end) if end - position > INLINE_BYTES else None
            if data is None:
                self._small_body(shape, position, end, b"")
                data = self._memo
        except FileNotFoundError:
            self._on_missing(shape)
            raise not_ready("shape data to be loaded", retry_after=1) from None
        except (OSError, ValueError, AssertionError) as error:
            log.error("cannot read the log of %s: %s", shape.handle, error)
            raise unreadable() from None
        events = _events_of(data)
        if end == shape.log.visible:
            events += b"data: " + answers.up_to_date(end_offset[0]) + b"\n\n"
        return events, end_offset


_Form = tuple[bytes, bytes, bytes]


def _events_of(lines: bytes) -> bytes:
    opening, between, closing = _EVENTS
    return opening + lines[: -len(_SEPARATOR)].replace(_SEPARATOR, between) + closing


def _stream(writer: Writer, shape: Shape, number: int, start: int, files: FileCache, form: _Form) -> None:
    try:
        handle = files.get(shape.snapshot.path)
    except OSError as error:
        log.error("cannot read the snapshot of %s: %s", shape.handle, error)
        writer.abort()
        return
    task = asyncio.ensure_future(_follow(writer, shape, number, start, handle.fd, form))

    def done(_: object) -> None:
        handle.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("streaming a snapshot failed", exc_info=task.exception())
            writer.abort()

    task.add_done_callback(done)


async def _follow(writer: Writer, shape: Shape, number: int, position: int, fd: int, form: _Form) -> None:
    """Send chunk `number`, as far as it is there, and while it is being written. What is there ends between lines."""
    snapshot = shape.snapshot
    opening, between, closing = form
    try:
        while True:
            closed = number < len(snapshot.chunk_ends)
            end = snapshot.chunk_ends[number] if closed else snapshot.length
            while position < end:
                data = os.pread(fd, min(BLOCK_BYTES, end - position), position)
                if position + len(data) < end and data.endswith(b","):
                    data = data[:-1]  # it may be half of a separator, which is not to be taken apart
                if not data:
                    raise OSError("the snapshot file is shorter than it was")
                position += len(data)
                # The last separator of what is there waits until something follows it.
                held = position == end
                lines = data[: -len(_SEPARATOR)] if held else data
                writer.write(opening + (lines if form is _ARRAY else lines.replace(_SEPARATOR, between)))
                opening = between if held else b""
                await writer.drain()
            if closed:
                writer.write(closing)
                writer.finish()
                return
            if number < len(snapshot.chunk_ends) or snapshot.length > end:
                continue  # it grew while the client took what there was
            if snapshot.failure is not None or not shape.alive or not await snapshot.changed(GROWTH_SECONDS):
                writer.abort()
                return
    except (ClientGone, OSError):
        writer.abort()
