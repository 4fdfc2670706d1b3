"""Shapes with subqueries and the feeds that they share: who asks whom, found by table, by meaning and by shape. No I/O.

Invariants: a feed is kept as long as somebody uses it; nothing begins with a feed that has ended; the store has what a
feed that is ready returns.
"""

from __future__ import annotations

from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.sources import SourceState, identity
from switchgear_shapes.log.store import Store
from switchgear_shapes.origin import Origin, Signature
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.follower import Follower
from switchgear_shapes.subqueries.plan import Plan, plan
from switchgear_shapes.subqueries.rows import Broken
from switchgear_shapes.where.expression import Subquery

ENDED = "a subquery's table changed while the shape was made"


class Members:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: dict[int, Feed] = {}
        self._by_identity: dict[tuple[object, ...], Feed] = {}
        self._feeds_of: dict[int, set[Feed]] = {}
        self._followers_of: dict[int, set[Follower]] = {}
        self.followers: dict[int, Follower] = {}
        self.tables: set[int] = set()
        """OIDs of all tables whose changes concern a shape with subqueries."""
        self.position = store.replay_from - 1
        """Transactions up to here were taken in."""

    def _restore_feeds(self) -> None:
        for number in sorted(self._store.sources):
            state = self._store.sources[number]
            where = state.spec.where
            made = None if where is None else plan(where)
            nested: dict[int, Feed] = {}
            missing = False
            for at, condition in made.memberships if made is not None else ():
                feed = self._by_identity.get(identity(made.subqueries[condition.query]))  # type: ignore[union-attr]
                missing = missing or feed is None
                if feed is not None:
                    nested[at] = feed
            if not missing:
                self._add_feed(Feed(state, made, nested, loading=False))

    def feed_of(self, spec: Subquery) -> Feed | None:
        return self._by_identity.get(identity(spec))

    def new_feed(
        self, spec: Subquery, signature: Signature, nested: dict[int, Feed], origin: Origin | None = None
    ) -> Feed:
        """A feed whose rows are about to be read. The feeds that it asks must be ready. Raises Broken."""
        _check(nested)
        made = None if spec.where is None else plan(spec.where)
        state = SourceState(self._store.next_source_id(), spec, signature, {}, 0, origin)
        feed = Feed(state, made, nested, loading=True)
        self._add_feed(feed)
        return feed

    def feed_loaded(self, feed: Feed, rows: dict, position: int) -> None:  # type: ignore[type-arg]
        """Raises Broken."""
        _check({0: feed})
        if any(count < 0 for count in rows.values()):
            raise Broken(ENDED)
        feed.loaded(rows, position)
        if self._feeds.get(feed.id) is feed:
            self._store.add_source(feed.state)

    def _add_feed(self, feed: Feed) -> None:
        self._feeds[feed.id] = feed
        self._by_identity[feed.state.identity] = feed
        self._feeds_of.setdefault(feed.state.spec.oid, set()).add(feed)
        self.tables.add(feed.state.spec.oid)

    def release(self, feed: Feed) -> None:
        """Forget a feed that nobody uses, and those that only it used."""
        if self._feeds.get(feed.id) is feed:
            self._release(feed)

    def _release(self, feed: Feed) -> None:
        if feed.used or feed.id not in self._feeds:
            return
        del self._feeds[feed.id]
        self._end(feed)
        self._forget_feed(feed)
        self._discard(self._feeds_of, feed.state.spec.oid, feed)
        self._store.remove_source(feed.id)
        for nested in set(feed.nested.values()):
            nested.feeds.discard(feed)
            self._release(nested)

    def _end(self, feed: Feed) -> None:
        """Nobody finds it any more, and whoever waits for it is told so."""
        feed.ended = True
        if self._by_identity.get(feed.state.identity) is feed:
            del self._by_identity[feed.state.identity]

    def follow(self, shape: Shape, made: Plan, feeds: dict[int, Feed], since: int) -> Follower:
        """Begin to keep what concerns a shape whose snapshot is about to be taken. Raises Broken."""
        _check(feeds)
        follower = Follower(shape, made, feeds, self.position, opening=True)
        follower.since = since
        self._add_follower(follower)
        return follower

    def _add_follower(self, follower: Follower) -> None:
        self.followers[follower.shape.id] = follower
        oid = follower.shape.definition.oid
        self._followers_of.setdefault(oid, set()).add(follower)
        self.tables.add(oid)
        for feed in follower.feeds.values():
            feed.followers.add(follower)

    def remove(self, shape: Shape) -> None:
        """The shape was dropped."""
        follower = self.followers.pop(shape.id, None)
        if follower is None:
            return
        self._forget_follower(follower)
        self._discard(self._followers_of, shape.definition.oid, follower)
        for feed in set(follower.feeds.values()):
            feed.followers.discard(follower)
            self._release(feed)

    def _discard(self, index: dict[int, set], oid: int, item: object) -> None:  # type: ignore[type-arg]
        items = index.get(oid)
        if items is not None:
            items.discard(item)
            if not items:
                del index[oid]
        if oid not in self._feeds_of and oid not in self._followers_of:
            self.tables.discard(oid)

    @property
    def held(self) -> int:
        return sum(1 for follower in self.followers.values() if follower.kept)

    @property
    def kept(self) -> int:
        return sum(len(follower.kept) for follower in self.followers.values())

    @property
    def source_rows(self) -> int:
        return sum(len(feed.state.rows) for feed in self._feeds.values())

    @property
    def feeds(self) -> list[Feed]:
        return list(self._feeds.values())

    def end_users(self, feed: Feed, reason: str) -> None:
        """The feed's table is no longer what it was: all shapes that depend on it end, and none begins with it."""
        self._end(feed)
        for user in list(feed.feeds):
            self.end_users(user, reason)
        for follower in list(feed.followers):
            self._store.drop(follower.shape, reason)
        self.release(feed)

    # -- what else is known of them --

    def _forget_feed(self, feed: Feed) -> None:
        """Nobody uses it any more."""

    def _forget_follower(self, follower: Follower) -> None:
        """Its shape was dropped."""


def _check(feeds: dict[int, Feed]) -> None:
    if any(feed.ended for feed in feeds.values()):
        raise Broken(ENDED)
