"""What a transaction of the replication stream means for shapes with subqueries and the feeds that they share. No I/O.

The ingest gives rows and commits; what comes back are lines for the open transaction and entries for the store.
Invariants: feeds take a transaction in at its commit, before the shapes that ask them; everything of a transaction is
in one batch of the store.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable
from typing import Protocol

from switchgear_shapes.log import frames
from switchgear_shapes.log.frames import Entry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.sources import encode_deltas
from switchgear_shapes.log.store import Store
from switchgear_shapes.replication.pgoutput import RelationMessage, Values
from switchgear_shapes.routing.reuse import REUSED, Reuse
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.follower import Follower
from switchgear_shapes.subqueries.members import Members
from switchgear_shapes.subqueries.moves import Flips
from switchgear_shapes.subqueries.plan import Membership, Plan, plan
from switchgear_shapes.subqueries.rows import Broken
from switchgear_shapes.subqueries.values import Changes

log = logging.getLogger("switchgear.shapes.subqueries")

BUFFER_BYTES = 64 * 1024 * 1024
"""What one shape may keep in memory while it waits for its snapshot."""
PATIENCE_SECONDS = 5.0
"""Without a step for so long, the number of kept transactions counts: a backlog comes faster than any step is made."""
RECENT_KEPT = 256
"""A feed with more changes than this in memory forgets those that nobody can ask for."""
TABLE_CHANGED = "the table of its subquery was dropped, altered or unpublished"
NULL_MOVED = "a NULL came into the subquery of a NOT IN, or left it"


class Lines(Protocol):
    """The ingest's open transaction."""

    def add(self, shape: Shape, bodies: list[bytes], last_op: int) -> None: ...

    def take(self, shape: Shape) -> tuple[bytes, int] | None:
        """Take back the shape's lines, complete, and their last op; None when there are too many."""


