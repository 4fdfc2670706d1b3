"""Requests that wait for a shape's next change. Pure bookkeeping: no bytes, no sockets.

Waiters of one shape are woken together when its log grows or ends; whoever wakes them renders a position once for all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Protocol

from switchgear_shapes.log.shape import Shape

CURSOR_EPOCH = 1_728_432_000
"""2024-10-09T00:00:00Z"""


class Waiter(Protocol):
    """A waiting request."""

    shape: Shape

    def on_change(self) -> None:
        """The shape's log grew."""

    def on_drop(self) -> None:
        """The shape is gone; the waiter is no longer registered."""

    def on_stop(self) -> None:
        """The server stops; answer now."""


class Live:
    """All waiters, by shape."""

    def __init__(self) -> None:
        self._waiters: dict[int, dict[Waiter, None]] = {}
        self.count = 0
        self.stopped = False
        """True when the server stops: nobody may begin to wait."""

    @property
    def shapes(self) -> int:
        """How many shapes are waited for."""
        return len(self._waiters)

    def add(self, waiter: Waiter) -> None:
        self._waiters.setdefault(waiter.shape.id, {})[waiter] = None
        self.count += 1

    def remove(self, waiter: Waiter) -> None:
        """Safe to call again."""
        waiting = self._waiters.get(waiter.shape.id)
        if waiting is not None and waiter in waiting:
            del waiting[waiter]
            self.count -= 1
            if not waiting:
                del self._waiters[waiter.shape.id]

    def waited_for(self) -> set[int]:
        """The ids of the shapes that somebody waits for."""
        return set(self._waiters)

    def publish(self, shapes: Iterable[Shape]) -> None:
        for shape in shapes:
            waiting = self._waiters.get(shape.id)
            if waiting is not None:
                for waiter in list(waiting):
                    waiter.on_change()

    def dropped(self, shape: Shape) -> None:
        waiting = self._waiters.pop(shape.id, None)
        if waiting is not None:
            self.count -= len(waiting)
            for waiter in waiting:
                waiter.on_drop()

    def stop(self) -> None:
        """Answer everybody, and let nobody wait from now on."""
        self.stopped = True
        self.interrupt()

    def interrupt(self) -> None:
        """Answer everybody now: the clients come back."""
        for waiting in list(self._waiters.values()):
            for waiter in list(waiting):
                waiter.on_stop()


def next_cursor(previous: int, now: float, poll_seconds: float) -> int:
    """The cursor of a live response: the same for all clients of a time slot, and always above `previous`.

    Equal URLs let caches collapse the requests of many clients; a cursor that repeated would trap them in a cached
    answer.
    """
    step = int(poll_seconds)
    if step < 1:
        return 0
    seconds = int(now - CURSOR_EPOCH)
    cursor = -(-seconds // step) * step
    if cursor <= previous:
        cursor = previous + random.randint(1, 3600)  # noqa: S311 - only spreads cache keys
    return cursor
