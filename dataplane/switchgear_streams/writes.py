"""PUT, POST and DELETE: the rules in their order, then the change.

Each function answers a Response at once when nothing depends on what is still on its way to the disk, else a future.
Invariant: an answer that tells of accepted state (closed, duplicate, conflict) is given once that state is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from switchgear_streams import answers
from switchgear_streams.limits import Others
from switchgear_streams.pending import Pending
from switchgear_streams.reads import Reader
from switchgear_streams.request import Append, Create
from switchgear_streams.rules import forks, media, messages, offsets, producers
from switchgear_streams.store import Store
from switchgear_streams.stream import Fork, Stream
from switchgear_streams.wal import Room
from switchgear_wire.errors import HttpError
from switchgear_wire.response import Response

Answer = Response | Awaitable[Response]

MAX_PRODUCERS = 100_000
"""Producers of one stream; their state is kept as long as the stream."""
ROOM_WAIT = 10.0


class Writes:
    """See the module."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        max_streams: int,
        max_bytes: int | None = None,
        others: Others | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._max_streams = max_streams
        self._others = others or Others()
        self._max_bytes = (1 << 63) if max_bytes is None else max_bytes

    # -- POST --

    def append(self, key: bytes, command: Append, body: bytes) -> Answer:
        store = self._store
        if body:
            if command.media is None:
                return answers.problem(400, "CONTENT_TYPE_MISSING", "Send Content-Type: that of the stream.")
        elif not command.close:
            return answers.problem(400, "BODY_EMPTY", "Nothing to append: the body is empty.")
        stream = store.get(key)
        now = store.clock()
        if stream is None or (stream.expired(now) and not stream.gone):
            return answers.not_found()
        if stream.leaving is not None:
            return self._again(stream, lambda: self.append(key, command, body))
        if stream.gone:
            return answers.gone()
        if stream.damage is not None:
            return _quarantined()
        store.touch(stream, now)
        if stream.closed:
            return self._settled(stream, _append_to_closed(stream, command, body))
        if body and command.media != stream.media:
            return self._settled(stream, _type_conflict(stream))
        batch = command.batch
        if batch is not None:
            refusal = _judge(stream, batch)
            if refusal is not None:
                return self._settled(stream, refusal)
        if command.seq is not None and stream.seq is not None and command.seq <= stream.seq:
            return self._settled(
                stream, answers.problem(409, "SEQ_CONFLICT", "Stream-Seq must be greater than the last accepted one.")
            )
        stored = body
        if body and stream.json:
            stored, count = messages.to_stored(bytes(body))
            if not count:
                return answers.problem(400, "EMPTY_ARRAY", "Nothing to append: the array is empty.")
        if stored and store.usage.held + self._others.held + len(stored) > self._max_bytes:
            return self._no_space()
        size = len(stored) + len(key) + 8192
        if store.log.room(size) is not Room.OK:
            return self._when_room(size, lambda: self.append(key, command, body))
        return self._accept(stream, command, stored)

    def _accept(self, stream: Stream, command: Append, stored: bytes) -> Pending:
        close, batch = command.close, command.batch
        extra: dict[str, Any] = {}
        if command.seq is not None:
            extra["q"] = command.seq
        if batch is not None:
            extra["p"] = {batch.producer: [batch.epoch, batch.seq]}
            if close:
                extra["by"] = [batch.producer, batch.epoch, batch.seq]
        entry = self._store.append(stream, stored, close=close, extra=extra or None)
        if batch is None:
            answer = answers.appended(stream, stream.end, close)
        else:
            answer = answers.produced(200 if stored else 204, stream, stream.end, close, batch.epoch, batch.seq)
        pending = Pending()
        entry.answers.append((pending, answer))
        return pending

    def plain(self, stream: Stream, content_type: bytes | None, body: bytes) -> Pending | None:
        """The fast path: an append without further headers, to a stream in an ordinary state. None: take `append`."""
        if (
            stream.closed
            or stream.gone
            or stream.leaving is not None
            or stream.damage is not None
            or stream.ttl is not None
            or stream.expires_at is not None
            or (content_type != stream.content_type and (content_type is None or not stream.is_type(content_type)))
        ):
            return None
        stored = messages.to_stored(body)[0] if stream.json else body
        if not stored or self._store.usage.held + self._others.held + len(stored) > self._max_bytes:
            return None
        if self._store.log.room(len(stored) + len(stream.key) + 8192) is not Room.OK:
            return None
        entry = self._store.append(stream, stored, close=False, extra=None)
        pending = Pending()
        entry.answers.append((pending, answers.appended(stream, stream.end, False)))
        return pending

    # -- PUT --

    def create(self, key: bytes, command: Create, body: bytes, location: bytes) -> Answer:
        store = self._store
        now = store.clock()
        stream = store.get(key)
        if stream is not None and stream.leaving is not None:
            return self._again(stream, lambda: self.create(key, command, body, location))
        if stream is not None and stream.gone:
            return answers.problem(409, "STREAM_GONE", "A deleted stream is kept here for its forks; use another path.")
        if stream is not None and not stream.expired(now):
            return self._settled(stream, self._existing(stream, command, location))
        if stream is None and store.claimed(key):
            return answers.problem(503, "WORKER_BUSY", "Another request takes this name just now; try again.", _RETRY)
        if stream is None and len(store.streams) + self._others.streams >= self._max_streams:
            return answers.problem(
                429, "TOO_MANY_STREAMS", f"This service holds {self._max_streams} streams; delete some.", _RETRY
            )
        source = None if command.forked_from is None else store.get(command.forked_from)
        if source is not None and source.leaving is not None:
            return self._again(source, lambda: self.create(key, command, body, location))
        hold = None if source is None else store.hold_on(source)
        if hold is not None:  # its messages are moving: a fork is to find them there
            return self._after_hold(hold, lambda: self.create(key, command, body, location))
        made = self._plain(key, command, now) if command.forked_from is None else self._fork(key, command, now, source)
        if isinstance(made, Response):
            return made
        stored = body
        if body and made.json:
            stored, _ = messages.to_stored(bytes(body))
        if stored and store.usage.held + self._others.held + len(stored) > self._max_bytes:
            return self._no_space()
        size = len(stored) + len(key) + len(made.meta()) + 8192
        if store.log.room(size) is not Room.OK:
            return self._when_room(size, lambda: self.create(key, command, body, location))
        if stream is not None:
            hold = store.hold_on(stream)
            if hold is not None:
                return self._after_hold(hold, lambda: self.create(key, command, body, location))
            if stream.refs:  # expired, but its forks need it: the path stays taken
                return self._bury(stream)
            store.delete(stream, lambda: None)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        end = made.base + len(stored)
        answer = answers.created(made, 201, location, end, command.closed)
        store.create(made, stored, command.closed, lambda: _resolve(future, answer))
        return future

    def _bury(self, stream: Stream) -> Answer:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        conflict = answers.problem(
            409, "STREAM_GONE", "An expired stream is kept here for its forks; use another path."
        )
        self._store.delete(stream, lambda: _resolve(future, conflict))
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
        anchor = source.visible if command.fork_offset is None else self._anchor(source, command.fork_offset)
        base = anchor + self._sub(source, anchor, command.sub_offset)
        made = Stream(
            key, self._store.next_generation, source.space, base, command.content_type or source.content_type, now
        )
        made.fork = Fork(source.key, source.generation, anchor, command.sub_offset)
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

    # -- DELETE --

    def delete(self, key: bytes) -> Answer:
        store = self._store
        stream = store.get(key)
        if stream is None or (stream.expired(store.clock()) and not stream.gone):
            return answers.not_found()
        if stream.leaving is not None:
            return self._again(stream, lambda: self.delete(key))
        if stream.gone:
            return answers.gone()
        hold = store.hold_on(stream)
        if hold is not None:
            return self._after_hold(hold, lambda: self.delete(key))
        size = len(key) + 1024
        if store.log.room(size, reserved=True) is not Room.OK:
            return self._when_room(size, lambda: self.delete(key))
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        store.delete(stream, lambda: _resolve(future, Response(204, answers.BASE)))
        return future

    def _no_space(self) -> Response:
        return answers.problem(
            507,
            "QUOTA_EXCEEDED",
            f"This service keeps at most {self._max_bytes} bytes; delete streams, or set a retention.",
        )

    # -- waiting --

    def _settled(self, stream: Stream, response: Response) -> Answer:
        """`response` once everything that was accepted of the stream is durable."""
        wal = self._store.log
        if stream.last_block <= wal.durable:
            return response
        return self._after(wal.wait(stream.last_block), response)

    @staticmethod
    async def _after(durable: asyncio.Future[None], response: Response) -> Response:
        await durable
        return response

    @staticmethod
    async def _again(stream: Stream, retry: Callable[[], Answer]) -> Response:
        """A deletion is under way: decide when it is durable."""
        if stream.leaving is not None:
            await asyncio.shield(stream.leaving)
        answer = retry()
        return answer if isinstance(answer, Response) else await answer

    @staticmethod
    async def _after_hold(hold: asyncio.Future[None], retry: Callable[[], Answer]) -> Response:
        await asyncio.shield(hold)
        answer = retry()
        return answer if isinstance(answer, Response) else await answer

    async def _when_room(self, size: int, retry: Callable[[], Answer]) -> Response:
        wal = self._store.log
        deadline = asyncio.get_running_loop().time() + ROOM_WAIT
        while (room := wal.room(size)) is not Room.OK:
            left = deadline - asyncio.get_running_loop().time()
            if room is Room.FULL:
                return answers.problem(
                    507,
                    "DISK_FULL",
                    "The server's disk is full; nothing was written. Delete streams or add space.",
                    _RETRY,
                )
            if left <= 0:
                return answers.problem(
                    503, "OVERLOADED", "The log is not being emptied fast enough; try again.", _RETRY
                )
            await wal.wait_room(min(left, 1.0))
        answer = retry()
        return answer if isinstance(answer, Response) else await answer


