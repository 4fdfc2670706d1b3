"""Limits of one service besides its number of streams: bytes kept, appends a second, live reads, connections.

Pure but for the connection that is told what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from switchgear_streams import answers
from switchgear_streams.usage import Usage
from switchgear_wire.request import Request
from switchgear_wire.response import Response


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


class Space:
    """The bytes that a service may keep, over all its processes."""

    def __init__(self, usage: Usage, others: Others, most: int | None) -> None:
        self._usage = usage
        self._others = others
        self._most = (1 << 63) if most is None else most

    def allows(self, size: int) -> bool:
        """May so many more bytes be kept?"""
        return self._usage.held + self._others.held + size <= self._most

    def refusal(self) -> Response:
        return answers.problem(
            507,
            "QUOTA_EXCEEDED",
            f"This service keeps at most {self._most} bytes; delete streams, or set a retention.",
        )
