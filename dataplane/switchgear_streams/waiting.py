"""Answers that wait: until what they tell of is durable, a deletion is through, or there is room on the log.

What it must not do: decide anything; what waited for something else is decided anew, by `retry`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from switchgear_streams import answers
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream
from switchgear_streams.wal import Room
from switchgear_wire.response import Response

Answer = Response | Awaitable[Response]

ROOM_WAIT = 10.0
RETRY = b"retry-after: 1\r\n"


class Waiting:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def settled(self, stream: Stream, response: Response) -> Answer:
        """`response` once everything that was accepted of the stream is durable."""
        wal = self._store.log
        if stream.last_block <= wal.durable:
            return response
        return self._after(wal.wait(stream.last_block), response)

    @staticmethod
    async def _after(durable: asyncio.Future[None], response: Response) -> Response:
        await durable
        return response

    @staticmethod
    async def again(stream: Stream, retry: Callable[[], Answer]) -> Response:
        """A deletion is under way: decide when it is durable."""
        if stream.leaving is not None:
            await asyncio.shield(stream.leaving)
        answer = retry()
        return answer if isinstance(answer, Response) else await answer

    @staticmethod
    async def after_hold(hold: asyncio.Future[None], retry: Callable[[], Answer]) -> Response:
        await asyncio.shield(hold)
        answer = retry()
        return answer if isinstance(answer, Response) else await answer

    async def when_room(self, size: int, retry: Callable[[], Answer]) -> Response:
        wal = self._store.log
        deadline = asyncio.get_running_loop().time() + ROOM_WAIT
        while (room := wal.room(size)) is not Room.OK:
            left = deadline - asyncio.get_running_loop().time()
            if room is Room.FULL:
                return answers.problem(
                    507,
                    "DISK_FULL",
                    "The server's disk is full; nothing was written. Delete streams or add space.",
                    RETRY,
                )
            if left <= 0:
                return answers.problem(503, "OVERLOADED", "The log is not being emptied fast enough; try again.", RETRY)
            await wal.wait_room(min(left, 1.0))
        answer = retry()
        return answer if isinstance(answer, Response) else await answer


def resolve(future: asyncio.Future[Response], response: Response) -> None:
    if not future.done():
        future.set_result(response)
