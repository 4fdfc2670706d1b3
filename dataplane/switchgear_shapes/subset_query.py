"""One-off queries for some rows of a shape, answered beside its log: the transaction, its limits, and the response.

The rows are those of one snapshot, whose marks the answer tells: by them a client skips what it sees again in the log.
Invariants: at most `BLOCK_BYTES` of a result wait in memory; a result that fits is read to its end before anything is
sent, so that its connection is free again and its errors have a status; a longer one is streamed, and must be taken
within `QUERY_SECONDS`; subsets never use all connections, so that shapes can be made meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import orjson

from switchgear_shapes.definition import Definition
from switchgear_shapes.errors import ShapeError, database_unreachable, snapshot_failed
from switchgear_shapes.flushing import flushed
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.conversation import parse_lsn
from switchgear_shapes.snapshot import SnapshotMark, begin_statements, subset_statement
from switchgear_shapes.snapshot_errors import not_allowed, refused_for_now
from switchgear_shapes.subset_request import subset_error
from switchgear_wire import AnyResponse, ClientGone, Response, StreamResponse, Writer

log = logging.getLogger("switchgear.shapes.subset")

BLOCK_BYTES = 1024 * 1024
WAIT_SECONDS = 20.0
"""For a connection."""
MARK_SECONDS = 10.0
LOCK_SECONDS = 5
QUERY_SECONDS = 60
HEAD_SECONDS = 30.0
"""How long a result waits for its response to begin; only a client that has gone takes so long."""
_SEPARATOR_BYTES = 2
_MARKS = 1 << 31
_INVALID_TEXT = "22P02"
INVALID_ENUM = "invalid input value for enum"
_CANCELLED = "57014"
_LOCK_NOT_AVAILABLE = "55P03"
_INSUFFICIENT_PRIVILEGE = "42501"
_GONE = frozenset({"42P01", "3F000", "42703"})


Take = Callable[[], Awaitable[SnapshotMark]]
"""Begins the query's transaction, after a ROLLBACK again, and tells what its snapshot sees."""
Moment = Callable[[Session, Take], Awaitable[SnapshotMark | None]]
"""Takes snapshots until one is at a moment that the shape's log can tell from others; None when the shape ended."""


class TableChanged(Exception):
    """The table, or the shape, is no longer what the definition was made for."""


@dataclass(frozen=True, slots=True)
class SubsetQuery:
    """A checked subset: canonical SQL, and numbers."""

    definition: Definition
    relation: Relation
    condition: str | None
    order_by: str | None
    limit: int | None
    offset: int | None
    fields: str | None = None
    """SQL for more header fields of each row."""
    moment: Moment | None = None
    """None when any moment will do."""


