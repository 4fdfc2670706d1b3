"""Limits of one service besides its number of streams: bytes kept, appends a second, live reads. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Rate:
    """At most `per_second` appends a second, and two seconds' worth at once. `now`: any clock in seconds."""

    per_second: int
    _left: float = 0.0
    _at: float = field(default=-1e9)

    def take(self, now: float) -> bool:
        """May one more be done?"""
        left = min(2.0 * self.per_second, self._left + (now - self._at) * self.per_second)
        self._at = now
        self._left = left - 1.0 if left >= 1.0 else left
        return left >= 1.0
