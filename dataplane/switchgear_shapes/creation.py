"""Making a shape: its table published, its snapshot taken and stitched to the replication stream, its file filled.

Invariants: the shape is routed to before its snapshot is taken; no transaction is both in the snapshot and in the log,
and none is in neither; rows go to disk as they come, never more than a block in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

from switchgear_shapes.errors import ShapeError, database_unreachable, invalid, snapshot_failed
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.snapshot_file import split_chunks
from switchgear_shapes.log.store import Store
from switchgear_shapes.log.wal import is_full
from switchgear_shapes.partitions import Partitions, Tree, trees_of, trees_query
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.conversation import parse_lsn
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.snapshot import SnapshotMark, begin_statements, copy_statement
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.follower import Broken
from switchgear_shapes.subqueries.plan import Plan, plan
from switchgear_shapes.subqueries.queries import header_fields
from switchgear_shapes.subqueries.steps import Steps

log = logging.getLogger("switchgear.shapes.creation")

BLOCK_BYTES = 1024 * 1024
SMALL_BYTES = 65_536
"""Up to here a snapshot goes through the write-ahead log, whose sync it shares with everything else."""
FIRST_ROW_SECONDS = 30.0
MARK_SECONDS = 10.0
LOCK_SECONDS = 5
STITCH_ATTEMPTS = 100
_INSUFFICIENT_PRIVILEGE = "42501"
_LOCK_NOT_AVAILABLE = "55P03"
_DATA_EXCEPTION = "22"
"""A class of codes, such as a division by zero."""
_GONE = frozenset({"42P01", "3F000", "42703"})


class SchemaChanged(Exception):
    """The table is no longer what the definition was made for."""


def must_refetch() -> ShapeError:
    """The shape cannot be made as it was asked for; the client asks again."""
    return ShapeError(409, {})


def disk_full() -> ShapeError:
    return snapshot_failed("Unable to create initial snapshot: the disk of the sync server is full")


class Creator:
    """Runs creations; each ends with a complete snapshot or with the shape dropped and its `failure` set."""

    def __init__(
        self,
        store: Store,
        ingest: Ingest,
        steps: Steps,
        snapshots: Pool,
        publication: Publication,
        partitions: Partitions,
        threshold: int,
    ) -> None:
        self._store = store
        self._partitions = partitions
        self._ingest = ingest
        self._steps = steps
        self._snapshots = snapshots
        self._publication = publication
        self._threshold = threshold
        self._tasks: set[asyncio.Task[None]] = set()
        self.created = 0
        self.failed = 0
        self.seconds = 0.0
        self.on_created: Callable[[float], None] = lambda seconds: None
        """Called with the time that a creation took."""

    def start(self, shape: Shape, relation: Relation) -> None:
        """Begin to make a registered shape of the table that `relation` describes."""
        task = asyncio.ensure_future(self._create(shape, relation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Abandon what is under way; such shapes do not survive the process."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def running(self) -> int:
        return len(self._tasks)

    async def _create(self, shape: Shape, relation: Relation) -> None:
        started = time.monotonic()
        try:
            await self._make(shape, relation)
            self.created += 1
            taken = time.monotonic() - started
            self.seconds += taken
            self.on_created(taken)
        except Exception as error:
            self.failed += 1
            failure = self._failure(shape, error)
            shape.snapshot.fail(failure)
            self._store.drop(shape, f"its snapshot failed: {type(error).__name__}")

    def _failure(self, shape: Shape, error: Exception) -> ShapeError:
        if shape.snapshot.failure is not None:
            return shape.snapshot.failure
        if isinstance(error, ShapeError):
            return error
        if isinstance(error, SchemaChanged | Broken):
            return must_refetch()
        if isinstance(error, PoolTimeout):
            return snapshot_failed("Timed out while waiting for a database connection to create the snapshot")
        if isinstance(error, ConnectionLost):
            return database_unreachable()
        if isinstance(error, PostgresError):
            if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
                return snapshot_failed(f"Unable to create initial snapshot: {error.message}")
            if error.sqlstate == _LOCK_NOT_AVAILABLE:
                return snapshot_failed("Unable to create initial snapshot: the table is locked by another transaction")
            if error.sqlstate in _GONE:
                return must_refetch()
            if error.sqlstate[:2] == _DATA_EXCEPTION and shape.definition.where is not None:
                return invalid("where", f"Postgres cannot evaluate it for every row (SQLSTATE {error.sqlstate})")
        if isinstance(error, OSError) and is_full(error):
            return disk_full()
        log.error("cannot create shape %s", shape.handle, exc_info=error)
        return ShapeError(500, {"message": "Unexpected error while creating snapshot"})

    async def _make(self, shape: Shape, relation: Relation) -> None:
        definition = shape.definition
        if self._store.full:
            raise disk_full()
        await self._publication.ensure(definition.oid, definition.schema, definition.table)
        made = plan(definition.where) if definition.where is not None and definition.where.subqueries else None
        feeds = {} if made is None else await self._steps.prepare(made)
        try:
            await self._take(shape, relation, made, feeds)
        finally:
            self._steps.done_with(feeds)

    async def _take(self, shape: Shape, relation: Relation, made: Plan | None, feeds: dict[int, Feed]) -> None:
        """The snapshot itself. `feeds` are what the plan of a filter with subqueries asks."""
        definition = shape.definition
        async with self._snapshots.session() as session:
            tree = await _tree(definition.oid, session) if definition.partitioned else {}
            if definition.partitioned:
                self._partitions.add(definition.oid, tree)
            if not shape.alive:
                raise SchemaChanged
            if made is None:
                registered = self._ingest.register(shape)
                await self._stitch(shape, relation, session, partial(self._open, shape, registered))
            else:
                follower = self._steps.register(shape, made, feeds)
                await self._stitch(shape, relation, session, partial(self._steps.open, follower))
            if tree.keys() != (await _tree(definition.oid, session) if definition.partitioned else {}).keys():
                raise SchemaChanged
            file = _File(shape.snapshot.path)
            try:
                kept, ends = b"", list[int]()
                if definition.changes_only:
                    await session.query("ROLLBACK")
                else:
                    kept, ends = await self._copy(shape, relation, session, file)
                await self._finish(shape, file, kept, ends)
            finally:
                file.close()

    async def _open(self, shape: Shape, registered: int, mark: SnapshotMark) -> bool:
        return self._ingest.open(shape, mark, registered)

    async def _stitch(
        self,
        shape: Shape,
        relation: Relation,
        session: Session,
        placed: Callable[[SnapshotMark], Awaitable[bool]],
    ) -> None:
        """Open the snapshot's transaction, and tell what it sees. Raises SchemaChanged, Broken."""
        for _ in range(STITCH_ATTEMPTS):
            try:
                rows = await session.query_limited(begin_statements(shape.definition, LOCK_SECONDS), MARK_SECONDS)
            except TimeoutError:
                raise snapshot_failed("The database did not begin a snapshot in time") from None
            seen, lsn, stamp = rows[0]
            if stamp != relation.stamp:
                raise SchemaChanged
            mark = SnapshotMark.parse(seen or "", parse_lsn(lsn or ""))
            if await placed(mark):
                return
            # A commit that the stream already had is not visible yet: it will be in a moment.
            await session.query("ROLLBACK")
            await asyncio.sleep(0.05)
        raise snapshot_failed("A transaction that is replicated already does not become visible; is a standby stuck?")

    async def _copy(self, shape: Shape, relation: Relation, session: Session, file: _File) -> tuple[bytes, list[int]]:
        """Fill the file, and end the transaction.

        The rows themselves, if they are few; else nothing. If they came all at once they are not in the file yet, nor
        are the chunk ends within them known to readers: both come together with the last line.
        """
        loop = asyncio.get_running_loop()
        snapshot = shape.snapshot
        timed_out: list[asyncio.Future[None]] = []
        watchdog = loop.call_later(
            FIRST_ROW_SECONDS, lambda: timed_out.append(asyncio.ensure_future(session.cancel_and_close()))
        )
        position = chunk_start = 0
        kept = b""
        kept_ends: list[int] = []
        try:
            fields = header_fields(shape.definition, shape.handle)
            await session.start_copy(copy_statement(shape.definition, relation, fields) + "; ROLLBACK")
            async for rows in session.copy_blocks(BLOCK_BYTES):
                watchdog.cancel()
                if not shape.alive:
                    raise SchemaChanged
                data = rows[0] if len(rows) == 1 else b"".join(rows)
                ends = split_chunks(rows, position, chunk_start, self._threshold)
                if session.copied and not position and len(data) <= SMALL_BYTES:
                    kept, kept_ends = data, ends
                    continue  # that was all
                if len(data) <= SMALL_BYTES:
                    file.write(data, position)
                else:
                    await loop.run_in_executor(None, file.write, data, position)
                position += len(data)
                kept = kept + data if position <= SMALL_BYTES else b""
                chunk_start = ends[-1] if ends else chunk_start
                snapshot.advance(position, ends)
            return kept, kept_ends
        except (ConnectionLost, PostgresError):
            if timed_out:
                raise snapshot_failed(
                    "Snapshot query took too long to return data"
                    f" (cancelled after {FIRST_ROW_SECONDS * 1000:.0f}ms); check the query's plan and the load"
                ) from None
            raise
        finally:
            watchdog.cancel()

    async def _finish(self, shape: Shape, file: _File, kept: bytes, ends: list[int]) -> None:
        """The last line, and durability: of a small snapshot through the write-ahead log, of others by fdatasync."""
        loop = asyncio.get_running_loop()
        snapshot = shape.snapshot
        assert snapshot.mark is not None
        line = snapshot.mark.control_line()
        written = snapshot.length
        small = written in (0, len(kept))
        if written:
            file.write(line, written)
        if not shape.alive:
            raise SchemaChanged
        rows = kept + line
        length = written + len(line) if written else len(rows)
        if not written:
            self._store.keep_snapshot(shape, rows)
        snapshot.advance(length, [*ends, length], complete=True)
        if not small:
            await loop.run_in_executor(None, file.sync)
        durable: asyncio.Future[None] = loop.create_future()
        if shape.alive:
            done = lambda: None if durable.done() else durable.set_result(None)  # noqa: E731
            self._store.complete_snapshot(shape, rows if small else None, done)
            await durable


async def _tree(root: int, session: Session) -> Tree:
    return trees_of([root], await session.query(trees_query([root])))[root]


class _File:
    """A snapshot's file, made when something is written: most snapshots are small and come all at once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def write(self, data: bytes, offset: int) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            offset += written
            view = view[written:]

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
