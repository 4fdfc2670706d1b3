"""Packs: files of sealed stream bytes, written once, and the way reads find their bytes.

A checkpoint writes one pack with everything that was appended since the one before, regrouped by stream, so that a
range of a stream is (mostly) one slice of one file. Each run describes itself, so that a pack can be read without the
catalogue:

    run: magic "SGR1", CRC u32 of the header fields after it and the key, generation u64, start u64, length u64,
         bytes' CRC u32, mark count u32, key length u16, key, marks (u32 lengths of the appends), bytes

Invariant: at most `MAX_OPEN` packs are open, plus those that responses are being sent from.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from switchgear_streams import checksums
from switchgear_streams.disk import Disk
from switchgear_streams.runs import Run
from switchgear_streams.stream import Stream
from switchgear_wire.response import FileSlice

MAGIC = b"SGR1"
_RUN = struct.Struct("<QQQIIH")
HEADER = 8 + _RUN.size
MAX_OPEN = 256
_PIECE = 262_144

Part = bytes | FileSlice
Bytes = bytes | bytearray


def pack_name(pack: int) -> str:
    return f"pack-{pack:016d}.dat"


def pack_id(name: str) -> int | None:
    middle = name[5:-4]
    return int(middle) if name.startswith("pack-") and name.endswith(".dat") and middle.isdigit() else None


def encode_run(
    pack: int, at: int, key: bytes, generation: int, start: int, ends: Sequence[int], pieces: Sequence[Bytes]
) -> tuple[bytes, Run]:
    """(what stands before the bytes in the pack, the run). `ends`: positions where appends end; `at`: file offset."""
    length = sum(map(len, pieces))
    count = len(ends) if len(ends) > 1 else 0
    marks = b""
    if count:
        previous, lengths = start, array("I")
        for end in ends:
            lengths.append(end - previous)
            previous = end
        marks = lengths.tobytes()
    crc = 0
    for piece in pieces:
        crc = checksums.crc32(piece, crc)
    fields = _RUN.pack(generation, start, length, crc, count, len(key))
    head = b"".join((MAGIC, zlib.crc32(key, zlib.crc32(fields)).to_bytes(4, "little"), fields, key, marks))
    return head, Run(pack, at + len(head), start, length, crc, count)


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run as its own header describes it."""

    key: bytes
    generation: int
    run: Run
    next: int


def read_header(disk: Disk, fd: int, pack: int, at: int, size: int) -> FoundRun | None:
    """The run whose header is at `at`; None at the end of the file. Raises OSError if it is damaged."""
    if at >= size:
        return None
    if at + HEADER > size:
        raise OSError(f"pack {pack} ends within a header")
    raw = disk.read(fd, HEADER, at)
    generation, start, length, crc, count, key_n = _RUN.unpack_from(raw, 8)
    if raw[:4] != MAGIC or at + HEADER + key_n + 4 * count + length > size:
        raise OSError(f"pack {pack} is damaged at {at}")
    key = disk.read(fd, key_n, at + HEADER)
    if zlib.crc32(key, zlib.crc32(raw[8:])) != int.from_bytes(raw[4:8], "little"):
        raise OSError(f"pack {pack} is damaged at {at}")
    offset = at + HEADER + key_n + 4 * count
    return FoundRun(key, generation, Run(pack, offset, start, length, crc, count), offset + length)


def read_marks(disk: Disk, fd: int, run: Run) -> array[int]:
    """Positions where the run's appends end."""
    ends: array[int] = array("Q")
    if not run.marks:
        ends.append(run.start + run.length)
        return ends
    lengths = array("I")
    lengths.frombytes(disk.read(fd, 4 * run.marks, run.offset - 4 * run.marks))
    position = run.start
    for length in lengths:
        position += length
        ends.append(position)
    return ends


@dataclass(slots=True)
class Pack:
    """Book-keeping of one pack file. `live`: bytes that streams still refer to."""

    size: int
    live: int


