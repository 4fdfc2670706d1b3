"""Changes on their way to the disk: what the log encodes, and what happens when they are durable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from switchgear_streams import checksums, records
from switchgear_streams.pending import Resolvable
from switchgear_streams.runs import Chunk, Place
from switchgear_streams.stream import Stream
from switchgear_streams.wal import Segment
from switchgear_wire.response import Response


class _Placed:
    """A change whose record ends with its payload, of which large chunks are told where they come to lie."""

    __slots__ = ("large", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.large: Sequence[tuple[int, Chunk, int]] = ()
        """(offset within the payload, chunk of the stream, its checksum)."""

    def placed(self, segment: Segment, end: int) -> None:
        """The record ends there."""
        start = end - len(self.payload)
        for offset, chunk, crc in self.large:
            chunk.place = Place(segment, start + offset, crc)

    def take_large(self, chunk: Chunk, start: int) -> None:
        """The payload begins at position `start`."""
        self.large = (*self.large, (chunk.start - start, chunk, checksums.crc32(chunk.data)))

    def checksum(self) -> int | None:
        """The payload's, if it is known."""
        large = self.large
        return large[0][2] if large and len(large[0][1].data) == len(self.payload) else None


class AppendEntry(_Placed):
    """Appends (and a close) to one stream within one block."""

    __slots__ = (
        "answers",
        "closes",
        "end",
        "extra",
        "pieces",
        "start",
        "stream",
        "time",
    )

    def __init__(self, stream: Stream, time: int) -> None:
        self.payload = b""
        self.large = ()
        self.stream = stream
        self.time = time
        self.start = self.end = stream.end
        self.pieces: list[bytes] = []
        self.extra: dict[str, Any] | None = None
        self.closes = False
        self.answers: list[tuple[Resolvable, Response]] = []

    def encode(self) -> list[bytes]:
        stream = self.stream
        stream.entry = None
        pieces = self.pieces
        if len(pieces) == 1:
            self.payload = payload = pieces[0]
            if self.extra is None and len(payload) < records.COPY_BELOW:
                return records.encode_append(stream.key, stream.generation, self.start, self.time, payload)
        else:
            self.payload = payload = b"".join(pieces)
        crc = self.checksum() if self.large else None
        lengths = [len(piece) for piece in pieces]
        return records.encode(
            records.APPEND, stream.key, stream.generation, self.start, self.time, self.extra, lengths, payload, crc
        )

    def noted(self) -> dict[str, Any]:
        """What the record says besides, to be added to."""
        if self.extra is None:
            self.extra = {}
        return self.extra

    def durable(self) -> None:
        stream = self.stream
        stream.visible = self.end
        if self.closes:
            stream.visible_closed = True
        if stream.live is not None:
            stream.live.publish(self.start, bytes(self.payload))
        for pending, response in self.answers:
            pending.resolve(response)


class ChangeEntry(_Placed):
    """A creation, deletion, trim or touch."""

    __slots__ = ("_done", "_kind", "_record", "stream")

    def __init__(self, stream: Stream, kind: int, time: int, extra: dict[str, Any], payload: bytes) -> None:
        super().__init__(payload)
        self.stream = stream
        self._kind = kind
        self._record = (time, extra)
        self._done: list[Callable[[], None]] = []

    def then(self, done: Callable[[], None]) -> None:
        self._done.append(done)

    def encode(self) -> list[bytes]:
        stream, payload, (time, extra) = self.stream, self.payload, self._record
        lengths = (len(payload),) if payload else ()
        crc = self.checksum()
        return records.encode(
            self._kind, stream.key, stream.generation, stream.base, time, extra, lengths, payload, crc
        )

    def durable(self) -> None:
        for done in self._done:
            done()
