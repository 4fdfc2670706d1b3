"""HTTP head → command: what the client asks for, checked as far as it can be without looking at a stream. Pure.

Every function raises HttpError (400 with a stable code) for a head that no stream could satisfy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from switchgear_streams.rules import cursors, lifetime, media, offsets, producers, retention
from switchgear_streams.rules.retention import Retention
from switchgear_wire.errors import HttpError
from switchgear_wire.query import parse_query

MAX_KEY = 1024
MAX_NAME = 1024
RESERVED = b"__ds"
_NUMBER = re.compile(rb"[0-9]{1,16}")

Headers = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Create:
    """PUT. `content_type` None: not given (or not like one). Times in Unix ms, `ttl` in seconds."""

    content_type: bytes | None
    closed: bool
    ttl: int | None
    expires_at: int | None
    expires_text: str | None
    forked_from: bytes | None
    fork_offset: offsets.Offset | None
    sub_offset: int
    retention: Retention | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """POST. `media` None: no Content-Type."""

    media: bytes | None
    close: bool
    batch: producers.Batch | None
    seq: str | None


@dataclass(frozen=True, slots=True)
class Read:
    """GET. `offset` None: the tail ("now")."""

    offset: offsets.Offset | None
    live: str | None
    cursor: int | None


def stream_key(path: bytes, prefix: bytes) -> bytes | None:
    """The stream's name below `prefix` (which ends in "/"), percent-decoded once; None if the path is elsewhere.

    Raises 400 INVALID_PATH.
    """
    if not path.startswith(prefix):
        return None
    raw = path[len(prefix) :]
    key = unquote_to_bytes(raw) if b"%" in raw else raw
    if not key:
        return None
    problem = None
    if len(key) > MAX_KEY:
        problem = f"is longer than {MAX_KEY} bytes"
    elif b"\0" in key:
        problem = "contains NUL"
    elif not {b".", b".."}.isdisjoint(key.split(b"/")):
        problem = "contains . or .. as a segment"
    elif not key.isascii():
        try:
            key.decode("utf-8")
        except UnicodeDecodeError:
            problem = "is not UTF-8"
    if problem is not None:
        raise HttpError(400, "INVALID_PATH", f"The stream path {problem}.")
    return key


def is_reserved(key: bytes) -> bool:
    """Is it below `__ds`, where no stream can be?"""
    return key == RESERVED or key.startswith(RESERVED + b"/")


def create(headers: Headers, prefix: bytes) -> Create:
    """A PUT's head. `prefix`: the root path with "/" at its end, for Stream-Forked-From."""
    ttl_raw, expires_raw = headers.get(b"stream-ttl"), headers.get(b"stream-expires-at")
    if ttl_raw is not None and expires_raw is not None:
        raise HttpError(400, "TTL_AND_EXPIRES_AT", "Give Stream-TTL or Stream-Expires-At, not both.")
    forked_from, fork_offset, sub_offset = _fork(headers, prefix)
    content_type = media.normal(headers.get(b"content-type"))
    json = None if forked_from is not None else media.essence(content_type or b"") == media.JSON
    return Create(
        content_type=content_type,
        retention=retention.parse(headers, json),
        closed=is_true(headers.get(b"stream-closed")),
        ttl=None if ttl_raw is None else lifetime.parse_ttl(ttl_raw),
        expires_at=None if expires_raw is None else lifetime.parse_expires_at(expires_raw),
        expires_text=None if expires_raw is None else expires_raw.decode("latin-1"),
        forked_from=forked_from,
        fork_offset=fork_offset,
        sub_offset=sub_offset,
    )


