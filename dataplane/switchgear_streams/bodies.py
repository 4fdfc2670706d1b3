"""Request bodies that come in pieces: received whole, within a bound for each and one for all of them together.

Long JSON is made messages beside the loop, where it holds up nobody: one body at a time, for it takes many times its
size.

A large body of known length is received right into one buffer as soon as a part of it is here, so that whoever only
announces one takes no memory.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import cast

from switchgear_streams.rules import messages
from switchgear_wire.errors import BodyTooLarge, HttpError
from switchgear_wire.request import Request
from switchgear_wire.sending import MAX_DISCARDED

BUDGET = 256 * 1_048_576
"""Bodies that are being received, or wait to be parsed, may take this much memory all together."""
_FACTOR = 8
"""The buffer for a whole body may have so many times what of it is here."""


class Bodies:
    """Those of one service."""

    def __init__(self) -> None:
        self._held = 0
        self._turn = asyncio.Lock()
        self._parsing: dict[bytes, int] = {}
        """How many bodies for a stream wait to be parsed."""

    async def receive(self, request: Request, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge, ClientGone, 503 when too much is being received already."""
        length = request.content_length
        if length is not None and length > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = held = 0
        try:
            async for chunk in request.chunks():
                size += len(chunk)
                if size > limit:
                    raise BodyTooLarge(limit)
                parts.append(chunk)
                whole = length if length is not None and MAX_DISCARDED < length <= _FACTOR * size else None
                self._held -= held
                held = whole or size
                self._held += held
                if self._held > BUDGET:
                    raise _too_many()
                if whole is not None and size < whole and not request.body_complete:
                    return await _filled(request, parts, whole)
        finally:
            self._held -= held
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def parses(self, key: bytes) -> bool:
        """Must others for this stream wait, so that a producer's requests stay in their order?"""
        return key in self._parsing

    async def prepare(self, key: bytes, body: bytes, json: bool) -> messages.Prepared | None:
        """The messages of a long body for a JSON stream; None: that is left to whoever appends it. Raises 503."""
        size = len(body)
        if not json or size > messages.MAX_BODY or (size <= messages.LONG and key not in self._parsing):
            return None
        if self._held + size > BUDGET:
            raise _too_many()
        self._held += size
        self._parsing[key] = self._parsing.get(key, 0) + 1
        try:
            async with self._turn:
                return await asyncio.to_thread(messages.prepare, bytes(body))
        finally:
            self._held -= size
            self._parsing[key] -= 1
            if not self._parsing[key]:
                del self._parsing[key]


def _too_many() -> HttpError:
    return HttpError(503, "OVERLOADED", "Too many large bodies at once; try again.", b"retry-after: 1\r\n")


async def _filled(request: Request, parts: list[bytes], length: int) -> bytes:
    """The body that begins with these parts. It is a view that nobody writes to any more: most uses are those of bytes,
    and where it matters (JSON, live readers, documents) it is made that.

    A mapping of its own, filled with pages in one go: one fault for each page takes longer than all the rest.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    body, at = memoryview(mmap.mmap(-1, length, flags=flags)), 0
    for part in parts:
        body[at : at + len(part)] = part
        at += len(part)
    parts.clear()
    await request.fill(body[at:])
    return cast("bytes", body.toreadonly())
