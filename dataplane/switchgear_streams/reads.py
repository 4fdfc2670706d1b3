"""Reading: a range of a stream (over the fork chain, packs and memory) in the form in which it goes out.

What it must not do: wait, or show a byte beyond `visible`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from switchgear_streams.rules import media, messages, offsets
from switchgear_streams.segments import Part
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_wire.errors import HttpError
from switchgear_wire.response import FileSlice

CHUNK = 4 * 1_048_576
"""The most that one catch-up response carries, but for a single larger message."""
SSE_CHUNK = 262_144
MAX_UNREAD = 64 * 1_048_576
"""Bytes in memory that catch-up answers wait with for their clients, before answers get as small as SSE's events."""
_WINDOW = 65_536


@dataclass(slots=True)
class Range:
    """Stored bytes [start, end) in parts. `held`: packs in use, to be released. `tail`: nothing comes after it now."""

    start: int
    end: int
    parts: list[Part]
    held: list[int]
    tail: bool


class Unread:
    """What catch-up answers hold in memory, all together, until their clients have taken them."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def limit(self) -> int:
        """How much one more answer may carry: clients that do not read must not fill the memory."""
        return CHUNK if self.size < MAX_UNREAD else SSE_CHUNK

    def until(self, parts: list[Part], done: Callable[[], None]) -> Callable[[], None]:
        """Count these; what is called instead of `done`, once."""
        size = sum(len(part) for part in parts if isinstance(part, bytes))
        if not size:
            return done
        self.size += size

        def taken() -> None:
            self.size -= size
            done()

        return taken


class Reader:
    """Reads of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def position(self, stream: Stream, offset: offsets.Offset | None) -> int:
        """Where a read begins. Raises 400 and 410 (`offsets.resolve`), 400 INVALID_OFFSET within a JSON message."""
        if offset is None:
            return stream.visible
        if offset == offsets.START:
            return self.settle(stream, stream.left)
        if offset.space == stream.space and offset.position < stream.first:
            raise _dropped(stream)
        position = self.settle(stream, offsets.resolve(offset, stream.space, stream.visible))
        if stream.json and not self.is_boundary(stream, position):
            raise HttpError(400, "INVALID_OFFSET", "This offset is within a message and was never given out.")
        return position

    def settle(self, stream: Stream, position: int) -> int:
        """Where a read at `position` begins: not in what was taken out, nor within a message that has moved there."""
        if position >= stream.compacted:
            return position
        owner = stream
        while position < owner.base:
            owner = self._source(owner)
        if position <= owner.squeezed:
            return owner.squeezed
        if self.load(owner, position - 1, position) == b"\n":
            return position
        return self._message_end(owner, position, position, owner.compacted)

    def is_boundary(self, stream: Stream, position: int) -> bool:
        """May a JSON range begin or end here?"""
        if position in (0, stream.first, stream.visible):
            return True
        return self.load(stream, position - 1, position) in (b"\n", b"")  # b"": a message that was replaced

    @staticmethod
    def check(stream: Stream, position: int) -> None:
        """Raises 410 DATA_DAMAGED if what comes next is lost."""
        # Where messages have moved, a position before `first` is one at which deletions would be missed.
        if position < stream.left or (position < stream.first and stream.compacted):
            raise _dropped(stream)
        damage = stream.damage
        if damage is not None and damage[0] <= position < damage[1]:
            raise HttpError(410, "DATA_DAMAGED", "The data at this offset was damaged on disk and is lost.")

    def range(self, stream: Stream, start: int, limit: int) -> Range:
        """From `start` up to about `limit` bytes, cut between messages (JSON) or characters (text).

        Raises 410 DATA_DAMAGED, OSError.
        """
        end = visible = stream.visible
        damage = stream.damage
        if start < stream.first:
            self.check(stream, start)
        start = self.settle(stream, start)
        if damage is not None and start < damage[1]:
            self.check(stream, start)
            end = damage[0]
        if end - start > limit:
            end = self._cut(stream, start, start + limit, end)
        held: list[int] = []
        try:
            parts = self._parts(stream, start, end, held)
        except BaseException:
            self.release(held)
            raise
        return Range(start, end, parts, held, end == visible)

    def load(self, stream: Stream, start: int, end: int) -> bytes:
        """Stored bytes [start, end), in memory."""
        held: list[int] = []
        try:
            return self.join(self._parts(stream, start, end, held))
        finally:
            self.release(held)

    def join(self, parts: list[Part]) -> bytes:
        read = self._store.packs.disk.read
        return b"".join(
            [part if isinstance(part, bytes) else read(part.fd, part.length, part.offset) for part in parts]
        )

    def release(self, held: list[int]) -> None:
        for pack in held:
            self._store.packs.release(pack)
        held.clear()

    def take(self, stream: Stream, start: int, limit: int) -> tuple[bytes, int]:
        """(stored bytes from `start`, their end)."""
        found = self.range(stream, start, limit)
        try:
            return self.join(found.parts), found.end
        finally:
            self.release(found.held)

    def append_end(self, stream: Stream, position: int) -> int | None:
        """Where the append that follows `position` ends, over the fork chain; None at the tail."""
        limit = stream.visible
        while position < stream.base:
            limit = min(limit, stream.base)
            stream = self._source(stream)
        end = self._store.packs.append_end(stream, position)
        return None if end is None else min(end, limit)

    def _parts(self, stream: Stream, start: int, end: int, held: list[int]) -> list[Part]:
        owners: list[tuple[Stream, int, int]] = []
        while start < end:
            if start >= stream.base:
                owners.append((stream, start, end))
                break
            if end > stream.base:
                owners.append((stream, stream.base, end))
                end = stream.base
            stream = self._source(stream)
        parts: list[Part] = []
        for owner, low, high in reversed(owners):
            parts += self._store.packs.parts(owner, low, high, held)
        return parts

    def _source(self, stream: Stream) -> Stream:
        fork = stream.fork
        source = None if fork is None else self._store.get(fork.source)
        if fork is None or source is None or source.generation != fork.source_generation:
            raise HttpError(410, "DATA_DAMAGED", "The stream that this one was forked from is lost.")
        return source

    def _cut(self, stream: Stream, start: int, target: int, end: int) -> int:
        if stream.json:
            return self._message_end(stream, start, target, end)
        if stream.media.startswith(b"text/"):
            return _character_end(self.load(stream, max(start, target - 4), target + 1), target)
        return target

    def _message_end(self, stream: Stream, start: int, target: int, end: int) -> int:
        """The last message end in (start, target], or else the first one after it."""
        high = target
        while high > start:
            low = max(start, high - _WINDOW)
            found = self.load(stream, low, high).rfind(b"\n")
            if found >= 0:
                return low + found + 1
            high = low
        low = target
        while low < end:
            high = min(end, low + 16 * _WINDOW)
            found = self.load(stream, low, high).find(b"\n")
            if found >= 0:
                return low + found + 1
            low = high
        return end


