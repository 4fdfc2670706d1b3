"""Retention by key: what a checkpoint writes of a state stream instead of all its bytes.

The messages that still count move together, to right below the position up to which the stream was looked at: each
stands at its old position or later, in the old order. So a reader gets everything that is behind its offset, and
perhaps again what was before it, which changes nothing for a state; what was not looked at does not move.
`choose` runs on the loop, `squeeze` in the checkpoint's thread: what it must not do is touch a stream.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from switchgear_streams.rules import state
from switchgear_streams.rules.state import Newest, lines
from switchgear_streams.runs import Run
from switchgear_streams.stream import Stream

MAX_READ = 64 * 1_048_576
"""Bytes that one checkpoint looks at (about): of several streams, or of a large one from its start on.

Only what was left of a stream the last time, and twice as much after it, is looked at whatever its size."""


@dataclass(slots=True)
class Squeeze:
    """A stream that is to be squeezed, as it was when the checkpoint began."""

    runs: list[Run]
    frozen: bool
    """Up to its end, the frozen bytes included? Else up to the end of these runs."""
    start: int
    """Where its bytes begin."""
    size: int
    time: int
    tombstones: int
    marked: tuple[int, int] | None
    """(position, Unix ms): deletions before it were there at that time."""
    deadline: int | None
    """When it has to be looked at, not counting that it is to be squeezed."""


@dataclass(slots=True)
class Squeezed:
    """What is left: bytes from `start` to `end`, each message an append. `dropped`: bytes that went."""

    start: int
    end: int
    ends: array[int]
    data: bytearray
    marked: tuple[int, int] | None
    dropped: int
    first: int
    """Offsets before it are gone: a reader there would miss deletions that went. 0: none went."""


def choose(stream: Stream, runs: Sequence[Run], time: int, room: int) -> Squeeze | None:
    """How much of a stream to look at, when a checkpoint may still look at `room` bytes. `runs`: those it will keep.

    None: nothing, it is not worth it, or there is no room in this checkpoint.
    """
    own = stream.retention
    if own is None or own.tombstones is None or not stream.ripe or room <= 0:
        return None
    room = max(room, 3 * (stream.compacted - stream.squeezed) + state.MIN_NEW)
    taken: list[Run] = []
    size, end = 0, stream.squeezed
    for run in runs:
        if size + run.length > room and end > stream.compacted:
            break
        taken.append(run)
        size, end = size + run.length, run.start + run.length
    new = stream.end - stream.sealed
    whole = len(taken) == len(runs) and (size + new <= room or end <= stream.compacted)
    return Squeeze(
        taken,
        whole,
        stream.squeezed,
        size + new if whole else size,
        time,
        own.tombstones,
        stream.marked,
        stream.deadline(),
    )


def squeeze(asked: Squeeze, pieces: Iterable[tuple[int, bytes]], end: int) -> Squeezed:
    """`pieces`: (position, stored bytes) up to `end`, without gaps. Raises TooMuch."""
    newest = Newest()
    for position, line in lines(pieces):
        newest.add(position, line)
    # Positions are given out again, so that those of readers who would miss a deletion must all be below what is left.
    old = _old_enough(asked)
    went = old > 0 and end - newest.size >= old and newest.forget_deletions(old)
    start = end - newest.size
    marked = (end, asked.time)
    known = asked.marked if asked.marked is not None and (not old or start < old) else None
    if known is not None:  # the same deletions, where they will be
        marked = (start, known[1])
    ends, data = array("Q"), bytearray()
    for position, stored in newest.drain():
        data += stored
        ends.append(start + len(data))
        if known is not None and position < known[0]:
            marked = (ends[-1], known[1])
    return Squeezed(start, end, ends, data, marked, end - asked.start - len(data), old if went else 0)


def _old_enough(asked: Squeeze) -> int:
    """Deletions before this position have been there for as long as they should be."""
    if asked.marked is None or asked.time - asked.marked[1] < asked.tombstones * 1000:
        return 0
    return asked.marked[0]
