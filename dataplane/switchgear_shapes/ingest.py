"""The replication stream's messages → batches for the store.

Keeps one transaction at a time; what a shape gets of it is decided at the commit. Invariants: transactions reach the
store whole and in commit order; one that the store already has is skipped; nothing is acknowledged here.
A large transaction waits in a file (`pending`); at its commit it is handed on in parts, as fast as the store
takes them (`advance`), so that memory stays bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from switchgear_shapes.delivery import Delivery, ProtocolViolation
from switchgear_shapes.errors import snapshot_failed
from switchgear_shapes.log.frames import Entry
from switchgear_shapes.log.shape import Buffered, Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.outgoing import Outgoing
from switchgear_shapes.passed import Passed
from switchgear_shapes.pending import Pending, pieces
from switchgear_shapes.replication import pgoutput
from switchgear_shapes.replication.pgoutput import RelationMessage
from switchgear_shapes.routing.encode import fill_unchanged
from switchgear_shapes.routing.router import Router
from switchgear_shapes.snapshot import SnapshotMark
from switchgear_shapes.subqueries.hub import Hub

log = logging.getLogger("switchgear.shapes.ingest")

PARTS_LIMIT = 16 * 1024 * 1024
"""Bytes on their way to the disk at which a large transaction waits."""
BUFFER_LIMIT = 64 * 1024 * 1024


class Ingest:
    """See the module. Everything runs on the event loop."""

    def __init__(self, store: Store, router: Router[Shape], hub: Hub, spill_directory: Path) -> None:
        self._store = store
        self._router = router
        self._hub = hub
        self._relations: dict[int, RelationMessage] = {}
        self.passed = Passed()
        self.outgoing = Outgoing(store)
        self._in_transaction = False
        self._later: list[Entry] = []
        """Of shapes with subqueries: part of the final batch of the transaction that is being handed on."""
        self.begun_lsn = store.commit_lsn
        """Commit LSN of the last transaction whose changes have begun to pass, here or before a restart."""
        self.passed_commit = 0
        """Commit LSN of the last transaction that has passed."""
        self.passed_lsn = 0
        """The stream has passed all commits before this position."""
        self._known_lsn = store.commit_lsn
        """What comes up to here was known before the restart, and comes again as far as it was not acknowledged."""
        self._known_passed = None if self._known_lsn else 0
        """How many transactions had passed when that was found to be over."""
        self._pending = Pending(spill_directory)
        self._delivery = Delivery(router, self._pending)
        self._parting: Iterator[None] | None = None
        self._last_oid = -1
        self._op = 0
        self._reset_transaction()
        self.transactions = 0
        self.changes = 0
        self.bytes = 0
        self._commit_time = 0
        self.on_relation: Callable[[RelationMessage], None] = lambda relation: None
        self.is_settled: Callable[[int], bool] = lambda commit_lsn: True
        """Whether nothing about partitions can be new in a transaction that committed there."""
        self.unsure = False
        """The message before this one may be of a new partition: look at the catalogue before the next one."""

    # -- the stream --

    def restart(self, slot_lsn: int) -> None:
        """A new connection: it repeats what was not acknowledged, from a transaction's beginning.

        What committed before `slot_lsn` has passed, if not here then in an earlier process.
        """
        self.passed_lsn = max(self.passed_lsn, slot_lsn)
        self._relations.clear()
        if self._parting is None:  # a large one that is whole here goes on by itself
            self._reset_transaction()
        self._hub.abandon()
        self._in_transaction = False
        self.unsure = False

    def start_anew(self) -> None:
        """The stream is another one, whose positions cannot be compared with what was seen before."""
        self._parting = None
        self._reset_transaction()
        self._hub.start_anew()
        self._later = []
        self.outgoing.start_anew()
        self._known_lsn = 0
        self.begun_lsn = self.passed_lsn = self.passed_commit = 0
        self._known_passed = 0
        self.passed.clear()

    def message(self, data: bytes, start: int) -> None:
        """One pgoutput message. Raises MalformedMessage, ProtocolViolation."""
        kind, oid = pgoutput.head(data, start)
        if kind in pgoutput.ROW_KINDS:
            if oid != self._last_oid:
                self._last_oid = oid
                self._oids.add(oid)
            op = self._op
            self._op = op + 2
            self.changes += 1
            self.bytes += len(data) - start
            table = self._router.tables.get(oid)
            if table is not None and not self._skip:
                self._delivery.row(table, self._relations.get(oid), data, start, oid, op)
            if self._hub_follows and oid in self._hub.tables:
                self._hub_row(data, start, oid, op)
            return
        message = pgoutput.decode(data, start)
        if isinstance(message, pgoutput.Begin):
            self._begin(message)
        elif isinstance(message, pgoutput.Commit):
            self._commit(message)
        elif isinstance(message, RelationMessage):
            if self._relations.get(message.oid) != message:
                self._relations[message.oid] = message
            self.on_relation(message)  # it is repeated when something about the table changed, or may have
            self.unsure = not self.is_settled(self._lsn)
        elif isinstance(message, pgoutput.Truncate):
            for oid in message.oids:
                self._op += 2
                self._oids.add(oid)
                if not self._skip:
                    for shape in self._router.targets_of(oid, self._delivery.accepts):
                        self._delivery.drops[shape] = "its table was truncated"
                if self._hub_follows:
                    self._hub.drop_table(oid, "its table, or one of a subquery, was truncated", self._lsn)

    def keepalive(self, wal_end: int) -> None:
        """Postgres has sent everything up to `wal_end`. It may not say so again, not even when more is under way."""
        if not self._in_transaction:
            self.passed_lsn = max(self.passed_lsn, wal_end)
            self.append(self._hub.passed(wal_end))

    def write_progress(self) -> None:
        """Make it durable that nothing up to here concerned a shape, so that it can be acknowledged.

        Called about once a second: an idle slot advances, and a busy database without shapes costs no fsync per commit.
        """
        if self.idle:
            self.outgoing.write_progress(self.passed_lsn)

    def flush(self) -> None:
        """Hand the transactions so far to the store."""
        self.outgoing.flush()

    @property
    def routed(self) -> int:
        """Changes that were given to a shape."""
        return self._delivery.routed

    @property
    def idle(self) -> bool:
        return not self._in_transaction and self._parting is None and self.outgoing.idle

    @property
    def busy(self) -> bool:
        """Whether a large transaction is being handed on: no message may come before `advance` has ended it."""
        return self._parting is not None

    def advance(self) -> bool:
        """Hand on more of a large transaction, as far as there is room; whether nothing of one is left."""
        while self._parting is not None and self._store.pending_bytes <= PARTS_LIMIT:
            if next(self._parting, self) is self:
                self._parting = None
        return self._parting is None

    @property
    def acknowledgeable_lsn(self) -> int:
        """What Postgres may forget: what the store does not need again, and everybody can see.

        A snapshot that does not see a commit must be known to lack it, also after a restart: so that comes again.
        """
        unseen = self.passed.first_unseen
        return min(self._store.acknowledgeable_lsn, self.passed_lsn if unseen is None else unseen)

    @property
    def in_transaction(self) -> bool:
        return self._in_transaction

    # -- shapes --

    def register(self, shape: Shape) -> int:
        """Begin to route to a shape whose snapshot is about to be taken. Returns a mark for `open`.

        What has passed of the open transaction went without the shape: it counts as one that came before.
        """
        self._router.add(shape)
        return self.transactions + self._in_transaction

    def unregister(self, shape: Shape) -> None:
        self._router.remove(shape)
        self._hub.remove(shape)
        self._pending.lines.pop(shape, None)
        self._delivery.drops.pop(shape, None)

    def open(self, shape: Shape, mark: SnapshotMark, registered: int) -> bool:
        """The snapshot's contents are known: log what was buffered and is not part of it.

        False when a transaction that passed before the registration is not visible in the snapshot (a commit is in the
        stream slightly before others can see it), or may come that passed before a restart: the caller takes another
        snapshot.
        """
        if self._known_passed is None:
            if self.passed_lsn <= self._known_lsn:
                return False
            self._known_passed = self.transactions
        registered = max(registered, self._known_passed)
        if registered > self.transactions and self._in_transaction and not mark.sees(self._xid, self._lsn):
            return False
        if not self.passed.all_seen(self._router.sources(shape.definition.oid), mark, number=registered):
            return False
        held = shape.filter
        assert held is not None
        held.mark = mark
        shape.snapshot.mark = mark
        buffered, held.buffer = held.buffer, []
        for item in buffered:
            if not shape.alive or not shape.accepts(item.xid, item.tx):
                continue
            if item.drop_reason is not None:
                self._store.drop(shape, item.drop_reason)
                return True
            self.outgoing.add_late([Entry(shape.id, item.tx, item.last_op, item.data)])
        if self._parting is None:
            self.flush()
        return True

    # -- shapes with subqueries --

    def all_seen(self, oids: Iterable[int], lsn: int, mark: SnapshotMark) -> bool:
        """Whether the snapshot sees the tables' transactions up to `lsn`, as far as they have passed."""
        return self.passed.all_seen(oids, mark, lsn=lsn)

    def append(self, entries: list[Entry]) -> None:
        """Log what became known only after its transaction had passed."""
        if self._parting is not None:
            self._later.extend(entries)
        elif entries:
            self.outgoing.add_late(entries)
            self.flush()

    def add(self, shape: Shape, bodies: list[bytes], last_op: int) -> None:
        """Lines of the open transaction."""
        self._delivery.routed += 1
        self._pending.add(shape, bodies, last_op)

    def take(self, shape: Shape) -> tuple[bytes, int] | None:
        """Take the shape's lines of the open transaction back; None when they are too many for that."""
        return self._pending.take(shape, BUFFER_LIMIT)

    def _hub_row(self, data: bytes, start: int, oid: int, op: int) -> None:
        relation = self._relations.get(oid)
        if relation is None:
            raise ProtocolViolation(f"a row of relation {oid} came before its description")
        old, new, old_is_key, lacking = pgoutput.rows(data, start)
        whole = not old_is_key and not (old is None and data[start] == pgoutput.UPDATE)
        width = len(relation.columns)
        if whole and any(row is not None and len(row) != width for row in (old, new)):
            raise ProtocolViolation(f"a row of relation {oid} does not fit its description")
        if not whole or (lacking and (old is None or new is None or not fill_unchanged(old, new))):
            name = f'"{relation.schema}"."{relation.name}"'
            self._hub.drop_table(oid, f"the replica identity of {name} is not FULL", self._lsn)
            return
        self._hub.row(relation, old, new, op, self._lsn, self._delivery.headers, self)

    # -- within a transaction --

    def _begin(self, begin: pgoutput.Begin) -> None:
        if self._in_transaction:
            raise ProtocolViolation("a transaction begins within another")
        self._reset_transaction()
        self._in_transaction = True
        self._xid = begin.xid
        self._lsn = begin.final_lsn
        self._delivery.begin(begin.xid, begin.final_lsn)
        self._commit_time = begin.commit_time
        self._skip = begin.final_lsn <= self.outgoing.submitted
        self._hub_follows = begin.final_lsn > self._hub.position
        self.begun_lsn = max(self.begun_lsn, begin.final_lsn)

    def _reset_transaction(self) -> None:
        self._xid = 0
        self._lsn = 0
        self._op = 0
        self._skip = False
        self._hub_follows = False
        self._last_oid = -1
        self._oids: set[int] = set()
        self._pending.clear()
        self._delivery.begin(0, 0)

    # -- commit --

    def _commit(self, commit: pgoutput.Commit) -> None:
        if not self._in_transaction:
            raise ProtocolViolation("a commit without a beginning")
        self._in_transaction = False
        self.transactions += 1
        if self._oids:
            self.passed.add(self._oids, self.transactions, self._xid, self._lsn)
        self.passed_commit = max(self.passed_commit, self._lsn)
        self.passed_lsn = max(self.passed_lsn, commit.end_lsn)
        if self._hub_follows:
            self._later += self._hub.commit(self._xid, self._lsn, self._op, self)
        if self._skip:
            self._commit_again()
            return
        for shape, reason in list(self._delivery.drops.items()):
            self._drop(shape, reason)
        if self._pending.spilled:
            self.flush()
            self._parting = self._in_parts(commit.end_lsn)
            self.advance()
            return
        add = self.outgoing.add
        for shape, lines in list(self._pending.lines.items()):
            if shape.filter is None and shape.alive:
                add(shape.id, self._lsn, lines.last_op, lines.finish())
            else:  # which may drop the shape, and so take it out of what is pending
                self._entry(shape, lines.last_op, lines.finish())
        self._committed(commit.end_lsn)

    def _commit_again(self) -> None:
        """A transaction that is sent again for the sake of shapes that were held: only those take it."""
        for shape in list(self._pending.lines):
            taken = self.take(shape)
            if taken is None:
                self._store.drop(shape, "a transaction that was sent again is too large")
            else:
                self.outgoing.add_late([Entry(shape.id, self._lsn, taken[1], taken[0])])
        later, self._later = self._later, []
        self.outgoing.add_late(later)
        self._reset_transaction()

    def _committed(self, end_lsn: int) -> None:
        later, self._later = self._later, []
        self.outgoing.committed(later, self._lsn, end_lsn, self._commit_time)
        self._reset_transaction()
        if self.outgoing.full:
            self.flush()

    def _drop(self, shape: Shape, reason: str) -> None:
        held = shape.filter
        if held is not None and held.mark is None:
            held.buffer.append(Buffered(self._xid, self._lsn, 0, b"", reason))
        elif shape.alive and shape.accepts(self._xid, self._lsn):
            self._store.drop(shape, reason)
        self._pending.lines.pop(shape, None)

    def _entry(self, shape: Shape, last_op: int, data: bytes) -> None:
        held = shape.filter
        if held is not None:
            if held.mark is None:
                held.buffer.append(Buffered(self._xid, self._lsn, last_op, data, None))
                held.buffered_bytes += len(data)
                if held.buffered_bytes > BUFFER_LIMIT:
                    shape.snapshot.fail(snapshot_failed("Too many changes arrived before the snapshot could begin"))
                    self._store.drop(shape, "too many changes arrived before its snapshot could begin")
                return
            if not shape.accepts(self._xid, self._lsn):
                return
        if shape.alive:
            self.outgoing.add(shape.id, self._lsn, last_op, data)

    def _in_parts(self, end_lsn: int) -> Iterator[None]:
        """Move a spilled transaction into the store, a part at each step; only the last one makes them count."""
        for shape, lines in list(self._pending.lines.items()):
            if not shape.alive:
                continue
            for piece in pieces(lines):
                self._entry(shape, piece.last_op, self._pending.read(piece))
                if self.outgoing.full:
                    self.outgoing.flush_part()
                    yield
            self._entry(shape, lines.last_op, lines.finish())
            if self.outgoing.full:
                self.outgoing.flush_part()
                yield
        self._committed(end_lsn)
        self.flush()
