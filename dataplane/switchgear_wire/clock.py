"""The coarse clock by which deadlines are kept: a sweep moves it on, about once a second.

It stands still while the process does (a paused machine, no processor to be had): nobody could be heard meanwhile, so
that time is held against nobody.
"""

from __future__ import annotations

SWEEP_SECONDS = 1.0
_MOST = 2.0
"""So far it moves at once: a sweep that comes later than this was held up."""


class Clock:
    """`now` is zero until the first `tick`, and exact enough for deadlines of seconds."""

    __slots__ = ("_ticked", "now")

    def __init__(self) -> None:
        self.now = self._ticked = 0.0

    def tick(self, moment: float) -> float:
        """The clock's time at this moment of the loop's."""
        self.now = self.now + min(moment - self._ticked, _MOST) if self._ticked else moment
        self._ticked = moment
        return self.now
