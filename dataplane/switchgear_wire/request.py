"""One HTTP request: its head, and a body that is read at the handler's pace.

Invariant: at most `high_water` bytes of a body wait here; beyond that the socket is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from switchgear_wire.errors import BodyBroken, BodyTooLarge, ClientGone

if TYPE_CHECKING:
    from switchgear_wire.heads import Fields

_NONE: dict[bytes, bytes] = {}


class _Source(Protocol):
    """The connection, as a request's body sees it."""

    lease: Lease | None

    def want_body(self) -> None: ...
    def land(self, rest: memoryview) -> None: ...
    def update_reading(self) -> None: ...


class Lease(Protocol):
    """What a connection holds on behalf of a handler, until it is lost or another takes its place."""

    def leave(self) -> None: ...


class Request:
    """`method` is upper case; `path` and `query` are raw bytes as received; header names are lower case.

    Its headers may be those of other requests, too (`heads`): nobody changes them in place.
    """

    __slots__ = (
        "_buffered",
        "_callbacks",
        "_chunks",
        "_discard",
        "_source",
        "_waiter",
        "body_complete",
        "broken",
        "closed",
        "content_length",
        "has_body",
        "header_list",
        "headers",
        "http10",
        "keep_alive",
        "method",
        "note",
        "path",
        "peer",
        "query",
    )

    def __init__(self, source: _Source, peer: str) -> None:
        self._source = source
        self.peer = peer
        self.method = ""
        self.path = b""
        self.query = b""
        self.headers: Mapping[bytes, bytes] = _NONE
        self.header_list: Sequence[tuple[bytes, bytes]] = ()
        self.http10 = False
        self.keep_alive = True
        self.content_length: int | None = None
        self.has_body = False
        self.closed = False
        self.broken = False
        """Whether no more of the body will come, though it is not whole."""
        self.note: object = None
        """What is to be known of it where its connection came from another process."""
        self._chunks: list[bytes] = []
        self._buffered = 0
        self.body_complete = False
        """Whether all of the body is here, or was read."""
        self._discard = False
        self._waiter: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[], None]] | None = None

    # -- for handlers --

    def body_now(self) -> bytes | None:
        """The whole body if it is here already (it usually is, for small ones), else None. Takes it."""
        if not self.body_complete:
            return None
        return self._take()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge above `limit` bytes, BodyBroken, ClientGone."""
        if self.content_length is not None and self.content_length > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(limit)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in; the socket is read only as fast as this is consumed.

        Raises BodyBroken, ClientGone.
        """
        while True:
            if self._chunks:
                data = self._take()
                self._source.update_reading()
                yield data
            elif self.body_complete:
                return
            elif self.broken:
                raise BodyBroken
            elif self.closed:
                raise ClientGone
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                self._source.want_body()
                try:
                    await self._waiter
                finally:
                    self._waiter = None

    async def fill(self, rest: memoryview) -> None:
        """Receive the rest of a body of known length (more than `MAX_DISCARDED`, not all of it here) right into this.

        To be called when `chunks` has just given all that was there. Raises BodyBroken, ClientGone.
        """
        if self.broken:
            raise BodyBroken
        if self.closed:
            raise ClientGone
        self._waiter = asyncio.get_running_loop().create_future()
        self._source.land(rest)
        self._source.want_body()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not self.body_complete:
            raise BodyBroken if self.broken else ClientGone

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back when the client goes away before the response is complete (at once if it has)."""
        if self.closed:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    @property
    def lease(self) -> Lease | None:
        """What the connection of this request holds. Whoever sets another makes the old one `leave`."""
        return self._source.lease

    @lease.setter
    def lease(self, lease: Lease) -> None:
        self._source.lease = lease

    # -- for the connection --

    def _take(self) -> bytes:
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        return data

    def whole(self, method: str, path: bytes, query: bytes, fields: Fields, body: bytes) -> None:
        """All of it at once, with header fields that came before."""
        self.method = method
        self.path = path
        self.query = query
        self.headers = fields.headers
        self.header_list = fields.header_list
        self.content_length = fields.content_length
        self.body_complete = True
        if body:
            self.has_body = True
            self._chunks.append(body)
            self._buffered = len(body)

    def feed(self, data: bytes) -> None:
        if self._discard:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        self._wake()

    def complete(self) -> None:
        self.body_complete = True
        self._wake()

    def end_broken(self) -> None:
        """No more of the body comes."""
        self.broken = True
        self._wake()

    def discard(self) -> None:
        """The response is out: what is left of the body is of no use."""
        self._discard = True
        self._chunks.clear()
        self._buffered = 0

    def gone(self) -> None:
        self.closed = True
        self._wake()
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()

    def done(self) -> None:
        self._callbacks = None

    @property
    def discarded(self) -> bool:
        return self._discard

    @property
    def buffered(self) -> int:
        return self._buffered

    @property
    def waiting_for_body(self) -> bool:
        return self._waiter is not None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
