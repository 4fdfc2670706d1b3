"""How many requests may wait for something at once; the others are told to come back, before memory grows."""

from __future__ import annotations

import random

from switchgear_shapes import errors

INITIAL = "initial"
"""For a shape that has not begun, or is not known."""
EXISTING = "existing"
"""For a shape that has rows to read."""


class Permit:
    """The leave of one request to wait. `leave` gives it back, once."""

    __slots__ = ("_admission", "kind")

    def __init__(self, admission: Admission, kind: str) -> None:
        self._admission: Admission | None = admission
        self.kind = kind

    def become(self, kind: str) -> None:
        """Count it as another kind from now on, never refused: the request is in already."""
        if self._admission is not None and kind != self.kind:
            self._admission.current[self.kind] -= 1
            self._admission.current[kind] += 1
            self.kind = kind

    def leave(self) -> None:
        if self._admission is not None:
            self._admission.current[self.kind] -= 1
            self._admission = None


class Admission:
    """How many requests may wait for something at once, by kind."""

    def __init__(self, initial: int, existing: int) -> None:
        self.limits = {INITIAL: initial, EXISTING: existing}
        self.current = {INITIAL: 0, EXISTING: 0}
        self.rejected = {INITIAL: 0, EXISTING: 0}

    def enter(self, kind: str) -> Permit:
        """Raises ShapeError (503) when there are too many."""
        if self.current[kind] >= self.limits[kind]:
            self.rejected[kind] += 1
            raise errors.overloaded(kind, self.limits[kind], random.randint(6, 10))  # noqa: S311 - spreads retries
        self.current[kind] += 1
        return Permit(self, kind)