_RETRY = b"retry-after: 1\r\n"


def _resolve(future: asyncio.Future[Response], response: Response) -> None:
    if not future.done():
        future.set_result(response)


def _quarantined() -> Response:
    return answers.problem(
        409,
        "STREAM_QUARANTINED",
        "Part of this stream was damaged on disk: it takes no more writes. Copy and delete it.",
    )


def _type_conflict(stream: Stream) -> Response:
    return answers.problem(
        409, "CONTENT_TYPE_CONFLICT", f"The stream's content type is {stream.media.decode()}; send that."
    )


def _append_to_closed(stream: Stream, command: Append, body: bytes) -> Response:
    batch = command.batch
    if batch is None:
        return answers.closed_conflict(stream) if body else answers.appended(stream, stream.end, True)
    if stream.closed_by == (batch.producer, batch.epoch, batch.seq):
        return answers.produced(204, stream, stream.end, True, batch.epoch, batch.seq)
    state = (stream.producers or {}).get(batch.producer)
    if state is not None and batch.epoch < state[0]:
        return _fenced(state[0])
    return answers.closed_conflict(stream)


def _fenced(epoch: int) -> Response:
    return answers.problem(
        403,
        "PRODUCER_FENCED",
        "A newer epoch of this producer has written; claim a higher one to go on.",
        b"producer-epoch: %d\r\n" % epoch,
    )


