"""A file that is read at start, whatever its size: only a piece of it is in memory at a time. Decides nothing.

A piece is larger than `SIZE` only where whoever asks needs more at once. Raises OSError.
"""

from __future__ import annotations

from collections.abc import Callable

from switchgear_streams import checksums
from switchgear_streams.disk import Disk

SIZE = 1_048_576


class Pieces:
    """`read` returns exactly (length, offset) of a file of `size` bytes."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self.size = size
        self._held = b""
        self._begin = 0

    @classmethod
    def of(cls, disk: Disk, fd: int) -> Pieces:
        return cls(lambda length, offset: disk.read(fd, length, offset), disk.size(fd))

    def piece(self, offset: int, length: int) -> tuple[bytes, int]:
        """(bytes that hold [offset, offset + length) of the file, where in them that begins). It must be in the file.

        What follows in the bytes follows in the file.
        """
        at = offset - self._begin
        if at < 0 or at + length > len(self._held):
            self._held = b""  # the old one goes before the new one comes
            self._held = self._read(min(max(length, SIZE), self.size - offset), offset)
            self._begin, at = offset, 0
        return self._held, at

    def take(self, offset: int, length: int) -> memoryview:
        held, at = self.piece(offset, length)
        return memoryview(held)[at : at + length]

    def find(self, wanted: bytes, offset: int) -> int:
        """Where `wanted` is next, at or after `offset`; -1: nowhere."""
        while offset + len(wanted) <= self.size:
            held, at = self.piece(offset, len(wanted))
            found = held.find(wanted, at)
            if found >= 0:
                return self._begin + found
            offset = self._begin + len(held) - len(wanted) + 1
        return -1

    def crc(self, begin: int, end: int, start: int = 0) -> int:
        """CRC-32 of [begin, end), piece by piece, continued from `start`."""
        while begin < end:
            length = min(SIZE, end - begin)
            start = checksums.crc32(self.take(begin, length), start)
            begin += length
        return start

    def forget(self) -> None:
        """Nothing more will be read for now."""
        self._held = b""
