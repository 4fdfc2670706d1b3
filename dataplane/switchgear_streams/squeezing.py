"""Retention by key: what a checkpoint writes of a state stream instead of all its bytes.

The messages that still count move together, to right below the position up to which the stream was looked at: each
stands at its old position or later, in the old order. So a reader gets everything that is behind its offset, and
perhaps again what was before it, which changes nothing for a state; at the end of the stream nothing moves.
Runs in the checkpoint's thread: what it must not do is touch a stream.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from switchgear_streams.rules.state import Newest
from switchgear_streams.stream import Run, Stream

MIN_NEW = 65_536
"""Bytes that must have come since the last time, besides as many as were left then."""


@dataclass(slots=True)
class Squeeze:
    """A stream that is to be squeezed, as it was when the checkpoint began."""

    runs: list[Run]
    start: int
    """Where its bytes begin."""
    time: int
    tombstones: int
    marked: tuple[int, int] | None
    """(position, Unix ms): deletions before it were there at that time."""


@dataclass(slots=True)
class Squeezed:
    """What is left: bytes from `start` to `end`, each message an append. `dropped`: bytes that went."""

    start: int
    end: int
    ends: array[int]
    data: bytes
    marked: tuple[int, int] | None
    dropped: int
    first: int
    """Offsets before it are gone: a reader there would miss deletions that went. 0: none went."""


def worth(stream: Stream) -> bool:
    """Has enough come since the last time? (The cost of a byte stays bounded: each time there is twice as much.)"""
    own = stream.retention
    if own is None or own.tombstones is None or not stream.tail:
        return False
    if stream.fork is not None or stream.pin is not None or stream.refs or stream.gone or stream.damage is not None:
        return False
    left = stream.compacted - stream.squeezed
    return stream.end - stream.squeezed >= 2 * left + MIN_NEW


def squeeze(asked: Squeeze, pieces: Iterable[tuple[int, bytes | bytearray]], end: int) -> Squeezed:
    """`pieces`: (position, stored bytes) up to `end`. Raises TooMuch."""
    newest = Newest()
    for position, data in pieces:
        for line in bytes(data).split(b"\n")[:-1]:
            newest.add(position, line + b"\n")
            position += len(line) + 1
    # Positions are given out again, so that those of readers who would miss a deletion must all be below what is left.
    old = _old_enough(asked)
    went = old > 0 and end - newest.size >= old and newest.forget_deletions(old)
    kept = newest.kept()
    start = end - newest.size
    ends, position = array("Q"), start
    for _, stored in kept:
        position += len(stored)
        ends.append(position)
    marked = (end, asked.time)
    if asked.marked is not None and (not old or start < old):  # the same deletions, where they are now
        index = bisect_left(kept, asked.marked[0], key=lambda entry: entry[0])
        marked = (ends[index - 1] if index else start, asked.marked[1])
    data = b"".join([stored for _, stored in kept])
    return Squeezed(start, end, ends, data, marked, end - asked.start - len(data), old if went else 0)


def _old_enough(asked: Squeeze) -> int:
    """Deletions before this position have been there for as long as they should be."""
    if asked.marked is None or asked.time - asked.marked[1] < asked.tombstones * 1000:
        return 0
    return asked.marked[0]
