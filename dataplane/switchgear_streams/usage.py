"""What a service used: write units, bytes written, and bytes kept over time. Exact, also across a kill.

Every change is a number of bytes at the time that stands in its log record; the sums do not depend on the order. A
checkpoint writes them down as of its boundary, the log has what came later, so that a start ends where the server was.
The bytes of a stream are those that it stores itself and shows; a deleted one counts until its last fork is gone.
"""

from __future__ import annotations

from typing import Any

UNIT = 10_000
"""Bytes of an append that count as one write."""


_OURS = (b"\0subscription/", b"\0keys/")


def counts(key: bytes) -> bool:
    """Is it a stream of the service's own, and not one in which the server keeps something?"""
    return key[:1] != b"\0" or not key.startswith(_OURS)


def limited(key: bytes) -> bool:
    """Does it count against the number of streams? What the server makes by itself does not, nor does a document's
    snapshot: a document must become smaller however many there are."""
    return key[:1] != b"\0" or (counts(key) and b"\0snapshot-" not in key)


class Usage:
    """The sums of one data directory. Streams in which the server keeps subscriptions and keys are not counted."""

    __slots__ = ("_moment", "bytes", "held", "units")

    def __init__(self) -> None:
        self.units = 0
        self.bytes = 0
        self.held = 0
        """Bytes kept now."""
        self._moment = 0
        """Sum of every change of `held` times its time (ms): kept bytes over time are held × now − moment."""

    def wrote(self, key: bytes, size: int, time: int) -> None:
        """One append of `size` stored bytes at `time` (Unix ms)."""
        if counts(key):
            self.units += -(-size // UNIT) or 1
            self.bytes += size
            self.held += size
            self._moment += size * time

    def dropped(self, key: bytes, size: int, time: int) -> None:
        """`size` bytes went at `time`."""
        if counts(key):
            self.held -= size
            self._moment -= size * time

    def kept(self, key: bytes, size: int, time: int) -> None:
        """`size` bytes are there that were never counted as written."""
        if counts(key):
            self.held += size
            self._moment += size * time

    def byte_milliseconds(self, now: int) -> int:
        return self.held * now - self._moment

    def dump(self) -> list[Any]:
        """For the catalogue (the last number can have more than 64 bits)."""
        return [self.units, self.bytes, self.held, str(self._moment)]

    def restore(self, dumped: list[Any]) -> None:
        self.units, self.bytes, self.held = dumped[0], dumped[1], dumped[2]
        self._moment = int(dumped[3])

    def report(self, now: int) -> dict[str, Any]:
        """What GET /usage shows."""
        milliseconds = self.byte_milliseconds(now)
        return {
            "write_units": self.units,
            "written_bytes": self.bytes,
            "retained_bytes": self.held,
            "retained_byte_seconds": milliseconds // 1000,
            "at": now,
        }
