"""A bounded set of sessions for queries. Waiting for one has a limit; broken ones are replaced.

Postgres, a pooler or a firewall may end one that is idle at the moment at which it is needed again: one that was idle
for a while is asked whether it is still there before anybody's query depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator

from switchgear_shapes.postgres.conninfo import Conninfo
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session

IDLE_SECONDS = 60.0
PATIENCE_SECONDS = 90.0
"""For the answer to a query; all of them have narrower limits in Postgres, or are quick."""
FRESH_SECONDS = 0.5
"""A session that was used just now is used again without a look at it."""
LOOK_SECONDS = 5.0
"""For the answer of one that may have ended."""


class PoolTimeout(Exception):
    """No session became free in time."""


class Pool:
    """At most `size` sessions at once."""

    def __init__(self, info: Conninfo, size: int) -> None:
        self._info = info
        self._free = asyncio.Semaphore(size)
        self._idle: deque[Session] = deque()
        self._closed = False
        self.size = size

    @contextlib.asynccontextmanager
    async def session(self, wait: float = 30.0) -> AsyncIterator[Session]:
        """A session for the duration of the block; it must be left outside of a transaction, or it is closed.

        Raises PoolTimeout, ConnectionLost, PostgresError.
        """
        if self._free.locked():
            try:
                async with asyncio.timeout(wait):
                    await self._free.acquire()
            except TimeoutError:
                raise PoolTimeout from None
        else:
            await self._free.acquire()
        try:
            session = await self._take_idle()
            if session is None:
                session = await Session.connect(self._info)
                session.patience = PATIENCE_SECONDS
            try:
                yield session
            except BaseException:
                session.close()
                raise
            if self._closed or not session.usable:
                session.close()
            else:
                session.last_used = time.monotonic()
                self._idle.append(session)
        finally:
            self._free.release()

    async def _take_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.usable and await self._answers(session):
                return session
            session.close()
        return None

    async def _answers(self, session: Session) -> bool:
        if time.monotonic() - session.last_used < FRESH_SECONDS:
            return True
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await session.query("SELECT 1")
        except (ConnectionLost, PostgresError, TimeoutError):
            return False
        return session.usable

    def close_idle(self) -> None:
        """Close sessions that nobody used for a while (called now and then)."""
        limit = time.monotonic() - IDLE_SECONDS
        while self._idle and self._idle[0].last_used < limit:
            self._idle.popleft().close()

    def drop_idle(self) -> None:
        """Close all idle sessions: the server behind them has gone or changed."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        self._closed = True
        self.drop_idle()
