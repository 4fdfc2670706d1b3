"""Limits of one service besides its number of streams: bytes kept, appends a second, live reads, connections.

Pure but for the connection that is told what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from switchgear_wire.request import Request


@dataclass
class Others:
    """What the other processes of the same service hold, as far as it is known here."""

    streams: int = 0
    held: int = 0
    live: int = 0
    connections: int = 0


@dataclass
class Rate:
    """At most `per_second` appends a second, and two seconds' worth at once. `now`: any clock in seconds."""

    per_second: int
    taken: int = 0
    _left: float = 0.0
    _at: float = field(default=-1e9)

    def take(self, now: float) -> bool:
        """May one more be done?"""
        left = self._now(now)
        self._left = left - 1.0 if left >= 1.0 else left
        self.taken += left >= 1.0
        return left >= 1.0

    def elsewhere(self, number: int, now: float) -> None:
        """So many were done in other processes."""
        self._left = max(-2.0 * self.per_second, self._now(now) - number)

    def _now(self, now: float) -> float:
        left = min(2.0 * self.per_second, self._left + (now - self._at) * self.per_second)
        self._at = now
        return left


@dataclass
class Seats:
    """At most `most` connections at once. One counts from its first request until it is lost or used for another
    service."""

    most: int
    taken: int = 0
    others: Others = field(default_factory=Others)

    def take(self, request: Request) -> bool:
        """Has the connection of this request a seat, or gets one?"""
        held = request.lease
        if held is self:
            return True
        if self.taken + self.others.connections >= self.most:
            return False
        self.keep(request)
        return True

    def keep(self, request: Request) -> None:
        """Give it a seat that it has a right to."""
        held = request.lease
        if held is self:
            return
        if held is not None:
            held.leave()
        self.taken += 1
        request.lease = self

    def leave(self) -> None:
        """A connection is gone."""
        self.taken -= 1
