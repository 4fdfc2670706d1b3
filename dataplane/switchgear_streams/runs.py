"""Where a stream's bytes are: runs in packs, chunks in memory, and where the log has a large append. Pure."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from switchgear_streams.wal import Segment


class Run(NamedTuple):
    """`length` stored bytes of a stream from position `start`, at `offset` of pack `pack`."""

    pack: int
    offset: int
    start: int
    length: int
    crc: int
    marks: int
    """Number of append ends stored right before the bytes (u32 lengths); 0: one append."""


class Place(NamedTuple):
    """Where the log has a large append."""

    segment: Segment
    offset: int
    crc: int


@dataclass(slots=True, eq=False)
class Chunk:
    """Bytes [start, end) in memory to which nothing is added any more. `marks`: ends of the appends in it."""

    start: int
    data: bytes | bytearray
    marks: array[int]
    place: Place | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.data)