def _fork(headers: Headers, prefix: bytes) -> tuple[bytes | None, offsets.Offset | None, int]:
    source = headers.get(b"stream-forked-from")
    offset_raw = headers.get(b"stream-fork-offset")
    sub_raw = headers.get(b"stream-fork-sub-offset")
    if source is None:
        if sub_raw is not None or offset_raw is not None:
            raise HttpError(400, "FORK_SOURCE_MISSING", "Stream-Fork-Offset and -Sub-Offset need Stream-Forked-From.")
        return None, None, 0
    key = stream_key(source, prefix)
    if key is None:
        raise HttpError(
            400, "INVALID_FORK_SOURCE", f"Stream-Forked-From must be a stream's path below {prefix.decode()}."
        )
    try:
        offset = None if offset_raw is None else offsets.parse(offset_raw.decode("latin-1"))
    except HttpError:
        raise HttpError(400, "INVALID_FORK_OFFSET", "Stream-Fork-Offset must be an offset of the source.") from None
    sub_offset = 0
    if sub_raw is not None:
        number = lifetime.whole_number(sub_raw)
        if number is None:
            raise HttpError(400, "INVALID_FORK_SUB_OFFSET", "Stream-Fork-Sub-Offset must be a plain decimal number.")
        sub_offset = number
    return key, offset, sub_offset


def append(headers: Headers) -> Append:
    """A POST's head."""
    get = headers.get
    batch = None
    if b"producer-id" in headers or b"producer-epoch" in headers or b"producer-seq" in headers:
        batch = _batch(headers)
    content_type = get(b"content-type")
    closed = get(b"stream-closed")
    seq = get(b"stream-seq")
    if seq is not None and not 0 < len(seq) <= MAX_NAME:
        raise HttpError(400, "INVALID_SEQ", f"Stream-Seq must be 1 to {MAX_NAME} bytes long.")
    return Append(
        media=media.essence(content_type) if content_type else None,
        close=closed is not None and is_true(closed),
        batch=batch,
        seq=None if seq is None else seq.decode("latin-1"),
    )


def _batch(headers: Headers) -> producers.Batch:
    name, epoch, seq = (headers.get(b"producer-" + part) for part in (b"id", b"epoch", b"seq"))
    if name is None or epoch is None or seq is None:
        raise HttpError(
            400, "PRODUCER_HEADERS_INCOMPLETE", "Send Producer-Id, Producer-Epoch and Producer-Seq together, or none."
        )
    if not 0 < len(name) <= MAX_NAME:
        raise HttpError(400, "INVALID_PRODUCER_ID", f"Producer-Id must be 1 to {MAX_NAME} bytes long.")
    numbers = []
    for raw, header in ((epoch, "Producer-Epoch"), (seq, "Producer-Seq")):
        if not _NUMBER.fullmatch(raw) or int(raw) > producers.MAX_NUMBER:
            raise HttpError(400, "INVALID_PRODUCER_NUMBER", f"{header} must be a decimal number from 0 to 2^53-1.")
        numbers.append(int(raw))
    return producers.Batch(name.decode("latin-1"), *numbers)


def read(query: bytes) -> Read:
    """A GET's query. Parameters that the protocol does not know are ignored."""
    if not query:
        return Read(offsets.START, None, None)
    given: dict[str, str] = {}
    for name, value in parse_query(query):
        if name == "offset" and name in given:
            raise HttpError(400, "INVALID_OFFSET", "Give offset once.")
        given.setdefault(name, value)
    live = given.get("live")
    if live is not None and live not in ("long-poll", "sse"):
        raise HttpError(400, "INVALID_LIVE", "live must be long-poll or sse.")
    where = given.get("offset")
    offset: offsets.Offset | None
    if where is None:
        if live is not None:
            raise HttpError(400, "OFFSET_MISSING", "A live read needs an offset: -1, now, or a Stream-Next-Offset.")
        offset = offsets.START
    elif where == "-1":
        offset = offsets.START
    elif where == "now":
        offset = None
    else:
        offset = offsets.parse(where)
    return Read(offset, live, cursors.parse(given.get("cursor")))


def is_true(raw: bytes | None) -> bool:
    """Stream-Closed: only "true" (in any case) counts; anything else is as if absent."""
    return raw is not None and raw.strip().lower() == b"true"
