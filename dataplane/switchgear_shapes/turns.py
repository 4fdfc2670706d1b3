"""Requests for shapes that may have to be made take turns: few at once, first come first served.

When hundreds come at the same moment, each is carried to its answer before the next is begun. Were all of them worked
on side by side, all would be answered at the end: the mean wait doubles. It must not hold anybody back for long: behind
slow snapshots a turn comes after PATIENCE_SECONDS all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque

PATIENCE_SECONDS = 1.0


class Turns:
    """At most `limit` at once, but for those that have waited long enough."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        """Since when, and who: the longest first."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def enter(self) -> None:
        """Wait for a turn, and take it: `leave` gives it back."""
        if self.taken < self.limit and not self._waiting:
            self.taken += 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((loop.time(), turn))
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE_SECONDS, self._impatient)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self.taken -= 1
        while self._waiting and self.taken < self.limit:
            self._grant(self._waiting.popleft()[1])

    def _impatient(self) -> None:
        """Those that have waited long enough go on; one timer for all who wait."""
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting:
            due = self._waiting[0][0] + PATIENCE_SECONDS
            if due > loop.time():
                self._timer = loop.call_at(due, self._impatient)
                return
            self._grant(self._waiting.popleft()[1])

    def _grant(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self.taken += 1
            turn.set_result(None)
