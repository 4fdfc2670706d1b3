"""Asks Postgres for what shapes with subqueries need: what a subquery returns, and what a step moves.

Invariants: a snapshot is used only when it is known which transactions of the stream it sees, and when it sees none
without those before it; a query has a time limit; a shape whose step fails for long is dropped, so that the slot does
not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.errors import ShapeError, database_unreachable, invalid, snapshot_failed
from switchgear_shapes.identifiers import quote_relation
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.frames import Entry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.conversation import parse_lsn, reached
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.snapshot import SnapshotMark, begin_statements, begin_text
from switchgear_shapes.subqueries import moves
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.follower import Follower
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.subqueries.plan import Plan, SubqueryRefused, check_collations, plan
from switchgear_shapes.subqueries.queries import source_rows, source_select, step_statement
from switchgear_shapes.subqueries.rows import Broken
from switchgear_shapes.where.expression import Subquery

log = logging.getLogger("switchgear.shapes.subqueries")

MAX_ROWS = 1_000_000
"""Different rows that one subquery may return; they are held in memory."""
STEP_BYTES = 64 * 1024 * 1024
"""What one step may move; more than this is quicker fetched anew."""
QUERY_SECONDS = 30
LOCK_SECONDS = 5
TOGETHER = 64
"""Shapes that share one snapshot for their steps."""
PASS_SECONDS = 10.0
GIVE_UP_SECONDS = 60.0
"""How long a step may fail, while the database is there, before its shape is dropped."""


UNSEEN = "A transaction that is replicated already does not become visible"
BEHIND = "The replication stream is behind the database"
DISK = "The disk of the sync server is behind"


class Retry(Exception):
    """Another snapshot is needed. The text says why, should it be given up."""


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
        self._publication = publication
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: dict[int, list[Follower]] = {}
        """By table: shapes whose step waits for its turn."""
        self._workers = max(1, pool.size // 2)
        self._working = 0
        self._stopping = False
        self.nudge: Callable[[], None] = lambda: None
        """Asks Postgres how far the stream is."""
        self.connected: Callable[[], bool] = lambda: True
        self.queries = 0
        self.rows = 0
        self.bytes = 0
        hub.step_due = self.step

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

    # -- feeds --

    async def prepare(self, made: Plan) -> dict[int, Feed]:
        """The feeds that a plan asks, by position, ready; the caller lets go of them with `done_with`.

        Raises ShapeError, Broken and what Postgres raises.
        """
        feeds: dict[int, Feed] = {}
        try:
            for at, condition in made.memberships:
                feeds[at] = await self._feed(made.subqueries[condition.query])
        except BaseException:
            self.done_with(feeds)
            raise
        return feeds

    def done_with(self, feeds: dict[int, Feed]) -> None:
        """Feeds that are used by now, or will not be."""
        for feed in feeds.values():
            feed.pins -= 1
            self._hub.release(feed)

    async def _feed(self, spec: Subquery) -> Feed:
        """The feed of a subquery, pinned: nobody else's end must end it before it is used."""
        nested: dict[int, Feed] = {}
        if spec.where is not None and spec.where.subqueries:
            nested = await self.prepare(plan(spec.where))
        try:
            feed = await self._found(spec, nested)
            feed.pins += 1
        finally:
            self.done_with(nested)
        try:
            await asyncio.shield(feed.ready)
        except BaseException:
            self.done_with({0: feed})
            raise
        return feed

    async def _found(self, spec: Subquery, nested: dict[int, Feed]) -> Feed:
        feed = self._hub.feed_of(spec)
        if feed is None:
            relation = await self._relation(spec)
            await self._publication.ensure(spec.oid, spec.schema, spec.table)
            feed = self._hub.feed_of(spec)
            if feed is None:
                feed = self._hub.new_feed(spec, _signature(spec, relation), nested)
                self._start(self._load(feed, relation))
        return feed

    async def _relation(self, spec: Subquery) -> Relation:
        relation = await self._catalog.get(spec.schema, spec.table)
        if relation is None or relation.oid != spec.oid:
            self._catalog.forget(spec.schema, spec.table)
            raise ShapeError(409, {})
        if relation.kind == "p":
            raise invalid("where", f'table "{spec.table}" is partitioned, which subqueries cannot follow')
        asked = () if spec.where is None else plan(spec.where).memberships
        try:
            check_collations([*spec.columns, *(c for _, asks in asked for c in asks.columns)], relation)
        except SubqueryRefused as error:
            raise invalid("where", str(error)) from None
        return relation

    async def _load(self, feed: Feed, relation: Relation) -> None:
        try:
            await self._read_rows(feed, relation)
        except BaseException as error:
            if not feed.ready.done():
                feed.ready.set_exception(error if isinstance(error, Exception) else ConnectionLost("stopped"))
                feed.ready.exception()  # it may be that nobody waits any more
            self._hub.release(feed)
            if not isinstance(error, Exception):
                raise

    async def _read_rows(self, feed: Feed, relation: Relation) -> None:
        spec = feed.state.spec
        statement = source_select(spec, feed.plan, MAX_ROWS + 1)
        begin = begin_text(relation, f"ONLY {quote_relation(spec.schema, spec.table)}", LOCK_SECONDS, QUERY_SECONDS)
        since = self._ingest.begun_lsn
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            async with self._pool.session() as session:
                mark, _ = await self._begin(session, begin, relation)
                try:
                    await self._await(mark, [spec.oid], since)
                except Retry as reason:
                    await self._again(session, deadline, reason)
                    continue
                found = await session.query_limited(statement, QUERY_SECONDS)
                await session.query("ROLLBACK")
            break
        if len(found) > MAX_ROWS:
            raise invalid("where", f"a subquery returns more than {MAX_ROWS} different rows")
        rows = source_rows(spec, feed.plan, found)
        for xid, lsn, deltas in feed.buffer or ():
            if not mark.sees(xid, lsn):
                for group, delta in deltas.items():
                    count = rows.get(group, 0) + delta
                    if count:
                        rows[group] = count
                    else:
                        del rows[group]
        self._ingest.flush()
        self._hub.feed_loaded(feed, rows, self._hub.position)

    # -- a shape's own snapshot --

    def register(self, shape: Shape, made: Plan, feeds: dict[int, Feed]) -> Follower:
        return self._hub.follow(shape, made, feeds, self._ingest.begun_lsn)

    async def open(self, follower: Follower, mark: SnapshotMark) -> bool:
        """Place a shape's snapshot in the stream; False when another one is needed. Raises Broken."""
        try:
            await self._await(mark, follower.tables, follower.since)
            await self._shown()
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

    async def _shown(self) -> None:
        """Wait until what has passed is on the disk: readers of a new shape are told a position that has all it shows.

        Raises Retry.
        """
        passed = self._ingest.passed_commit
        self._ingest.flush()
        deadline = time.monotonic() + PASS_SECONDS
        while self._store.commit_lsn < passed:
            if time.monotonic() > deadline:
                raise Retry(DISK)
            await asyncio.sleep(0.002)

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
            mark, fits = await self._begin(session, statements, relation, strict=False)
            if fits:
                await self._passed(mark)
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
                await self._again(session, deadline, reason)

    async def _step_up_to(self, session: Session, mark: SnapshotMark, relation: Relation, follower: Follower) -> None:
        """Raises Retry."""
        if not self.connected():
            raise database_unreachable()
        await self._passed(mark)
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
            if relation is None or not follower.shape.definition.survives(
                relation.oid, relation.schema, relation.name, relation.signature
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

    # -- snapshots and the stream --

    async def _begin(
        self, session: Session, statements: str, relation: Relation, *, strict: bool = True
    ) -> tuple[SnapshotMark, bool]:
        """Begin a transaction and its snapshot; whether the table is as `relation` says."""
        try:
            rows = await session.query_limited(statements, PASS_SECONDS)
        except TimeoutError:
            raise snapshot_failed("The database did not begin a snapshot in time") from None
        seen, lsn, stamp = rows[0]
        fits = stamp == relation.stamp
        if strict and not fits:
            self._catalog.forget(relation.schema, relation.name)
            raise ShapeError(409, {})
        return SnapshotMark.parse(seen or "", parse_lsn(lsn or "")), fits

    async def _again(self, session: Session, deadline: float, reason: Retry) -> None:
        await session.query("ROLLBACK")
        if time.monotonic() > deadline:
            raise snapshot_failed(str(reason))
        await asyncio.sleep(0.02)

    async def _await(self, mark: SnapshotMark, oids: Iterable[int], lsn: int) -> None:
        """Wait until the stream has passed all that the snapshot can see.

        Raises Retry when it does not see one of the transactions up to `lsn` that concern the tables, or when the
        stream does not come.
        """
        oids = list(oids)
        if not self._ingest.all_seen(oids, lsn, mark):
            raise Retry(UNSEEN)
        await self._passed(mark)
        if not self._ingest.all_seen(oids, lsn, mark):
            raise Retry(UNSEEN)

    async def _passed(self, mark: SnapshotMark) -> None:
        deadline = time.monotonic() + PASS_SECONDS
        pause = 0.001
        while not reached(self._ingest.passed_lsn, mark.lsn):
            if time.monotonic() > deadline:
                raise Retry(BEHIND)
            self.nudge()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.02)


def _sees_any(mark: SnapshotMark, follower: Follower) -> bool:
    return any(mark.sees(kept.xid, kept.lsn) for kept in follower.kept)


def _signature(spec: Subquery, relation: Relation) -> tuple[tuple[str, int], ...]:
    needed = {column.name for column in spec.columns} | (set() if spec.where is None else set(spec.where.columns))
    return tuple((column.name, column.type_oid) for column in relation.columns if column.name in needed)
