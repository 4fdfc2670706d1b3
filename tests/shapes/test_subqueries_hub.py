"""What becomes of a subquery's result while the first shape that asks it is still being made. No Postgres."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from switchgear_shapes.definition import Definition
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.store import Store
from switchgear_shapes.replication import pgoutput
from switchgear_shapes.routing.router import Router
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.follower import Broken, Follower
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.subqueries.plan import Plan, plan
from switchgear_shapes.where.expression import Column, InSubquery, Subquery, Type, Where
from tests.shapes.test_pgoutput import encode

INT4 = Type("int4")
USERS, ITEMS = 20_001, 20_002
SPEC = Subquery(USERS, "public", "users", (Column(INT4, "id"),), None)
CLAUSE = Where(InSubquery((Column(INT4, "owner"),), 0), "owner IN (…)", frozenset(["owner"]), (SPEC,))
ITEM = Definition(
    oid=ITEMS,
    schema="public",
    table="items",
    pk=("id",),
    columns=("id", "owner"),
    selects_all=True,
    full_replica=False,
    changes_only=True,
    signature=(("id", 23), ("owner", 23)),
    where=CLAUSE,
)


def described(identity: str = "f", kind: int = 23) -> pgoutput.Message:
    return pgoutput.RelationMessage(
        USERS, "public", "users", identity, (pgoutput.RelationColumn("id", kind, -1, identity == "f"),)
    )


class World:
    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder, 10 * 1024 * 1024)
        self.hub = Hub(self.store, 1000)
        self.ingest = Ingest(self.store, Router(), self.hub, folder)
        self.store.on_drop = self.ingest.unregister
        self.plan: Plan = plan(CLAUSE)
        self.lsn = 1000

    def feed(self) -> Feed:
        return self.hub.new_feed(SPEC, (("id", 23),), {})

    def follow(self, feed: Feed, item: Definition = ITEM) -> Follower:
        ((at, _),) = self.plan.memberships
        self.shape = self.store.create(item)
        return self.hub.follow(self.shape, self.plan, {at: feed}, self.lsn)

    def transaction(self, *messages: pgoutput.Message) -> None:
        self.lsn += 100
        for message in (pgoutput.Begin(self.lsn, 0, 7), *messages, pgoutput.Commit(self.lsn, self.lsn + 10)):
            self.ingest.message(encode(message), 0)


CHANGES = {
    "truncated": [described(), pgoutput.Truncate((USERS,))],
    "another type": [described(kind=25), pgoutput.Insert(USERS, [b"x"])],
    "no identity": [described("n"), pgoutput.Update(USERS, None, False, [b"2"])],
}


@pytest.mark.parametrize("loading", [True, False])
@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_begins_with_a_result_whose_table_changed(tmp_path: Path, change: str, loading: bool) -> None:
    world = World(tmp_path)
    feed = world.feed()
    if not loading:
        world.hub.feed_loaded(feed, {}, world.lsn)
    world.transaction(*CHANGES[change])
    if loading:
        with pytest.raises(Broken):
            world.hub.feed_loaded(feed, {}, world.lsn)
    with pytest.raises(Broken):
        world.follow(feed)
    assert world.hub.feed_of(SPEC) is None
    assert world.hub.feeds == []
    await world.store.close()


async def test_nothing_begins_with_a_result_that_was_let_go(tmp_path: Path) -> None:
    """Two shapes are being made with it: one is dropped before the other follows it."""
    world = World(tmp_path)
    feed = world.feed()
    world.hub.feed_loaded(feed, {}, world.lsn)
    world.follow(feed)
    world.store.drop(world.shape, "asked for")
    with pytest.raises(Broken):
        world.follow(feed)
    await world.store.close()


@pytest.mark.parametrize("seen", [True, False])
async def test_keys_that_rows_took_while_the_shape_was_made(tmp_path: Path, seen: bool) -> None:
    """They matter only if the snapshot does not see it."""
    world = World(tmp_path)
    feed = world.feed()
    world.hub.feed_loaded(feed, {}, world.lsn)
    follower = world.follow(feed, replace(ITEM, deferrable=True))
    columns = tuple(pgoutput.RelationColumn(name, 23, -1, True) for name in ("id", "owner"))
    items = pgoutput.RelationMessage(ITEMS, "public", "items", "f", columns)
    taken = [pgoutput.Update(ITEMS, [b"%d" % n, b"5"], False, [b"%d" % (n + 1), b"5"]) for n in (1, 2)]
    world.transaction(items, *taken)
    world.transaction(items, *taken[:1])
    assert world.shape.alive
    follower.place(world.lsn - 50 if seen else world.lsn - 150)
    if seen:
        follower.catch_up()
        assert not follower.kept
    else:
        with pytest.raises(Broken, match="keys"):
            follower.catch_up()
    await world.store.close()


async def test_another_stream_ends_what_is_being_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    feed = world.feed()
    world.ingest.start_anew()
    with pytest.raises(Broken):
        world.hub.feed_loaded(feed, {}, world.lsn)
    await world.store.close()
