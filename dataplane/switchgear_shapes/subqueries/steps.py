"""What moves rows of shapes with subqueries, asked of Postgres and told in steps.

Invariants: a query has a time limit; one shape has one step at a time, and a subset snapshot takes its turn; a shape
whose step fails for long is dropped, so that the slot does not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.errors import ShapeError, database_unreachable, snapshot_failed
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.frames import Entry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.snapshot import SnapshotMark, begin_statements
from switchgear_shapes.subqueries import moves
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.follower import Follower
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.subqueries.loading import Loading
from switchgear_shapes.subqueries.placing import (
    DISK,
    GIVE_UP_SECONDS,
    LOCK_SECONDS,
    PASS_SECONDS,
    QUERY_SECONDS,
    UNSEEN,
    Placing,
    Retry,
)
from switchgear_shapes.subqueries.plan import Plan
from switchgear_shapes.subqueries.queries import step_statement
from switchgear_shapes.subqueries.rows import Broken

log = logging.getLogger("switchgear.shapes.subqueries")

STEP_BYTES = 64 * 1024 * 1024
"""What one step may move; more than this is quicker fetched anew."""
TOGETHER = 64
"""Shapes that share one snapshot for their steps."""


class Steps:
    """See the module."""

    def __init__(
        self, hub: Hub, ingest: Ingest, store: Store, pool: Pool, catalog: Catalog, publication: Publication
    ) -> None:
        self._hub = hub
        self._ingest = ingest
        self._store = store
        self._pool = pool
        self._catalog = catalog
        self._placing = Placing(ingest, store, catalog)
        self.feeds = Loading(hub, ingest, pool, catalog, publication, self._placing, self._start)
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: dict[int, list[Follower]] = {}
        """By table: shapes whose step waits for its turn."""
        self._workers = max(1, pool.size // 2)
        self._working = 0
        self._stopping = False
        self.connected: Callable[[], bool] = lambda: True
        self.queries = 0
        self.rows = 0
        self.bytes = 0
        hub.step_due = self.step

    def nudge_by(self, nudge: Callable[[], None]) -> None:
        """How to ask Postgres how far the stream is."""
        self._placing.nudge = nudge

    @property
    def running(self) -> int:
        """Steps, and subqueries that are being read."""
        return len(self._tasks)

    async def stop(self) -> None:
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- a shape's own snapshot --

    def register(self, shape: Shape, made: Plan, feeds: dict[int, Feed]) -> Follower:
        return self._hub.follow(shape, made, feeds, self._ingest.begun_lsn)

    async def open(self, follower: Follower, mark: SnapshotMark) -> bool:
        """Place a shape's snapshot in the stream; False when another one is needed. Raises Broken."""
        try:
            await self._placing.reach(mark, follower.tables, follower.since)
            await self._placing.shown()
        except Retry:
            return False
        seen = ((kept.lsn, mark.sees(kept.xid, kept.lsn)) for kept in follower.kept)
        cut = moves.first_unseen(seen, mark.lsn)
        if cut is None:
            return False
        first = follower.place(cut)
        if first:
            # Readers must not believe that the log is complete before what was kept is in it.
            self._store.held[follower.shape.id] = first
        self._apply(follower, follower.catch_up)
        if not follower.shape.alive:
            raise Broken("its table's definition changed")
        follower.shape.snapshot.mark = mark
        follower.shape.filter = None
        return True

    def _apply(self, follower: Follower, change: Callable[[], list[Entry]]) -> None:
        try:
            entries = change()
        except Broken as error:
            self._store.drop(follower.shape, str(error))
            return
        if follower.kept:
            self.step(follower)
        self._ingest.append(entries)

    # -- steps --

    def step(self, follower: Follower) -> None:
        """The shape is held: its next step is due."""
        if not follower.stepping:
            follower.stepping = True
            self._due.setdefault(follower.shape.definition.oid, []).append(follower)
            self._begin_work()

    def _begin_work(self) -> None:
        """Shapes of one table share a snapshot; one that failed has its own, so that it does not hinder the others."""
        while self._due and self._working < self._workers and not self._stopping:
            oid, waiting = next(iter(self._due.items()))
            chosen = [waiting.pop(0)]
            while not chosen[0].failing_since and waiting and len(chosen) < TOGETHER:
                chosen.append(waiting.pop(0))
            del self._due[oid]
            if waiting:
                self._due[oid] = waiting
            self._working += 1
            self._start(self._work(chosen))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, followers: list[Follower]) -> None:
        try:
            if not self.connected():
                for follower in followers:
                    follower.failing_since = 0.0
                await asyncio.sleep(0.2)
                return
            try:
                await self._step_together(followers)
            except Retry:
                await asyncio.sleep(0.02)
            except (ConnectionLost, PoolTimeout, PostgresError, ShapeError, TimeoutError) as error:
                log.warning("a step of %d shapes failed and is tried again: %s", len(followers), error)
                for follower in followers:
                    follower.failing_since = follower.failing_since or time.monotonic()
                await asyncio.sleep(0.2)
        finally:
            self._working -= 1
            for follower in followers:
                follower.stepping = False
                self._go_on(follower)
            self._begin_work()

    def _go_on(self, follower: Follower) -> None:
        if not follower.shape.alive or not follower.kept:
            return
        if follower.failing_since and time.monotonic() - follower.failing_since > GIVE_UP_SECONDS and self.connected():
            self._store.drop(follower.shape, "what its subqueries moved could not be read from the database")
        elif not self._stopping:
            self.step(follower)

    async def _step_together(self, followers: list[Follower]) -> None:
        definition = followers[0].shape.definition
        relation = await self._catalog.get(definition.schema, definition.table)
        if relation is None or relation.oid != definition.oid:
            for follower in followers:
                self._store.drop(follower.shape, "its table was dropped or replaced")
            return
        async with self._pool.session() as session:
            statements = begin_statements(definition, relation, LOCK_SECONDS, QUERY_SECONDS)
            mark, fits = await self._placing.begin(session, statements, relation, strict=False)
            if fits:
                await self._placing.passed(mark)
                for follower in followers:
                    await self._step(session, mark, relation, follower)
            await session.query("ROLLBACK")
        if not fits:
            await self._table_changed(followers)

    async def _step(self, session: Session, mark: SnapshotMark, relation: Relation, follower: Follower) -> None:
        """One shape's step in the open snapshot, if it sees one."""
        async with follower.turn:
            if follower.kept and follower.shape.alive:
                await self._step_alone(session, mark, relation, follower)

    async def _step_alone(self, session: Session, mark: SnapshotMark, relation: Relation, follower: Follower) -> None:
        shape = follower.shape
        if not self._ingest.all_seen(follower.tables, follower.kept[0].lsn, mark):
            return
        cut = moves.first_unseen(((kept.lsn, mark.sees(kept.xid, kept.lsn)) for kept in follower.kept), mark.lsn)
        if cut is None or cut <= follower.kept[0].lsn:
            return
        count = len(moves.split(follower.kept, cut)[0])
        flips = moves.net(follower.kept[:count])
        rows: list[bytes] = []
        if flips:
            sql = step_statement(shape.definition, relation, follower.plan, shape.handle, flips)
            rows = await self._copy(session, sql)
            if sum(map(len, rows)) > STEP_BYTES:
                self._store.drop(shape, "a change of what its subqueries return moves too many rows")
        if shape.alive:
            line = mark.control_line()[: -len(b"}},\n")]
            self._apply(follower, lambda: follower.finish(count, flips, rows, line))
            follower.failing_since = 0.0

    # -- snapshots that are not for the log --

    async def between(
        self, shape: Shape, relation: Relation, session: Session, take: Callable[[], Awaitable[SnapshotMark]]
    ) -> SnapshotMark | None:
        """A snapshot, begun by `take` in the session, that no step of the shape goes past; None when the shape ended.

        The log tells by itself what the snapshot sees, and what it does not: a reader of both can tell them apart. The
        step up to the snapshot is made here, and on the disk at the end: after a crash no other one goes past it.
        Raises ShapeError (503), PostgresError, and what `take` raises.
        """
        deadline = time.monotonic() + PASS_SECONDS
        while True:
            follower = self._hub.followers.get(shape.id)
            if follower is None or not shape.alive:
                return None
            try:
                async with follower.turn:
                    mark = await take()
                    await self._step_up_to(session, mark, relation, follower)
                await self._recorded(follower, deadline)
                return mark if shape.alive else None
            except Retry as reason:
                await self._placing.again(session, deadline, reason)

    async def _step_up_to(self, session: Session, mark: SnapshotMark, relation: Relation, follower: Follower) -> None:
        """Raises Retry."""
        if not self.connected():
            raise database_unreachable()
        await self._placing.passed(mark)
        if _sees_any(mark, follower):
            await self._step_alone(session, mark, relation, follower)
            if follower.shape.alive and _sees_any(mark, follower):
                raise Retry(UNSEEN)

    async def _recorded(self, follower: Follower, deadline: float) -> None:
        """Wait until the last step is on the disk. Raises ShapeError."""
        shape, store = follower.shape, self._store
        while shape.alive:
            held = store.held.get(shape.id)
            if follower.told <= store.commit_lsn and (held is None or held > follower.told):
                return
            if time.monotonic() > deadline:
                raise snapshot_failed(DISK)
            await asyncio.sleep(0.002)

    async def _table_changed(self, followers: list[Follower]) -> None:
        """The table is not as it was last seen: look again; those that outlive the change go on."""
        definition = followers[0].shape.definition
        self._catalog.forget(definition.schema, definition.table)
        relation = await self._catalog.get(definition.schema, definition.table)
        for follower in followers:
            own = follower.shape.definition
            if (
                relation is None
                or own.rewritten(relation)
                or not own.survives(relation.oid, relation.schema, relation.name, relation.signature)
            ):
                self._store.drop(follower.shape, "its table's definition changed")

    async def _copy(self, session: Session, sql: str) -> list[bytes]:
        """The rows of a step; when they are too many, only the first of them."""
        self.queries += 1
        rows: list[bytes] = []
        size = 0
        await session.start_copy(sql)
        async for block in session.copy_blocks(1024 * 1024):
            if size <= STEP_BYTES:
                rows += [row.rstrip(b"\n") for row in block]
            size += sum(map(len, block))
        self.rows += len(rows)
        self.bytes += size
        return rows


def _sees_any(mark: SnapshotMark, follower: Follower) -> bool:
    return any(mark.sees(kept.xid, kept.lsn) for kept in follower.kept)
