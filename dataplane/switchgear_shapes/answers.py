"""Header blocks and bodies of the shape API's answers: the exact bytes of the protocol. Pure.

One place for every header rule, so that all ways to an answer (at once, after a wait, as a stream) agree.
"""

from __future__ import annotations

import itertools
import re
import secrets

from switchgear_shapes import offsets
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.offsets import BEFORE_ALL, Offset
from switchgear_shapes.request import ShapeRequest
from switchgear_wire import Request, Response

VERSION = "1.7.12-switchgear-0.1.0"
JSON_TYPE = b"content-type: application/json; charset=utf-8\r\n"
EVENT_STREAM = b"content-type: text/event-stream\r\n"
DEFAULT_CACHE = b"cache-control: max-age=0, private, must-revalidate\r\n"
NO_CACHE = b"cache-control: no-cache\r\n"
NO_STORE = b"cache-control: no-store\r\nsurrogate-control: no-store\r\n"
MUST_REFETCH = b'[{"headers":{"control":"must-refetch"}}]'
SHAPE_METHODS = b"GET, POST, HEAD, DELETE, OPTIONS"
OTHER_METHODS = b"GET, HEAD"
ALLOWED_HEADERS = frozenset(
    {b"if-none-match", b"traceparent", b"tracestate", b"authorization", b"content-type", b"cache-control"}
)

_SERVER = b"electric-server: ElectricSQL/" + VERSION.encode() + b"\r\n"
_EXPOSED = (
    b"access-control-expose-headers: electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,"
    b"electric-up-to-date,electric-internal-known-error,retry-after\r\n"
)
# Request ids are unique, not secret: what is random is drawn once for each process.
_PROCESS_ID = secrets.token_hex(6).encode()
_numbers = itertools.count(1)
_SANE_ID = re.compile(rb"[A-Za-z0-9+/=_.:-]{20,200}")


def base_headers(request: Request | None, methods: bytes) -> bytes:
    """What every answer carries."""
    headers = {} if request is None else request.headers
    identifier = headers.get(b"x-request-id")
    if identifier is None or not _SANE_ID.fullmatch(identifier):
        identifier = b"%b%012x" % (_PROCESS_ID, next(_numbers))
    origin = headers.get(b"origin") or b"*"
    return b"%bx-request-id: %b\r\naccess-control-allow-origin: %b\r\n%baccess-control-allow-methods: %b\r\n" % (
        _SERVER,
        identifier,
        origin,
        _EXPOSED,
        methods,
    )


def preflight_headers(request: Request) -> bytes:
    """The extra headers of OPTIONS: the requested headers that are safe to allow."""
    asked = request.headers.get(b"access-control-request-headers")
    extra = b"access-control-max-age: 86400\r\n"
    if asked is not None:
        names = [name.strip().lower() for name in asked.split(b",")]
        allowed = b", ".join(name for name in names if name in ALLOWED_HEADERS)
        if allowed:
            extra += b"access-control-allow-headers: " + allowed + b"\r\n"
    return extra


class CacheRules:
    """`cache-control` values, made once from the settings."""

    def __init__(self, max_age: int, stale_age: int, sse_timeout: float) -> None:
        self._catch_up = b"cache-control: public, max-age=%d, stale-while-revalidate=%d\r\n" % (max_age, stale_age)
        self._events = b"cache-control: public, max-age=%d\r\n" % max(1, int(sse_timeout) - 1)

    def of(self, request: Request, shape_request: ShapeRequest) -> bytes:
        """For answers below 400."""
        if request.method not in ("GET", "HEAD"):
            return NO_CACHE
        if shape_request.offset == BEFORE_ALL:
            return b"cache-control: public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746\r\n"
        if shape_request.live:
            if shape_request.sse:
                return self._events
            return b"cache-control: public, max-age=5, stale-while-revalidate=5\r\n"
        return self._catch_up


def error_response(request: Request, base: bytes, error: ShapeError) -> Response:
    """The answer that an expected failure becomes."""
    cache = NO_CACHE if request.method not in ("GET", "HEAD", "OPTIONS") else NO_STORE
    headers = base + JSON_TYPE + cache
    if error.retry_after is not None:
        headers += b"retry-after: %d\r\n" % error.retry_after
    if error.known:
        headers += b"electric-internal-known-error: true\r\n"
    return Response(error.status, headers, error.body)


def must_refetch(request: Request, base: bytes, handle: str | None, requested: str) -> Response:
    """409: the client starts again, with the replacement handle if there is one."""
    cache = b"cache-control: public, max-age=%d, must-revalidate\r\n" % (1 if handle is None else 60)
    if request.method not in ("GET", "HEAD"):
        cache = NO_CACHE
    headers = base + JSON_TYPE + cache
    if handle is not None:
        headers += f'electric-handle: {handle}\r\netag: "{handle}:{requested}:{requested}"\r\n'.encode()
    return Response(409, headers, MUST_REFETCH)


def subset_headers(handle: str, offset: Offset, schema: bytes) -> bytes:
    """The headers of a subset snapshot, beside those of every answer."""
    named = f"electric-handle: {handle}\r\nelectric-offset: {offsets.render(offset)}\r\n".encode()
    return b"".join([JSON_TYPE, NO_CACHE, named, b"electric-schema: ", schema, b"\r\nelectric-snapshot: true\r\n"])


def etag(handle: str, requested: str, response: Offset, unique: int | None = None) -> bytes:
    """`unique` makes it one that never revalidates."""
    tail = "" if unique is None else f":{unique}"
    return f"{handle}:{requested}:{offsets.render(response)}{tail}".encode()


def matches(if_none_match: bytes | None, tag: bytes) -> bool:
    if if_none_match is None:
        return False
    return any(candidate.strip().removeprefix(b"W/").strip(b'"') == tag for candidate in if_none_match.split(b","))


def up_to_date(lsn: int) -> bytes:
    """The control message that ends a response which reaches the end of the log."""
    return b'{"headers":{"control":"up-to-date","global_last_seen_lsn":"%d"}}' % lsn


_SHAPE_ROUTE = (b"v1", b"shape")


def route_of(path: bytes) -> tuple[bytes, ...]:
    """The path's segments, decoded, without empty ones: `/v1//%73hape/` is `/v1/shape`."""
    if path == b"/v1/shape":
        return _SHAPE_ROUTE
    segments = path.split(b"/")
    if b"%" in path:
        segments = [_unquote(segment) for segment in segments]
    return tuple(segment for segment in segments if segment)


def _unquote(segment: bytes) -> bytes:
    parts = segment.split(b"%")
    made = [parts[0]]
    for part in parts[1:]:
        try:
            made.append(bytes([int(part[:2], 16)]) + part[2:])
        except ValueError:
            made.append(b"%" + part)
    return b"".join(made)
