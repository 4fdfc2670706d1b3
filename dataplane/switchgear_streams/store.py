"""All streams of one process, and every change to them: accepted in memory and put on the log, applied when durable.

What it must not do: HTTP, or decide whether a change is allowed (`writes` does, with `rules/`).
Invariants: changes of a stream reach the log in the order in which they were accepted; readers' view (`visible`) moves
only in `durable`; `apply_deletion` is a function of log order alone, so that recovery ends where the server was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

import orjson

from switchgear_streams import catalog, records
from switchgear_streams.deadlines import Deadlines
from switchgear_streams.entries import AppendEntry, ChangeEntry
from switchgear_streams.rules import retention
from switchgear_streams.rules.retention import Retention
from switchgear_streams.runs import Chunk
from switchgear_streams.segments import Packs
from switchgear_streams.stream import Stream
from switchgear_streams.usage import Usage, limited
from switchgear_streams.wal import Log, Room

log = logging.getLogger("switchgear.streams.store")

# Streams that are kept unpacked in memory though nothing happens to them.
MAX_IDLE_HYDRATED = 20_000


# A changed stream counts like this many bytes towards the next checkpoint: to freeze many at once would stop the loop.
_DIRTY_WEIGHT = 12_288
# So does a record, however little is in it: a start takes about 5 µs to replay it.
_RECORD_WEIGHT = 64
_TOUCHES_AT_ONCE = 2000


class Store:
    """See the module."""

    def __init__(
        self, packs: Packs, wal: Log, clock: Callable[[], int], default: Retention | None = None, first: int = 1
    ) -> None:
        self.packs = packs
        self.log = wal
        self.clock = clock
        """Unix milliseconds."""
        self.streams: dict[bytes, Stream | bytes] = {}
        self.unlimited = 0
        """Number of those that do not count against a limit of streams."""
        self.next_generation = first
        self.dirty: dict[Stream, None] = {}
        """Streams that changed since the last checkpoint."""
        self.removed: dict[bytes, None] = {}
        """Keys that the catalogue may know and that are gone."""
        self.touched: dict[Stream, None] = {}
        """Streams whose last access is newer than what is on the disk."""
        self.hydrated: dict[bytes, None] = {}
        self.deadlines = Deadlines(self, default or Retention())
        self.reclaimable = 0
        """Bytes of packs that a checkpoint would give back."""
        self.unsealed = 0
        """Bytes of memory (about) that a checkpoint would free."""
        self.on_pressure: Callable[[], None] = lambda: None
        self.pressure_bytes = 0
        self.leaving = 0
        """Deletions on their way to the disk."""
        self.hold: asyncio.Future[None] | None = None
        """Set while a checkpoint waits for deletions under way: no new one may begin."""
        self.moving: set[Stream] = set()
        """Streams whose messages a checkpoint moves: none of them may be deleted, or forked, until `moved`."""
        self.moved: asyncio.Future[None] | None = None
        self.ripe = False
        """A stream of which nobody wants anything is to be squeezed by the next checkpoint."""
        self.on_change: Callable[[Stream], None] | None = None
        """Told of every creation, deletion, and first append in a block, before it is durable (`stream.last_block`)."""
        self.on_removed: Callable[[bytes], None] = lambda key: None
        """Told of every name at which there is no stream any more."""
        self.claimed: Callable[[bytes], bool] = lambda key: False
        """Is a name that is not here another process's to give?"""
        self.usage = Usage()
        self.damaged = 0
        self.appends = 0
        self.appended_bytes = 0

    # -- looking up --

    @property
    def count(self) -> int:
        """Streams that count against a limit."""
        return len(self.streams) - self.unlimited

    def get(self, key: bytes) -> Stream | None:
        """The stream at a key, soft-deleted and not yet durable ones included."""
        found = self.streams.get(key)
        if found is None or type(found) is Stream:
            return found
        return self._hydrate(key, found)  # type: ignore[arg-type]

    def _hydrate(self, key: bytes, body: bytes) -> Stream:
        stream = catalog.unpack_body(body)
        self.streams[key] = stream
        self.hydrated[key] = None
        return stream

    def pack_away(self, stream: Stream) -> None:
        """Keep an idle stream as bytes."""
        if stream.idle and self.streams.get(stream.key) is stream:
            self.streams[stream.key] = catalog.pack_body(
                stream.generation, self.deadlines.due(stream), stream.key, stream.runs, stream.meta()
            )
            self.hydrated.pop(stream.key, None)

    def pack_idle(self) -> None:
        """Pack away the longest unpacked idle streams beyond the bound."""
        excess = len(self.hydrated) - MAX_IDLE_HYDRATED
        if excess <= 0:
            return
        for key in list(islice(self.hydrated, excess)):
            found = self.streams.get(key)
            if type(found) is Stream:
                self.pack_away(found)
                if key in self.hydrated:  # busy: look again later
                    self.hydrated[key] = self.hydrated.pop(key)
            else:
                self.hydrated.pop(key, None)

    def hold_on(self, stream: Stream | None) -> asyncio.Future[None] | None:
        """What has to be waited for before a stream may be deleted, or forked."""
        return self.moved if stream in self.moving and self.hold is None else self.hold

    # -- marking --

    def mark(self, stream: Stream) -> None:
        if not stream.dirty:
            stream.dirty = True
            self.dirty[stream] = None
            self.unsealed += _DIRTY_WEIGHT

    def touch(self, stream: Stream, now: int) -> None:
        """An access that resets a sliding lifetime. Durable within seconds (`flush_touches`)."""
        if stream.ttl is not None:
            stream.touched = now
            if not stream.touch_dirty:
                stream.touch_dirty = True
                self.touched[stream] = None

    # -- changes --

    def create(self, stream: Stream, stored: bytes, close: bool, done: Callable[[], None]) -> None:
        """Take a new stream with its first bytes. Room must have been asked for."""
        meta = orjson.loads(stream.meta())
        extra: dict[str, Any] = {"m": meta}
        if close:
            extra["c"] = True
        chunk = self.insert(stream, stored, close)
        self.next_generation = max(self.next_generation, stream.generation + 1)
        entry = ChangeEntry(stream, records.CREATE, stream.created, extra, stored)
        if chunk is not None:
            entry.take_large(chunk, chunk.start)
        born = stream.end
        entry.then(lambda: self._born(stream, born, close))
        entry.then(done)
        self._submit(entry, stream, len(stored) + len(orjson.dumps(meta)) + 64)

    def insert(self, stream: Stream, stored: bytes, close: bool) -> Chunk | None:
        """Returns the chunk that its first bytes are, if they are large."""
        chunk: Chunk | None = None
        self.streams[stream.key] = stream
        self.hydrated[stream.key] = None
        self.unlimited += not limited(stream.key)
        if stream.fork is not None:
            source = self.get(stream.fork.source)
            if source is not None and source.generation == stream.fork.source_generation:
                source.refs += 1
                self._pinned(source, stream)
                self.mark(source)
        if stored:
            chunk = stream.take(stored)
            self.unsealed += len(stored)
            self.usage.wrote(stream.key, len(stored), stream.created)
        stream.closed = close
        self.aged(stream, stream.created)
        self.mark(stream)
        self.deadlines.watch(stream)
        return chunk

    def _pinned(self, source: Stream, fork: Stream) -> None:
        """A fork needs the source's own bytes from where it begins to where it branches off."""
        low, high = max(fork.left, source.base), fork.base
        if low < high:
            pin = source.pin
            source.pin = (low, high) if pin is None else (min(low, pin[0]), max(high, pin[1]))

    def aged(self, stream: Stream, time: int) -> None:
        """Bytes up to the end were appended at `time`: remember it where there is a bound on the age."""
        seconds = self.deadlines.bounds(stream).seconds
        if seconds is not None and stream.end > stream.first:
            first = not stream.ages
            retention.age(stream.ages, time, stream.end, seconds)
            if first:
                self.deadlines.watch(stream)

    @staticmethod
    def _born(stream: Stream, end: int, closed: bool) -> None:
        stream.durable_born = True
        stream.visible = end
        stream.visible_closed = closed

    def append(self, stream: Stream, stored: bytes, *, close: bool, extra: dict[str, Any] | None) -> AppendEntry:
        """Take an append and/or close whose rules were checked. The caller adds its answer to the entry."""
        entry = stream.entry
        length = len(stored)
        size = length + (64 if extra is None else 256 + len(orjson.dumps(extra)))
        if entry is None:
            entry = stream.entry = AppendEntry(stream, self.clock())
            self.unsealed += _RECORD_WEIGHT
            self.log.submit(entry, size + len(stream.key) + records.OVERHEAD)
            stream.last_block = self.log.pending_number
            if self.on_change is not None:
                self.on_change(stream)
        else:
            self.log.grow(size)
        if stored:
            chunk = stream.take(stored)
            if chunk is not None:
                entry.take_large(chunk, entry.start)
            entry.pieces.append(stored)
            entry.end = stream.end
            self.unsealed += length + 16
            self.appends += 1
            self.appended_bytes += length
            self.usage.wrote(stream.key, length, entry.time)
            if stream.retention is not None or self.deadlines.bounded:
                self._bounded_append(stream, entry.time)
        if extra is not None:
            self._note(stream, entry.noted(), extra)
        if close:
            stream.closed = entry.closes = True
            entry.noted()["c"] = True
        if not stream.dirty:
            self.mark(stream)
        if self.unsealed >= self.pressure_bytes:
            self.on_pressure()
        return entry

    def _bounded_append(self, stream: Stream, time: int) -> None:
        self.aged(stream, time)
        size = self.deadlines.bounds(stream).size
        if size is not None and retention.crowded(stream.held, size):
            self.deadlines.overdue[stream.key] = None

    def trim(self, stream: Stream, first: int) -> None:
        """Let go of everything before `first`, once that is durable."""
        time = self.clock()
        entry = ChangeEntry(stream, records.TRIM, time, {"o": first}, b"")
        self.usage.dropped(stream.key, max(0, first - max(stream.first, stream.trimming, stream.base)), time)
        entry.then(lambda: self._trimmed(stream, first))
        stream.trimming = first
        self.mark(stream)
        self._submit(entry, stream, 64)

    def _trimmed(self, stream: Stream, first: int) -> None:
        self.apply_trim(stream, first)  # of one that has a successor already, too: its bytes are counted when it goes
        if self.streams.get(stream.key) is stream:
            self.deadlines.watch(stream)

    def _note(self, stream: Stream, into: dict[str, Any], extra: dict[str, Any]) -> None:
        """Producer state, Stream-Seq and the closing tuple, in memory and in the record."""
        for name, value in extra.items():
            if name == "p":
                into.setdefault("p", {}).update(value)
            else:
                into[name] = value
        note(stream, extra)

    def delete(self, stream: Stream, done: Callable[[], None]) -> None:
        """Delete, or keep for the forks. Until it is durable, readers still have it and writers wait."""
        assert self.hold_on(stream) is None
        assert stream.leaving is None
        stream.leaving = asyncio.get_running_loop().create_future()
        self.leaving += 1
        extra = {"soft": True} if stream.refs else {}
        time = self.clock()
        entry = ChangeEntry(stream, records.DELETE, time, extra, b"")
        entry.then(lambda: self._left(stream, bool(extra), time))
        entry.then(done)
        self._submit(entry, stream, 64)

    def _left(self, stream: Stream, soft: bool, time: int) -> None:
        leaving, stream.leaving = stream.leaving, None
        self.leaving -= 1
        self.apply_deletion(stream, soft, time)
        if stream.live is not None:
            stream.live.deleted()
        if leaving is not None and not leaving.done():
            leaving.set_result(None)

    def _submit(self, entry: ChangeEntry, stream: Stream, size: int) -> None:
        # A later append of the same stream must not join an entry that stands before this one.
        stream.entry = None
        self.unsealed += _RECORD_WEIGHT
        self.log.submit(entry, size + len(stream.key) + records.OVERHEAD)
        stream.last_block = self.log.pending_number
        if self.on_change is not None:
            self.on_change(stream)
        if self.unsealed >= self.pressure_bytes:
            self.on_pressure()

    def flush_touches(self) -> bool:
        """Put last accesses on the log. Returns whether some are left for the next call."""
        for stream in list(islice(self.touched, _TOUCHES_AT_ONCE)):
            if self.log.room(len(stream.key) + records.OVERHEAD + 64, reserved=True) is not Room.OK:
                return True
            del self.touched[stream]
            stream.touch_dirty = False
            if self.streams.get(stream.key) is stream and stream.leaving is None:
                self.mark(stream)
                self._submit(ChangeEntry(stream, records.TOUCH, stream.touched, {}, b""), stream, 64)
        return bool(self.touched)

    # -- also used by recovery --

    def apply_deletion(self, stream: Stream, soft: bool, time: int) -> None:
        """What a deletion record does, in log order."""
        if soft and stream.refs:
            stream.gone = True
            stream.producers = None
            self.mark(stream)
            return
        self.remove(stream, time)

    def apply_trim(self, stream: Stream, first: int) -> None:
        """What a trim record does. Files and memory follow with the next checkpoint, when it is no longer needed."""
        if first <= stream.first:
            return
        self.reclaimable += max(0, first - max(stream.first, stream.base))
        stream.first = stream.left = first
        stream.ages = [entry for entry in stream.ages if entry[1] > first]
        self.mark(stream)

    def remove(self, stream: Stream, time: int) -> None:
        lost: Stream | None = stream
        while lost is not None:
            if self.streams.get(lost.key) is lost:
                del self.streams[lost.key]
                self.unlimited -= not limited(lost.key)
                self.hydrated.pop(lost.key, None)
                self.removed[lost.key] = None
                self.unsealed += 256
                self.on_removed(lost.key)
            self.dirty.pop(lost, None)
            lost.dirty = False
            self.usage.dropped(lost.key, lost.held, time)
            self.packs.drop(lost.runs)
            lost.runs = []
            lost.gone = True
            lost = self._unreferenced(lost)

    def _unreferenced(self, fork: Stream) -> Stream | None:
        """The source of a removed fork, if nothing needs it any more."""
        if fork.fork is None:
            return None
        source = self.get(fork.fork.source)
        if source is None or source.generation != fork.fork.source_generation:
            return None
        source.refs -= 1
        if source.refs <= 0:
            source.pin = None
        self.mark(source)
        if source.ripe:  # perhaps nothing will come any more that brings a checkpoint to it
            self.deadlines.overdue[source.key] = None
        return source if source.gone and source.refs <= 0 else None


def note(stream: Stream, extra: dict[str, Any]) -> None:
    """Apply a record's producer state, Stream-Seq and closing tuple."""
    if "p" in extra:
        if stream.producers is None:
            stream.producers = {}
        for name, (epoch, seq) in extra["p"].items():
            stream.producers[name] = (epoch, seq)
    if "q" in extra:
        stream.seq = extra["q"]
    if "by" in extra:
        stream.closed_by = tuple(extra["by"])
