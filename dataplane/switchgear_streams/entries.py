"""Changes on their way to the disk: what the log encodes, and what happens when they are durable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from switchgear_streams import records
from switchgear_streams.pending import Pending
from switchgear_streams.stream import Stream
from switchgear_wire.response import Response


class AppendEntry:
    """Appends (and a close) to one stream within one block."""

    __slots__ = (
        "answers",
        "closes",
        "end",
        "extra",
        "lengths",
        "payload",
        "pieces",
        "start",
        "stream",
        "time",
    )

    def __init__(self, stream: Stream, time: int) -> None:
        self.stream = stream
        self.time = time
        self.start = self.end = stream.end
        self.pieces: list[bytes] = []
        self.lengths: list[int] = []
        self.extra: dict[str, Any] = {}
        self.closes = False
        self.payload = b""
        self.answers: list[tuple[Pending, Response]] = []

    def encode(self) -> list[bytes]:
        stream = self.stream
        stream.entry = None
        pieces = self.pieces
        self.payload = payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return records.encode(
            records.APPEND, stream.key, stream.generation, self.start, self.time, self.extra, self.lengths, payload
        )

    def durable(self) -> None:
        stream = self.stream
        stream.visible = self.end
        if self.closes:
            stream.visible_closed = True
        if stream.live is not None:
            stream.live.publish(self.start, self.payload)
        for pending, response in self.answers:
            pending.resolve(response)


class ChangeEntry:
    """A creation, deletion or touch."""

    __slots__ = ("_done", "_kind", "_payload", "_record", "stream")

    def __init__(self, stream: Stream, kind: int, time: int, extra: dict[str, Any], payload: bytes) -> None:
        self.stream = stream
        self._kind = kind
        self._record = (time, extra)
        self._payload = payload
        self._done: list[Callable[[], None]] = []

    def then(self, done: Callable[[], None]) -> None:
        self._done.append(done)

    def encode(self) -> list[bytes]:
        stream, (time, extra) = self.stream, self._record
        lengths = (len(self._payload),) if self._payload else ()
        return records.encode(
            self._kind, stream.key, stream.generation, stream.base, time, extra, lengths, self._payload
        )

    def durable(self) -> None:
        for done in self._done:
            done()
