"""Complete chunks that were asked for before: their answers, ready but for what each answer has of its own.

They are found by the query string as it came. Nobody has to be told when one is no longer true: it holds what it was
made from (the shape, its file, its table as it was known), and is not given when one of these is not what it was. No
file is kept open, and who asks is authenticated each time: an answer is not a permission.
"""

from __future__ import annotations

import time

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.log.files import FileCache, Handle
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.parameters import Query
from switchgear_shapes.relations import Relation
from switchgear_wire import FileResponse, FileSlice

LIMIT = 1024
LIMIT_BYTES = 4 * 1024 * 1024


class ChunkResponse(FileResponse):
    """A complete chunk, which never changes: the `length` bytes of the file from `start` in brackets."""

    __slots__ = ("handle", "shape")

    def __init__(self, headers: bytes, shape: Shape, handle: Handle, start: int, length: int) -> None:
        self.status = 200
        self.headers = headers
        self.parts = (b"[", FileSlice(handle.fd, start, length), b"]")
        self.on_done = handle.release
        self.length = length + 2
        self.shape = shape
        self.handle = handle


class Prepared:
    """What a complete chunk was answered with: `headers` without those that every answer carries."""

    __slots__ = ("_length", "_path", "_relation", "_start", "headers", "query", "shape")

    def __init__(self, query: Query, answer: ChunkResponse, headers: bytes, relation: Relation) -> None:
        piece = answer.parts[1]
        assert isinstance(piece, FileSlice)
        self.query = query
        self.headers = headers
        self.shape = answer.shape
        self._relation = relation
        self._path = answer.handle.path
        self._start = piece.offset
        self._length = piece.length

    def holds(self, catalog: Catalog) -> bool:
        """Whether it would be made the same way now."""
        shape = self.shape
        definition = shape.definition
        return (
            shape.alive
            and (self._path == shape.snapshot.path or self._path == shape.log.path)
            and catalog.peek(definition.schema, definition.table) is self._relation
        )

    def answer(self, base: bytes, files: FileCache) -> ChunkResponse:
        """Raises OSError."""
        shape = self.shape
        shape.last_read = time.monotonic()
        return ChunkResponse(base + self.headers, shape, files.get(self._path), self._start, self._length)


class PreparedChunks:
    """The last ones, by query string; bounded in number and bytes."""

    def __init__(self) -> None:
        self._known: dict[bytes, Prepared] = {}
        self._bytes = 0

    def find(self, query: bytes, catalog: Catalog) -> Prepared | None:
        """What is true now."""
        found = self._known.get(query)
        if found is None or found.holds(catalog):
            return found
        self._forget(query)
        return None

    def keep(self, query: bytes, prepared: Prepared) -> None:
        if query in self._known:
            self._forget(query)
        self._known[query] = prepared
        self._bytes += len(query) + len(prepared.headers)
        while len(self._known) > LIMIT or self._bytes > LIMIT_BYTES:
            self._forget(next(iter(self._known)))

    def __len__(self) -> int:
        return len(self._known)

    def _forget(self, query: bytes) -> None:
        self._bytes -= len(query) + len(self._known.pop(query).headers)
