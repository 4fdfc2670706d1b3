"""What an instance that waits for the lock does meanwhile: it reads along, and serves the shapes that it finds.

The instance that has the lock writes the storage directory; this one sees its log a moment later, and writes nothing of
that. Without a directory that another process writes there is nothing to serve: what lies in it may be old.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from switchgear_shapes import answers
from switchgear_shapes.errors import CorruptStorage, snapshot_failed
from switchgear_shapes.live import Live
from switchgear_shapes.log.follower import Behind, Follower, is_written
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.postgres.session import Session
from switchgear_shapes.reading import CursorRule, Reader
from switchgear_shapes.replication.conversation import reached
from switchgear_shapes.settings import Settings
from switchgear_shapes.snapshot import SnapshotMark

log = logging.getLogger("switchgear.shapes.standby")

RETRY_SECONDS = 1.0
MOMENT_SECONDS = 10.0
POLL_SECONDS = 0.1
"""How far live readers are behind the instance that writes."""


class Standby:
    """See the module. `follower` and `reader` are there while something can be served."""

    def __init__(self, settings: Settings, cache: answers.CacheRules, cursor: CursorRule, live: Live) -> None:
        self._settings = settings
        self._cache = cache
        self._cursor = cursor
        self._live = live
        self.follower: Follower | None = None
        self.reader: Reader | None = None

    async def run(self) -> None:
        """Read along until cancelled."""
        while True:
            if self.follower is None:
                await self._open()
            else:
                self.refresh()
            await asyncio.sleep(POLL_SECONDS if self.follower is not None and self._live.count else RETRY_SECONDS)

    def refresh(self) -> None:
        """See what is new: called before each request, too."""
        if self.follower is None:
            return
        try:
            self.follower.refresh()
        except (Behind, CorruptStorage, OSError, ValueError, KeyError, TypeError) as error:
            log.info("the storage moved on; reading it anew (%s)", error or type(error).__name__)
            self.end()

    def end(self) -> None:
        """Serve nothing any more. Live requests are answered: their clients come back."""
        if self.follower is not None:
            self._live.interrupt()
            follower, self.follower, self.reader = self.follower, None, None
            follower.close()

    async def between(
        self, shape: Shape, session: Session, take: Callable[[], Awaitable[SnapshotMark]]
    ) -> SnapshotMark | None:
        """A snapshot, begun by `take` in the session, that no step of the shape goes past; None when the shape ended.

        Only the other instance makes steps. What it made before the snapshot is seen as a whole; so one will do that is
        reached by the log without a step meanwhile. Raises ShapeError (503), and what `take` raises.
        """
        deadline = time.monotonic() + MOMENT_SECONDS
        while True:
            self.refresh()
            follower = self.follower
            if follower is None or not shape.alive:
                return None
            if shape.id not in follower.held:
                steps = follower.steps[shape.id]
                mark = await take()
                if await self._reaches(follower, shape, mark.lsn, steps, deadline):
                    return mark
                await session.query("ROLLBACK")
            if time.monotonic() > deadline:
                raise snapshot_failed("What the shape's subqueries return changes all the time")
            await asyncio.sleep(0.05)

    async def _reaches(self, follower: Follower, shape: Shape, lsn: int, steps: int, deadline: float) -> bool:
        """Whether the shape's log comes so far without another step."""
        while shape.alive and follower.steps[shape.id] == steps:
            if reached(follower.held.get(shape.id, follower.durable_lsn), lsn):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
            self.refresh()
        return False

    async def _open(self) -> None:
        settings = self._settings
        if not is_written(settings.storage_dir):
            return
        loop = asyncio.get_running_loop()
        try:
            opening = loop.run_in_executor(None, Follower.open, settings.storage_dir, settings.chunk_bytes_threshold)
            follower = await opening
        except (Behind, CorruptStorage, OSError, ValueError, KeyError, TypeError) as error:
            log.info("the storage cannot be read along yet (%s)", error or type(error).__name__)
            return
        follower.on_publish = self._live.publish
        follower.on_drop = self._live.dropped
        self.follower = follower
        self.reader = Reader(follower, self._cache, self._cursor)
        log.info("serving %d shapes of the instance that has the lock, read-only", len(follower.by_id))
