"""Which shapes of one table that wait for their snapshots share a transaction. Pure but for the clock's ticks.

Most of a small snapshot's cost is its transaction, so those that wait at the same time share one. How many: as many as
the last ones were quick, from one alone to TOGETHER. Whoever would be held back by a slow one is let go (`Watch`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

TOGETHER = 16
AT_ONCE = 2
"""Transactions of one table before others wait for company."""
TICK_SECONDS = 0.025
QUICK_TICKS = 2
LATE_TICKS = 4

T = TypeVar("T")


class Line(Generic[T]):
    """Those of one table that wait. `limit`: how many may share a transaction now."""

    __slots__ = ("limit", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.running = 0
        self.limit = 1

    def take(self) -> list[T]:
        """Those that begin now, together; none while it is better to wait for company, which comes soon."""
        if not self.waiting or (self.running >= AT_ONCE and len(self.waiting) < self.limit):
            return []
        self.running += 1
        return [self.waiting.popleft() for _ in range(min(self.limit, len(self.waiting)))]

    def ended(self, number: int, ticks: int) -> None:
        """A transaction of `number` shapes was whole after `ticks`."""
        self.running -= 1
        if ticks > QUICK_TICKS:
            self.limit = max(1, self.limit // 2)
        elif number >= self.limit:
            self.limit = min(2 * self.limit, TOGETHER)

    def let_go(self) -> None:
        """One was slow, or failed: others do not wait for it, and the next ones begin alone."""
        self.running -= 1
        self.limit = 1

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running


class Watch:
    """Tells once when something takes long, and once when nothing at all has come for too long.

    It counts ticks of the loop, not the clock: while the loop is busy, what it waits for could not be taken.
    """

    __slots__ = ("_loop", "_on_late", "_on_silence", "_silence", "_since", "_timer", "ticks")

    def __init__(self, silence: float, on_silence: Callable[[], None], on_late: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence = silence
        self._on_silence = on_silence
        self._on_late = on_late
        self._since: float | None = None
        self.ticks = 0
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def expect(self) -> None:
        """Something is to come from now on."""
        self._since = self._loop.time()

    def seen(self) -> None:
        """It has begun to come."""
        self._since = None

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self.ticks += 1
        late = self.ticks >= LATE_TICKS
        self._timer = self._loop.call_later(1.0 if late else TICK_SECONDS, self._tick)
        if self.ticks == LATE_TICKS:
            self._on_late()
        if self._since is not None and self._loop.time() - self._since > self._silence:
            self._since = None
            self._on_silence()
