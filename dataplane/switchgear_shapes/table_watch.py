"""Has tables looked at soon after the stream said something about them, and all of them after a new connection.

What is done then is the caller's. Several that come together are looked at together; a look that failed is not
repeated, because all tables are looked at now and then anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

GATHER_SECONDS = 0.1


class TableWatch:
    """`look` is called with the OIDs, or None for all tables."""

    def __init__(self, look: Callable[[set[int] | None], Awaitable[None]]) -> None:
        self._look = look
        self._touched: set[int] | None = set()
        self._due = asyncio.Event()

    def touch(self, oid: int) -> None:
        """The stream described this table."""
        if self._touched is not None:
            self._touched.add(oid)
        self._due.set()

    def touch_all(self) -> None:
        """The connection is new: what happened before is not known."""
        self._touched = None
        self._due.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._due.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._due.clear()
            touched, self._touched = self._touched, set()
            await self._look(touched)
