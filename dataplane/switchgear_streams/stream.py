"""One stream in memory: its settings, where its bytes are, and what has been accepted but is not durable yet.

Two views of the same stream: writers are judged against what was *accepted* (`end`, `closed`, `producers`, `seq`), for
the log makes it durable in that order; readers see only what is *durable* (`visible`, `visible_closed`).

Bytes lie, in this order of position, in: the fork's source, sealed runs in packs, the frozen chunks that a checkpoint
is writing just now, further chunks (a large append is one, as it came), the tail.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from switchgear_streams.rules import lifetime, media, state
from switchgear_streams.rules.retention import Retention, crowded
from switchgear_streams.runs import Chunk, Run

if TYPE_CHECKING:
    from switchgear_streams.entries import AppendEntry
    from switchgear_streams.live import Live

LARGE = 262_144
"""An append of so many bytes is kept as it came, and may stay where the log has it (`adoption`)."""


@dataclass(frozen=True, slots=True)
class Fork:
    """What a fork was made from. `anchor`: position of the Fork-Offset (it branches off `sub_offset` units later)."""

    source: bytes
    source_generation: int
    anchor: int
    sub_offset: int


class Stream:
    """See the module. `generation` is unique among all streams that ever were; `space` is the tokens' first half."""

    __slots__ = (
        "ages",
        "base",
        "chunks",
        "closed",
        "closed_by",
        "compacted",
        "content_type",
        "created",
        "damage",
        "dirty",
        "durable_born",
        "end",
        "entry",
        "expires_at",
        "expires_text",
        "first",
        "fork",
        "frozen",
        "generation",
        "gone",
        "json",
        "key",
        "last_block",
        "leaving",
        "left",
        "live",
        "marked",
        "marks",
        "media",
        "pin",
        "producers",
        "refs",
        "retention",
        "runs",
        "sealing",
        "seq",
        "space",
        "squeezed",
        "tail",
        "tail_start",
        "touch_dirty",
        "touched",
        "tried",
        "trimming",
        "ttl",
        "visible",
        "visible_closed",
    )

    def __init__(self, key: bytes, generation: int, space: int, base: int, content_type: bytes, created: int) -> None:
        self.key = key
        self.generation = generation
        self.space = space
        self.base = base
        """Position of the first byte of its own (a fork's branching point, else 0)."""
        self.content_type = content_type
        self.media = media.essence(content_type)
        self.json = self.media == media.JSON
        self.created = created
        self.touched = created
        self.ttl: int | None = None
        self.expires_at: int | None = None
        self.expires_text: str | None = None
        self.fork: Fork | None = None
        self.retention: Retention | None = None
        """Its own bounds; the server's hold besides (`rules.retention.effective`)."""
        self.ages: list[tuple[int, int]] = []
        """When its bytes were appended (`rules.retention.age`); kept where there is a bound on the age."""
        self.first = 0
        """Offsets before it are gone. Moves when that is durable."""
        self.trimming = 0
        """What `first` will be when what is on its way to the disk is there."""
        self.left = 0
        """The first position that there still is: where a read from the start begins. At most `first`."""
        self.compacted = 0
        """Up to here replaced messages were taken out (`squeezing`); what is left begins at `squeezed`."""
        self.squeezed = 0
        self.tried = 0
        """Where it ended when taking them out last failed (0: it did not); looked at again when it is twice as long."""
        self.marked: tuple[int, int] | None = None
        """(position, Unix ms): deletions before it were there at that time."""
        self.pin: tuple[int, int] | None = None
        """Its own bytes [from, to) that forks need, whether it still shows them or not."""
        self.refs = 0
        """Number of streams forked from this one."""
        self.gone = False
        """Deleted, but kept for its forks."""
        self.damage: tuple[int, int] | None = None
        """Positions whose bytes were lost to corruption; a stream with damage takes no more writes."""
        self.closed = False
        self.closed_by: tuple[str, int, int] | None = None
        self.seq: str | None = None
        self.producers: dict[str, tuple[int, int]] | None = None
        self.runs: list[Run] = []
        self.frozen: list[Chunk] | None = None
        self.chunks: list[Chunk] = []
        self.sealing = False
        """Part of the checkpoint that is running."""
        self.tail = bytearray()
        self.tail_start = base
        self.marks: array[int] = array("Q")
        """Ends of the appends in the tail."""
        self.end = base
        self.visible = base
        self.visible_closed = False
        self.durable_born = False
        self.leaving: asyncio.Future[None] | None = None
        """Set while a deletion is on its way to the disk."""
        self.entry: AppendEntry | None = None
        self.last_block = 0
        self.live: Live | None = None
        self.dirty = False
        self.touch_dirty = False

    def is_type(self, content_type: bytes) -> bool:
        """Is this its content type (parameters and case do not matter)?"""
        return media.essence(content_type) == self.media

    def deadline(self) -> int | None:
        """When it expires (Unix ms) unless touched."""
        return lifetime.deadline(self.ttl, self.expires_at, self.touched)

    def expired(self, now: int) -> bool:
        if self.ttl is None and self.expires_at is None:
            return False
        if self.live is not None and self.expires_at is None:  # whoever waits for more keeps it
            return False
        deadline = self.deadline()
        return deadline is not None and deadline <= now

    def take(self, stored: bytes) -> Chunk | None:
        """Accept the bytes of one append. Returns the chunk that it is, if it is large."""
        if len(stored) >= LARGE:
            return self._take_large(stored)
        self.tail += stored
        self.end += len(stored)
        self.marks.append(self.end)
        return None

    def _take_large(self, stored: bytes) -> Chunk:
        self._close_tail()
        chunk = Chunk(self.end, stored, array("Q", (self.end + len(stored),)))
        self.chunks.append(chunk)
        self.end = self.tail_start = chunk.end
        return chunk

    def _close_tail(self) -> None:
        """Make a chunk of the tail."""
        if self.tail:
            self.chunks.append(Chunk(self.tail_start, self.tail, self.marks))
            self.tail = bytearray()
            self.tail_start = self.end
            self.marks = array("Q")

    def due(self, bounds: Retention) -> int | None:
        """When something has to happen to it (Unix ms): it expires, or has too many, or too old, or replaced bytes."""
        deadline = self.deadline()
        if (bounds.size is not None and crowded(self.held, bounds.size)) or self.ripe:
            return 1
        if bounds.seconds is None or not self.ages:
            return deadline
        aged = self.ages[0][0] + bounds.seconds * 1000
        return aged if deadline is None else min(aged, deadline)

    @property
    def ripe(self) -> bool:
        """Is it kept by key, and is it worth looking for replaced messages, which may go?"""
        own = self.retention
        if own is None or own.tombstones is None:
            return False
        if self.fork is not None or self.pin is not None or self.refs or self.gone or self.damage is not None:
            return False
        return state.worth(self.end - self.squeezed, max(self.compacted, self.tried) - self.squeezed)

    @property
    def held(self) -> int:
        """Bytes of its own that it shows."""
        return self.end - max(self.base, self.left, self.squeezed)

    def droppable(self, start: int, end: int) -> bool:
        """Does nobody need its own bytes [start, end) any more?"""
        if end > self.left:
            return False
        return self.pin is None or end <= self.pin[0] or start >= self.pin[1]

    def cut_tail(self) -> int:
        """Forget bytes in memory that nobody needs any more (no checkpoint may be running). Returns how many."""
        first, start = min(self.left, self.visible), self.sealed
        if first <= start or not self.droppable(start, first):
            return 0
        chunks = [chunk for chunk in self.chunks if chunk.end > first]
        if chunks and chunks[0].start < first:
            cut = chunks[0]
            chunks[0] = Chunk(first, cut.data[first - cut.start :], cut.marks[bisect_right(cut.marks, first) :])
        self.chunks = chunks
        if first > self.tail_start:
            del self.tail[: first - self.tail_start]
            self.tail_start = first
            self.marks = self.marks[bisect_right(self.marks, first) :]
        return first - start

    def freeze(self) -> list[Chunk] | None:
        """Move chunks and tail aside for a checkpoint. There must be nothing frozen already."""
        self._close_tail()
        if not self.chunks:
            return None
        self.frozen, self.chunks = self.chunks, []
        return self.frozen

    def in_memory(self) -> list[Chunk]:
        """What is in memory before the tail."""
        return self.chunks if self.frozen is None else self.frozen + self.chunks

    def run_at(self, position: int) -> int:
        """Index of the run that holds `position` (its first own position or later, before what is in memory)."""
        return bisect_right(self.runs, position, key=lambda run: run.start) - 1

    @property
    def sealed(self) -> int:
        """Position up to which its own bytes are in packs."""
        if self.frozen is not None:
            return self.frozen[0].start
        return self.chunks[0].start if self.chunks else self.tail_start

    @property
    def idle(self) -> bool:
        """Nothing about it is only in memory, so that it can be packed away."""
        return not (
            self.dirty
            or self.sealing
            or self.touch_dirty
            or self.live is not None
            or self.tail
            or self.chunks
            or self.frozen is not None
            or self.entry is not None
            or self.leaving is not None
            or not self.durable_born
            or self.visible != self.end
        )

    # -- the form in catalogue and log --

    def meta(self) -> bytes:
        """Everything but key, generation and runs, as JSON."""
        made: dict[str, Any] = {"t": self.content_type.decode("latin-1"), "n": self.created}
        if self.space != self.generation:
            made["s"] = self.space
        if self.base:
            made["b"] = self.base
        if self.end != self.base:
            made["e"] = self.end
        if self.touched != self.created:
            made["a"] = self.touched
        if self.ttl is not None:
            made["ttl"] = self.ttl
        if self.expires_at is not None:
            made["x"], made["xt"] = self.expires_at, self.expires_text
        if self.fork is not None:
            fork = self.fork
            made["f"] = [fork.source.decode("utf-8"), fork.source_generation, fork.anchor, fork.sub_offset]
        if self.retention is not None:
            made["k"] = list(self.retention)
        if self.ages:
            made["h"] = self.ages
        first = max(self.first, self.trimming)
        if first:
            made["o"] = first
        if self.left != self.first == first:
            made["l"] = self.left
        if self.compacted:
            made["z"], made["y"], made["w"] = self.compacted, self.squeezed, self.marked
        if self.tried:
            made["u"] = self.tried
        if self.pin is not None:
            made["i"] = self.pin
        if self.refs:
            made["r"] = self.refs
        if self.gone:
            made["g"] = True
        if self.damage is not None:
            made["d"] = self.damage
        if self.closed:
            made["c"] = True
            if self.closed_by is not None:
                made["cb"] = self.closed_by
        if self.seq is not None:
            made["q"] = self.seq
        if self.producers:
            made["p"] = self.producers
        return orjson.dumps(made)


