"""The main log of one shape: lines in wire format, in a file and a tail in memory, and how positions are found.

Invariants: bytes below `visible` never change and are durable (in the write-ahead log or the file); readers get
nothing beyond `visible`; `flushed` bytes are in the file, the rest is in the tail. Chunk ends depend only on the bytes.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right

from switchgear_shapes.log.files import FileCache, Handle, write_at
from switchgear_shapes.offsets import END_OF_SNAPSHOT, INFINITY, Offset

_OFFSET = re.compile(rb'"lsn":"(\d+)","op_position":(\d+)')
_SEPARATOR = b",\n"
_PROBE = 8192

ChunkEnd = tuple[int, int, int]
"""(position behind the chunk, tx, op)."""


_NOTHING = (END_OF_SNAPSHOT, 0, 0)


class Slice:
    """A piece of the log: `length` bytes of the file `handle` from `start`, then `tail`. Ends with a separator."""

    __slots__ = ("handle", "length", "start", "tail")

    def __init__(self, handle: Handle | None, start: int, length: int, tail: bytes) -> None:
        self.handle = handle
        self.start = start
        self.length = length
        self.tail = tail

    @property
    def size(self) -> int:
        return self.length + len(self.tail)

    def read(self) -> bytes:
        """All bytes; releases the file. Raises OSError."""
        if self.handle is None:
            return self.tail
        try:
            data = os.pread(self.handle.fd, self.length, self.start)
        finally:
            self.handle.release()
        if len(data) != self.length:
            raise OSError(f"a shape file ends before byte {self.start + self.length}")
        return data + self.tail if self.tail else data


class ShapeLog:
    """See the module. `threshold` is the chunk size in bytes."""

    __slots__ = (
        "_before",
        "_hidden_tx",
        "_tail",
        "_threshold",
        "chunk_ends",
        "end",
        "flushed",
        "last",
        "latest",
        "path",
        "visible",
    )

    def __init__(self, path: str, threshold: int) -> None:
        self.path = path
        self._threshold = threshold
        self._tail: list[tuple[int, int, bytes]] = []
        self._before = _NOTHING
        """Where readers stand who had everything before the last `publish`: (offset, position, first tx they lack)."""
        self._hidden_tx = 0
        """The first transaction of what is not published."""
        self.flushed = 0
        self.end = 0
        self.visible = 0
        self.last: Offset = END_OF_SNAPSHOT
        """Offset of the last line written, visible or not."""
        self.latest: Offset = END_OF_SNAPSHOT
        """Offset of the last visible line."""
        self.chunk_ends: list[ChunkEnd] = []

    def restore(self, length: int, latest: Offset, chunk_ends: list[ChunkEnd]) -> None:
        self.flushed = self.end = self.visible = length
        self.last = self.latest = latest
        self.chunk_ends = chunk_ends

    @property
    def tail_bytes(self) -> int:
        return self.end - self.flushed

    # -- writing --

    def append(self, tx: int, last_op: int, data: bytes) -> None:
        """Add whole lines, which become visible with `publish`."""
        self._tail.append((tx, last_op, data))
        start = self.chunk_ends[-1][0] if self.chunk_ends else 0
        before = self.end
        if before == self.visible:
            self._hidden_tx = tx
        self.end = before + len(data)
        self.last = (tx, last_op)
        while self.end - start >= self._threshold:
            # The line that reaches the threshold ends the chunk.
            line_end = data.find(_SEPARATOR, max(0, start + self._threshold - before - len(_SEPARATOR)))
            if line_end < 0:
                break
            position = line_end + len(_SEPARATOR)
            op = last_op if position == len(data) else _last_op(data[:position])
            start = before + position
            self.chunk_ends.append((start, tx, op))

    def publish(self) -> None:
        if self.end > self.visible:
            self._before = self.latest, self.visible, self._hidden_tx
        self.visible = self.end
        self.latest = self.last

    def rollback(self) -> None:
        """Forget what was appended and not published. Raises OSError."""
        if self.flushed > self.visible:
            os.truncate(self.path, self.visible)  # who reads along takes the file's length for what is true
        self._tail = [] if self.flushed >= self.visible else self._tail
        position = self.flushed
        kept = []
        for item in self._tail:
            if position >= self.visible:
                break
            kept.append(item)
            position += len(item[2])
        self._tail = kept
        self.flushed = min(self.flushed, self.visible)
        self.end = self.visible
        self.last = self.latest
        while self.chunk_ends and self.chunk_ends[-1][0] > self.visible:
            self.chunk_ends.pop()

    def flush(self) -> int:
        """Move the tail into the file (not synced); the number of bytes. Raises OSError."""
        if not self._tail:
            return 0
        write_at(self.path, [data for _, _, data in self._tail], self.flushed)
        written = self.end - self.flushed
        self.flushed = self.end
        self._tail = []
        return written

    def replace(self, path: str, cut: int, length: int, chunk_ends: list[ChunkEnd], files: FileCache) -> None:
        """Go on in another file, whose `length` bytes stand for those below `cut`. Raises OSError."""
        shown = self.slice(cut, self.visible, files).read() if cut < self.visible else b""
        hidden = self.slice(self.visible, self.end, files).read() if self.visible < self.end else b""
        shift = length - cut
        self._before = _NOTHING
        self._tail = [(*offset, data) for offset, data in ((self.latest, shown), (self.last, hidden)) if data]
        self.path = path
        self.flushed = length
        self.visible += shift
        self.end += shift
        self.chunk_ends = [*chunk_ends, *((end + shift, tx, op) for end, tx, op in self.chunk_ends if end > cut)]

    def trim(self, size: int) -> int:
        """Forget what the file of `size` bytes, which another process fills, has already; the number of bytes."""
        before = self.flushed
        while self._tail and self.flushed + len(self._tail[0][2]) <= min(size, self.visible):
            self.flushed += len(self._tail.pop(0)[2])
        return self.flushed - before

    # -- reading --

    def chunk_after(self, position: int) -> tuple[int, Offset]:
        """Where a read from `position` ends: the end of its complete chunk, or what is visible. (position, offset)"""
        ends = self.chunk_ends
        if ends:
            index = bisect_right(ends, (position, INFINITY, INFINITY))
            if index < len(ends) and ends[index][0] <= self.visible:
                end, tx, op = ends[index]
                return end, (tx, op)
        return self.visible, self.latest

    def resume(self, offset: Offset) -> Offset:
        """Where a live client that names `offset` stands.

        After events, clients of Electric go on from `<lsn>_0` of the last control message, although they have all of
        that transaction. No live client stands behind a transaction's first line but where a chunk ends.
        """
        tx, op = offset
        if op != 0 or tx == 0 or any((end_tx, end_op) == offset for _, end_tx, end_op in self.chunk_ends):
            return offset
        return tx, INFINITY

    def position_of(self, offset: Offset, files: FileCache) -> int:
        """The position behind the last line whose offset is at most `offset`. Raises OSError."""
        if offset >= self.latest:
            return self.visible
        if offset[0] == 0:
            return 0
        before, position, following = self._before
        if before <= offset and offset[0] < following:  # live clients stand there
            return position
        for end, tx, op in reversed(self.chunk_ends):
            if (tx, op) == offset:
                return end
        if self._tail and offset >= self._first_in_tail():
            return self._position_in_tail(offset)
        return self._position_in_file(offset, files) if self.flushed else 0

    def slice(self, start: int, end: int, files: FileCache) -> Slice:
        """Bytes from `start` to `end`, both at line ends. The caller reads it or releases its handle."""
        handle = None
        length = 0
        if start < self.flushed:
            length = min(end, self.flushed) - start
            handle = files.get(self.path)
        tail = b""
        if end > self.flushed:
            position = self.flushed
            parts = []
            for _, _, data in self._tail:
                following = position + len(data)
                if following > start and position < end:
                    parts.append(data[max(0, start - position) : end - position])
                position = following
            tail = b"".join(parts) if len(parts) != 1 else parts[0]
        return Slice(handle, start, length, tail)

    def _first_in_tail(self) -> Offset:
        match = _OFFSET.search(self._tail[0][2])
        assert match is not None
        return int(match[1]), int(match[2])

    def _position_in_tail(self, offset: Offset) -> int:
        position = self.flushed
        for tx, last_op, data in self._tail:
            if (tx, last_op) <= offset:
                position += len(data)
                continue
            return position + _position_in(data, offset)
        return position

    def _position_in_file(self, offset: Offset, files: FileCache) -> int:
        handle = files.get(self.path)
        try:
            # Lines are sorted: halve the range until a few blocks are left. `low` is always a line's beginning.
            low, high = 0, self.flushed
            for end, tx, op in self.chunk_ends:
                if end > self.flushed:
                    break
                if (tx, op) <= offset:
                    low = end
                else:
                    high = end
                    break
            while high - low > 4 * _PROBE:
                middle = (low + high) // 2
                found = _line_behind(handle.fd, middle, high)
                if found is None:
                    high = middle
                    continue
                line_start, line_offset = found
                if line_offset <= offset:
                    low = line_start
                else:
                    high = middle
            return _scan(handle.fd, low, self.flushed, offset)
        finally:
            handle.release()


def _line_behind(fd: int, middle: int, high: int) -> tuple[int, Offset] | None:
    """(beginning, offset) of the first line that begins behind `middle` and before `high`."""
    size = _PROBE
    while True:
        data = os.pread(fd, size, middle)
        newline = data.find(b"\n")
        if newline >= 0:
            start = middle + newline + 1
            if start >= high:
                return None
            match = _OFFSET.search(data, newline + 1)
            if match is not None and match.end() < len(data):
                return start, (int(match[1]), int(match[2]))
        elif middle + len(data) >= high:
            return None
        if len(data) < size:
            return None
        size *= 4


def _scan(fd: int, start: int, end: int, offset: Offset) -> int:
    """The position behind the last line at or below `offset`, looking from the line at `start` on."""
    position = start
    rest = b""
    at = start
    while at < end:
        block = os.pread(fd, min(4 * _PROBE, end - at), at)
        if not block:
            break
        at += len(block)
        rest += block
        cut = rest.rfind(_SEPARATOR)
        if cut < 0:
            continue
        lines = rest[: cut + 2]
        within = _position_in(lines, offset)
        position += within
        if within < len(lines):
            return position
        rest = rest[cut + 2 :]
    return position


def _position_in(lines: bytes, offset: Offset) -> int:
    """Within whole lines: the position behind the last one whose offset is at most `offset`."""
    position = 0
    for match in _OFFSET.finditer(lines):
        if (int(match[1]), int(match[2])) > offset:
            break
        position = lines.index(_SEPARATOR, match.end()) + len(_SEPARATOR)
    return position


def _last_op(lines: bytes) -> int:
    start = lines.rfind(b"\n", 0, len(lines) - 1) + 1
    match = _OFFSET.search(lines, start)
    assert match is not None, "every line of the main log has its offset"
    return int(match[2])