class Subsets:
    """Runs subset queries on the pool of the snapshots."""

    def __init__(self, snapshots: Pool, admin: Pool) -> None:
        self._snapshots = snapshots
        self._admin = admin
        self._turns = asyncio.Semaphore(max(1, snapshots.size // 2))
        self.running = 0
        self.queries = 0
        self.bytes = 0

    async def answer(
        self, query: SubsetQuery, headers: bytes, on_gone: Callable[[Callable[[], None]], None]
    ) -> AnyResponse:
        """The response, with these headers. `on_gone` registers what to do when the client leaves.

        Raises ShapeError, TableChanged.
        """
        run = _Run(query, headers, self._admin)
        task = asyncio.ensure_future(self._run(run))
        task.add_done_callback(run.ended)

        def abandon() -> None:
            task.cancel()

        on_gone(abandon)
        try:
            return await asyncio.shield(run.response)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _run(self, run: _Run) -> None:
        self.running += 1
        try:
            async with contextlib.AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(WAIT_SECONDS):
                        await held.enter_async_context(self._turns)
                except TimeoutError:
                    raise PoolTimeout from None
                session = await held.enter_async_context(self._snapshots.session(WAIT_SECONDS))
                error = await run.on(session)
            if error is not None:
                raise error
        finally:
            self.running -= 1
            self.queries += 1
            self.bytes += run.bytes


class _Run:
    """One query's life, owned by a task: whatever happens to the request, the session is left in order."""

    def __init__(self, query: SubsetQuery, headers: bytes, admin: Pool) -> None:
        loop = asyncio.get_running_loop()
        self._admin = admin
        self._query = query
        self._headers = headers
        self.response: asyncio.Future[AnyResponse] = loop.create_future()
        self._writer: asyncio.Future[Writer] = loop.create_future()
        self.bytes = 0

    async def on(self, session: Session) -> Exception | None:
        """Run it. An error after which the session can be used again is returned, others are raised."""
        try:
            await self._query_and_send(session)
        except (PostgresError, TableChanged) as error:
            if not session.closed:
                await session.query("ROLLBACK")
            return error
        except asyncio.CancelledError:
            await asyncio.shield(session.cancel_and_close())
            raise
        return None

    async def _query_and_send(self, session: Session) -> None:
        query = self._query
        number = random.randrange(_MARKS)  # noqa: S311 - tells snapshots of one client apart
        take = partial(self._begin, session)
        mark = await (take() if query.moment is None else query.moment(session, take))
        if mark is None:
            raise TableChanged
        head = _head(mark, number)
        statement = subset_statement(
            query.definition,
            query.relation,
            number,
            query.condition,
            query.order_by,
            query.limit,
            query.offset,
            query.fields,
        )
        await session.start_copy(statement + "; ROLLBACK")
        blocks = session.copy_blocks(BLOCK_BYTES)
        # Only a block that is full tells that more will come.
        first, ended = await _gather(blocks, BLOCK_BYTES)
        if ended:
            body = head + first[:-_SEPARATOR_BYTES] + b"]}"
            self.bytes = len(body)
            self._answer(Response(200, self._headers, body))
            return
        self._answer(StreamResponse(200, self._headers, self._start))
        async with asyncio.timeout(HEAD_SECONDS):
            writer = await self._writer
        await self._stream(writer, head, first, blocks)

    async def _begin(self, session: Session) -> SnapshotMark:
        query = self._query
        begin = begin_statements(query.definition, query.relation, LOCK_SECONDS, QUERY_SECONDS)
        try:
            rows = await session.query_limited(begin, MARK_SECONDS)
        except TimeoutError:
            raise snapshot_failed("The database did not begin a snapshot in time") from None
        seen, position, stamp, on_disk = rows[0]
        if stamp != query.relation.stamp:
            raise TableChanged
        mark = SnapshotMark.parse(seen or "", parse_lsn(position or ""))
        await flushed(mark, on_disk, self._admin)
        return mark

    async def _stream(self, writer: Writer, head: bytes, first: bytes, blocks: AsyncIterator[list[bytes]]) -> None:
        try:
            # The last separator of what is there waits until something follows it.
            writer.write(head + first[:-_SEPARATOR_BYTES])
            self.bytes += len(head) + len(first)
            await writer.drain()
            async for rows in blocks:
                data = b"".join(rows)
                self.bytes += len(data)
                writer.write(first[-_SEPARATOR_BYTES:] + data[:-_SEPARATOR_BYTES])
                await writer.drain()
            writer.write(b"]}")
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    def _start(self, writer: Writer) -> None:
        if not self._writer.done():
            self._writer.set_result(writer)

    def _answer(self, response: AnyResponse) -> None:
        if not self.response.done():
            self.response.set_result(response)

    def ended(self, task: asyncio.Task[None]) -> None:
        """The query is over: if nothing was answered yet, say why."""
        error = None if task.cancelled() else task.exception()
        if self.response.done():
            if error is not None and not isinstance(error, (ClientGone, TimeoutError)):
                log.warning("a subset snapshot broke off: %s", error)
        elif error is not None:
            self.response.set_exception(failure(error))
        else:
            self.response.cancel()


def _head(mark: SnapshotMark, number: int) -> bytes:
    metadata = {
        "database_lsn": str(mark.lsn),
        "snapshot_mark": number,
        "xip_list": [str(xid) for xid in mark.xip],
        "xmax": str(mark.xmax),
        "xmin": str(mark.xmin),
    }
    return b'{"metadata":' + orjson.dumps(metadata) + b',"data":['


async def _gather(blocks: AsyncIterator[list[bytes]], size: int) -> tuple[bytes, bool]:
    """The first rows, up to about `size` bytes, and whether they are all."""
    parts: list[bytes] = []
    total = 0
    async for rows in blocks:
        parts.extend(rows)
        total += sum(map(len, rows))
        if total >= size:
            return b"".join(parts), False
    return b"".join(parts), True


def failure(error: BaseException) -> BaseException:
    """What a client is told of a query that failed."""
    if isinstance(error, PoolTimeout):
        return snapshot_failed("Timed out while waiting for a database connection to create the snapshot")
    if isinstance(error, ConnectionLost):
        return database_unreachable()
    if isinstance(error, PostgresError):
        return _refused(error)
    return error


def _refused(error: PostgresError) -> Exception:
    if error.sqlstate == _INVALID_TEXT and error.message.startswith(INVALID_ENUM):
        return subset_error(where=error.message)
    if error.sqlstate[:2] == "22":
        # Postgres' own words may quote a value of a row that the client is not to see.
        return subset_error(where=[f"Postgres cannot evaluate it for every row (SQLSTATE {error.sqlstate})"])
    if error.sqlstate == _CANCELLED and "statement timeout" in error.message:
        return snapshot_failed(f"The subset query took longer than {QUERY_SECONDS} s; add a limit or an index")
    if error.sqlstate == _LOCK_NOT_AVAILABLE:
        return snapshot_failed("Unable to create initial snapshot: the table is locked by another transaction")
    if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
        return not_allowed(error.message)
    if error.sqlstate in _GONE:
        return TableChanged()
    passing = refused_for_now(error)
    if passing is not None:
        return passing
    log.error("a subset query failed: %s %s", error.sqlstate, error.message)
    return ShapeError(500, {"message": "Unexpected error while creating snapshot"})
