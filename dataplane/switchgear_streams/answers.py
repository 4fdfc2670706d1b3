"""Response heads and common answers. Pure; the constant headers are composed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from switchgear_streams.rules import offsets
from switchgear_wire.response import Response, header_block

if TYPE_CHECKING:
    from switchgear_streams.stream import Stream

_EXPOSED = (
    b"Stream-Next-Offset, Stream-Up-To-Date, Stream-Closed, Stream-Cursor, Stream-TTL, Stream-Expires-At, "
    b"Stream-Retained-Offset, Stream-Retention-Seconds, Stream-Retention-Bytes, Stream-Retention-Keys, "
    b"Stream-Retention-Tombstone-Seconds, "
    b"Producer-Epoch, Producer-Seq, Producer-Expected-Seq, Producer-Received-Seq, Stream-SSE-Data-Encoding, "
    b"ETag, Location, Content-Type, Content-Encoding, Vary, Retry-After"
)
BASE = header_block(
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", _EXPOSED),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
PREFLIGHT = BASE + header_block(
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, HEAD, OPTIONS"),
    (
        b"access-control-allow-headers",
        b"Content-Type, Authorization, If-None-Match, Accept-Encoding, Stream-Closed, Stream-TTL, Stream-Expires-At, "
        b"Stream-Seq, Producer-Id, Producer-Epoch, Producer-Seq, Stream-Forked-From, Stream-Fork-Offset, "
        b"Stream-Fork-Sub-Offset, Stream-Retention-Seconds, Stream-Retention-Bytes, Stream-Retention-Keys, "
        b"Stream-Retention-Tombstone-Seconds",
    ),
    (b"access-control-max-age", b"86400"),
)
NO_STORE = b"cache-control: no-store\r\n"
UP_TO_DATE = b"stream-up-to-date: true\r\n"
CLOSED = b"stream-closed: true\r\n"
_JSON = b"content-type: application/json\r\n" + NO_STORE


def problem(status: int, code: str, message: str, headers: bytes = b"") -> Response:
    """An error with the server's headers: JSON {"code", "message"}."""
    return Response(status, BASE + _JSON + headers, orjson.dumps({"code": code, "message": message}))


def not_found() -> Response:
    return problem(404, "STREAM_NOT_FOUND", "There is no stream at this path; create it with PUT.")


def gone() -> Response:
    return problem(410, "STREAM_GONE", "This stream was deleted and is kept only for its forks.")


def content_type(stream: Stream) -> bytes:
    return b"content-type: %b\r\n" % stream.content_type


def next_offset(stream: Stream, position: int) -> bytes:
    return b"stream-next-offset: %016d_%016d\r\n" % (stream.space, position)


def appended(stream: Stream, position: int, closed: bool) -> Response:
    """204 for an append without producer headers."""
    if closed:
        return Response(204, BASE + CLOSED + next_offset(stream, position))
    return Response(204, BASE + b"stream-next-offset: %016d_%016d\r\n" % (stream.space, position))


def produced(status: int, stream: Stream, position: int, closed: bool, epoch: int, seq: int) -> Response:
    """200 or 204 for a request with producer headers; `seq`: the highest accepted one."""
    extra = b"producer-epoch: %d\r\nproducer-seq: %d\r\n" % (epoch, seq)
    return Response(status, BASE + (CLOSED if closed else b"") + next_offset(stream, position) + extra)


def closed_conflict(stream: Stream) -> Response:
    return problem(
        409, "STREAM_CLOSED", "The stream is closed; nothing can be appended.", CLOSED + next_offset(stream, stream.end)
    )


def lifetime(stream: Stream) -> bytes:
    """Stream-TTL or Stream-Expires-At, if it has one."""
    if stream.ttl is not None:
        return b"stream-ttl: %d\r\n" % stream.ttl
    if stream.expires_text is not None:
        return header_block((b"stream-expires-at", stream.expires_text.encode("latin-1")))
    return b""


def kept(stream: Stream) -> bytes:
    """Its own bounds, and where its data begins if some are gone."""
    made = b"" if not stream.first else b"stream-retained-offset: %b\r\n" % token(stream, stream.first)
    own = stream.retention
    if own is None:
        return made
    if own.seconds is not None:
        made += b"stream-retention-seconds: %d\r\n" % own.seconds
    if own.size is not None:
        made += b"stream-retention-bytes: %d\r\n" % own.size
    if own.tombstones is not None:
        made += b"stream-retention-keys: state\r\nstream-retention-tombstone-seconds: %d\r\n" % own.tombstones
    return made


def created(stream: Stream, status: int, location: bytes, end: int, closed: bool) -> Response:
    """201 or 200 to a PUT."""
    return Response(
        status,
        BASE
        + header_block((b"location", location))
        + content_type(stream)
        + next_offset(stream, end)
        + (CLOSED if closed else b"")
        + lifetime(stream)
        + kept(stream),
    )


def head(stream: Stream) -> Response:
    """200 to a HEAD."""
    return Response(
        200,
        BASE
        + NO_STORE
        + content_type(stream)
        + next_offset(stream, stream.visible)
        + (CLOSED if stream.visible_closed else b"")
        + lifetime(stream)
        + kept(stream),
    )


def etag(stream: Stream, start: int, end: int, closed: bool) -> bytes:
    closing = b":c" if closed else b""
    if start < stream.compacted:
        return b'"%d:%d:%d:%d%b"' % (stream.generation, start, end, stream.compacted, closing)
    return b'"%d:%d:%d%b"' % (stream.generation, start, end, closing)


def token(stream: Stream, position: int) -> bytes:
    return offsets.mint(stream.space, position)
