"""The receiving half of a connection: bytes → requests, in order, and bodies at the pace at which they are wanted.

What it must not do: answer anything but bytes that are no request (`_refuse`), or know what a request is about.
Invariants: while the next requests of a pipeline, or an unread body, wait beyond their bound, the socket is not read; a
body that is received right into a buffer of its handler's passes by the parser, which begins anew behind it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from switchgear_wire.answers import closing, error_response
from switchgear_wire.errors import HttpError
from switchgear_wire.handover import Arrival, Kept
from switchgear_wire.heads import MAX_RECEIVED, PATIENCE, Heads, plain
from switchgear_wire.request import Lease, Request
from switchgear_wire.sending import MAX_DISCARDED, Sending

if TYPE_CHECKING:
    from switchgear_wire.listener import Server

MAX_PIPELINED = 64
BROKEN_SECONDS = 10.0
"""How long a request whose body broke off may take to be answered."""
_OTHER_VERSION = HttpError(505, "HTTP_VERSION", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
_TWO_HOSTS = HttpError(400, "BAD_REQUEST", "A request has one Host.")
_HEAD_TOO_LARGE = HttpError(431, "HEADERS_TOO_LARGE", "URL and headers are too large or too many; use a POST body.")


class Receiving(Sending):
    """See the module."""

    __slots__ = (
        "_active",
        "_discarded",
        "_head_bytes",
        "_header_list",
        "_headers",
        "_in_head",
        "_incoming",
        "_kept",
        "_landed",
        "_landing",
        "_lingering",
        "_misses",
        "_moving",
        "_ordinary",
        "_parser",
        "_queue",
        "_reading_paused",
        "_skipped",
        "_url",
        "arrival",
        "deadline",
        "lease",
        "peer",
    )

    def __init__(self, server: Server, arrival: Arrival | None = None) -> None:
        super().__init__(server)
        self.arrival = arrival
        self._kept = Kept() if server.shared else None
        self._skipped: Request | None = None
        self._moving = False
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: Request | None = None
        self._queue: deque[Request] = deque()
        self._active: Request | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_list: list[tuple[bytes, bytes]] = []
        self._in_head = True
        self._ordinary = True
        """Whether the parser takes every message as if it were the first: none so far was the last."""
        self._misses = 0
        """How often in a row nothing that was received was known."""
        self._head_bytes = 0
        """Bytes that were received of a head, or around the pieces of a body since its last one."""
        self._discarded = 0
        self._landing: memoryview | None = None
        """What the rest of the incoming body is received into."""
        self._landed = 0
        self._lingering = False
        self._reading_paused = False
        self.peer = ""
        self.deadline = 0.0
        self.lease: Lease | None = None

    # -- asyncio --

    def get_buffer(self, sizehint: int) -> memoryview:
        """One for all connections: the parser copies what it keeps before anything else is received. (A new buffer for
        each receipt costs a large allocation, and mostly a mapping with its page faults.)"""
        landing = self._landing
        return self._server.inbox if landing is None else landing[self._landed :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._landing is None:
            self._receive(self._server.inbox[:nbytes])
        else:
            self._land(self._landing, nbytes)

    def _receive(self, data: memoryview) -> None:
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > 64 * MAX_DISCARDED:
                self.abort()
            return
        if self._kept is not None:
            self._kept.take(data, self._incoming is None and self._active is None and not self._queue)
        heads = self._server.heads
        begins = self._incoming is None
        self._head_bytes += len(data)
        try:
            if heads is not None and begins and self._ordinary and len(data) <= MAX_RECEIVED and self.arrival is None:
                self._misses += 1
                if self._misses <= PATIENCE or not self._misses % PATIENCE:
                    self._feed_unknown(bytes(data), heads)
                else:
                    self._parser.feed_data(data)
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # We speak HTTP/1.1 only: the request is answered as if it had not asked, and the connection ends.
            self._ordinary = False
            if self._queue:
                self._queue[-1].keep_alive = False
            elif self._active is not None:
                self._active.keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__  # what a callback of ours raised
            if not self._break_body():
                self._refuse(cause if isinstance(cause, HttpError) else error)
            return
        if self._head_bytes > self._server.limits.max_head_bytes:
            self._refuse(_HEAD_TOO_LARGE)
            return
        self._dispatch()
        if self._incoming is not None or self._queue or self._reading_paused:
            self.update_reading()

    def _feed_unknown(self, data: bytes, heads: Heads) -> None:
        """What begins with a request: those whose header fields came before pass by the parser, it gets the rest."""
        at, size, most = 0, len(data), self._server.limits.max_head_bytes
        while at < size:
            begin = data.find(b"\r\n", at)
            end = data.find(b"\r\n\r\n", begin) + 4
            if begin < 0 or end < 4 or end - at > most or (line := plain(data[at:begin])) is None:
                break
            raw = data[begin:end]
            fields = heads.recent.get(raw) or heads.find(raw)
            if fields is None:
                if heads.due(raw):
                    self._remember(data[at:end], raw, heads)
                    at = end
                break
            stop = end + fields.length
            if stop > size:
                break
            request = Request(self, self.peer)
            request.whole(*line, fields, data[end:stop])
            self._queue.append(request)
            self._head_bytes = self._misses = 0
            at = stop
        if at < size:
            self._parser.feed_data(data[at:] if at else data)

    def _remember(self, head: bytes, raw: bytes, heads: Heads) -> None:
        """Give the parser a request's head alone: what it makes of it, it makes of its fields (`raw`) again."""
        queue = self._queue
        before = len(queue)
        self._parser.feed_data(head)
        if len(queue) != before + 1:
            return
        request = queue[-1]
        if self._incoming is (request if request.content_length else None) and not request.buffered:
            heads.remember(raw, request)

    def eof_received(self) -> bool:
        """Within a body that is waited for, the client may have closed only its own side, and read the answer."""
        active = self._active
        return active is not None and active.waiting_for_body and self._break_body()

    def _break_body(self) -> bool:
        """No more of the body that is coming in can be read; False when none is. Its handler decides on the answer."""
        request = self._incoming
        if request is None or request is self._skipped or self._in_head or request.discarded:
            return False
        request.keep_alive = False
        request.end_broken()
        self._lingering = True  # whatever else comes is thrown away
        self._discarded = 0
        self._landing = None
        self.deadline = self._server.now + BROKEN_SECONDS
        self._dispatch()
        return True

    # -- httptools --

    def on_message_begin(self) -> None:
        request = self._incoming = Request(self, self.peer)
        request.headers = self._headers = {}
        request.header_list = self._header_list = []
        self._url = b""
        if self._active is None:
            self.deadline = self._server.now + self._server.limits.head_timeout

    def on_url(self, url: bytes) -> None:
        self._url += url  # the parser gives a long one in several pieces

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nobody asks for one, and none may pass for a header
            return
        headers, header_list = self._headers, self._header_list
        if len(header_list) >= self._server.limits.max_headers:
            raise _HEAD_TOO_LARGE
        name = name.lower()
        header_list.append((name, value))
        known = headers.get(name)
        if known is not None and name == b"host":  # whoever stands in front may have gone by the other one
            raise _TWO_HOSTS
        headers[name] = value if known is None else known + (b"; " if name == b"cookie" else b", ") + value

    def on_headers_complete(self) -> None:
        request = cast("Request", self._incoming)
        if self._head_bytes > self._server.limits.max_head_bytes:  # it may be the body that came along: count exactly
            self._head_bytes = len(self._url) + sum(len(name) + len(value) for name, value in request.header_list)
            if self._head_bytes > self._server.limits.max_head_bytes:
                raise _HEAD_TOO_LARGE
        parser = self._parser
        url = self._url
        if not url.startswith(b"/") and b"://" in url[:12]:
            rest = url[url.index(b"://") + 3 :]
            slash = rest.find(b"/")
            url = rest[slash:] if slash >= 0 else b"/"
        request.path, _, request.query = url.partition(b"?")
        request.method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise _OTHER_VERSION
        request.http10 = version == "1.0"
        request.keep_alive = parser.should_keep_alive()
        headers = request.headers
        length = headers.get(b"content-length")
        if length is not None:
            request.content_length = int(length)
        request.has_body = bool(request.content_length) or b"transfer-encoding" in headers
        self._head_bytes = 0
        self._in_head = False
        if self.arrival is not None and self._arrived(self.arrival, request):
            return
        self._queue.append(request)

    def _forget_arrival(self) -> None:
        arrival, self.arrival = self.arrival, None
        if arrival is not None:
            arrival.drop()

    def _arrived(self, arrival: Arrival, request: Request) -> bool:
        """The first requests of a connection from elsewhere. Is this one handled?"""
        kept = self._kept
        if kept is not None and kept.handled < arrival.handled:
            kept.handled += 1
            self._skipped = request
            return True
        request.note = arrival.note
        self.arrival = None
        return False

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        request = self._incoming
        if request is None or request is self._skipped:
            return
        self.deadline = self._server.now + self._server.limits.body_stall_timeout
        if request.discarded:
            self._discarded += len(body)
            if self._discarded > MAX_DISCARDED:
                self.transport.close()
            return
        request.feed(body)

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        self._in_head = True
        self._head_bytes = 0
        if request is not None:
            self._ordinary &= request.keep_alive
            request.complete()
            self._skipped = None

    # -- request body --

    def land(self, rest: memoryview) -> None:
        """The rest of the incoming body is to come right into this. The body must be so long that the connection ends
        if the answer does not wait for it (`MAX_DISCARDED`), for what passes by the parser cannot be thrown away."""
        self._landing, self._landed = rest, 0

    def _land(self, landing: memoryview, nbytes: int) -> None:
        begin, self._landed = self._landed, self._landed + nbytes
        self.deadline = self._server.now + self._server.limits.body_stall_timeout
        if self._kept is not None:
            self._kept.take(landing[begin : self._landed], False)
        if self._landed == len(landing):
            self._landing = None
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body
            self.on_message_complete()
            self.update_reading()

    def want_body(self) -> None:
        """The handler waits for body bytes: send `100 Continue` if the client waits for that, and read."""
        request = self._active
        self.deadline = self._server.now + self._server.limits.body_stall_timeout
        if request is not None and request.headers.get(b"expect", b"").lower() == b"100-continue":
            request.headers = {name: value for name, value in request.headers.items() if name != b"expect"}
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.update_reading()

    def update_reading(self) -> None:
        request = self._incoming
        pause = not self._lingering and (
            self._moving
            or len(self._queue) >= MAX_PIPELINED
            or (request is not None and request.buffered >= self._server.limits.high_water)
        )
        if pause != self._reading_paused and not self.transport.is_closing():
            self._reading_paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _refuse(self, error: Exception) -> None:
        """Answer bytes that are no request, and close. Within a response that has begun, only close."""
        if not isinstance(error, HttpError):
            error = HttpError(400, "BAD_REQUEST", "This is no valid HTTP/1.1 request.")
        if self._active is None:
            self.transport.write(closing(error_response(error), self._server.error_headers(None)))
        self._queue.clear()
        self.transport.close()
