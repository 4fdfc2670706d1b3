"""A shape's snapshot: a file of message lines in numbered chunks, readable while it grows.

Invariants: bytes below `length` never change; chunk N ends at `chunk_ends[N]`; once `complete`, the last chunk end is
the length. A snapshot that is not complete does not survive the process. A small one is in the write-ahead log and in
memory (`kept`) until its file is written.
"""

from __future__ import annotations

import asyncio

from switchgear_shapes.errors import ShapeError
from switchgear_shapes.snapshot import SnapshotMark


class SnapshotFile:
    """State of one snapshot. Written by its creation task, read by requests."""

    __slots__ = ("_waiters", "chunk_ends", "complete", "failure", "kept", "length", "mark", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.length = 0
        self.chunk_ends: list[int] = []
        self.complete = False
        self.kept: bytes | None = None
        """All bytes, while they are in no file."""
        self.mark: SnapshotMark | None = None
        self.failure: ShapeError | None = None
        self._waiters: list[asyncio.Future[bool]] | None = None

    def restore(self, chunk_ends: list[int], mark: SnapshotMark) -> None:
        self.chunk_ends = chunk_ends
        self.length = chunk_ends[-1]
        self.mark = mark
        self.complete = True

    @property
    def started(self) -> bool:
        """Whether readers can get something, or the reason why they never will."""
        return self.length > 0 or self.complete or self.failure is not None

    def chunk_start(self, number: int) -> int:
        return self.chunk_ends[number - 1] if number > 0 else 0

    def exists(self, number: int) -> bool | None:
        """Whether there is a chunk of this number; None when that is not known yet."""
        if number < len(self.chunk_ends) or (not self.complete and number == len(self.chunk_ends)):
            return True
        return False if self.complete else None

    def advance(self, length: int, chunk_ends: list[int], *, complete: bool = False) -> None:
        """More bytes are in the file. The last chunk always has a line: snapshots end with a control line."""
        self.chunk_ends.extend(chunk_ends)
        self.length = length
        self.complete = self.complete or complete
        self._wake()

    def fail(self, failure: ShapeError) -> None:
        self.failure = failure
        self._wake()

    async def changed(self, seconds: float) -> bool:
        """Wait for the next `advance` or `fail`; False when `seconds` pass without one."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(future)
        timer = loop.call_later(seconds, _settle, future, False)
        try:
            return await future
        finally:
            timer.cancel()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for future in waiters or ():
            _settle(future, True)


def _settle(future: asyncio.Future[bool], woken: bool) -> None:
    if not future.done():
        future.set_result(woken)


def split_chunks(rows: list[bytes], start: int, chunk_start: int, threshold: int) -> list[int]:
    """Chunk ends within `rows`, which begin at byte `start`: the row that reaches the threshold ends its chunk."""
    ends = []
    position = start
    for row in rows:
        position += len(row)
        if position - chunk_start >= threshold:
            ends.append(position)
            chunk_start = position
    return ends
