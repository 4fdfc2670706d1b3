"""What keeps a store from growing: checkpoints, which end old segments of the write-ahead log, and compacted logs.

A checkpoint is the state at the beginning of a segment, written when the files have all that came before. The two never
overlap: one compaction at a time, and none while a checkpoint is made.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import orjson

from switchgear_shapes.log import checkpoint, frames
from switchgear_shapes.log.compaction import KEPT_CHUNKS, Compacted, compact
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.sources import SourceState
from switchgear_shapes.log.store_files import MOVED_AT_ONCE, StoreFiles
from switchgear_shapes.log.wal import is_full, segment_numbers, segment_path

log = logging.getLogger("switchgear.shapes.store")

CHECKPOINT_BYTES = 64 * 1024 * 1024
CHECKPOINT_SECONDS = 600.0


class Upkeep(StoreFiles):
    """See the module."""

    _lock_fd: int

    def __init__(self, directory: Path, threshold: int) -> None:
        super().__init__(directory, threshold)
        self._checkpoint: asyncio.Task[None] | None = None
        self._checkpoint_due = 0.0
        self._compacting = False
        self._compacted: dict[int, int] = {}
        """How many chunks of a shape there is nothing to be had from, so far."""
        self.sources: dict[int, SourceState] = {}
        """What the subqueries of shapes return; ids are unique among shapes and sources."""

    def _leave(self, shape: Shape) -> None:
        super()._leave(shape)
        self._compacted.pop(shape.id, None)

    # -- checkpoints --

    def tick(self) -> None:
        """Called now and then: a checkpoint is made when the last one is old."""
        if self._loop.time() > self._checkpoint_due and self._wal.segment_bytes:
            self.begin_checkpoint()

    def begin_checkpoint(self) -> None:
        """Bring everything that is durable in the write-ahead log into the files, so that its segments can go."""
        if self._checkpoint is None and not self._staged and not self._compacting:
            self._checkpoint = asyncio.ensure_future(self._make_checkpoint())

    async def _make_checkpoint(self) -> None:
        try:
            captured: asyncio.Future[list[bytes] | None] = self._loop.create_future()

            def capture() -> None:
                # All records of the old segments are applied, none of the new one is. Within a large transaction
                # the state is not one that recovery could begin with.
                captured.set_result(None if self._staged else self._checkpoint_lines(self._wal.segment))

            self._wal.rotate(capture)
            lines = await captured
            if lines is None:
                return
            segment = self._wal.segment
            kept = list(self._kept.values())
            for index, shape in enumerate(list(self._tails.values())):
                self._flush(shape)
                if index % 64 == 63:
                    await asyncio.sleep(0)
            for start in range(0, len(kept), MOVED_AT_ONCE):
                await self._write_aside(kept[start : start + MOVED_AT_ONCE])
                if self._files_full:
                    break
            if self._files_full:
                return  # the log keeps what the files lack
            await self._loop.run_in_executor(None, self._sync)
            await self._loop.run_in_executor(None, self._write_checkpoint, lines)
            await self._loop.run_in_executor(None, self._remove_segments_before, segment)
            self._checkpoint_due = self._loop.time() + CHECKPOINT_SECONDS
        except OSError as error:
            if not is_full(error):
                self._die(error)
            log.error("no checkpoint could be made: the disk is full")
        finally:
            self._checkpoint = None

    def _checkpoint_lines(self, segment: int) -> list[bytes]:
        head = {
            "segment": segment,
            "next_id": self._next_id,
            "system": self.system,
            "commit_lsn": self.commit_lsn,
            "durable_lsn": self.durable_lsn,
            "shapes": len(self.by_id),
            "held": list(self.held.items()),
        }
        shapes = (orjson.dumps(shape.to_json()) for shape in self.by_id.values())
        return [orjson.dumps(head), *shapes, *(orjson.dumps(source.to_json()) for source in self.sources.values())]

    def _write_checkpoint(self, lines: list[bytes]) -> None:
        checkpoint.write(self._directory / "checkpoint", lines)

    def _sync(self) -> None:
        """All files of the storage at once, instead of one fsync per shape. Raises OSError."""
        checkpoint.sync_file_system(self._lock_fd)

    def _remove_segments_before(self, segment: int) -> None:
        for number in segment_numbers(self._wal_directory):
            if number < segment:
                segment_path(self._wal_directory, number).unlink(missing_ok=True)

    # -- compaction --

    async def compact(self, shape: Shape) -> bool:
        """Merge the old updates of a shape's log; whether that was worth it. Raises OSError (a full disk)."""
        if self._compacting or self._staged or self.full or not shape.alive:
            return False
        if len(shape.log.chunk_ends) - KEPT_CHUNKS <= self._compacted.get(shape.id, 0):
            return False
        self._compacting = True  # a checkpoint in between would mix the old file with the new one
        path = shape.log_path(shape.generation + 1)
        try:
            while self._checkpoint is not None:
                await asyncio.wait([self._checkpoint])
            # What an earlier run or process left under the new file's name must be gone before that is written.
            await asyncio.gather(*self._deleting, return_exceptions=True)
            self._flush(shape)
            log_ = shape.log
            cut = min(log_.flushed, log_.visible)
            chunk_ends = [end for end in log_.chunk_ends if end[0] <= cut]
            if len(chunk_ends) <= KEPT_CHUNKS:
                return False
            made = await self._loop.run_in_executor(None, compact, log_.path, path, chunk_ends, cut)
            if made is None or not shape.alive:
                self._unlink(path)
                if made is None:
                    self._compacted[shape.id] = len(chunk_ends) - KEPT_CHUNKS
                return False
            await self._log_compacted(shape, made)
            self._compacted[shape.id] = len(made.chunk_ends) - KEPT_CHUNKS
            log.info("log of shape %s compacted: %d bytes became %d", shape.handle, cut, made.length)
            return True
        except OSError as error:
            self._unlink(path)
            if not is_full(error):
                self._die(error)
            raise
        finally:
            self._compacting = False

    async def _log_compacted(self, shape: Shape, made: Compacted) -> None:
        generation = shape.generation + 1
        done: asyncio.Future[None] = self._loop.create_future()

        def durable() -> None:
            if shape.alive:
                self._replace_log(shape, generation, made)
            if not done.done():
                done.set_result(None)

        body = {
            "id": shape.id,
            "generation": generation,
            "cut": made.cut,
            "length": made.length,
            "chunks": made.chunk_ends,
        }
        self._wal.append(frames.json_record(frames.COMPACTED, body), durable)
        await done