def _character_end(around: bytes, target: int) -> int:
    """`around`: the bytes before `target` (at most 4) and the one at it. Not within a UTF-8 sequence or a CRLF."""
    before, after = around[:-1], around[-1]
    if before[-1:] == b"\r" and after == 0x0A:
        return target - 1 if len(before) > 1 else target + 1
    back = 0
    while after & 0xC0 == 0x80 and back < len(before) - 1:
        back += 1
        after = before[-back]
    return target - back if after & 0xC0 != 0x80 else target


def _dropped(stream: Stream) -> HttpError:
    return HttpError(
        410,
        "OFFSET_GONE",
        "The data at this offset is no longer retained; start again at -1.",
        b"stream-retained-offset: %b\r\n" % offsets.mint(stream.space, stream.first),
    )


def is_text(stream: Stream) -> bool:
    """Does it go over SSE as it is? (Everything else as base64.)"""
    return media.is_text(stream.media)


def sse_payload(stream: Stream, stored: bytes) -> bytes:
    """A data event's payload: a JSON array, text, or base64."""
    if stream.json:
        return messages.to_array(stored)
    if stream.media.startswith(b"text/"):
        return stored
    return base64.b64encode(stored)


def json_parts(parts: list[Part]) -> list[Part]:
    """The parts of a JSON array from those of a stored range: brackets instead of the last separator."""
    if not parts:
        return [b"[]"]
    made = list(parts)
    left = len(messages.END)
    while left:
        last = made.pop()
        length = len(last) if isinstance(last, bytes) else last.length
        cut = min(left, length)
        left -= cut
        if length > cut:
            keep = length - cut
            made.append(last[:keep] if isinstance(last, bytes) else FileSlice(last.fd, last.offset, keep))
    return [b"[", *made, b"]"]
