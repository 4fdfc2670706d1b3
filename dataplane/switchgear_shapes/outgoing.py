"""Transactions on their way from the stream to the store, gathered into batches, and how far they have come.

Invariants: batches are in commit order; one of lines that come after their transactions does not claim more than was
submitted; what concerned no shape is made durable by `write_progress` only, so that it costs no sync per commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from switchgear_shapes.log.frames import Batch, Entry
from switchgear_shapes.log.store import Store

BATCH_BYTES = 4 * 1024 * 1024


class Outgoing:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: list[Entry] = []
        self._bytes = 0
        self._end: tuple[int, int] | None = None
        """(commit LSN, end) of the last transaction that waits here."""
        self._outstanding = 0
        self._parts = False
        self._commit_time = 0
        self.submitted = store.commit_lsn
        """Commit LSN of the last transaction that is whole here or in the store."""
        self.on_durable: Callable[[], None] = lambda: None
        self.on_received: Callable[[int], None] = lambda commit_time: None
        """Told when the last transaction of each batch was committed, in Postgres' microseconds."""

    def start_anew(self) -> None:
        """The stream is another one, whose positions cannot be compared with those so far."""
        self.submitted = 0

    @property
    def full(self) -> bool:
        """Whether it is time to hand over what is here."""
        return self._bytes > BATCH_BYTES

    @property
    def idle(self) -> bool:
        """Whether all is durable."""
        return not self._outstanding and self._end is None

    def add(self, shape: int, lsn: int, last_op: int, data: bytes) -> None:
        """Lines of the transaction that is being committed."""
        self._entries.append(Entry(shape, lsn, last_op, data))
        self._bytes += len(data)

    def add_late(self, entries: Iterable[Entry]) -> None:
        """Lines of earlier transactions. Recovery must not take them for lines of one that is still to come."""
        self._entries.extend(entries)
        if self._entries:
            self._end = self._end or (self.submitted, 0)

    def committed(self, entries: Iterable[Entry], lsn: int, end_lsn: int, commit_time: int) -> None:
        """All of a transaction is here, `entries` included."""
        self._entries.extend(entries)
        self.submitted = lsn
        self._end = (lsn, end_lsn)
        self._commit_time = commit_time

    def flush(self) -> None:
        """Hand the transactions so far to the store."""
        if self._end is None:
            return
        commit_lsn, end_lsn = self._end
        if commit_lsn:
            self.on_received(self._commit_time)
        entries, self._entries = self._entries, []
        self._bytes = 0
        self._end = None
        if not entries and not self._outstanding and not self._parts:
            self._store.seen(commit_lsn)
            return
        self._parts = False
        self._outstanding += 1
        self._store.submit(Batch(entries, commit_lsn, end_lsn), self._durable)

    def flush_part(self) -> None:
        """Hand a part of a transaction to the store; only the last one, by `flush`, makes them count."""
        entries, self._entries = self._entries, []
        self._bytes = 0
        self._outstanding += 1
        self._parts = True
        self._store.submit(Batch(entries, 0, 0, final=False), self._durable)

    def write_progress(self, lsn: int) -> None:
        """Make it durable, so that it can be acknowledged: nothing up to here concerned a shape, or is under way."""
        if lsn > self._store.durable_lsn:
            self._outstanding += 1
            self._store.progress(lsn, self._durable)

    def _durable(self) -> None:
        self._outstanding -= 1
        self.on_durable()
