"""The row changes of the open transaction → lines for the shapes that have the row before or after it.

A change is rendered once for each group of shapes, and shapes that had the same lines so far share them. Shapes that
the change ends are noted (`drops`). Invariant: a shape gets nothing of a transaction that its snapshot sees.
"""

from __future__ import annotations

import logging

from switchgear_shapes.log.shape import Shape
from switchgear_shapes.pending import Lines, Pending
from switchgear_shapes.replication import pgoutput
from switchgear_shapes.replication.pgoutput import RelationMessage, Values
from switchgear_shapes.routing.encode import fill_unchanged, transaction_headers
from switchgear_shapes.routing.index import Index
from switchgear_shapes.routing.reuse import REUSED, Reuse
from switchgear_shapes.routing.router import Group, Member, Router, Table
from switchgear_shapes.where.errors import TooLarge

log = logging.getLogger("switchgear.shapes.ingest")


class ProtocolViolation(Exception):
    """The stream broke its own rules; the connection is made anew."""


class Delivery:
    """See the module."""

    def __init__(self, router: Router[Shape], pending: Pending) -> None:
        self._router = router
        self.pending = pending
        self.routed = 0
        self._reuse = Reuse()
        self.begin(0, 0)

    def begin(self, xid: int, lsn: int) -> None:
        """Another transaction, or none."""
        self._reuse.clear()
        self.xid = xid
        self.lsn = lsn
        self.headers = transaction_headers(xid, lsn) if lsn else b""
        self.drops: dict[Shape, str] = {}
        """Shapes that end with the transaction, and why."""

    def accepts(self, shape: Shape) -> bool:
        """Whether the open transaction concerns a shape that may be being made."""
        return shape.filter is None or shape.accepts(self.xid, self.lsn)

    def row(
        self, table: Table[Shape], relation: RelationMessage | None, data: bytes, start: int, oid: int, op: int
    ) -> None:
        """A change of the table, which `relation` describes. Raises ProtocolViolation, MalformedMessage."""
        if relation is not table.relation or relation is None:
            if relation is None:
                raise ProtocolViolation(f"a row of relation {oid} came before its description")
            table.fit(relation)
        if not table.likely and table.depth is not None:
            found = pgoutput.leading(data, start, table.depth, table.width)
            if found is not None:
                before, after = found
                find = table.index.find
                if (after is None or not find(after)) and (before is None or before == after or not find(before)):
                    return
        old, new, old_is_key, lacking = pgoutput.rows(data, start)
        if old_is_key or (old is None and data[start] == pgoutput.UPDATE):
            self._without_old_row(oid, table)
            return
        width = table.width
        if (old is not None and len(old) != width) or (new is not None and len(new) != width):
            raise ProtocolViolation(f"a row of relation {oid} does not fit its description")
        if lacking and (old is None or new is None or not fill_unchanged(old, new)):
            self._without_old_row(oid, table)
            return
        if table.is_deferrable and self._reuse.seen(oid, table.deferrable, old, new):
            for shape in table.members:
                if self.accepts(shape):
                    self.drops[shape] = REUSED
        if table.misfits:
            for shape in table.misfits:
                if self.accepts(shape):
                    self.drops[shape] = "its table's definition changed"
        table.likely = self._route(table.index, old, new, op)

    def _route(self, index: Index[Member[Shape]], old: Values | None, new: Values | None, op: int) -> bool:
        """Give the change to the shapes that have the row before or after it; whether there are any."""
        if old is None:
            olds: list[Member[Shape]] = []
            news = index.match(new or [])
        elif new is None:
            olds, news = index.match(old), []
        else:
            olds, news = index.match_both(old, new)
        if index.undecided:
            undecided, index.undecided = index.undecided, []
            for member in undecided:
                if self.accepts(member.target):
                    self.drops[member.target] = str(TooLarge())
        if olds is news or olds == news:
            if not news:
                return False
            self._deliver(news, old, new, op)
        elif not olds:
            self._deliver(news, None, new, op)
        elif not news:
            self._deliver(olds, old, None, op)
        else:
            before, after = set(olds), set(news)
            self._deliver([member for member in olds if member not in after], old, None, op)
            self._deliver([member for member in news if member not in before], None, new, op)
            self._deliver([member for member in news if member in before], old, new, op)
        return True

    def _deliver(self, members: list[Member[Shape]], old: Values | None, new: Values | None, op: int) -> None:
        """Add the lines of a change, rendered once for each group, to the shapes' transactions."""
        if len(members) == 1:
            self._deliver_to_one(members[0], old, new, op)
            return
        rendered: dict[Group, list[bytes]] = {}
        chains: dict[tuple[Group, Lines | None], Lines] = {}
        pending = self.pending.lines
        for member in members:
            shape = member.target
            if shape.filter is not None and not shape.accepts(self.xid, self.lsn):
                continue
            group = member.group
            bodies = rendered.get(group)
            if bodies is None:
                assert group.encoder is not None
                bodies = rendered[group] = group.encoder.encode(old, new, self.headers, op)
            if not bodies:
                continue
            self.routed += 1
            previous = pending.get(shape)
            lines = chains.get((group, previous))
            if lines is None:
                lines = chains[group, previous] = Lines(previous, bodies, op + len(bodies) - 1)
                self.pending.bytes += sum(map(len, bodies))
            pending[shape] = lines
        self.pending.bound()

    def _deliver_to_one(self, member: Member[Shape], old: Values | None, new: Values | None, op: int) -> None:
        """The same, without what only several need."""
        shape = member.target
        if shape.filter is not None and not shape.accepts(self.xid, self.lsn):
            return
        encoder = member.group.encoder
        assert encoder is not None
        bodies = encoder.encode(old, new, self.headers, op)
        if not bodies:
            return
        self.routed += 1
        self.pending.add(shape, bodies, op + len(bodies) - 1)

    def _without_old_row(self, oid: int, table: Table[Shape]) -> None:
        assert table.relation is not None
        name = f'"{table.relation.schema}"."{table.relation.name}"'
        for shape in self._router.targets_of(oid, self.accepts):
            log.error("%s lost its replica identity; run ALTER TABLE %s REPLICA IDENTITY FULL", name, name)
            self.drops[shape] = "its table's replica identity is not FULL"
