"""Which messages of a state stream still count: of each key the newest one. Pure.

A change is a JSON object with `type`, `key` and `headers.operation` (Durable Streams' State Protocol); a newer one of
the same type and key replaces it, because each carries the whole value. `headers.control` "reset" replaces every change
before it. Whatever else is in the stream is kept.
"""

from __future__ import annotations

import orjson

MAX_KEPT = 64 * 1_048_576
"""A stream whose newest messages are together larger is left as it is."""
_RESET = object()


class TooMuch(Exception):
    """What counts is more than may be in memory."""


class Newest:
    """Give it a stream's messages in order (`add`); `kept` are those that count."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, bytes] | None] = []
        self._known: dict[tuple[str, str], int] = {}
        self._deleted: dict[tuple[str, str], int] = {}
        self.size = 0
        """Bytes that count."""

    def add(self, position: int, stored: bytes) -> None:
        """The message stored at `position`, with its separator. Raises TooMuch."""
        identity, deletes = _identity(stored)
        if identity is _RESET:
            for index in self._known.values():
                self._forget(index)
            self._known.clear()
            self._deleted.clear()
        elif isinstance(identity, tuple):
            before = self._known.get(identity)
            if before is not None:
                self._forget(before)
            self._known[identity] = len(self._entries)
            if deletes:
                self._deleted[identity] = position
            else:
                self._deleted.pop(identity, None)
        self._entries.append((position, stored))
        self.size += len(stored)
        if self.size > MAX_KEPT:
            raise TooMuch

    def forget_deletions(self, before: int) -> bool:
        """Deletions at positions below `before` are old enough: nothing is left of their keys. Were there any?"""
        old = [identity for identity, position in self._deleted.items() if position < before]
        for identity in old:
            self._forget(self._known.pop(identity))
            del self._deleted[identity]
        return bool(old)

    def kept(self) -> list[tuple[int, bytes]]:
        """(position, stored bytes), in order."""
        return [entry for entry in self._entries if entry is not None]

    def _forget(self, index: int) -> None:
        entry = self._entries[index]
        if entry is not None:
            self.size -= len(entry[1])
            self._entries[index] = None


def _identity(stored: bytes) -> tuple[object, bool]:
    """(what it is the newest of, whether it deletes that). None: of nothing."""
    try:
        message = orjson.loads(stored[: -len(b",\n")])
    except orjson.JSONDecodeError:  # valid, but beyond what this parser takes
        return None, False
    headers = message.get("headers") if type(message) is dict else None
    if type(headers) is not dict:
        return None, False
    if headers.get("control") == "reset":
        return _RESET, False
    kind, key, operation = message.get("type"), message.get("key"), headers.get("operation")
    if type(kind) is not str or type(key) is not str or type(operation) is not str:
        return None, False
    return (kind, key), operation == "delete"
