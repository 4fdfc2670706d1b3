"""The body of a StreamResponse on one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from switchgear_wire.errors import ClientGone
from switchgear_wire.response import frame

if TYPE_CHECKING:
    from switchgear_wire.connection import Connection
    from switchgear_wire.request import Request


class BodyWriter:
    """The Writer of a StreamResponse on this connection."""

    __slots__ = ("_callbacks", "_chunked", "_connection", "_left", "_request", "closed", "silent")

    def __init__(self, connection: Connection, request: Request, chunked: bool, length: int | None) -> None:
        self._connection = connection
        self._request = request
        self._chunked = chunked
        self._left = length
        self._callbacks: list[Callable[[], None]] = []
        self.closed = False
        self.silent = False

    @property
    def buffered(self) -> int:
        return self._connection.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if self.closed or self.silent or not data:
            return
        if self._left is not None:
            self._left -= len(data)
        self._connection.transport.write(frame(data) if self._chunked else data)

    def write_chunk(self, framed: bytes) -> None:
        if self.closed or self.silent:
            return
        if not self._chunked:
            start = framed.index(b"\r\n") + 2
            self.write(framed[start:-2])
            return
        self._connection.transport.write(framed)

    async def drain(self) -> None:
        if self.closed:
            raise ClientGone
        await self._connection.drain()

    def finish(self) -> None:
        if self.closed:
            return
        if self._left and not self.silent:  # fewer bytes than promised: only a cut connection tells the client
            self.abort()
            return
        self.closed = True
        self._callbacks.clear()
        if self._chunked and not self.silent:
            self._connection.transport.write(b"0\r\n\r\n")
        self._connection.stream_done(self._request)

    def abort(self) -> None:
        if not self.closed:
            self._connection.abort()
            self.gone()

    def on_close(self, callback: Callable[[], None]) -> None:
        if self.closed:
            callback()
        else:
            self._callbacks.append(callback)

    def gone(self) -> None:
        if self.closed:
            return
        self.closed = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
