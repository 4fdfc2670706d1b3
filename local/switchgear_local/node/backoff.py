"""Growing delays. Pure but for the jitter."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds from `first`, doubling, to at most `longest`; with `jitter` each is 50–100 % of that."""

    def __init__(self, first: float, longest: float, *, jitter: bool = False) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._next = first

    def next(self) -> float:
        """The next delay."""
        delay = self._next
        self._next = min(self._next * 2, self._longest)
        return delay * random.uniform(0.5, 1.0) if self._jitter else delay  # noqa: S311

    def reset(self) -> None:
        """Begin again with the first delay."""
        self._next = self._first
