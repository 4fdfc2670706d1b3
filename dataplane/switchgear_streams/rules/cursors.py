"""Cursors of live responses: they make a cache's key move on, so that nobody loops on a cached empty answer. Pure."""

from __future__ import annotations

EPOCH = 1_728_432_000
INTERVAL = 20
MAX_JITTER_SECONDS = 3600
_MAX_DIGITS = 15


def interval(now: float) -> int:
    """The number of 20-second intervals since the protocol's epoch. `now`: Unix seconds."""
    return max(0, int((now - EPOCH) // INTERVAL))


def parse(cursor: str | None) -> int | None:
    """What the client echoed, or None if it is nothing that we could have sent."""
    if cursor and len(cursor) <= _MAX_DIGITS and cursor.isascii() and cursor.isdigit():
        return int(cursor)
    return None


def respond(client: int | None, current: int, jitter_seconds: int) -> int:
    """The cursor to answer: always greater than the client's. `jitter_seconds`: random, 1 to 3600."""
    if client is None or client < current:
        return current
    return client + max(1, -(-jitter_seconds // INTERVAL))
