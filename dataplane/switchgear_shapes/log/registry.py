"""All known shapes by id, handle and definition, and what the records of the write-ahead log do to them.

The same code applies records as they become durable, in recovery, and in an instance that only reads along. Whoever
owns the files overrides how they are written and deleted; nothing here writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson

from switchgear_shapes.errors import CorruptStorage
from switchgear_shapes.log import checkpoint, frames
from switchgear_shapes.log.compaction import Compacted
from switchgear_shapes.log.files import FileCache
from switchgear_shapes.log.frames import Batch
from switchgear_shapes.log.shape import Shape

FORMAT = "switchgear-shapes 1"
"""What the file FORMAT says."""
TAIL_LIMIT = 32 * 1024 * 1024
"""Bytes of all shapes together that may wait in memory for their file."""
KEPT_LIMIT = 32 * 1024 * 1024
"""The same for small snapshots."""


class Registry:
    """See the module."""

    def __init__(self, directory: Path, threshold: int) -> None:
        self._directory = directory
        self._shapes_directory = directory / "shapes"
        self._wal_directory = directory / "wal"
        self._threshold = threshold
        self._next_id = 1
        self._last_microseconds = 0
        self._staged: dict[int, Shape] = {}
        self._tails: OrderedDict[int, Shape] = OrderedDict()
        self._tail_bytes = 0
        self._kept: OrderedDict[int, Shape] = OrderedDict()
        self._kept_bytes = 0
        self.files = FileCache()
        self.by_id: dict[int, Shape] = {}
        self.by_handle: dict[str, Shape] = {}
        self.by_identity: dict[tuple[Any, ...], Shape] = {}
        self.held: dict[int, int] = {}
        """Shapes that wait for a snapshot: shape → commit LSN of the first transaction that they do not show yet.

        For number 0, which is no shape: where the stream is, while it is read again for their sake after a restart.
        """
        self.system: tuple[str, int] | None = None
        """(Postgres system identifier, timeline) that the shapes belong to."""
        self.commit_lsn = 0
        """Commit LSN of the last transaction that is durable here and visible to readers."""
        self.durable_lsn = 0
        """Everything up to here is durable: what may be acknowledged to Postgres."""
        self.on_publish: Callable[[Iterable[Shape]], None] = lambda shapes: None
        self.on_drop: Callable[[Shape], None] = lambda shape: None

    @property
    def tail_bytes(self) -> int:
        return self._tail_bytes

    def replay(self, kind: int, body: bytes) -> None:
        """Apply one record. Raises CorruptStorage, OSError."""
        if kind == frames.BATCH:
            batch = frames.read_batch(body)
            self._replay_sources(batch)
            self._apply(batch)
        elif kind == frames.CREATE:
            data = orjson.loads(body)
            self._add(Shape.from_json(data, self._shapes_directory, self._threshold))
        elif kind == frames.SNAPSHOT:
            data = orjson.loads(body)
            shape = self.by_id.get(data["id"])
            if shape is not None:
                shape.restore_snapshot(data["chunks"], data["mark"])
        elif kind == frames.ROWS:
            shape = self.by_id.get(int.from_bytes(body[:4], "little"))
            if shape is not None:
                self._keep(shape, body[4:])
        elif kind == frames.DROP:
            number = int.from_bytes(body, "little")
            shape = self.by_id.get(number)
            if shape is not None:
                self._forget(shape)
            else:
                self._forget_source(number)
        elif kind == frames.SOURCE:
            self._restore_source(orjson.loads(body))
        elif kind == frames.PROGRESS:
            lsn = int.from_bytes(body, "little")
            self.durable_lsn = max(self.durable_lsn, lsn)
            self.commit_lsn = max(self.commit_lsn, lsn - 1)  # all that committed before is known
        elif kind == frames.SYSTEM:
            identifier, timeline, self.durable_lsn = orjson.loads(body)
            self.system = (identifier, timeline)
        elif kind == frames.PURGE:
            for shape in list(self.by_id.values()):
                self._forget(shape)
            self._forget_source(None)
            self.held.clear()
            self.commit_lsn = 0
        elif kind == frames.COMPACTED:
            data = orjson.loads(body)
            shape = self.by_id.get(data["id"])
            if shape is not None:
                chunk_ends = [(position, tx, op) for position, tx, op in data["chunks"]]
                self._replace_log(shape, data["generation"], Compacted(data["cut"], data["length"], chunk_ends))
        else:
            raise CorruptStorage(f"unknown record kind {kind}")

    def read_checkpoint(self) -> int | None:
        """Restore the checkpoint's state; the number of the first segment to replay, None without a checkpoint.

        Raises CorruptStorage, OSError.
        """
        found = checkpoint.read(self._directory / "checkpoint")
        if found is None:
            return None
        head, shapes = found
        for data in shapes:
            if "source" in data:
                self._restore_source(data)
            else:
                self._add(Shape.from_json(data, self._shapes_directory, self._threshold))
        self.held = {number: lsn for number, lsn in head.get("held", []) if number in self.by_id or number == 0}
        self._next_id = max(self._next_id, head["next_id"])
        self.system = None if head["system"] is None else (head["system"][0], head["system"][1])
        self.commit_lsn = head["commit_lsn"]
        self.durable_lsn = head["durable_lsn"]
        segment: int = head["segment"]
        return segment

    def seen_by(self, shape: Shape) -> int:
        """The commit LSN up to which a shape's log is complete for readers."""
        held = self.held.get(shape.id)
        return self.commit_lsn if held is None else min(self.commit_lsn, held - 1)

    # -- what the owner of the files does otherwise --

    def _replay_sources(self, batch: Batch) -> None:
        """What subqueries return changed with the batch."""

    def _restore_source(self, data: dict[str, Any]) -> None:
        """What a subquery returns, to be followed from here on."""

    def _forget_source(self, number: int | None) -> None:
        """No shape asks a subquery any more; None for all of them."""

    def _bound_kept(self, limit: int) -> None:
        """The small snapshots in memory have grown beyond their limit."""

    def _unlink(self, *paths: str) -> None:
        """The files of a shape that is no more."""

    def _bound_tails(self, limit: int) -> None:
        """The tails in memory have grown beyond their limit."""

    # -- below --

    def _add(self, shape: Shape) -> None:
        self._next_id = max(self._next_id, shape.id + 1)
        self._last_microseconds = max(self._last_microseconds, int(shape.handle.rpartition("-")[2]))
        self.by_id[shape.id] = shape
        self.by_handle[shape.handle] = shape
        self.by_identity[shape.definition.identity] = shape

    def _forget(self, shape: Shape) -> None:
        self._leave(shape)
        self._unlink(shape.snapshot.path, shape.log.path)

    def _leave(self, shape: Shape) -> None:
        """Gone for readers; its files stay."""
        shape.alive = False
        self.by_id.pop(shape.id, None)
        self.by_handle.pop(shape.handle, None)
        if self.by_identity.get(shape.definition.identity) is shape:
            del self.by_identity[shape.definition.identity]
        self._staged.pop(shape.id, None)
        self.held.pop(shape.id, None)
        if self._tails.pop(shape.id, None) is not None:
            self._tail_bytes -= shape.log.tail_bytes
        self._let_go(shape)
        self.files.forget(shape.snapshot.path)
        self.files.forget(shape.log.path)

    def _keep(self, shape: Shape, rows: bytes) -> None:
        """A small snapshot's rows, which have no file yet."""
        self._let_go(shape)
        shape.snapshot.kept = rows
        self._kept[shape.id] = shape
        self._kept_bytes += len(rows)
        if self._kept_bytes > KEPT_LIMIT:
            self._bound_kept(KEPT_LIMIT)

    def _let_go(self, shape: Shape) -> None:
        kept, shape.snapshot.kept = shape.snapshot.kept, None
        if self._kept.pop(shape.id, None) is not None and kept is not None:
            self._kept_bytes -= len(kept)

    def _replace_log(self, shape: Shape, generation: int, compacted: Compacted) -> None:
        """The shape goes on in its compacted file. Raises OSError."""
        before, old = shape.log.tail_bytes, shape.log.path
        path = shape.log_path(generation)
        shape.log.replace(path, compacted.cut, compacted.length, compacted.chunk_ends, self.files)
        shape.generation = generation
        known = self._tails.pop(shape.id, None) is not None
        self._tail_bytes += shape.log.tail_bytes - (before if known else 0)
        if shape.log.tail_bytes:
            self._tails[shape.id] = shape
        self.files.forget(old)
        self._unlink(old)

    def _apply(self, batch: Batch) -> dict[int, Shape]:
        """The shapes that show more than before."""
        touched = self._staged
        for entry in batch.entries:
            shape = self.by_id.get(entry.shape)
            if entry.last_op == frames.HELD and (shape is not None or entry.shape == 0):
                self._hold(entry.shape, entry.tx)
                continue
            if shape is None:
                continue
            shape.log.append(entry.tx, entry.last_op, entry.data)
            touched[shape.id] = shape
            self._tails[shape.id] = shape
            self._tail_bytes += len(entry.data)
        if batch.final:
            self._staged = {}
            for shape in touched.values():
                shape.log.publish()
            self.commit_lsn = max(self.commit_lsn, batch.commit_lsn)
            self.durable_lsn = max(self.durable_lsn, batch.end_lsn)
        if self._tail_bytes > TAIL_LIMIT:
            self._bound_tails(TAIL_LIMIT)
        return touched if batch.final else {}

    def _hold(self, number: int, lsn: int) -> None:
        if lsn:
            self.held[number] = lsn
        else:
            self.held.pop(number, None)