class Packs:
    """All pack files: which there are, how much of each is alive, and a bounded cache of open ones."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.known: dict[int, Pack] = {}
        self.next_id = 1
        self._open: OrderedDict[int, int] = OrderedDict()
        self._used: dict[int, int] = {}
        self._doomed: set[int] = set()

    def sizes(self) -> dict[int, tuple[int, int]]:
        """(size, living bytes) of every pack at this moment."""
        return {pack: (known.size, known.live) for pack, known in self.known.items()}

    def acquire(self, pack: int) -> int:
        """An open descriptor, valid until `release`. Raises OSError."""
        fd = self._open.get(pack)
        if fd is None:
            fd = self._open[pack] = self.disk.open(pack_name(pack))
        else:
            self._open.move_to_end(pack)
        self._used[pack] = self._used.get(pack, 0) + 1
        if len(self._open) > MAX_OPEN:
            self._evict()
        return fd

    def fd(self, pack: int) -> int:
        """The descriptor of an acquired pack (from any thread)."""
        return self._open[pack]

    def release(self, pack: int) -> None:
        left = self._used[pack] - 1
        if left:
            self._used[pack] = left
            return
        del self._used[pack]
        if pack in self._doomed:
            self._doomed.discard(pack)
            self._remove(pack)

    def _evict(self) -> None:
        for pack in self._open:
            if pack not in self._used:
                self.disk.close(self._open.pop(pack))
                return

    def drop(self, runs: Sequence[Run]) -> None:
        """Streams no longer refer to these runs. Packs that nobody refers to are removed."""
        for run in runs:
            pack = self.known.get(run.pack)
            if pack is not None:
                pack.live -= run.length
                if pack.live <= 0:
                    self.discard(run.pack)

    def discard(self, pack: int) -> None:
        """Remove a pack file, as soon as no response reads from it."""
        self.known.pop(pack, None)
        if pack in self._used:
            self._doomed.add(pack)
        else:
            self._remove(pack)

    def _remove(self, pack: int) -> None:
        fd = self._open.pop(pack, None)
        if fd is not None:
            self.disk.close(fd)
        self.disk.remove(pack_name(pack))

    @property
    def open_files(self) -> int:
        return len(self._open)

    def close(self) -> None:
        for fd in self._open.values():
            self.disk.close(fd)
        self._open.clear()

    # -- reading a stream's own bytes --

    def parts(self, stream: Stream, start: int, end: int, held: list[int]) -> list[Part]:
        """The stream's own bytes [start, end) as file slices and memory; packs in use are added to `held`."""
        parts: list[Part] = []
        sealed = min(end, stream.sealed)
        if start < sealed:
            start = self._sealed_parts(stream, start, sealed, parts, held)
        if start < min(end, stream.tail_start):
            for chunk in stream.in_memory():
                stop = min(end, chunk.end)
                if start < stop:
                    _cut(parts, chunk.data, start - chunk.start, stop - chunk.start)
                    start = stop
        if start < end:
            _cut(parts, stream.tail, start - stream.tail_start, end - stream.tail_start)
        return parts

    def _sealed_parts(self, stream: Stream, start: int, end: int, parts: list[Part], held: list[int]) -> int:
        """The part of it that is in packs. Returns `end`. Raises OSError where bytes are missing that should be there.

        What a compaction took out is passed over: slices that are neighbours in the file become one.
        """
        runs = stream.runs
        index = max(stream.run_at(start), 0)
        while start < end and index < len(runs):
            run = runs[index]
            index += 1
            stop = min(end, run.start + run.length)
            if stop <= start:
                continue
            if run.start > start:
                if start >= stream.compacted:
                    break
                start = run.start
                if start >= end:
                    break
            offset = run.offset + start - run.start
            last = parts[-1] if parts else None
            if isinstance(last, FileSlice) and held[-1] == run.pack and last.offset + last.length == offset:
                last.length += stop - start
            else:
                if not held or held[-1] != run.pack:
                    self.acquire(run.pack)
                    held.append(run.pack)
                parts.append(FileSlice(self.fd(run.pack), offset, stop - start))
            start = stop
        if stream.compacted <= start < end:
            raise OSError(f"bytes {start} to {end} are in no pack")
        return max(start, end)

    def read(self, stream: Stream, start: int, end: int) -> bytes:
        """The stream's own bytes [start, end), in memory."""
        held: list[int] = []
        try:
            return b"".join(self._load(part) for part in self.parts(stream, start, end, held))
        finally:
            for pack in held:
                self.release(pack)

    def _load(self, part: Part) -> bytes:
        return part if isinstance(part, bytes) else self.disk.read(part.fd, part.length, part.offset)

    def append_end(self, stream: Stream, position: int) -> int | None:
        """Where the append that follows `position` (or holds it) ends; None at the tail."""
        if position >= stream.visible:
            return None
        for ends in self._marks_from(stream, position):
            for end in ends:
                if end > position:
                    return min(end, stream.visible)
        return stream.visible

    def append_start(self, stream: Stream, position: int) -> int:
        """Where the append begins that holds `position` (one of the stream's own, before its end)."""
        if position >= stream.tail_start:
            begin, ends = stream.tail_start, stream.marks
        elif position >= stream.sealed:
            chunk = next(chunk for chunk in stream.in_memory() if position < chunk.end)
            begin, ends = chunk.start, chunk.marks
        else:
            run = stream.runs[max(stream.run_at(position), 0)]
            begin, ends = run.start, self._marks(run)
        index = bisect_right(ends, position)
        return ends[index - 1] if index else begin

    def _marks(self, run: Run) -> array[int]:
        fd = self.acquire(run.pack)
        try:
            return read_marks(self.disk, fd, run)
        finally:
            self.release(run.pack)

    def _marks_from(self, stream: Stream, position: int) -> Iterator[array[int]]:
        if position < stream.sealed and stream.runs:
            for run in stream.runs[max(stream.run_at(position), 0) :]:
                yield self._marks(run)
        for chunk in stream.in_memory():
            if position < chunk.end:
                yield chunk.marks
        yield stream.marks


def _cut(parts: list[Part], data: Bytes, start: int, end: int) -> None:
    """Copy [start, end) into pieces that a socket takes one by one, each without another copy: so none is too small."""
    count = max(1, (end - start) // _PIECE)
    with memoryview(data) as view:
        for number in range(count):
            stop = start + (end - start) // (count - number)
            parts.append(view[start:stop].tobytes())
            start = stop


def releaser(packs: Packs, held: list[int]) -> Callable[[], None]:
    """For a response's `on_done`: give back the packs once."""

    def release() -> None:
        for pack in held:
            packs.release(pack)
        held.clear()

    return release
