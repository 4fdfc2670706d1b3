"""What live requests are answered with: by the log, by silence, or by the shape's end."""

from __future__ import annotations

from switchgear_shapes import answers, errors
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.live_requests import KEEPALIVE
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.offsets import END_OF_SNAPSHOT, Offset
from switchgear_shapes.reading import Reader
from switchgear_shapes.request import ShapeRequest
from switchgear_shapes.stack import Stack
from switchgear_wire import AnyResponse, Request, Response, frame


def events(reader: Reader, request: Request, base: bytes, sr: ShapeRequest, shape: Shape, body: bytes) -> Response:
    """An event stream that ends with `body`. The offset that its headers tell is where it begins: the npm client takes
    that at once, and what it has received only with the `up-to-date` behind it."""
    headers = reader.headers(
        request, base, sr, shape, sr.offset or END_OF_SNAPSHOT, schema=None, content_type=answers.EVENT_STREAM
    )
    return Response(200, headers, body)


class LogAnswerer:
    """The three ways in which a wait for the log ends."""

    def __init__(
        self,
        stack: Stack,
        request: Request,
        base: bytes,
        sr: ShapeRequest,
        shape: Shape,
        offset: Offset,
        schema: bytes | None,
        ahead: bool,
    ) -> None:
        self._stack = stack
        self._request = request
        self._base = base
        self._sr = sr
        self._shape = shape
        self._offset = offset
        self._schema = schema
        self._ahead = ahead

    def data(self) -> AnyResponse | None:
        if self._ahead and self._offset > self._shape.log.latest:
            return None
        reader = self._stack.reader
        if reader is None:
            return self.nothing()
        try:
            if self._sr.live and self._sr.sse:
                found = reader.events_after(self._shape, self._offset)
                return None if found is None else self._events(reader, *found)
            return reader.after(self._request, self._base, self._sr, self._shape, self._offset, self._schema)
        except ShapeError as error:
            return answers.error_response(self._request, self._base, error)

    def _events(self, reader: Reader, found: bytes, end: Offset) -> Response:
        """More than one answer holds is for a stream, for which the client comes back."""
        whole = end >= self._shape.log.latest
        return events(reader, self._request, self._base, self._sr, self._shape, found if whole else KEEPALIVE)

    def nothing(self) -> Response:
        stack = self._stack
        known, reader = stack.known, stack.reader
        ahead = self._ahead and known is not None and self._is_ahead(known.commit_lsn)
        # Who reads along may be behind the instance that the client has its offset from.
        useless = not stack.active and (ahead or not stack.read_only)
        if known is None or reader is None or useless:
            error = ShapeError(503, {"message": f"Timeout waiting for {stack.waiting_for}"}, retry_after=10)
            return answers.error_response(self._request, self._base, error)
        if ahead:
            error = errors.invalid("offset", "out of bounds for this shape")
            return answers.error_response(self._request, self._base, error)
        if self._sr.live and self._sr.sse:  # it has caught up exactly
            return events(reader, self._request, self._base, self._sr, self._shape, KEEPALIVE)
        return reader.nothing(self._request, self._base, self._sr, self._shape, self._schema)

    def _is_ahead(self, commit_lsn: int) -> bool:
        return self._offset > self._shape.log.latest and self._offset[0] > commit_lsn

    def gone(self) -> Response:
        known = self._stack.known
        found = None if known is None else known.by_identity.get(self._shape.definition.identity)
        replacement = None if found is None or not found.alive else found.handle
        return answers.must_refetch(self._request, self._base, replacement, self._sr.offset_text)


class Frames:
    """Chunk-framed events, made once for all streams at a position."""

    _key: tuple[int, int, Offset, int] | None = None
    _value: tuple[bytes, Offset] | None = None

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def events_after(self, shape: Shape, offset: Offset) -> tuple[bytes, Offset] | None:
        key = (shape.id, shape.generation, offset, shape.log.visible)
        if Frames._key != key:
            found = self._reader.events_after(shape, offset)
            Frames._value = None if found is None else (frame(found[0]), found[1])
            Frames._key = key
        return Frames._value
