"""The lines of the open transaction, shape by shape, until its commit says where they go.

Shapes with the same lines share them. Invariants: beyond `SPILL_BYTES` all but each shape's last line waits in a file
(whether that one is the transaction's last is not known before the commit); lines keep their order. Decides nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

from switchgear_shapes.log.shape import Shape
from switchgear_shapes.routing.encode import END, END_LAST

SPILL_BYTES = 16 * 1024 * 1024


class Lines:
    """The lines of the open transaction for one shape, from the last change backwards.

    Shapes that got the same lines so far share one chain, so that a change costs its memory once.
    """

    __slots__ = ("bodies", "data", "last_op", "previous")

    def __init__(self, previous: Lines | Spilled | None, bodies: list[bytes], last_op: int) -> None:
        self.previous = previous
        self.bodies = bodies
        self.last_op = last_op
        self.data: bytes | None = None

    def unspilled(self) -> tuple[list[bytes], Spilled | None]:
        """The lines that are in memory, in order, and what comes before them."""
        parts = [self.bodies]
        previous = self.previous
        while isinstance(previous, Lines):
            parts.append(previous.bodies)
            previous = previous.previous
        parts.reverse()
        return [body for part in parts for body in part], previous

    def finish(self) -> bytes:
        """The lines that are in memory, with their ends: these are the transaction's last ones."""
        if self.data is None:
            if self.previous is None and len(self.bodies) == 1:
                self.data = self.bodies[0] + END_LAST
            else:
                self.data = END.join(self.unspilled()[0]) + END_LAST
        return self.data


class Spilled:
    """Earlier lines of the same transaction: finished, in the spill file."""

    __slots__ = ("last_op", "length", "offset", "previous")

    def __init__(self, previous: Spilled | None, offset: int, length: int, last_op: int) -> None:
        self.previous = previous
        self.offset = offset
        self.length = length
        self.last_op = last_op


class Pending:
    """See the module. `bytes` in memory may be added to from outside, with `bound` behind it."""

    __slots__ = ("_directory", "_file", "_size", "_spill_at", "bytes", "lines")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._size = 0
        self._spill_at = SPILL_BYTES
        self.lines: dict[Shape, Lines] = {}
        self.bytes = 0

    def clear(self) -> None:
        """The transaction has ended, or comes again."""
        self.lines = {}
        self.bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None
        self._size = 0
        self._spill_at = SPILL_BYTES

    @property
    def spilled(self) -> bool:
        """Whether a part is in the file."""
        return self._file is not None

    def add(self, shape: Shape, bodies: list[bytes], last_op: int) -> None:
        self.lines[shape] = Lines(self.lines.get(shape), bodies, last_op)
        self.bytes += sum(map(len, bodies))
        if self.bytes > self._spill_at:
            self._spill()

    def bound(self) -> None:
        """Keep what is in memory below its bound. Raises OSError."""
        if self.bytes > self._spill_at:
            self._spill()

    def take(self, shape: Shape, limit: int) -> tuple[bytes, int] | None:
        """Take the shape's lines out; None when there are more than `limit` bytes of them in the file."""
        lines = self.lines.pop(shape, None)
        if lines is None:
            return b"", 0
        earlier = pieces(lines)
        if sum(piece.length for piece in earlier) > limit:
            return None
        return b"".join([*map(self.read, earlier), lines.finish()]), lines.last_op

    def read(self, piece: Spilled) -> bytes:
        """Raises OSError."""
        assert self._file is not None
        self._file.seek(piece.offset)
        return self._file.read(piece.length)

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - lives until the commit
        moved: dict[Lines, Lines] = {}
        self.bytes = 0
        for shape, lines in self.lines.items():
            kept = moved.get(lines)
            if kept is None:
                bodies, before = lines.unspilled()
                if len(bodies) > 1:
                    finished = END.join(bodies[:-1]) + END
                    self._file.write(finished)
                    before = Spilled(before, self._size, len(finished), _op_of(bodies[-2]))
                    self._size += len(finished)
                kept = moved[lines] = Lines(before, bodies[-1:], lines.last_op)
                self.bytes += len(bodies[-1])
            self.lines[shape] = kept
        # With very many shapes their last lines alone are much: what follows must be worth another look at all.
        self._spill_at = max(SPILL_BYTES, 2 * self.bytes)


def pieces(lines: Lines) -> list[Spilled]:
    """What is in the spill file of these lines, in order."""
    found: list[Spilled] = []
    piece = lines.unspilled()[1]
    while piece is not None:
        found.append(piece)
        piece = piece.previous
    return found[::-1]


def _op_of(body: bytes) -> int:
    """A body ends with its op."""
    return int(body[body.rindex(b":") + 1 :])
