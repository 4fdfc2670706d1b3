"""The replication stream's messages → batches for the store.

Keeps one transaction at a time; what a shape gets of it is decided at the commit. Invariants: transactions reach the
store whole and in commit order; one that the store already has is skipped; nothing is acknowledged here.
A transaction larger than `SPILL_BYTES` waits in a file, so that memory stays bounded.
"""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from switchgear_shapes.errors import snapshot_failed
from switchgear_shapes.log.frames import Batch, Entry
from switchgear_shapes.log.shape import Buffered, Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.replication import pgoutput
from switchgear_shapes.replication.pgoutput import RelationMessage
from switchgear_shapes.routing.encode import END, END_LAST, fill_unchanged, transaction_headers
from switchgear_shapes.routing.router import Router
from switchgear_shapes.snapshot import SnapshotMark

log = logging.getLogger("switchgear.shapes.ingest")

SPILL_BYTES = 16 * 1024 * 1024
BATCH_BYTES = 4 * 1024 * 1024
BUFFER_LIMIT = 64 * 1024 * 1024
RECENT_TRANSACTIONS = 1024


class ProtocolViolation(Exception):
    """The stream broke its own rules; the connection is made anew."""


class Pending:
    """What one shape gets of the open transaction: finished lines (in `spilled` and `bodies`), and the last op."""

    __slots__ = ("bodies", "last_op", "size", "spilled")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.last_op = 0
        self.size = 0
        self.spilled: list[tuple[int, int, int]] = []
        """(offset in the spill file, length, last op)"""