class Hub(Members):
    """See the module. `step_due` is called with a shape that has become held."""

    def __init__(self, store: Store, buffer_transactions: int) -> None:
        super().__init__(store)
        self._limit = buffer_transactions
        self._touched_feeds: dict[int, Feed] = {}
        self._touched: set[Follower] = set()
        self._reuse = Reuse()
        self._catch_up_to = store.commit_lsn if store.replay_from <= store.commit_lsn else 0
        """After a restart, transactions up to here are sent again for the sake of shapes that were held."""
        self._catching: set[Follower] = set()
        self.step_due: Callable[[Follower], None] = lambda follower: None
        self.moved = 0
        self._restore()

    # -- shapes that were known before a restart --

    def _restore(self) -> None:
        self._restore_feeds()
        for shape in list(self._store.by_id.values()):
            where = shape.definition.where
            if where is None or not where.subqueries:
                continue
            self._restore_follower(shape, plan(where))
        for feed in list(self._feeds.values()):
            self._release(feed)

    def _restore_follower(self, shape: Shape, made: Plan) -> None:
        feeds: dict[int, Feed] = {}
        for at, condition in made.memberships:
            feed = self.feed_of(made.subqueries[condition.query])
            if feed is None:
                self._store.drop(shape, "what its subqueries returned was not stored")
                return
            feeds[at] = feed
        held = self._store.held.get(shape.id, 0)
        position = held - 1 if held else self._store.commit_lsn
        follower = Follower(shape, made, feeds, position, opening=False)
        follower.marked = follower.behind = held
        if held:
            self._catching.add(follower)
        self._add_follower(follower)

    def _forget_feed(self, feed: Feed) -> None:
        self._touched_feeds.pop(feed.id, None)

    def _forget_follower(self, follower: Follower) -> None:
        self._touched.discard(follower)
        self._catching.discard(follower)

    # -- the stream --

    def row(
        self,
        relation: RelationMessage,
        old: Values | None,
        new: Values | None,
        op: int,
        lsn: int,
        tx: bytes,
        lines: Lines,
    ) -> None:
        """A change of a row of one of `tables`. `tx`: the headers of the transaction at `lsn`."""
        oid = relation.oid
        for feed in list(self._feeds_of.get(oid, ())):
            try:
                feed.row(relation, old, new)
            except Broken as error:
                self.end_users(feed, str(error))
            else:
                self._touched_feeds[feed.id] = feed
        reused: bool | None = None
        for follower in list(self._followers_of.get(oid, ())):
            if lsn <= follower.position:
                continue
            definition = follower.shape.definition
            if definition.deferrable and reused is None:
                reused = self._reuse.seen(oid, _positions(relation, definition.pk), old, new)
            try:
                if definition.deferrable and reused:
                    follower.spoil(REUSED)
                bodies = follower.row(relation, old, new, op, tx)
            except Broken as error:
                self._store.drop(follower.shape, str(error))
                continue
            self._touched.add(follower)
            if bodies:
                lines.add(follower.shape, bodies, op + len(bodies) - 1)

    def drop_table(self, oid: int, reason: str, lsn: int) -> None:
        """The table was truncated or altered by the transaction at `lsn`: its shapes end."""
        for follower in list(self.followers.values()):
            if lsn > follower.position and oid in follower.tables:
                self._store.drop(follower.shape, reason)
        # Those that no shape follows yet: they are being read, or wait for a shape that is being made.
        for feed in list(self._feeds.values()):
            if oid in feed.tables and (feed.buffer is not None or lsn > feed.state.position):
                self._end(feed)
                self.release(feed)

    def abandon(self) -> None:
        """The open transaction will be sent again."""
        for feed in self._touched_feeds.values():
            feed.pending = {}
        for follower in self._touched:
            follower.abandon()
        self._reuse.clear()
        self._touched_feeds = {}
        self._touched = set()

    def start_anew(self) -> None:
        """Positions of the stream so far mean nothing any more; nor does what is being read beside it."""
        self.position = self._catch_up_to = 0
        self._catching.clear()
        for feed in list(self._feeds.values()):
            self._end(feed)
            self.release(feed)

    # -- catching up after a restart --

    def catching_up(self) -> list[Entry]:
        """To be logged first of all: from where on the stream is read again, until it has caught up.

        A second crash meanwhile must begin there again, also when the shapes that needed it go on or end before.
        """
        return [Entry(0, self._store.replay_from, frames.HELD, b"")] if self._catch_up_to else []

    def passed(self, lsn: int) -> list[Entry]:
        """The stream has passed all commits before `lsn`: the marks that end the catching up, when that is the end."""
        if not self._catch_up_to or lsn <= self._catch_up_to:
            return []
        self._catch_up_to = 0
        caught_up, self._catching = self._catching, set()
        entries = [Entry(0, 0, frames.HELD, b"")]
        for follower in caught_up:
            follower.behind = 0
            entries += follower.mark()
        return entries

    def _catch_up(self, lsn: int) -> list[Entry]:
        entries = [Entry(0, lsn + 1, frames.HELD, b"")]
        for follower in self._catching:
            follower.behind = max(follower.behind, lsn + 1)
            entries += follower.mark()
        return entries

    def commit(self, xid: int, lsn: int, next_op: int, lines: Lines) -> list[Entry]:
        """The open transaction is over: entries for the store."""
        self.position = max(self.position, lsn)
        self._reuse.clear()
        entries: list[Entry] = []
        self._commit_touched(xid, lsn, next_op, lines, entries)
        if self._catch_up_to:
            entries += self.passed(lsn + 1) or self._catch_up(lsn)
        return entries

    def _commit_touched(self, xid: int, lsn: int, next_op: int, lines: Lines, entries: list[Entry]) -> None:
        if not self._touched and not self._touched_feeds:
            return
        changes = self._commit_feeds(xid, lsn, entries)
        touched, self._touched = self._touched, set()
        for feed in changes:
            touched |= feed.followers
        for follower in sorted(touched, key=lambda f: f.shape.id):
            self._commit_follower(follower, xid, lsn, next_op, changes, lines, entries)

    def _commit_feeds(self, xid: int, lsn: int, entries: list[Entry]) -> dict[Feed, Changes]:
        waiting, self._touched_feeds = self._touched_feeds, {}
        heap = list(waiting)
        heapq.heapify(heap)
        changes: dict[Feed, Changes] = {}
        while heap:
            feed = waiting[heapq.heappop(heap)]
            deltas = feed.take_pending()
            if feed.buffer is not None:
                if deltas:
                    feed.buffer.append((xid, lsn, deltas))
                continue
            if lsn <= feed.state.position:
                continue
            if not feed.can_lose(deltas):
                self.end_users(feed, "values of its subquery's table were replaced")
                continue
            for at, nested in feed.nested.items():
                if nested in changes:
                    feed.source.follow(at, changes[nested])
            feed.source.apply(deltas)
            feed.state.record(lsn, deltas)
            if deltas:
                entries.append(Entry(feed.id, lsn, frames.DELTA, encode_deltas(deltas)))
                if len(feed.state.recent) > RECENT_KEPT:
                    feed.state.forget_before(min(self._store.replay_from, self._store.commit_lsn + 1))
            found = feed.source.take_changes()
            if found:
                changes[feed] = found
                for user in feed.feeds:
                    if user.id not in waiting:
                        waiting[user.id] = user
                        heapq.heappush(heap, user.id)
        return changes

    def _commit_follower(
        self,
        follower: Follower,
        xid: int,
        lsn: int,
        next_op: int,
        changes: dict[Feed, Changes],
        lines: Lines,
        entries: list[Entry],
    ) -> None:
        shape = follower.shape
        if not shape.alive:
            return
        flips: Flips = {}
        if lsn > follower.position:
            for at, feed in follower.feeds.items():
                found = changes.get(feed)
                condition = follower.plan.conditions[at]
                if found is None or not isinstance(condition, Membership):
                    continue
                if condition.negated and found.uncertain:
                    self._store.drop(shape, NULL_MOVED)
                    return
                changed = found.of(condition.negated)
                if changed:
                    flips[at] = changed
        taken = lines.take(shape) if flips and not follower.held else (b"", 0)
        if taken is None:
            self._store.drop(shape, "a transaction that changes its subqueries is too large")
            return
        was_held = bool(follower.kept)
        follower.commit(xid, lsn, next_op, flips, taken)
        late = len(follower.kept) > self._limit and time.monotonic() - follower.waiting_since > PATIENCE_SECONDS
        if late or follower.size > BUFFER_BYTES:
            self._store.drop(
                shape,
                f"more than {self._limit} transactions (or too large ones) arrived while its subqueries changed;"
                " see ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS",
            )
            return
        if follower.opening:
            return
        try:
            entries += follower.catch_up()
        except Broken as error:
            self._store.drop(shape, str(error))
            return
        if follower.kept and not was_held:
            self.moved += 1
            self.step_due(follower)


def _positions(relation: RelationMessage, key: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(index for index, column in enumerate(relation.columns) if column.name in key)
