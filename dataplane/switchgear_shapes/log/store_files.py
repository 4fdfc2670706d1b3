"""How the bytes of shapes get from memory into their files, and what happens while the disk is full.

Logs are filled on the loop's thread, which is cheap for the few that are written at once. Small snapshots come by the
thousand at once, and a new file is dear: another thread makes theirs, when no more come or too many have. What is in
memory until then is in the write-ahead log.
Invariant: readers are sent to a file only when it has all that memory had.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from switchgear_shapes.log.files import write_at
from switchgear_shapes.log.registry import Registry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.wal import ROOM_SECONDS, Wal, is_full

log = logging.getLogger("switchgear.shapes.store")

MOVED_AT_ONCE = 32
"""Small snapshots that one task of the other thread writes."""
CALM_SECONDS = 0.1
"""So long no snapshot came."""


class StoreFiles(Registry):
    """See the module."""

    def __init__(self, directory: Path, threshold: int) -> None:
        super().__init__(directory, threshold)
        self._loop = asyncio.get_running_loop()
        self._files_full = False
        self._deleting: set[asyncio.Future[None]] = set()
        self._moving: asyncio.Task[None] | None = None
        """Takes small snapshots out of memory."""
        self._kept_at = 0.0
        """When the last one came."""
        self._opened = False
        """Whether recovery is over: before, nothing is moved."""
        self._wal: Wal

    @property
    def full(self) -> bool:
        """Whether the disk is full: what comes now waits in memory, so the replication stream is paused."""
        return self._wal.full or self._files_full

    def _unlink(self, *paths: str) -> None:
        """Deleting a large file takes a while: not on the loop."""

        def unlink() -> None:
            for path in paths:
                Path(path).unlink(missing_ok=True)

        task = self._loop.run_in_executor(None, unlink)
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    # -- small snapshots --

    def _bound_kept(self, limit: int) -> None:
        if not self._opened or self._files_full:
            return  # what recovery finds is no more than the write-ahead log has
        self._kept_at = self._loop.time()
        if self._moving is None:
            self._moving = asyncio.ensure_future(self._move_kept(limit))
        while self._kept_bytes > 2 * limit and not self._files_full:  # they come faster than they go
            self._write_kept(next(iter(self._kept.values())))

    async def _move_kept(self, limit: int) -> None:
        """The oldest ones into their files, until so few bytes are left."""
        try:
            while self._kept_bytes > limit and not self._files_full:
                calm = self._kept_at + CALM_SECONDS - self._loop.time()
                if calm > 0 and self._kept_bytes < 1.5 * limit:
                    await asyncio.sleep(calm)
                    continue
                await self._write_aside(list(islice(self._kept.values(), MOVED_AT_ONCE)))
        finally:
            self._moving = None

    async def _write_aside(self, shapes: Iterable[Shape]) -> None:
        """In another thread. It may happen twice to one snapshot, whose bytes are the same ones."""
        work = [(shape, kept) for shape in shapes if (kept := shape.snapshot.kept) is not None]
        files = [(shape.snapshot.path, kept) for shape, kept in work]
        number, error = await self._loop.run_in_executor(None, _write_files, files)
        for shape, kept in work[:number]:
            if self.by_id.get(shape.id) is not shape:  # its file was deleted, perhaps before this one was made
                self._unlink(shape.snapshot.path)
            elif shape.snapshot.kept is kept:
                self._let_go(shape)
        if error is not None:
            self._file_failed(error)

    def _write_kept(self, shape: Shape) -> None:
        """Move a small snapshot into its file; on a full disk it stays in memory until there is room."""
        kept = shape.snapshot.kept
        if self._files_full or kept is None:
            return
        try:
            write_at(shape.snapshot.path, [kept], 0)
        except OSError as error:
            self._file_failed(error)
        else:
            self._let_go(shape)

    # -- logs --

    def _bound_tails(self, limit: int) -> None:
        while self._tail_bytes > limit and not self._files_full:
            self._flush(next(iter(self._tails.values())))

    def _flush(self, shape: Shape) -> None:
        """Move a shape's tail into its file; on a full disk it stays in memory until there is room."""
        if self._files_full or shape.id not in self._tails:
            return
        try:
            self._tail_bytes -= shape.log.flush()
            del self._tails[shape.id]
        except OSError as error:
            self._file_failed(error)

    # -- a full disk --

    def _file_failed(self, error: OSError) -> None:
        if not is_full(error):
            self._die(error)
        log.error("the disk is full: replication is paused until there is room; nothing is lost")
        self._files_full = True
        self._loop.call_later(ROOM_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._files_full = False
        waiting = next(iter(self._tails.values()), None)
        if waiting is not None:
            self._flush(waiting)
        small = next(iter(self._kept.values()), None)
        if small is not None:
            self._write_kept(small)

    def _flush_all(self) -> None:
        """Raises OSError when the disk is full."""
        while self._tails or self._kept:
            if self._tails:
                self._flush(next(iter(self._tails.values())))
            else:
                self._write_kept(next(iter(self._kept.values())))
            if self._files_full:
                raise OSError(errno.ENOSPC, "the disk is full")

    def _die(self, error: OSError) -> None:
        log.critical("a shape's log cannot be written (%s); stopping, recovery will decide", error)
        os._exit(74)


def _write_files(files: list[tuple[str, bytes]]) -> tuple[int, OSError | None]:
    """How many of them are written, and what kept the next one from it."""
    for number, (path, data) in enumerate(files):
        try:
            write_at(path, [data], 0)
        except OSError as error:
            return number, error
    return len(files), None
