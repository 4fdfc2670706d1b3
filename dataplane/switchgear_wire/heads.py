"""Header fields that came before: the same bytes need not be parsed again.

A client sends the same fields with each of its requests; only the request line differs. So what a listener keeps is the
bytes behind the request line up to the empty one, and what the parser made of them. Pure.

What it must not do: parse. What is here went through the parser from the start of a message, without an error and with
a body of known length, or none; and a request line is taken only if it is so plain (`plain`) that the parser would make
the same of it.
Invariants: what is found is shared by requests, so nobody changes it; what nobody sent for one to two minutes is
forgotten, for there are secrets among it; nothing of it is ever logged.
"""

from __future__ import annotations

from switchgear_wire.request import Request

MAX_FIELDS = 2048
"""Bytes of a request's header fields that may be remembered."""
MAX_RECEIVED = 16_384
"""What is received in one go is looked at if it is not larger: mostly it is one small request."""
PATIENCE = 16
"""When nothing was known so often in a row on a connection, only one in so many receipts is looked at: its client may
send something new with each request."""
_MOST = 512
"""So many at least, and twice as many at most, are remembered."""
_TURN = 60.0
_METHODS = {name.encode(): name for name in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")}
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._~%:@!$&'()*+,;=?-"
_FRAMING = (b"transfer-encoding", b"upgrade", b"expect")


def plain(line: bytes) -> tuple[str, bytes, bytes] | None:
    """Method, path and query of a request line (without its end), None if it is not so plain."""
    parts = line.split(b" ")
    if len(parts) != 3:
        return None
    method, target, version = parts
    name = _METHODS.get(method)
    if name is None or version != b"HTTP/1.1" or target[:1] != b"/" or target.translate(None, _PLAIN):
        return None
    path, _, query = target.partition(b"?")
    return name, path, query


class Fields:
    """What the parser made of them. `length`: that of the body."""

    __slots__ = ("content_length", "header_list", "headers", "length")

    def __init__(self, request: Request) -> None:
        self.headers = request.headers
        self.header_list = request.header_list
        self.content_length = request.content_length
        self.length = request.content_length or 0


class Heads:
    """See the module."""

    __slots__ = ("_old", "_seen", "_turned", "recent")

    def __init__(self) -> None:
        self.recent: dict[bytes, Fields] = {}
        self._old: dict[bytes, Fields] = {}
        self._seen: set[int] = set()
        """Hashes of what came once: most of what never comes again is not worth remembering."""
        self._turned = 0.0

    def find(self, raw: bytes) -> Fields | None:
        """What the parser made of these bytes, if it is remembered."""
        found = self.recent.get(raw)
        if found is None and (found := self._old.pop(raw, None)) is not None:
            self._put(raw, found)
        return found

    def due(self, raw: bytes) -> bool:
        """Are these bytes to be remembered? They are when they come again."""
        if len(raw) > MAX_FIELDS:
            return False
        mark, seen = hash(raw), self._seen
        if mark in seen:
            seen.discard(mark)
            return True
        if len(seen) >= 2 * _MOST:
            seen.clear()
        seen.add(mark)
        return False

    def remember(self, raw: bytes, request: Request) -> None:
        """The parser has just made this of a request line and these bytes, and is at the body (or behind it)."""
        if not request.http10 and request.keep_alive and request.headers.keys().isdisjoint(_FRAMING):
            self._put(raw, Fields(request))

    def _put(self, raw: bytes, fields: Fields) -> None:
        if len(self.recent) >= _MOST:
            self._turn()
        self.recent[raw] = fields

    def sweep(self, now: float) -> None:
        """Called about once a second (`now`: any clock in seconds): forget what did not come for long."""
        if now - self._turned >= _TURN:
            self._turned = now
            self._turn()
            self._seen.clear()

    def _turn(self) -> None:
        self._old, self.recent = self.recent, {}
