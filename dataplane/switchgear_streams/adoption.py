"""Log segments that become packs: what is large in them stays where it is, instead of being written a second time.

A checkpoint gives such a segment a second name, that of a pack, before the catalogue names the pack; the segment's own
name goes with the log that the checkpoint covers. So at any moment the file has a name that a start knows: without the
catalogue's group the pack is unknown and its name is removed, and the log is replayed; with it, the log's name is.

Invariants: a segment is adopted only when no block will be written to it any more and all that are in it are on the
disk; it is never used again as a segment. What is small in it moves to an ordinary pack, so most of it must be large.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from switchgear_streams import records
from switchgear_streams.disk import Disk
from switchgear_streams.runs import Chunk, Run
from switchgear_streams.stream import Stream
from switchgear_streams.wal import Log, Segment

MIN_LARGE = 4 * 1_048_576
"""What must be large in a segment, in bytes, that it is worth a pack of its own."""
MAX_RUNS = 4096
"""A stream of more runs (all of them are in its entry of the catalogue) gets its bytes joined instead."""
_SKIPPED = struct.Struct("<IIB8x8x8xHIII")


@dataclass(slots=True)
class Adopted:
    """A segment on its way to be a pack. `alive`: bytes of it that streams refer to."""

    pack: int
    segment: Segment
    alive: int = 0


@dataclass(slots=True)
class Plan:
    """What one checkpoint adopts, by the segments' indexes."""

    segments: dict[int, Adopted] = field(default_factory=dict)

    def run(self, chunk: Chunk) -> Run | None:
        """The run that a chunk is, if its segment is adopted."""
        place = chunk.place
        adopted = None if place is None else self.segments.get(place.segment.index)
        if place is None or adopted is None:
            return None
        return Run(adopted.pack, place.offset, chunk.start, len(chunk.data), place.crc, 0)


def may(stream: Stream) -> bool:
    """May large appends of this stream stay where they are? (A squeeze looks at all bytes and writes what is left.)"""
    own = stream.retention
    return len(stream.runs) < MAX_RUNS and (own is None or own.tombstones is None)


def plan(streams: Iterable[Stream], log: Log, next_pack: int) -> Plan:
    """Choose segments, among those whose blocks are all in this checkpoint (the log has just been flushed)."""
    large: dict[int, int] = {}
    for stream in streams:
        if stream.chunks and may(stream):
            for chunk in stream.chunks:
                if chunk.place is not None:
                    index = chunk.place.segment.index
                    large[index] = large.get(index, 0) + len(chunk.data)
    made = Plan()
    if not large:
        return made
    segments = list(log.segments)
    for segment in segments:
        size = large.get(segment.index, 0)
        if size < MIN_LARGE or 4 * size < 3 * segment.position:
            continue
        if segment is segments[-1] and not log.roll():
            continue
        made.segments[segment.index] = Adopted(next_pack, segment)
        next_pack += 1
    return made


def keys(disk: Disk, fd: int, pack: int) -> Iterator[bytes]:
    """Keys of the records of an adopted segment, for compaction. Raises OSError where it is damaged.

    It reads only heads, so it cannot tell a wrong key: one more stream is looked at for nothing.
    """
    size, at, last = disk.size(fd), 0, 0
    while at + records.BLOCK.size <= size:
        magic, _, number, _, length, _ = records.BLOCK.unpack(disk.read(fd, records.BLOCK.size, at))
        at += records.BLOCK.size
        if magic != records.MAGIC or (last and number != last + 1):
            return  # what the log did not come to use, or left from an earlier life (a loss of power undid the cut)
        last = number
        end = at + length
        while at < end:
            key, step = _key(disk, fd, at)
            if step < records.OVERHEAD or at + step > min(end, size):
                raise OSError(f"pack {pack} is damaged at {at}")
            yield key
            at += step


def _key(disk: Disk, fd: int, at: int) -> tuple[bytes, int]:
    """(key, length) of the record at `at`."""
    length, _, _, key_n, *_ = _SKIPPED.unpack(disk.read(fd, _SKIPPED.size, at))
    return disk.read(fd, key_n, at + records.OVERHEAD), 4 + length
