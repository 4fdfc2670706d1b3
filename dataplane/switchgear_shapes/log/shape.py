"""A shape as the process holds it: its definition, its two files, and which transactions it still has to skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from switchgear_shapes.definition import Definition
from switchgear_shapes.log.shape_log import ShapeLog
from switchgear_shapes.log.snapshot_file import SnapshotFile
from switchgear_shapes.snapshot import SnapshotMark


class Buffered:
    """A transaction that arrived before it was known what the shape's snapshot sees."""

    __slots__ = ("data", "drop_reason", "last_op", "tx", "xid")

    def __init__(self, xid: int, tx: int, last_op: int, data: bytes, drop_reason: str | None) -> None:
        self.xid = xid
        self.tx = tx
        self.last_op = last_op
        self.data = data
        self.drop_reason = drop_reason


class SnapshotFilter:
    """Which transactions of the stream the snapshot already contains."""

    __slots__ = ("buffer", "buffered_bytes", "mark")

    def __init__(self, mark: SnapshotMark | None) -> None:
        self.mark = mark
        """None while the snapshot has not been taken: transactions are buffered until then."""
        self.buffer: list[Buffered] = []
        self.buffered_bytes = 0


class Shape:
    """One shape. `alive` turns False for good when it is dropped."""

    __slots__ = (
        "_base",
        "alive",
        "created",
        "definition",
        "filter",
        "generation",
        "handle",
        "id",
        "last_read",
        "log",
        "snapshot",
    )

    def __init__(self, number: int, handle: str, definition: Definition, directory: Path, threshold: int) -> None:
        self.id = number
        self.handle = handle
        self.definition = definition
        self._base = f"{directory}/{number % 256:02x}/{number}"
        self.generation = 0
        """How often the main log was compacted: each time into a new file."""
        self.log = ShapeLog(self.log_path(0), threshold)
        self.snapshot = SnapshotFile(self._base + ".snapshot")
        self.filter: SnapshotFilter | None = SnapshotFilter(None)
        """None once no transaction can be part of the snapshot any more."""
        self.alive = True
        self.last_read = 0.0

    def log_path(self, generation: int) -> str:
        return f"{self._base}.{generation}.log" if generation else f"{self._base}.log"

    def accepts(self, xid: int, commit_lsn: int) -> bool:
        """Whether the transaction is to be logged (or buffered). Closes the filter when it is no longer needed."""
        current = self.filter
        if current is None or current.mark is None:
            return True
        if commit_lsn >= current.mark.lsn:
            self.filter = None
            return True
        return not current.mark.sees(xid, commit_lsn)

    def to_json(self) -> dict[str, Any]:
        """What recovery needs, apart from the files' bytes."""
        mark = self.snapshot.mark
        made: dict[str, Any] = {
            "id": self.id,
            "handle": self.handle,
            "definition": self.definition.to_json(),
            "complete": self.snapshot.complete,
            "snapshot": self.snapshot.chunk_ends if self.snapshot.complete else [],
            "mark": None if mark is None else mark.to_json(),
            "generation": self.generation,
            "length": self.log.visible,
            "latest": list(self.log.latest) if self.log.visible else None,
            "chunks": self.log.chunk_ends,
        }
        return made

    @classmethod
    def from_json(cls, data: dict[str, Any], directory: Path, threshold: int) -> Shape:
        shape = cls(data["id"], data["handle"], Definition.from_json(data["definition"]), directory, threshold)
        if data.get("generation"):
            shape.generation = data["generation"]
            shape.log.path = shape.log_path(shape.generation)
        if data["complete"]:
            shape.restore_snapshot(data["snapshot"], data["mark"])
        if data["latest"] is not None:
            chunk_ends = [(position, tx, op) for position, tx, op in data["chunks"]]
            shape.log.restore(data["length"], (data["latest"][0], data["latest"][1]), chunk_ends)
        return shape

    def restore_snapshot(self, chunk_ends: list[int], mark: list[Any]) -> None:
        known = SnapshotMark.from_json(mark)
        self.snapshot.restore(chunk_ends, known)
        self.filter = SnapshotFilter(known)
