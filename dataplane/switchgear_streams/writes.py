"""POST and DELETE (and by way of `creations` PUT): the rules in their order, then the change.

Each function answers a Response at once when nothing depends on what is still on its way to the disk, else a future.
Invariant: an answer that tells of accepted state (closed, duplicate, conflict) is given once that state is durable.
"""

from __future__ import annotations

import asyncio
from typing import Any

from switchgear_streams import answers
from switchgear_streams.creations import Creations
from switchgear_streams.limits import Others, Space
from switchgear_streams.pending import Promise
from switchgear_streams.reads import Reader
from switchgear_streams.request import Append
from switchgear_streams.rules import messages, producers
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.waiting import RETRY, Answer, Waiting, resolve
from switchgear_streams.wal import Room
from switchgear_wire.response import Response

MAX_PRODUCERS = 100_000
"""Producers of one stream; their state is kept as long as the stream."""


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
        others = others or Others()
        self._waits = Waiting(store)
        self._space = Space(store.usage, others, max_bytes)
        self.create = Creations(store, reader, self._waits, self._space, max_streams, others).create

    # -- POST --

    def append(self, key: bytes, command: Append, body: bytes, prepared: messages.Prepared | None = None) -> Answer:
        """`prepared`: what a JSON body was made, if that was done before."""
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
            return self._waits.again(stream, lambda: self.append(key, command, body, prepared))
        if stream.gone:
            return answers.gone()
        if stream.damage is not None:
            return _quarantined()
        store.touch(stream, now)
        if stream.closed:
            return self._waits.settled(stream, _append_to_closed(stream, command, body))
        if body and command.media != stream.media:
            return self._waits.settled(stream, _type_conflict(stream))
        batch = command.batch
        if batch is not None:
            refusal = _judge(stream, batch)
            if refusal is not None:
                return self._waits.settled(stream, refusal)
        if command.seq is not None and stream.seq is not None and command.seq <= stream.seq:
            return self._waits.settled(
                stream, answers.problem(409, "SEQ_CONFLICT", "Stream-Seq must be greater than the last accepted one.")
            )
        stored = body
        if body and stream.json:
            stored, count = messages.taken(body, prepared)
            if not count:
                return answers.problem(400, "EMPTY_ARRAY", "Nothing to append: the array is empty.")
        if stored and not self._space.allows(len(stored)):
            return self._space.refusal()
        size = len(stored) + len(key) + 8192
        if store.log.room(size) is not Room.OK:
            return self._waits.when_room(size, lambda: self.append(key, command, body, prepared))
        return self._accept(stream, command, stored)

    def _accept(self, stream: Stream, command: Append, stored: bytes) -> Promise:
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
        pending = Promise()
        entry.answers.append((pending, answer))
        return pending

    def plain(self, stream: Stream, content_type: bytes | None, body: bytes) -> Promise | None:
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
        if not stored or not self._space.allows(len(stored)):
            return None
        if self._store.log.room(len(stored) + len(stream.key) + 8192) is not Room.OK:
            return None
        entry = self._store.append(stream, stored, close=False, extra=None)
        pending = Promise()
        entry.answers.append((pending, answers.appended(stream, stream.end, False)))
        return pending

    # -- DELETE --

    def delete(self, key: bytes) -> Answer:
        store = self._store
        stream = store.get(key)
        if stream is None or (stream.expired(store.clock()) and not stream.gone):
            return answers.not_found()
        if stream.leaving is not None:
            return self._waits.again(stream, lambda: self.delete(key))
        if stream.gone:
            return answers.gone()
        hold = store.hold_on(stream)
        if hold is not None:
            return self._waits.after_hold(hold, lambda: self.delete(key))
        size = len(key) + 1024
        if store.log.room(size, reserved=True) is not Room.OK:
            return self._waits.when_room(size, lambda: self.delete(key))
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        store.delete(stream, lambda: resolve(future, Response(204, answers.BASE)))
        return future


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
            return answers.problem(429, "TOO_MANY_PRODUCERS", f"A stream has at most {MAX_PRODUCERS} producers.", RETRY)
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
