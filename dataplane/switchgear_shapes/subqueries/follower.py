"""One shape with subqueries, as the replication stream reaches it. See `moves` for the rules. No I/O.

Invariants: `kept` is empty or begins with a transaction that changes a membership (once the shape is open); what is
encoded is encoded under the memberships right before its step; entries for the store come in commit order.
"""

from __future__ import annotations

import asyncio
import time

from switchgear_shapes.log import frames
from switchgear_shapes.log.frames import Entry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.replication.pgoutput import RelationMessage, Values
from switchgear_shapes.routing.encode import END, END_LAST, transaction_headers
from switchgear_shapes.subqueries import moves
from switchgear_shapes.subqueries.equality import Key
from switchgear_shapes.subqueries.feed import Feed
from switchgear_shapes.subqueries.lines import TaggedEncoder, event_line
from switchgear_shapes.subqueries.moves import Change, Flips, Kept
from switchgear_shapes.subqueries.plan import Membership, Plan
from switchgear_shapes.subqueries.queries import ENTERS, LEAVES
from switchgear_shapes.subqueries.rows import Broken, Truth
from switchgear_shapes.subqueries.tags import slot


class Follower:
    """See the module. `feeds` has the source of each membership, by position."""

    __slots__ = (
        "_encoder",
        "_relation",
        "behind",
        "current",
        "failing_since",
        "feeds",
        "kept",
        "marked",
        "opening",
        "plan",
        "position",
        "shape",
        "since",
        "size",
        "spoiled",
        "stepping",
        "told",
        "turn",
        "waiting_since",
    )

    def __init__(self, shape: Shape, plan: Plan, feeds: dict[int, Feed], position: int, *, opening: bool) -> None:
        self.shape = shape
        self.plan = plan
        self.feeds = feeds
        self.position = position
        """Transactions up to here are part of the log already."""
        self.opening = opening
        """The shape's own snapshot has not been placed in the stream yet."""
        self.since = 0
        """Transactions up to this commit LSN had begun to pass before the shape was registered."""
        self.kept: list[Kept] = []
        self.size = 0
        self.current: list[Change] = []
        """Changes of the open transaction, if the shape was held at the first of them: then all go the same way."""
        self.spoiled = ""
        """Why the shape must end unless its own snapshot, which has not been placed yet, sees the open transaction."""
        self.behind = 0
        """While transactions are sent again after a restart: the first one that the shape has not seen yet."""
        self.marked = 0
        """What the store was told last: held from this transaction on, or 0."""
        self.stepping = False
        """A step is under way or waits for its turn."""
        self.turn = asyncio.Lock()
        """Whoever makes a step, or wants none to be made."""
        self.told = 0
        """Commit LSN of the last transaction of the last step."""
        self.failing_since = 0.0
        self.waiting_since = 0.0
        """When the first of `kept` came, or the last step was complete."""
        self._relation: RelationMessage | None = None
        self._encoder: TaggedEncoder | None = None

    @property
    def tables(self) -> set[int]:
        """All tables that the shape depends on."""
        found = {self.shape.definition.oid}
        for feed in self.feeds.values():
            found |= feed.tables
        return found

    @property
    def held(self) -> bool:
        return self.opening or bool(self.kept or self.current)

    # -- within a transaction --

    def row(self, relation: RelationMessage, old: Values | None, new: Values | None, op: int, tx: bytes) -> list[bytes]:
        """The lines of a change; none while the shape is held. Raises Broken."""
        if self.held:
            self.current.append((relation, old, new, op))
            return []
        return self.encoder(relation).lines(old, new, self._truth, tx, op)

    def spoil(self, reason: str) -> None:
        """The open transaction has what no log can tell. Raises Broken, if it is not part of the shape's snapshot."""
        if not self.opening:
            raise Broken(reason)
        self.spoiled = reason

    def abandon(self) -> None:
        """The open transaction will be sent again."""
        self.current = []
        self.spoiled = ""

    def encoder(self, relation: RelationMessage) -> TaggedEncoder:
        if self._relation is not relation or self._encoder is None:
            definition = self.shape.definition
            signature = tuple((column.name, column.type_oid) for column in relation.columns)
            if not definition.survives(relation.oid, relation.schema, relation.name, signature):
                raise Broken("its table's definition changed")
            self._encoder = TaggedEncoder(definition, [c.name for c in relation.columns], self.plan, self.shape.handle)
            self._relation = relation
        return self._encoder

    def _truth(self, position: int, key: Key) -> bool:
        condition = self.plan.conditions[position]
        assert isinstance(condition, Membership)
        return self.feeds[position].source.truth(key, condition.negated)

    # -- at a commit --

    def commit(self, xid: int, lsn: int, next_op: int, flips: Flips, taken: tuple[bytes, int]) -> None:
        """The transaction is over. `taken` are the lines that the ingest had of it, with their last op."""
        held = self.held
        changes, spoiled = self.current, self.spoiled
        self.abandon()
        if lsn <= self.position:
            return
        if held:
            if changes or flips:
                self._keep(Kept(xid, lsn, next_op, flips, changes, size=sum(map(_size, changes)), spoiled=spoiled))
        elif flips:
            data, last_op = taken
            self._keep(Kept(xid, lsn, next_op, flips, data=data, last_op=last_op, size=len(data)))

    def _keep(self, transaction: Kept) -> None:
        if not self.kept:
            self.waiting_since = time.monotonic()
        self.kept.append(transaction)
        self.size += transaction.size

    def mark(self) -> list[Entry]:
        """For the store, when it changed: from which transaction on the shape is held."""
        held = self.kept[0].lsn if self.kept else self.behind
        if held == self.marked:
            return []
        self.marked = held
        return [Entry(self.shape.id, held, frames.HELD, b"")]

    # -- the snapshot and the steps --

    def place(self, cut: int) -> int:
        """The shape's own snapshot sees what came before `cut`. The first transaction behind it that was kept, or 0."""
        _, self.kept = moves.split(self.kept, cut)
        self.size = sum(transaction.size for transaction in self.kept)
        self.opening = False
        first = self.kept[0].lsn if self.kept else 0
        # Always marked anew, with the stream's position: recovery must not give the shape what its snapshot sees.
        self.marked = -1
        return first

    def catch_up(self) -> list[Entry]:
        """Log what was kept, as far as it needs no step. Raises Broken."""
        return [*self._drain(), *self.mark()]

    def finish(self, count: int, flips: Flips, rows: list[bytes], mark_line: bytes) -> list[Entry]:
        """The step of the first `count` transactions is complete; `rows` are what it made leave and enter.

        `mark_line` is the snapshot's control line without its end. Raises Broken.
        """
        view = self._before(moves.before(self.kept))
        step, rest = self.kept[:count], self.kept[count:]
        entries = []
        for transaction in step:
            entries += self._entries(transaction, view)
        last = step[-1]
        xids = [transaction.xid for transaction in step]
        lines = self._moved(last.lsn, last.next_op, flips, rows, xids, mark_line)
        if lines:
            entries.append(Entry(self.shape.id, last.lsn, last.next_op + len(lines) - 1, b"".join(lines)))
        self.kept = rest
        self.told = last.lsn
        self.waiting_since = time.monotonic()
        self.size = sum(transaction.size for transaction in rest)
        return [*entries, *self.catch_up()]

    def _drain(self) -> list[Entry]:
        """What waits without need."""
        count = moves.ready(self.kept)
        if not count:
            return []
        ready, self.kept = self.kept[:count], self.kept[count:]
        self.size = sum(transaction.size for transaction in self.kept)
        view = self._before(moves.before(self.kept))
        return [entry for transaction in ready for entry in self._entries(transaction, view)]

    def _before(self, earlier: Flips) -> Truth:
        def truth(position: int, key: Key) -> bool:
            known = earlier.get(position)
            if known is not None and key in known:
                return known[key]
            return self._truth(position, key)

        return truth

    def _entries(self, transaction: Kept, view: Truth) -> list[Entry]:
        if transaction.spoiled:
            raise Broken(transaction.spoiled)
        data, last_op = transaction.data, transaction.last_op
        if transaction.changes:
            tx = transaction_headers(transaction.xid, transaction.lsn)
            bodies: list[bytes] = []
            for relation, old, new, op in transaction.changes:
                made = self.encoder(relation).lines(old, new, view, tx, op)
                if made:
                    bodies += made
                    last_op = op + len(made) - 1
            data = END.join(bodies) + END_LAST if bodies else b""
        return [Entry(self.shape.id, transaction.lsn, last_op, data)] if data else []

    def _moved(
        self, lsn: int, op: int, flips: Flips, rows: list[bytes], xids: list[int], mark_line: bytes
    ) -> list[bytes]:
        """Leaving rows, the events, entering rows, and what the snapshot saw.

        A client that follows rows needs no event. One that follows tags applies them to the rows that stay: what they
        gain comes first, so that a row which is here for another reason than before does not go in between.
        """
        suffix = b'"lsn":"%d","op_position":%%d}},\n' % lsn
        # A client with a subset snapshot that sees the step's last transaction sees the others, too: it skips the rows.
        moved = b'"txids":[%d],' % xids[-1] + suffix
        lines = [row[1:] + moved % (op + index) for index, row in enumerate(r for r in rows if r[:1] == LEAVES)]
        for event, now in (("move-in", True), ("move-out", False)):
            patterns = [
                (position, slot(self.shape.handle, key))
                for position, keys in sorted(flips.items())
                for key, is_now in keys.items()
                if is_now is now
            ]
            if patterns:
                lines.append(event_line(event, patterns, xids, lsn, op + len(lines)))
        entering = [row[1:] for row in rows if row[:1] == ENTERS]
        for row in entering:
            lines.append(row + moved % (op + len(lines)))
        if entering:
            lines.append(mark_line + b"," + suffix % (op + len(lines)))
        return lines


def _size(change: Change) -> int:
    _, old, new, _ = change
    return sum(len(value) for row in (old, new) if row is not None for value in row if isinstance(value, bytes))
