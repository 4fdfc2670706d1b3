"""PUT: creates streams and forks, or tells whether what is there already is what was asked for.

Invariant: an answer that tells of accepted state is given once that state is durable (`waiting`); a PUT that is refused
leaves neither a stream nor a reference on the source of a fork.
"""

from __future__ import annotations

import asyncio

from switchgear_streams import answers
from switchgear_streams.limits import Others, Space
from switchgear_streams.reads import Reader
from switchgear_streams.request import Create
from switchgear_streams.rules import forks, media, messages, offsets
from switchgear_streams.store import Store
from switchgear_streams.stream import Fork, Stream
from switchgear_streams.usage import limited
from switchgear_streams.waiting import RETRY, Answer, Waiting, resolve
from switchgear_streams.wal import Room
from switchgear_wire.errors import HttpError
from switchgear_wire.response import Response


class Creations:
    """See the module."""

    def __init__(
        self, store: Store, reader: Reader, waits: Waiting, space: Space, max_streams: int, others: Others
    ) -> None:
        self._store = store
        self._reader = reader
        self._waits = waits
        self._space = space
        self._max_streams = max_streams
        self._others = others

    def create(
        self, key: bytes, command: Create, body: bytes, location: bytes, prepared: messages.Prepared | None = None
    ) -> Answer:
        """`prepared`: what a JSON body was made, if that was done before."""
        store = self._store
        now = store.clock()
        stream = store.get(key)
        if stream is not None and stream.leaving is not None:
            return self._waits.again(stream, lambda: self.create(key, command, body, location, prepared))
        if stream is not None and stream.gone:
            return answers.problem(409, "STREAM_GONE", "A deleted stream is kept here for its forks; use another path.")
        if stream is not None and not stream.expired(now):
            return self._waits.settled(stream, self._existing(stream, command, location))
        if stream is None and store.claimed(key):
            return answers.problem(503, "WORKER_BUSY", "Another request takes this name just now; try again.", RETRY)
        if stream is None and store.count + self._others.streams >= self._max_streams and limited(key):
            return answers.problem(
                429, "TOO_MANY_STREAMS", f"This service holds {self._max_streams} streams; delete some.", RETRY
            )
        source = None if command.forked_from is None else store.get(command.forked_from)
        if source is not None and source.leaving is not None:
            return self._waits.again(source, lambda: self.create(key, command, body, location, prepared))
        hold = None if source is None else store.hold_on(source)
        if hold is not None:  # its messages are moving: a fork is to find them there
            return self._waits.after_hold(hold, lambda: self.create(key, command, body, location, prepared))
        made = self._plain(key, command, now) if command.forked_from is None else self._fork(key, command, now, source)
        if isinstance(made, Response):
            return made
        stored = body
        if body and made.json:
            stored, _ = messages.taken(body, prepared)
        if stored and not self._space.allows(len(stored)):
            return self._space.refusal()
        size = len(stored) + len(key) + len(made.meta()) + 8192
        if store.log.room(size) is not Room.OK:
            return self._waits.when_room(size, lambda: self.create(key, command, body, location, prepared))
        if stream is not None:
            hold = store.hold_on(stream)
            if hold is not None:
                return self._waits.after_hold(hold, lambda: self.create(key, command, body, location, prepared))
            if stream.refs:  # expired, but its forks need it: the path stays taken
                return self._bury(stream)
            store.delete(stream, lambda: None)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        end = made.base + len(stored)
        answer = answers.created(made, 201, location, end, command.closed)
        store.create(made, stored, command.closed, lambda: resolve(future, answer))
        return future

    def _bury(self, stream: Stream) -> Answer:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        conflict = answers.problem(
            409, "STREAM_GONE", "An expired stream is kept here for its forks; use another path."
        )
        self._store.delete(stream, lambda: resolve(future, conflict))
        return future

    def _plain(self, key: bytes, command: Create, now: int) -> Stream:
        """The new stream, not yet in the store."""
        generation = self._store.next_generation
        made = Stream(key, generation, generation, 0, command.content_type or media.OCTETS, now)
        made.ttl, made.expires_at, made.expires_text = command.ttl, command.expires_at, command.expires_text
        made.retention = command.retention
        return made

    def _fork(self, key: bytes, command: Create, now: int, source: Stream | None) -> Stream | Response:
        """The new fork, not yet in the store. Raises HttpError for an offset that the source does not have."""
        if source is None or (source.expired(now) and not source.gone) or not source.durable_born:
            return answers.problem(404, "FORK_SOURCE_NOT_FOUND", "The stream to fork from does not exist.")
        if source.gone:
            return answers.problem(409, "FORK_SOURCE_GONE", "The stream to fork from was deleted.")
        if command.content_type is not None and media.essence(command.content_type) != source.media:
            return answers.problem(409, "CONTENT_TYPE_CONFLICT", "A fork has its source's content type.")
        asked = command.fork_offset
        anchor = source.visible if asked is None else self._anchor(source, asked)
        base = anchor + self._sub(source, anchor, command.sub_offset)
        made = Stream(
            key, self._store.next_generation, source.space, base, command.content_type or source.content_type, now
        )
        # As it was asked for, for a repeated PUT asks for it again; `anchor` may be where that led.
        position = anchor if asked is None else asked.position
        made.fork = Fork(source.key, source.generation, position, command.sub_offset)
        made.first, made.left, made.compacted = source.first, source.left, min(source.compacted, base)
        made.retention = source.retention if command.retention is None else command.retention
        if made.retention is not None and made.retention.tombstones is not None and not made.json:
            return answers.problem(
                400, "INVALID_RETENTION", "Stream-Retention-Keys is for streams of application/json."
            )
        made.ttl, made.expires_at, made.expires_text = command.ttl, command.expires_at, command.expires_text
        if command.ttl is None and command.expires_at is None:
            made.ttl, made.expires_at, made.expires_text = source.ttl, source.expires_at, source.expires_text
        return made

    def _anchor(self, source: Stream, offset: offsets.Offset) -> int:
        try:
            return self._reader.position(source, offset)
        except HttpError as error:
            raise HttpError(400, "INVALID_FORK_OFFSET", f"Stream-Fork-Offset: {error.message}") from None

    def _sub(self, source: Stream, anchor: int, sub_offset: int) -> int:
        if not sub_offset:
            return 0
        end = self._reader.append_end(source, anchor)
        following = b"" if end is None else self._reader.load(source, anchor, end)
        return forks.sub_position(following, sub_offset, source.json)

    def _existing(self, stream: Stream, command: Create, location: bytes) -> Response:
        """200 if the stream is what the PUT asks for, else 409."""
        difference = self._difference(stream, command)
        if difference is None:
            return answers.created(stream, 200, location, stream.end, stream.closed)
        return answers.problem(
            409, "STREAM_EXISTS", f"A stream with another {difference} exists at this path; delete it or adapt the PUT."
        )

    def _difference(self, stream: Stream, command: Create) -> str | None:
        fork = stream.fork
        if command.forked_from != (None if fork is None else fork.source):
            return "Stream-Forked-From"
        if fork is None:
            if media.essence(command.content_type or media.OCTETS) != stream.media:
                return "Content-Type"
        else:
            if command.content_type is not None and media.essence(command.content_type) != stream.media:
                return "Content-Type"
            asked = command.fork_offset
            if asked is not None and (asked.position != fork.anchor or asked.space not in (0, stream.space)):
                return "Stream-Fork-Offset"
            if command.sub_offset != fork.sub_offset:
                return "Stream-Fork-Sub-Offset"
        inherits = fork is not None and command.ttl is None and command.expires_at is None
        if not inherits and command.ttl != stream.ttl:
            return "Stream-TTL"
        if not inherits and command.expires_at != stream.expires_at:
            return "Stream-Expires-At"
        inherits = fork is not None and command.retention is None
        if not inherits and command.retention != stream.retention:
            return "Stream-Retention"
        return None if command.closed == stream.closed else "Stream-Closed"
