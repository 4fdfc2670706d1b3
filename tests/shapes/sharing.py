"""The server, with up to 16 shapes of a table in one transaction from the beginning, however slow or quick they are.

Two transactions of one shape each come first; while they run the others wait for company. Both may wait long for a
lock, by which tests hold them back. Those who share are parted only when one of them takes seconds: a busy machine
takes a tenth of one for nothing.
"""

from __future__ import annotations

import sys

from switchgear_shapes import creation, together
from switchgear_shapes.__main__ import main
from switchgear_shapes.creation_state import Creation
from switchgear_shapes.together import TOGETHER, Line


class Steady(Line[Creation]):
    """Its limit does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = TOGETHER

    def ended(self, number: int, ticks: int) -> None:
        self.running -= 1

    def let_go(self) -> None:
        self.running -= 1


if __name__ == "__main__":
    creation.Line = Steady  # type: ignore[attr-defined, assignment]
    together.LATE_TICKS = 80
    creation.LOCK_SECONDS = 60
    creation.MARK_SECONDS = 70.0
    sys.exit(main())
