"""A document's streams: its updates, at most two snapshots (one of which counts), and awareness.

Which snapshot counts, and up to where it goes, is the Stream-Seq of the stream of updates: one durable value that
changes in one step. A snapshot is complete on the disk before it counts, and the one before is deleted after that; a
crash leaves at most one snapshot too many, whose place the next one takes. The updates stay: a document without a
snapshot is whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from switchgear_streams import answers, segments
from switchgear_streams.pending import Pending
from switchgear_streams.reads import Reader
from switchgear_streams.request import Append, Create
from switchgear_streams.rules import media
from switchgear_streams.rules.producers import Batch
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.waiting import Answer
from switchgear_streams.wal import Room
from switchgear_streams.writes import Writes
from switchgear_streams.yjs import paths
from switchgear_wire.response import AnyResponse, FileResponse, Response

SLOTS = ("a", "b")
AWARENESS_TTL = 3600
_MARK = re.compile(r"([ab])([0-9]+)")


class Snapshot(NamedTuple):
    """`slot` holds the document up to `position` of its updates."""

    slot: str
    position: int


def snapshot_of(stream: Stream) -> Snapshot | None:
    """What a stream of updates says of its snapshot."""
    match = _MARK.fullmatch(stream.seq or "")
    return None if match is None else Snapshot(match[1], int(match[2]))


def _create(ttl: int | None) -> Create:
    return Create(media.OCTETS, False, ttl, None, None, None, None, 0)


class Documents:
    """The document streams of one store, written by the same rules as all others.

    An idle stream may be packed away and come back as another object: no Stream may be kept over an `await`.
    """

    def __init__(self, store: Store, reader: Reader, writes: Writes) -> None:
        self.store = store
        self.reader = reader
        self._writes = writes

    def visible(self, key: bytes) -> Stream | None:
        """A stream as readers see it."""
        stream = self.store.get(key)
        if stream is None or not stream.durable_born or stream.gone or stream.expired(self.store.clock()):
            return None
        return stream

    def find(self, document: bytes) -> Stream | None:
        """A document's stream of updates."""
        return self.visible(paths.updates(document))

    def snapshot(self, document: bytes, updates: Stream) -> tuple[Snapshot, Stream] | None:
        """The snapshot that counts, if there is one."""
        found = snapshot_of(updates)
        stream = None if found is None else self.visible(paths.slot(document, found.slot))
        return None if found is None or stream is None or stream.damage is not None else (found, stream)

    def whole(self, stream: Stream, headers: bytes) -> AnyResponse:
        """All of a stream in one answer, not read into memory where it lies in packs."""
        found = self.reader.range(stream, 0, stream.visible)
        if not found.held:
            return Response(200, headers, self.reader.join(found.parts))
        return FileResponse(200, headers, found.parts, segments.releaser(self.store.packs, found.held))

    def size(self, document: bytes, updates: Stream) -> int:
        """Bytes that a new client loads, and that a compaction reads."""
        found = self.snapshot(document, updates)
        return updates.end if found is None else updates.end - found[0].position + found[1].visible

    async def create(self, key: bytes, body: bytes, location: bytes, ttl: int | None = None) -> Response:
        return await _settled(self._writes.create(key, _create(ttl), body, location))

    async def append(self, key: bytes, body: bytes, batch: Batch | None) -> Response:
        return await _settled(self._writes.append(key, Append(media.OCTETS, False, batch, None), body))

    async def delete(self, key: bytes) -> Response:
        return await _settled(self._writes.delete(key))

    async def install(self, document: bytes, generation: int, position: int, content: bytes) -> Response | None:
        """Make `content` the snapshot up to `position`. Returns the answer of a stream that refused, if one did."""
        updates = self.find(document)
        if updates is None or updates.generation != generation:
            return None
        old = snapshot_of(updates)
        new = SLOTS[1] if old is not None and old.slot == SLOTS[0] else SLOTS[0]
        place = paths.slot(document, new)
        if self.store.get(place) is not None:
            await self.delete(place)
        made = await self.create(place, content, b"")
        if made.status != 201:
            return made
        updates = self.find(document)
        if updates is None or updates.generation != generation or updates.leaving is not None:
            await self.delete(place)
            return None
        if self.store.log.room(8192, reserved=True) is not Room.OK:
            return answers.problem(507, "DISK_FULL", "There is no room for the mark of a snapshot.")
        pending = Pending()
        entry = self.store.append(updates, b"", close=False, extra={"q": f"{new}{position}"})
        entry.answers.append((pending, made))
        await pending
        if old is not None:
            await self.delete(paths.slot(document, old.slot))
        return None


async def _settled(answer: Answer) -> Response:
    return answer if isinstance(answer, Response) else await answer
