"""A snapshot's rows on their way from Postgres to the disk, and to readers as they come.

Few rows that come all at once get no file: they go through the write-ahead log, whose sync they share with everything
else. Never more than a block is in memory. Once a shape is not alive any more nothing is kept of what comes for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.snapshot_file import split_chunks
from switchgear_shapes.log.store import Store
from switchgear_shapes.postgres.session import Session
from switchgear_shapes.snapshot_errors import SchemaChanged

BLOCK_BYTES = 1024 * 1024
SMALL_BYTES = 65_536
"""Up to here a snapshot goes through the write-ahead log."""


class Filling:
    """Fills one shape's snapshot: `take` its rows, then `finish`, and `close` in any case."""

    __slots__ = ("_ends", "_fd", "_kept", "_position", "_shape", "_store", "_threshold")

    def __init__(self, shape: Shape, store: Store, threshold: int) -> None:
        self._shape = shape
        self._store = store
        self._threshold = threshold
        self._fd = -1
        self._position = 0
        """Bytes in the file."""
        self._kept = b""
        """The rows themselves, if they are few."""
        self._ends: list[int] = []
        """Chunk ends of rows that are in no file: readers learn of them with the last line."""

    async def take(self, session: Session, seen: Callable[[], None]) -> None:
        """The rows of the COPY that has begun; `seen` is called when some come.

        Raises SchemaChanged, PostgresError, ConnectionLost, OSError.
        """
        loop = asyncio.get_running_loop()
        shape = self._shape
        chunk_start = 0
        async for rows in session.copy_blocks(BLOCK_BYTES, more=True):
            seen()
            if not shape.alive:
                raise SchemaChanged
            data = rows[0] if len(rows) == 1 else b"".join(rows)
            ends: list[int] = []
            if self._position + len(data) - chunk_start >= self._threshold:
                ends = split_chunks(rows, self._position, chunk_start, self._threshold)
            small = len(data) <= SMALL_BYTES
            if small and not self._position and session.copied:
                self._kept, self._ends = data, ends
                continue  # that was all
            if small:
                self._write(data)
            else:
                await loop.run_in_executor(None, self._write, data)
            self._kept = self._kept + data if self._position <= SMALL_BYTES else b""
            chunk_start = ends[-1] if ends else chunk_start
            shape.snapshot.advance(self._position, ends)

    @property
    def small(self) -> bool:
        """Whether all rows, without the last line, go through the write-ahead log."""
        return self._position in (0, len(self._kept))

    def finish_small(self, durable: Callable[[], None]) -> None:
        """The last line; `durable` is called when a crash cannot take the snapshot away any more."""
        line = self._last_line()
        rows = self._kept + line
        if self._position:
            self._write(line)
        else:
            self._store.keep_snapshot(self._shape, rows)
        self._shape.snapshot.advance(len(rows), [*self._ends, len(rows)], complete=True)
        self._store.complete_snapshot(self._shape, rows, durable)

    async def finish_large(self, durable: Callable[[], None]) -> None:
        """The same for rows that are in the file only, which is synced first."""
        self._write(self._last_line())
        self._shape.snapshot.advance(self._position, [self._position], complete=True)
        await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self._fd)
        if self._shape.alive:
            self._store.complete_snapshot(self._shape, None, durable)
        else:
            durable()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _last_line(self) -> bytes:
        if not self._shape.alive:
            raise SchemaChanged
        mark = self._shape.snapshot.mark
        assert mark is not None
        return mark.control_line()

    def _write(self, data: bytes) -> None:
        """Behind what the file has. It is made with the first write: most snapshots need none."""
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(self._shape.snapshot.path, flags, 0o600)
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self._position)
            self._position += written
            view = view[written:]
