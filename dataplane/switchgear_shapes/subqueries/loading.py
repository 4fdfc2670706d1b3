"""What subqueries return, read from Postgres once and then shared: feeds, found or made, ready to be followed.

Invariants: a feed that is asked for is kept until `done_with`; its rows are those of a snapshot that is placed in the
stream, and what came meanwhile is added.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.errors import ShapeError, invalid
from switchgear_shapes.identifiers import quote_relation
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.origin import Origin, Signature
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.postgres.session import ConnectionLost
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.snapshot import begin_text
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.hub import TABLE_CHANGED, Hub
from switchgear_shapes.subqueries.placing import GIVE_UP_SECONDS, LOCK_SECONDS, QUERY_SECONDS, Placing, Retry
from switchgear_shapes.subqueries.plan import Plan, SubqueryRefused, check_collations, plan
from switchgear_shapes.subqueries.queries import source_rows, source_select
from switchgear_shapes.where.expression import Subquery

MAX_ROWS = 1_000_000
"""Different rows that one subquery may return; they are held in memory."""


class Loading:
    """See the module. `start` runs what goes on by itself."""

    def __init__(
        self,
        hub: Hub,
        ingest: Ingest,
        pool: Pool,
        catalog: Catalog,
        publication: Publication,
        placing: Placing,
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._hub = hub
        self._ingest = ingest
        self._pool = pool
        self._catalog = catalog
        self._publication = publication
        self._placing = placing
        self._start = start

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
        known = self._catalog.peek(spec.schema, spec.table)
        if feed is not None and known is not None and feed.ready.done() and not feed.still_fits(known):
            self._hub.end_users(feed, TABLE_CHANGED)
            feed = None
        if feed is None:
            relation = await self._relation(spec)
            await self._publication.ensure(spec.oid, spec.schema, spec.table)
            feed = self._hub.feed_of(spec)
            if feed is None:
                signature, origin = _read(spec, relation)
                feed = self._hub.new_feed(spec, signature, nested, origin)
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
                mark, _ = await self._placing.begin(session, begin, relation)
                try:
                    await self._placing.reach(mark, [spec.oid], since)
                except Retry as reason:
                    await self._placing.again(session, deadline, reason)
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


def _read(spec: Subquery, relation: Relation) -> tuple[Signature, Origin]:
    """What the subquery reads of the table, and what that is now."""
    needed = {column.name for column in spec.columns} | (set() if spec.where is None else set(spec.where.columns))
    columns = [column for column in relation.columns if column.name in needed]
    return tuple((column.name, column.type_oid) for column in columns), Origin.of(relation, columns)