class Ingest:
    """See the module. Everything runs on the event loop."""

    def __init__(self, store: Store, router: Router[Shape], spill_directory: Path) -> None:
        self._store = store
        self._router = router
        self._spill_directory = spill_directory
        self._relations: dict[int, RelationMessage] = {}
        self._recent: dict[int, deque[tuple[int, int, int]]] = {}
        self._entries: list[Entry] = []
        self._batch_bytes = 0
        self._batch_end: tuple[int, int] | None = None
        self._outstanding = 0
        self._parts = False
        self._quiet_lsn = 0
        self._submitted = store.commit_lsn
        self._in_transaction = False
        self._spill: IO[bytes] | None = None
        self._last_oid = -1
        self._op = 0
        self._reset_transaction()
        self.transactions = 0
        self.changes = 0
        self.routed = 0
        self.last_commit_time = 0
        self.on_durable: Callable[[], None] = lambda: None
        self.on_relation: Callable[[RelationMessage], None] = lambda relation: None

    # -- the stream --

    def restart(self) -> None:
        """A new connection: it repeats what was not acknowledged, from a transaction's beginning."""
        self._relations.clear()
        self._reset_transaction()
        self._in_transaction = False

    def start_anew(self) -> None:
        """The stream is another one, whose positions cannot be compared with what was seen before."""
        self._submitted = 0
        self._quiet_lsn = 0
        self._recent.clear()

    def message(self, data: bytes, start: int) -> None:
        """One pgoutput message. Raises MalformedMessage, ProtocolViolation."""
        kind = data[start]
        if kind in pgoutput.ROW_KINDS:
            oid = pgoutput.row_oid(data, start)
            if oid != self._last_oid:
                self._last_oid = oid
                self._oids.add(oid)
            op = self._op
            self._op = op + 2
            self.changes += 1
            groups = self._router.tables.get(oid)
            if groups is not None and not self._skip:
                self._row(data, start, oid, op)
            return
        message = pgoutput.decode(data, start)
        if isinstance(message, pgoutput.Begin):
            self._begin(message)
        elif isinstance(message, pgoutput.Commit):
            self._commit(message)
        elif isinstance(message, RelationMessage):
            if self._relations.get(message.oid) != message:
                self._relations[message.oid] = message
                self.on_relation(message)
        elif isinstance(message, pgoutput.Truncate):
            for oid in message.oids:
                self._op += 2
                self._oids.add(oid)
                if not self._skip:
                    for shape in self._router.targets_of(oid, self._accepts):
                        self._drops[shape] = "its table was truncated"

    def keepalive(self, wal_end: int) -> None:
        """Postgres has sent everything up to `wal_end`: it may be acknowledged if nothing is under way."""
        if self.idle:
            self._quiet_lsn = max(self._quiet_lsn, wal_end)

    def write_progress(self) -> None:
        """Make it durable that nothing up to here concerned a shape, so that it can be acknowledged.

        Called about once a second: an idle slot advances, and a busy database without shapes costs no fsync per commit.
        """
        if self.idle and self._quiet_lsn > self._store.durable_lsn:
            self._outstanding += 1
            self._store.progress(self._quiet_lsn, self._durable)

    def flush(self) -> None:
        """Hand the transactions so far to the store."""
        if self._batch_end is None:
            return
        commit_lsn, end_lsn = self._batch_end
        entries, self._entries = self._entries, []
        self._batch_bytes = 0
        self._batch_end = None
        if not entries and not self._outstanding and not self._parts:
            self._store.seen(commit_lsn)
            self._quiet_lsn = end_lsn
            return
        self._parts = False
        self._outstanding += 1
        self._store.submit(Batch(entries, commit_lsn, end_lsn), self._durable)

    @property
    def idle(self) -> bool:
        return not self._in_transaction and self._batch_end is None and not self._outstanding

    @property
    def in_transaction(self) -> bool:
        return self._in_transaction

    # -- shapes --

    def register(self, shape: Shape) -> int:
        """Begin to route to a shape whose snapshot is about to be taken. Returns a mark for `open`."""
        self._router.add(shape)
        return self.transactions

    def unregister(self, shape: Shape) -> None:
        self._router.remove(shape)
        self._pending.pop(shape, None)
        self._drops.pop(shape, None)

    def open(self, shape: Shape, mark: SnapshotMark, registered: int) -> bool:
        """The snapshot's contents are known: log what was buffered and is not part of it.

        False when a transaction that passed before the registration is not visible in the snapshot (a commit is in the
        stream slightly before others can see it): the caller takes another snapshot.
        """
        for number, xid, lsn in self._recent.get(shape.definition.oid, ()):
            if number <= registered and not mark.sees(xid, lsn):
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
            self._entries.append(Entry(shape.id, item.tx, item.last_op, item.data))
            self._batch_end = self._batch_end or (0, 0)
        self.flush()
        return True

    # -- within a transaction --

    def _begin(self, begin: pgoutput.Begin) -> None:
        if self._in_transaction:
            raise ProtocolViolation("a transaction begins within another")
        self._reset_transaction()
        self._in_transaction = True
        self._xid = begin.xid
        self._lsn = begin.final_lsn
        self.last_commit_time = begin.commit_time
        self._skip = begin.final_lsn <= self._submitted
        self._headers = transaction_headers(begin.xid, begin.final_lsn)

    def _reset_transaction(self) -> None:
        self._xid = 0
        self._lsn = 0
        self._op = 0
        self._skip = False
        self._headers = b""
        self._last_oid = -1
        self._oids: set[int] = set()
        self._pending: dict[Shape, Pending] = {}
        self._pending_bytes = 0
        self._drops: dict[Shape, str] = {}
        if self._spill is not None:
            self._spill.close()
            self._spill = None
        self._spill_size = 0

    def _accepts(self, shape: Shape) -> bool:
        return shape.filter is None or shape.accepts(self._xid, self._lsn)

    def _row(self, data: bytes, start: int, oid: int, op: int) -> None:
        relation = self._relations.get(oid)
        if relation is None:
            raise ProtocolViolation(f"a row of relation {oid} came before its description")
        message = pgoutput.decode(data, start)
        if isinstance(message, pgoutput.Update):
            if message.old is None or message.old_is_key or not fill_unchanged(message.old, message.new):
                self._without_old_row(oid, relation)
                return
            old, new = message.old, message.new
        elif isinstance(message, pgoutput.Insert):
            old, new = None, message.new
        elif isinstance(message, pgoutput.Delete):
            if message.old_is_key:
                self._without_old_row(oid, relation)
                return
            old, new = message.old, None
        width = len(relation.columns)
        if (old is not None and len(old) != width) or (new is not None and len(new) != width):
            raise ProtocolViolation(f"a row of {relation.schema}.{relation.name} does not fit its description")
        for group in self._router.tables[oid]:
            encoder = group.encoder(relation)
            targets = [shape for shape in group.targets if shape.filter is None or shape.accepts(self._xid, self._lsn)]
            if not targets:
                continue
            if encoder is None:
                for shape in targets:
                    self._drops[shape] = "its table's definition changed"
                continue
            bodies = encoder.encode(old, new, self._headers, op)
            if bodies:
                last_op = op + len(bodies) - 1
                size = sum(map(len, bodies))
                for shape in targets:
                    self._add(shape, bodies, last_op, size)

    def _without_old_row(self, oid: int, relation: RelationMessage) -> None:
        name = f'"{relation.schema}"."{relation.name}"'
        for shape in self._router.targets_of(oid, self._accepts):
            log.error("%s lost its replica identity; run ALTER TABLE %s REPLICA IDENTITY FULL", name, name)
            self._drops[shape] = "its table's replica identity is not FULL"

    def _add(self, shape: Shape, bodies: list[bytes], last_op: int, size: int) -> None:
        pending = self._pending.get(shape)
        if pending is None:
            pending = self._pending[shape] = Pending()
        pending.bodies.extend(bodies)
        pending.last_op = last_op
        pending.size += size
        self._pending_bytes += size
        self.routed += 1
        if self._pending_bytes > SPILL_BYTES:
            self._spill_pending()

    def _spill_pending(self) -> None:
        """Move all but each shape's last line to a file: whether that one is the last is not known yet."""
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(dir=self._spill_directory)  # noqa: SIM115 - lives until the commit
        for pending in self._pending.values():
            if len(pending.bodies) < 2:
                continue
            lines = END.join(pending.bodies[:-1]) + END
            self._spill.write(lines)
            pending.spilled.append((self._spill_size, len(lines), _op_of(pending.bodies[-2])))
            self._spill_size += len(lines)
            self._pending_bytes -= pending.size - len(pending.bodies[-1])
            pending.bodies = pending.bodies[-1:]
            pending.size = len(pending.bodies[0])

    # -- commit --

    def _commit(self, commit: pgoutput.Commit) -> None:
        if not self._in_transaction:
            raise ProtocolViolation("a commit without a beginning")
        self._in_transaction = False
        self.transactions += 1
        for oid in self._oids:
            recent = self._recent.get(oid)
            if recent is None:
                recent = self._recent[oid] = deque(maxlen=RECENT_TRANSACTIONS)
            recent.append((self.transactions, self._xid, self._lsn))
        if self._skip:
            self._reset_transaction()
            return
        for shape, reason in list(self._drops.items()):
            self._drop(shape, reason)
        if self._spill is not None:
            self._commit_large(commit)
        else:
            for shape, pending in list(self._pending.items()):
                data = END.join(pending.bodies) + END_LAST
                self._entry(shape, pending.last_op, data)
        self._submitted = self._lsn
        self._batch_end = (self._lsn, commit.end_lsn)
        self._reset_transaction()
        if self._batch_bytes > BATCH_BYTES:
            self.flush()

    def _drop(self, shape: Shape, reason: str) -> None:
        held = shape.filter
        if held is not None and held.mark is None:
            held.buffer.append(Buffered(self._xid, self._lsn, 0, b"", reason))
        elif shape.alive and shape.accepts(self._xid, self._lsn):
            self._store.drop(shape, reason)
        self._pending.pop(shape, None)

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
            self._entries.append(Entry(shape.id, self._lsn, last_op, data))
            self._batch_bytes += len(data)

    def _commit_large(self, commit: pgoutput.Commit) -> None:
        """Move a spilled transaction into the store in parts; only the last one makes them count."""
        spill = self._spill
        assert spill is not None
        self.flush()
        for shape, pending in list(self._pending.items()):
            for offset, length, last_op in pending.spilled:
                spill.seek(offset)
                self._entry(shape, last_op, spill.read(length))
                if self._batch_bytes > BATCH_BYTES:
                    self._flush_part()
            self._entry(shape, pending.last_op, END.join(pending.bodies) + END_LAST)

    def _flush_part(self) -> None:
        entries, self._entries = self._entries, []
        self._batch_bytes = 0
        self._outstanding += 1
        self._parts = True
        self._store.submit(Batch(entries, 0, 0, final=False), self._durable)

    def _durable(self) -> None:
        self._outstanding -= 1
        self.on_durable()


def _op_of(body: bytes) -> int:
    """A body ends with its op."""
    return int(body[body.rindex(b":") + 1 :])
