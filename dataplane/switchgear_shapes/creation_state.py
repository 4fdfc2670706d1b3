"""Shapes on their way, alone or several in one transaction, and the watch over a session from which nothing comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from switchgear_shapes.errors import snapshot_failed
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.postgres.session import Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.snapshot import SnapshotMark
from switchgear_shapes.together import Line, Watch

FIRST_ROW_SECONDS = 30.0


class Creation:
    """One shape on its way."""

    __slots__ = ("registered", "relation", "shape", "started")

    def __init__(self, shape: Shape, relation: Relation) -> None:
        self.shape = shape
        self.relation = relation
        self.registered: int | None = None
        """What `Ingest.register` returned; None before."""
        self.started = time.monotonic()


class Shared:
    """Shapes that share a transaction."""

    __slots__ = ("copying", "counted", "left", "line", "mark", "number", "parted")

    def __init__(self, creations: list[Creation], line: Line[Creation]) -> None:
        self.left = creations
        """Those that are not whole yet, in the order of their COPYs; only the first of them is begun."""
        self.number = len(creations)
        self.line = line
        self.counted = True
        """Whether the line still counts this transaction among those that others wait for."""
        self.mark: SnapshotMark | None = None
        self.copying = False
        self.parted = False
        """Whether some were let go, whose COPYs will come here all the same."""

    def ended(self, ticks: int) -> None:
        if self.counted:
            self.counted = False
            self.line.ended(self.number, ticks)

    def let_go(self) -> None:
        if self.counted:
            self.counted = False
            self.line.let_go()


class NotPlaced(Exception):
    """The mark does not serve a shape."""


class SessionWatch(Watch):
    """Ends a session from which no row comes."""

    __slots__ = ("_ending", "_session")

    def __init__(self, session: Session, on_late: Callable[[], None] = lambda: None) -> None:
        super().__init__(FIRST_ROW_SECONDS, self._give_up, on_late)
        self._session = session
        self._ending: asyncio.Future[None] | None = None

    def _give_up(self) -> None:
        self._ending = asyncio.ensure_future(self._session.cancel_and_close())

    def reason(self, error: Exception) -> Exception:
        """Why the session ended, which itself says `error`."""
        if self._ending is None:
            return error
        return snapshot_failed(
            "Snapshot query took too long to return data"
            f" (cancelled after {FIRST_ROW_SECONDS * 1000:.0f}ms); check the query's plan and the load"
        )
