"""Which transactions have passed, and which of them everybody can see: a commit is in the stream before it is visible.

Most are visible at once, some only when a synchronous standby has them, which can take any time. A new shape's snapshot
must see all that passed before the shape was registered; table by table, the last ones are looked at one by one, of
older ones only those that a snapshot lists as running. And nothing is to be acknowledged before it is visible: Postgres
then sends it again after a restart, so that it is known here, too, of what a new snapshot does not see.

Invariant: nothing unseen is forgotten, unless a table has more than OLDER_LIMIT transactions between two calls of
`prune`, which forgets what is visible.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from switchgear_shapes.snapshot import SnapshotMark

RECENT = 1024
OLDER_LIMIT = 200_000
_MASK = (1 << 32) - 1


class _Table:
    __slots__ = ("older", "recent")

    def __init__(self) -> None:
        self.recent: deque[tuple[int, int, int]] = deque()
        """(number, xid, commit LSN)"""
        self.older: dict[int, tuple[int, int]] = {}
        """xid → (number, commit LSN), in the order in which they passed."""


class Passed:
    """See the module."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}
        self._unseen: list[tuple[int, int]] = []
        """(xid, commit LSN) of those that were not visible when it was last looked, or came since."""
        self.first_unseen: int | None = None
        """The first commit LSN of those."""

    def add(self, oids: Iterable[int], number: int, xid: int, lsn: int) -> None:
        """Transaction `number` of the stream changed these tables."""
        for oid in oids:
            table = self._tables.get(oid)
            if table is None:
                table = self._tables[oid] = _Table()
            recent = table.recent
            recent.append((number, xid, lsn))
            if len(recent) > RECENT:
                old, old_xid, old_lsn = recent.popleft()
                table.older[old_xid] = (old, old_lsn)
                if len(table.older) > OLDER_LIMIT:
                    del table.older[next(iter(table.older))]
        self._unseen.append((xid, lsn))
        if self.first_unseen is None or lsn < self.first_unseen:
            self.first_unseen = lsn

    def clear(self) -> None:
        self._tables.clear()
        self._unseen.clear()
        self.first_unseen = None

    def all_seen(self, oids: Iterable[int], mark: SnapshotMark, *, number: int | None = None, lsn: int = 0) -> bool:
        """Whether the snapshot sees the tables' transactions up to that number, or else up to that commit LSN."""
        for oid in oids:
            table = self._tables.get(oid)
            if table is None:
                continue
            for at, xid, committed in table.recent:
                if (at <= number if number is not None else committed <= lsn) and not mark.sees(xid, committed):
                    return False
            if table.older:
                for running in mark.xip:
                    found = table.older.get(running & _MASK)
                    if found is not None and (found[0] <= number if number is not None else found[1] <= lsn):
                        return False
        return True

    def prune(self, mark: SnapshotMark) -> None:
        """Forget the older ones that the snapshot sees: every later one sees them, too."""
        for table in self._tables.values():
            if table.older:
                table.older = {xid: found for xid, found in table.older.items() if not mark.sees(xid, found[1])}
        self._unseen = [(xid, lsn) for xid, lsn in self._unseen if not mark.sees(xid, lsn)]
        self.first_unseen = min((lsn for _, lsn in self._unseen), default=None)
