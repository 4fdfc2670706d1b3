"""How many requests may wait for something at once; the others are told to come back, before memory grows."""

from __future__ import annotations

import random

from switchgear_shapes import errors


class Admission:
    """How many requests may wait for something at once, by kind."""

    def __init__(self, initial: int, existing: int) -> None:
        self.limits = {"initial": initial, "existing": existing}
        self.current = {"initial": 0, "existing": 0}
        self.rejected = {"initial": 0, "existing": 0}

    def enter(self, kind: str) -> None:
        """Raises ShapeError (503) when there are too many."""
        if self.current[kind] >= self.limits[kind]:
            self.rejected[kind] += 1
            raise errors.overloaded(kind, self.limits[kind], random.randint(6, 10))  # noqa: S311 - spreads retries
        self.current[kind] += 1

    def leave(self, kind: str) -> None:
        self.current[kind] -= 1