def _judge(stream: Stream, batch: producers.Batch) -> Response | None:
    """The answer to a batch that is not to be appended, None if it is."""
    state = None if stream.producers is None else stream.producers.get(batch.producer)
    verdict = producers.judge(state, batch)
    if verdict is producers.Verdict.ACCEPT:
        if state is None and stream.producers is not None and len(stream.producers) >= MAX_PRODUCERS:
            return answers.problem(
                429, "TOO_MANY_PRODUCERS", f"A stream has at most {MAX_PRODUCERS} producers.", _RETRY
            )
        return None
    if verdict is producers.Verdict.DUPLICATE:
        assert state is not None
        return answers.produced(204, stream, stream.end, False, state[0], state[1])
    if verdict is producers.Verdict.FENCED:
        assert state is not None
        return _fenced(state[0])
    if verdict is producers.Verdict.NEW_EPOCH_NOT_ZERO:
        return answers.problem(400, "PRODUCER_EPOCH_START", "A new epoch begins with Producer-Seq 0.")
    expected = producers.expected(state)
    return answers.problem(
        409,
        "PRODUCER_GAP",
        f"Producer-Seq {expected} is expected next.",
        b"producer-expected-seq: %d\r\nproducer-received-seq: %d\r\n" % (expected, batch.seq),
    )