def from_meta(key: bytes, generation: int, meta: dict[str, Any]) -> Stream:
    """The inverse of `Stream.meta` (without bytes: the tail begins at the end)."""
    base = meta.get("b", 0)
    stream = Stream(key, generation, meta.get("s", generation), base, meta["t"].encode("latin-1"), meta["n"])
    stream.end = stream.visible = stream.tail_start = meta.get("e", base)
    stream.touched = meta.get("a", stream.created)
    stream.ttl = meta.get("ttl")
    stream.expires_at, stream.expires_text = meta.get("x"), meta.get("xt")
    if "f" in meta:
        source, source_generation, anchor, sub_offset = meta["f"]
        stream.fork = Fork(source.encode("utf-8"), source_generation, anchor, sub_offset)
    if "k" in meta:
        stream.retention = Retention(*meta["k"])
    if "h" in meta:
        stream.ages = [(time, end) for time, end in meta["h"] if end > meta.get("o", 0)]
    stream.first = meta.get("o", 0)
    stream.left = meta.get("l", stream.first)
    stream.compacted, stream.squeezed = meta.get("z", 0), meta.get("y", 0)
    stream.tried = meta.get("u", 0)
    if meta.get("w") is not None:
        stream.marked = (meta["w"][0], meta["w"][1])
    if "i" in meta:
        stream.pin = (meta["i"][0], meta["i"][1])
    stream.refs = meta.get("r", 0)
    stream.gone = meta.get("g", False)
    if "d" in meta:
        stream.damage = (meta["d"][0], meta["d"][1])
    stream.closed = stream.visible_closed = meta.get("c", False)
    if "cb" in meta:
        stream.closed_by = tuple(meta["cb"])
    stream.seq = meta.get("q")
    if "p" in meta:
        stream.producers = {name: (state[0], state[1]) for name, state in meta["p"].items()}
    stream.durable_born = True
    return stream
