"""What a handler may answer: bytes, file slices, or a stream that it writes itself.

Header blocks are prebuilt bytes (`header_block`), so that a server composes its constant headers once. The connection
adds `content-length` or `transfer-encoding`, `date` and `connection`; a handler never does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from switchgear_wire.request import Request

STATUS_LINES: dict[int, bytes] = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def header_block(*pairs: tuple[bytes, bytes]) -> bytes:
    """`name: value` lines. Raises ValueError on CR, LF or NUL, which would split the response."""
    for name, value in pairs:
        if any(bad in part for part in (name, value) for bad in (b"\r", b"\n", b"\0")):
            raise ValueError(f"header {name!r} has a line break or NUL in it")
    return b"".join(name + b": " + value + b"\r\n" for name, value in pairs)


def frame(data: bytes) -> bytes:
    """One HTTP/1.1 chunk. Built once, it can be written to any number of clients with `Writer.write_chunk`."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Response:
    """A whole answer in memory."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: bytes = b"", body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body


class FileSlice:
    """`length` bytes of the open file `fd` from `offset`. The file must stay open until the response's `on_done`."""

    __slots__ = ("fd", "length", "offset")

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self.fd = fd
        self.offset = offset
        self.length = length


class FileResponse:
    """Bytes and file slices one after the other, sent without being read into memory as a whole."""

    __slots__ = ("headers", "length", "on_done", "parts", "status")

    def __init__(
        self,
        status: int,
        headers: bytes,
        parts: Sequence[bytes | FileSlice],
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.parts = parts
        self.on_done = on_done
        length = 0
        for part in parts:
            length += len(part) if isinstance(part, bytes) else part.length
        self.length = length


class StreamResponse:
    """A body that is written over time. `start` gets the writer once the head is out.

    Without `length` the body is chunked (HTTP/1.1) or ends with the connection (HTTP/1.0).
    """

    __slots__ = ("headers", "length", "start", "status")

    def __init__(self, status: int, headers: bytes, start: Callable[[Writer], None], length: int | None = None) -> None:
        self.status = status
        self.headers = headers
        self.start = start
        self.length = length


class Deferred:
    """An answer that comes later, without a task or a future: whoever has it calls `settle`, once.

    The connection listens; the answer may be there before it does. Settled with None the client is gone.
    """

    __slots__ = ("_answer", "_listener")
    in_a_row = False
    """Whether whoever settles it settles others before and after it: it is sent at once then."""

    def __init__(self) -> None:
        self._answer: AnyResponse | None = None
        self._listener: Callable[[AnyResponse | None], None] | None = None

    def listen(self, listener: Callable[[AnyResponse | None], None]) -> None:
        """Call back with the answer, at once if it is there."""
        self._listener = listener
        if self._answer is not None:
            listener(self._answer)

    def settle(self, answer: AnyResponse | None) -> None:
        self._answer = answer
        if self._listener is not None:
            self._listener(answer)


class Elsewhere:
    """No answer: another process has it. `take(fd, data, handled)` gets the connection (`handover`) and owns `fd`.

    `drop` is called instead when the connection cannot go. Only a server that keeps what comes in can give this.
    """

    __slots__ = ("drop", "take")

    def __init__(self, take: Callable[[int, bytes, int], None], drop: Callable[[], None] = lambda: None) -> None:
        self.take = take
        self.drop = drop


class Writer(Protocol):
    """The body of a StreamResponse. Writing after `closed` does nothing."""

    closed: bool

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet: the measure of a slow reader."""

    def write(self, data: bytes) -> None:
        """Send `data` (one chunk). Never blocks; see `drain` and `buffered`."""

    def write_chunk(self, framed: bytes) -> None:
        """Send what `frame` made."""

    async def drain(self) -> None:
        """Wait until the buffer is below the high-water mark. Raises ClientGone."""

    def finish(self) -> None:
        """End the body properly; the connection goes on."""

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the body is not whole."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back when the client goes (or went) away before `finish`."""


AnyResponse: TypeAlias = Response | FileResponse | StreamResponse
Outcome: TypeAlias = AnyResponse | Elsewhere
Handler: TypeAlias = "Callable[[Request], Outcome | Deferred | Awaitable[AnyResponse] | Awaitable[Outcome]]"
