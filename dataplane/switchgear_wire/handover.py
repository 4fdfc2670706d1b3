"""A connection that goes on in another process: what it takes along, and how it is taken up.

What it must not do: know why, or how bytes get from one process to the other.
Invariant: a connection moves between two requests. Those that were answered are not handled again; the first that was
not is handled from its first byte by whoever takes the connection up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

MAX_KEPT = 1_572_864
"""Bytes of requests not yet handled that are kept to be taken along."""


@dataclass(frozen=True)
class Arrival:
    """A connection that was handed over: the bytes of its requests, of which the first `handled` were answered where it
    came from, and what is to be known (`Request.note`) of the next one."""

    data: bytes
    handled: int
    note: object = None
    drop: Callable[[], None] = lambda: None
    """Called if there is never such a next request."""


class Kept:
    """What was received since the oldest request that is not handled yet."""

    __slots__ = ("_pieces", "_size", "handled", "lost")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.handled = 0
        """Requests of these bytes that were handled."""
        self.lost = False
        """Was it too much to keep?"""

    def take(self, data: memoryview, fresh: bool) -> None:
        """`data` came in. `fresh`: it begins with a new request, and all before it are handled, or at work."""
        if fresh:
            self._pieces = [bytes(data)]
            self._size = len(data)
            self.handled = 0
            self.lost = False
        elif not self.lost:
            self._size += len(data)
            if self._size > MAX_KEPT:
                self.lost = True
                self._pieces = []
            else:
                self._pieces.append(bytes(data))

    def forget(self) -> None:
        """All of it is answered."""
        self._pieces = []
        self._size = 0

    def bytes(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def descriptor(transport: asyncio.Transport) -> int:
    """The connection's socket, to be kept open when the transport is closed. Raises OSError."""
    return os.dup(transport.get_extra_info("socket").fileno())
