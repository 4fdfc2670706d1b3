"""All shapes of the process and what is durable of them: changes through the write-ahead log, and their recovery.

Every change of state is a record of the write-ahead log, applied when it is durable; recovery applies the same records
to the last checkpoint. Files are filled by `store_files`, and synced only for a checkpoint (`upkeep`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switchgear_shapes.definition import Definition
from switchgear_shapes.errors import CorruptStorage, FatalError
from switchgear_shapes.log import checkpoint, frames
from switchgear_shapes.log.frames import Batch
from switchgear_shapes.log.registry import FORMAT
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.sources import SourceState, decode_deltas
from switchgear_shapes.log.upkeep import CHECKPOINT_BYTES, CHECKPOINT_SECONDS, Upkeep
from switchgear_shapes.log.wal import Replay, Wal, segment_numbers

log = logging.getLogger("switchgear.shapes.store")

CLOSE_SECONDS = 20.0
SHAPE_TAIL_LIMIT = 1024 * 1024


class StorageLocked(Exception):
    """Another process writes this storage directory."""


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """What is made within stays for long: the garbage collector is not to walk it, now or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


class Store(Upkeep):
    """See the module. Made with `Store.open`."""

    def __init__(self, directory: Path, threshold: int, lock_fd: int) -> None:
        super().__init__(directory, threshold)
        self._lock_fd = lock_fd

    # -- opening and recovery --

    @classmethod
    def open(cls, directory: Path, threshold: int) -> Store:
        """Lock the directory, recover what is in it. Raises StorageLocked, FatalError, OSError (a full disk)."""
        try:
            for path in (directory, directory / "shapes", directory / "wal"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for number in range(256):
                (directory / "shapes" / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
            lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FatalError(f"the storage directory cannot be used: {error}") from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_fd)
            raise StorageLocked(f"another process uses {directory}") from None
        store = cls(directory, threshold, lock_fd)
        try:
            with lasting():
                store._check_format()
                store._recover()
            store._opened = True
        except BaseException:
            store._tails.clear()  # nothing is to be written without the lock
            os.close(lock_fd)
            raise
        return store

    def _check_format(self) -> None:
        path = self._directory / "FORMAT"
        if not path.exists():
            checkpoint.write_atomically(path, FORMAT.encode() + b"\n")
        found = path.read_text("utf-8").strip()
        if found != FORMAT:
            raise FatalError(
                f"{path} says {found!r}, and this version reads {FORMAT!r};"
                " empty the directory (clients fetch their shapes anew) or run the version that wrote it"
            )

    def _recover(self) -> None:
        started = time.monotonic()
        first = 1
        replayed: int | None = None
        lost: list[Shape] = []
        snapshots: set[int] = set()
        try:
            restored = self.read_checkpoint()
            logs, snapshots = self._numbers_of_files()
            lost += [shape for shape in self.by_id.values() if shape.log.visible and shape.id not in logs]
            for shape in lost:  # before a line is added behind bytes that are not there
                self._leave(shape)
            first = min(segment_numbers(self._wal_directory), default=1) if restored is None else restored
            replay = Replay(self._wal_directory, first)
            for kind, body in replay:
                self.replay(kind, body)
            next_segment, next_sequence, replayed = replay.next_segment, replay.next_sequence, replay.bytes
        except (CorruptStorage, ValueError, KeyError, TypeError) as error:
            # Postgres still has the rows: clients fetch them again, under new handles. Nothing is patched up.
            log.error("the storage is damaged (%s); all shapes are dropped", error)
            self.__init__(self._directory, self._threshold, self._lock_fd)  # type: ignore[misc]
            next_segment = max([first, *segment_numbers(self._wal_directory)]) + 1
            next_sequence = 0
            self._next_id = int(time.time())
        for shape in [s for s in self.by_id.values() if not s.snapshot.complete]:
            self._forget(shape)
        suspects = [s for s in self.by_id.values() if s.snapshot.kept is None and s.id not in snapshots]
        for shape in suspects:
            if not Path(shape.snapshot.path).exists():  # a small one may have been written just now
                self._leave(shape)
                lost.append(shape)
        for source in self.sources.values():
            source.roll_back(self.replay_from)
        self._wal = Wal(self._wal_directory, max(next_segment, 1), next_sequence or 1)
        for shape in lost:
            log.warning("shape %s dropped: its files are missing", shape.handle)
            self._wal.append(frames.drop_record(shape.id))
        if replayed is None or self._staged:
            # The old segments must not be read again: they are damaged, or end within a transaction.
            for shape in self._staged.values():
                shape.log.rollback()
            self._staged.clear()
            state = self._checkpoint_lines(self._wal.segment)
            self._flush_all()
            self._sync()
            self._write_checkpoint(state)
            self._remove_segments_before(self._wal.segment)
        elif replayed > CHECKPOINT_BYTES // 8:
            self.begin_checkpoint()
        self._remove_orphans()
        self._checkpoint_due = self._loop.time() + CHECKPOINT_SECONDS
        log.info("%d shapes recovered in %.0f ms", len(self.by_id), (time.monotonic() - started) * 1000)

    # -- changes --

    def create(self, definition: Definition) -> Shape:
        """A new shape, registered at once; it survives a restart once `complete_snapshot` is durable."""
        microseconds = max(time.time_ns() // 1000, self._last_microseconds + 1)
        self._last_microseconds = microseconds
        shape = Shape(
            self._next_id, definition.handle(microseconds), definition, self._shapes_directory, self._threshold
        )
        shape.last_read = time.monotonic()  # it is made for somebody
        self._add(shape)
        self._wal.append(frames.json_record(frames.CREATE, shape.to_json()), wake=False)
        return shape

    def keep_snapshot(self, shape: Shape, rows: bytes) -> None:
        """A small snapshot without a file: its rows are read from memory until a checkpoint writes them."""
        self._keep(shape, rows)

    def complete_snapshot(self, shape: Shape, rows: bytes | None, callback: Callable[[], None]) -> None:
        """The snapshot is complete: make that known to recovery.

        `rows` are all its bytes; without them the file must be synced already.
        """
        mark = shape.snapshot.mark
        assert mark is not None
        body = {"id": shape.id, "chunks": shape.snapshot.chunk_ends, "mark": mark.to_json()}
        if rows is None:
            self._wal.append(frames.json_record(frames.SNAPSHOT, body), callback)
        else:
            self._wal.append(frames.small_snapshot_records(shape.id, rows, body), callback)

    def drop(self, shape: Shape, reason: str, callback: Callable[[], None] | None = None) -> None:
        """End a shape: gone for readers now, for recovery when the record is durable (`callback`)."""
        if not shape.alive:
            if callback is not None:
                callback()
            return
        log.info("shape %s of %s.%s dropped: %s", shape.handle, shape.definition.schema, shape.definition.table, reason)
        self._leave(shape)
        self._wal.append(frames.drop_record(shape.id), self._discard([shape], callback))
        self.on_drop(shape)

    def purge(self, reason: str) -> None:
        """End all shapes."""
        shapes = list(self.by_id.values())
        if shapes:
            log.warning("%d shapes dropped: %s", len(shapes), reason)
        for shape in shapes:
            self._leave(shape)
        self.sources.clear()
        self.held.clear()
        self._wal.append(frames.record(frames.PURGE, b""), self._discard(shapes, None))
        self.commit_lsn = 0
        for shape in shapes:
            self.on_drop(shape)

    def _discard(self, shapes: list[Shape], callback: Callable[[], None] | None) -> Callable[[], None]:
        """For when their end is durable: a shape that recovery, or who reads along, still knows has its files. On a
        full disk they go at once, to make room; recovery drops shapes without files."""
        paths = [path for shape in shapes for path in (shape.snapshot.path, shape.log.path)]
        if self.full:
            self._unlink(*paths)

        def durable() -> None:
            self._unlink(*paths)
            if callback is not None:
                callback()

        return durable

    def next_source_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def add_source(self, source: SourceState) -> None:
        """A subquery's result, as it is after all transactions that were submitted so far."""
        self._add_source(source)
        self._wal.append(frames.json_record(frames.SOURCE, source.to_json()))

    def remove_source(self, number: int) -> None:
        """No shape asks it any more."""
        if self.sources.pop(number, None) is not None:
            self._wal.append(frames.drop_record(number))

    def _replay_sources(self, batch: Batch) -> None:
        for entry in batch.entries:
            source = self.sources.get(entry.shape)
            if source is not None and entry.last_op == frames.DELTA:
                source.apply(entry.tx, decode_deltas(entry.data))

    def _restore_source(self, data: dict[str, Any]) -> None:
        self._add_source(SourceState.from_json(data))

    def _forget_source(self, number: int | None) -> None:
        if number is None:
            self.sources.clear()
        else:
            self.sources.pop(number, None)

    def _add_source(self, source: SourceState) -> None:
        self._next_id = max(self._next_id, source.id + 1)
        self.sources[source.id] = source

    def set_system(self, identifier: str, timeline: int, lsn: int) -> None:
        """Remember whose changes the shapes hold; `lsn` is where the (new) slot begins."""
        self.system = (identifier, timeline)
        self.durable_lsn = lsn
        self._wal.append(frames.json_record(frames.SYSTEM, [identifier, timeline, lsn]))

    def submit(self, batch: Batch, callback: Callable[[], None]) -> None:
        """Log transactions; readers see them once they are durable, then `callback` runs."""

        def durable() -> None:
            self._publish(batch)
            callback()

        self._wal.append(frames.batch_record(batch), durable)

    def seen(self, commit_lsn: int) -> None:
        """A transaction that concerns no shape, while nothing before it is still on its way to the disk."""
        self.commit_lsn = max(self.commit_lsn, commit_lsn)

    def progress(self, lsn: int, callback: Callable[[], None]) -> None:
        """Nothing up to `lsn` concerned a shape; `callback` when that is durable and may be acknowledged."""

        def durable() -> None:
            self.durable_lsn = max(self.durable_lsn, lsn)
            callback()

        self._wal.append(frames.progress_record(lsn), durable)

    @property
    def replay_from(self) -> int:
        """The first transaction that some shape still needs."""
        return min(self.held.values(), default=self.commit_lsn + 1)

    @property
    def acknowledgeable_lsn(self) -> int:
        """What Postgres may forget: what is durable, but for the transactions that held shapes wait with."""
        return min(self.durable_lsn, *self.held.values()) if self.held else self.durable_lsn

    async def settle(self) -> None:
        """Wait until everything so far is durable and visible."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._wal.append(frames.progress_record(0), lambda: None if done.done() else done.set_result(None))
        await done

    @property
    def pending_bytes(self) -> int:
        """Bytes on their way into the write-ahead log: above a bound, the replication stream is paused."""
        return self._wal.pending_bytes

    @property
    def wal_syncs(self) -> tuple[int, float]:
        """(number, seconds in total)"""
        return self._wal.syncs, self._wal.sync_seconds

    # -- durable batches --

    def _publish(self, batch: Batch) -> None:
        touched = self._apply(batch)
        if batch.final:
            self.on_publish(touched.values())
        for shape in touched.values():
            if shape.log.tail_bytes > SHAPE_TAIL_LIMIT:
                self._flush(shape)
        if self._wal.segment_bytes > CHECKPOINT_BYTES:
            self.begin_checkpoint()

    def _remove_orphans(self) -> None:
        """Files of shapes that are no more (a crash came between their record and the deletion)."""
        known = {path for shape in self.by_id.values() for path in (shape.log.path, shape.snapshot.path)}

        def remove() -> None:
            for path in self._files():
                number = path.name.partition(".")[0]
                if number.isdigit() and int(number) < first_new and str(path) not in known:
                    path.unlink(missing_ok=True)

        first_new = self._next_id
        task = self._loop.run_in_executor(None, remove)
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    def _numbers_of_files(self) -> tuple[set[int], set[int]]:
        """The shapes that have a log in a file, and those that have a snapshot in one. Raises OSError."""
        logs: set[int] = set()
        snapshots: set[int] = set()
        for directory in os.scandir(self._shapes_directory):
            for file in os.scandir(directory):
                number, _, kind = file.name.partition(".")
                if number.isdigit():
                    (snapshots if kind == "snapshot" else logs).add(int(number))
        return logs, snapshots

    def _files(self) -> Iterator[Path]:
        for directory in self._shapes_directory.iterdir():
            yield from directory.iterdir()

    async def close(self) -> None:
        """Stop cleanly: everything durable, a checkpoint, the lock released."""
        if not self._staged and not self.full:
            self.begin_checkpoint()
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint], timeout=CLOSE_SECONDS)
        if self._moving is not None:
            await asyncio.wait([self._moving])
        await self._loop.run_in_executor(None, self._wal.close)
        await asyncio.gather(*self._deleting, return_exceptions=True)
        self._tails.clear()
        os.close(self._lock_fd)
