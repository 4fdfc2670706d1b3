"""Which messages of a state stream still count: of each key the newest one. Pure.

A change is a JSON object with `type`, `key` and `headers.operation` (Durable Streams' State Protocol); a newer one of
the same type and key replaces it, because each carries the whole value. `headers.control` "reset" replaces every change
before it, deletions and earlier resets among them; like a deletion it goes when it is old enough. Whatever else is in
the stream is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import orjson

MIN_NEW = 65_536
"""Bytes that must have come since a stream was last looked at, besides as many as there were then."""
MAX_KEPT = 128 * 1_048_576
"""Memory for a stream's newest messages. One that needs more is left as it is."""
MESSAGE_OVERHEAD = 400
"""Memory (about) that a message takes besides its bytes."""
_RESET = b"reset"


class TooMuch(Exception):
    """What counts is more than may be in memory."""


def worth(held: int, looked: int) -> bool:
    """`held`: bytes that a stream keeps, `looked` of them there (or left) when it was last looked at.

    So the cost of a byte stays bounded, whatever comes of looking: each time there is twice as much.
    """
    return held >= 2 * looked + MIN_NEW


class Newest:
    """Give it a stream's messages in order (`add`); `drain` has those that count."""

    def __init__(self) -> None:
        self._entries: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
        self._deleted: dict[bytes, int] = {}
        self.size = 0
        """Bytes that count."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, position: int, stored: bytes) -> None:
        """The message stored at `position`, with its separator. Raises TooMuch."""
        identity, deletes = _identity(stored)
        if identity == _RESET:
            while self._known:
                self._forget(self._known.popitem()[1])
            self._deleted.clear()
        if identity is not None:
            before = self._known.get(identity)
            if before is not None:
                self._forget(before)
            self._known[identity] = position
            if deletes:
                self._deleted[identity] = position
            else:
                self._deleted.pop(identity, None)
        self._entries[position] = stored
        self.size += len(stored)
        if self.size + MESSAGE_OVERHEAD * len(self._entries) > MAX_KEPT:
            raise TooMuch

    def forget_deletions(self, before: int) -> bool:
        """Deletions at positions below `before` are old enough: nothing is left of their keys. Were there any?"""
        old = [identity for identity, position in self._deleted.items() if position < before]
        for identity in old:
            self._forget(self._known.pop(identity))
            del self._deleted[identity]
        return bool(old)

    def drain(self) -> Iterator[tuple[int, bytes]]:
        """(position, stored bytes), in order. Nothing is left after it.

        One by one, because to free all at once takes long, and other threads wait meanwhile.
        """
        while self._known:
            self._known.popitem()
        for position in list(self._entries):
            yield position, self._entries.pop(position)

    def _forget(self, position: int) -> None:
        self.size -= len(self._entries.pop(position))


def lines(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Pieces of a stream, (position, bytes), that follow each other → its messages. No step is longer than a piece."""
    begun: list[bytes] = []
    at = 0
    for position, piece in pieces:
        if not begun:
            at = position
        found = piece.split(b"\n")
        last = found.pop()
        for line in found:
            if begun:
                line, begun = b"".join([*begun, line]), []
            yield at, line + b"\n"
            at += len(line) + 1
        if last:
            begun.append(last)


def _identity(stored: bytes) -> tuple[bytes | None, bool]:
    """(what it is the newest of, whether it deletes that). None: of nothing."""
    try:
        message = orjson.loads(stored[: -len(b",\n")])
    except orjson.JSONDecodeError:  # valid, but beyond what this parser takes
        return None, False
    headers = message.get("headers") if type(message) is dict else None
    if type(headers) is not dict:
        return None, False
    if headers.get("control") == "reset":
        return _RESET, True
    kind, key, operation = message.get("type"), message.get("key"), headers.get("operation")
    if type(kind) is not str or type(key) is not str or type(operation) is not str:
        return None, False
    name = kind.encode()
    return blake2b(b"%d:%b%b" % (len(name), name, key.encode()), digest_size=16).digest(), operation == "delete"
