"""One stream in memory: its settings, where its bytes are, and what has been accepted but is not durable yet.

Two views of the same stream: writers are judged against what was *accepted* (`end`, `closed`, `producers`, `seq`), for
the log makes it durable in that order; readers see only what is *durable* (`visible`, `visible_closed`).

Bytes lie, in this order of position, in: the fork's source, sealed runs in packs, the frozen part that a checkpoint is
writing just now, the tail.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from switchgear_streams.rules import lifetime, media

if TYPE_CHECKING:
    from switchgear_streams.entries import AppendEntry
    from switchgear_streams.live import Live


class Run(NamedTuple):
    """`length` stored bytes of a stream from position `start`, at `offset` of pack `pack`."""

    pack: int
    offset: int
    start: int
    length: int
    crc: int
    marks: int
    """Number of append ends stored right before the bytes (u32 lengths); 0: one append."""


@dataclass(frozen=True, slots=True)
class Fork:
    """What a fork was made from. `anchor`: position of the Fork-Offset (it branches off `sub_offset` units later)."""

    source: bytes
    source_generation: int
    anchor: int
    sub_offset: int


@dataclass(slots=True)
class Frozen:
    """Bytes [start, start + len(data)) that a checkpoint is writing; immutable."""

    start: int
    data: bytearray
    marks: array[int]


class Stream:
    """See the module. `generation` is unique among all streams that ever were; `space` is the tokens' first half."""

    __slots__ = (
        "base",
        "closed",
        "closed_by",
        "content_type",
        "created",
        "damage",
        "dirty",
        "durable_born",
        "end",
        "entry",
        "expires_at",
        "expires_text",
        "fork",
        "frozen",
        "generation",
        "gone",
        "json",
        "key",
        "last_block",
        "leaving",
        "live",
        "marks",
        "media",
        "producers",
        "refs",
        "runs",
        "seq",
        "space",
        "tail",
        "tail_start",
        "touch_dirty",
        "touched",
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
        self.frozen: Frozen | None = None
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
        deadline = self.deadline()
        return deadline is not None and deadline <= now

    def take(self, stored: bytes) -> None:
        """Accept the bytes of one append."""
        self.tail += stored
        self.end += len(stored)
        self.marks.append(self.end)

    def freeze(self) -> Frozen | None:
        """Move the tail aside for a checkpoint. There must be no frozen part already."""
        if not self.tail:
            return None
        self.frozen = Frozen(self.tail_start, self.tail, self.marks)
        self.tail = bytearray()
        self.tail_start = self.end
        self.marks = array("Q")
        return self.frozen

    def run_at(self, position: int) -> int:
        """Index of the run that holds `position` (its first own position or later, before frozen and tail)."""
        return bisect_right(self.runs, position, key=lambda run: run.start) - 1

    @property
    def sealed(self) -> int:
        """Position up to which its own bytes are in packs."""
        return self.frozen.start if self.frozen is not None else self.tail_start

    @property
    def idle(self) -> bool:
        """Nothing about it is only in memory, so that it can be packed away."""
        return not (
            self.dirty
            or self.touch_dirty
            or self.live is not None
            or self.tail
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
