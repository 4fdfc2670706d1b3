"""A subquery's result as shapes share it: its rows, kept up with the replication stream. No I/O.

Invariants: a feed is made after the feeds that its own filter asks, so that ids are in order of dependence; nobody
reads the result before `ready`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from switchgear_shapes.log.sources import Deltas, SourceState
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.pgoutput import RelationMessage, Values
from switchgear_shapes.subqueries.plan import Plan
from switchgear_shapes.subqueries.rows import Broken, GroupReader
from switchgear_shapes.subqueries.values import Nested, Source

if TYPE_CHECKING:
    from switchgear_shapes.subqueries.follower import Follower


class Feed:
    """See the module. `nested` are the feeds that its filter asks, by position; `plan` is None without a filter."""

    __slots__ = (
        "_reader",
        "_relation",
        "buffer",
        "ended",
        "feeds",
        "followers",
        "nested",
        "pending",
        "pins",
        "plan",
        "ready",
        "source",
        "state",
    )

    def __init__(self, state: SourceState, plan: Plan | None, nested: dict[int, Feed], *, loading: bool) -> None:
        self.state = state
        self.plan = plan
        self.nested = nested
        self.ended = False
        """It is not kept up any more, or its table is another one: nothing may begin with it."""
        self.feeds: set[Feed] = set()
        """Feeds whose filter asks this one."""
        self.followers: set[Follower] = set()
        self.pins = 0
        """Shapes and feeds that are being made and will use this one."""
        self.pending: Deltas = {}
        """What the open transaction changes."""
        self.buffer: list[tuple[int, int, Deltas]] | None = [] if loading else None
        """(xid, commit LSN, deltas) of what came while the rows are being read."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        memberships = {} if plan is None else dict(plan.memberships)
        asked = {at: Nested(feed.source, memberships[at].negated) for at, feed in nested.items()}
        self.source: Source = Source(len(state.spec.columns), asked, state.rows)
        self._relation: RelationMessage | None = None
        self._reader: GroupReader | None = None
        for feed in nested.values():
            feed.feeds.add(self)
        if not loading:
            self.source.count_all()
            self.ready.set_result(None)

    @property
    def id(self) -> int:
        return self.state.id

    @property
    def used(self) -> bool:
        return bool(self.feeds or self.followers or self.pins)

    @property
    def tables(self) -> set[int]:
        found = {self.state.spec.oid}
        for feed in self.nested.values():
            found |= feed.tables
        return found

    def row(self, relation: RelationMessage, old: Values | None, new: Values | None) -> None:
        """A change of the table. Raises Broken."""
        if self._relation is not relation or self._reader is None:
            if not self.fits(relation.oid, relation.schema, relation.name, self._types(relation)):
                raise Broken("the definition of its subquery's table changed")
            self._reader = GroupReader(self.state.spec.columns, self.plan, [c.name for c in relation.columns])
            self._relation = relation
        before = None if old is None else self._reader(old)
        after = None if new is None else self._reader(new)
        if before != after:
            pending = self.pending
            if before is not None:
                pending[before] = pending.get(before, 0) - 1
            if after is not None:
                pending[after] = pending.get(after, 0) + 1

    def fits(self, oid: int, schema: str, table: str, types: dict[str, int]) -> bool:
        spec = self.state.spec
        if (oid, schema, table) != (spec.oid, spec.schema, spec.table):
            return False
        return all(types.get(name) == type_oid for name, type_oid in self.state.signature)

    def still_fits(self, relation: Relation) -> bool:
        """Whether the subquery can go on with the table as the catalogue has it."""
        types = {column.name: column.type_oid for column in relation.columns}
        state = self.state
        if state.origin is not None and state.origin.replaced(state.signature, relation):
            return False
        return self.fits(relation.oid, relation.schema, relation.name, types)

    @staticmethod
    def _types(relation: RelationMessage) -> dict[str, int]:
        return {column.name: column.type_oid for column in relation.columns}

    def can_lose(self, deltas: Deltas) -> bool:
        """Whether all rows that go were there; others had values that were replaced without a word in the stream."""
        rows = self.state.rows
        return all(delta > 0 or rows.get(group, 0) + delta >= 0 for group, delta in deltas.items())

    def take_pending(self) -> Deltas:
        deltas, self.pending = self.pending, {}
        return {group: delta for group, delta in deltas.items() if delta}

    def loaded(self, rows: Deltas, position: int) -> None:
        """The rows have been read, and what came since is part of them."""
        self.state.rows.clear()
        self.state.rows.update(rows)
        self.state.position = self.state.base = position
        self.buffer = None
        self.source.count_all()
        self.ready.set_result(None)
