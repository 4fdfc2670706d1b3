"""Snapshots placed in the replication stream: which of its transactions they see, told once the stream has passed them.

Invariant: a snapshot is used only when it is known which transactions of the stream it sees, and when it sees none
without those before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.errors import ShapeError, snapshot_failed
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.store import Store
from switchgear_shapes.postgres.session import Session
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.conversation import parse_lsn, reached
from switchgear_shapes.snapshot import SnapshotMark

LOCK_SECONDS = 5
QUERY_SECONDS = 30
"""For each statement in a snapshot."""
PASS_SECONDS = 10.0
"""For the stream to pass a snapshot."""
GIVE_UP_SECONDS = 60.0
"""How long what is needed may fail, while the database is there, before who needs it is given up."""
UNSEEN = "A transaction that is replicated already does not become visible"
BEHIND = "The replication stream is behind the database"
DISK = "The disk of the sync server is behind"


class Retry(Exception):
    """Another snapshot is needed. The text says why, should it be given up."""


class Placing:
    """See the module."""

    def __init__(self, ingest: Ingest, store: Store, catalog: Catalog) -> None:
        self._ingest = ingest
        self._store = store
        self._catalog = catalog
        self.nudge: Callable[[], None] = lambda: None
        """Asks Postgres how far the stream is."""

    async def begin(
        self, session: Session, statements: str, relation: Relation, *, strict: bool = True
    ) -> tuple[SnapshotMark, bool]:
        """Begin a transaction and its snapshot; whether the table is as `relation` says."""
        try:
            rows = await session.query_limited(statements, PASS_SECONDS)
        except TimeoutError:
            raise snapshot_failed("The database did not begin a snapshot in time") from None
        seen, lsn, stamp, _ = rows[0]  # what is used has come by the stream, and that is on Postgres' disk
        fits = stamp == relation.stamp
        if strict and not fits:
            self._catalog.forget(relation.schema, relation.name)
            raise ShapeError(409, {})
        return SnapshotMark.parse(seen or "", parse_lsn(lsn or "")), fits

    async def again(self, session: Session, deadline: float, reason: Retry) -> None:
        await session.query("ROLLBACK")
        if time.monotonic() > deadline:
            raise snapshot_failed(str(reason))
        await asyncio.sleep(0.02)

    async def reach(self, mark: SnapshotMark, oids: Iterable[int], lsn: int) -> None:
        """Wait until the stream has passed all that the snapshot can see.

        Raises Retry when it does not see one of the transactions up to `lsn` that concern the tables, or when the
        stream does not come.
        """
        oids = list(oids)
        if not self._ingest.all_seen(oids, lsn, mark):
            raise Retry(UNSEEN)
        await self.passed(mark)
        if not self._ingest.all_seen(oids, lsn, mark):
            raise Retry(UNSEEN)

    async def passed(self, mark: SnapshotMark) -> None:
        deadline = time.monotonic() + PASS_SECONDS
        pause = 0.001
        while not reached(self._ingest.passed_lsn, mark.lsn):
            if time.monotonic() > deadline:
                raise Retry(BEHIND)
            self.nudge()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.02)

    async def shown(self) -> None:
        """Wait until what has passed is on the disk: readers of a new shape are told a position that has all it shows.

        Raises Retry.
        """
        passed = self._ingest.passed_commit
        self._ingest.flush()
        deadline = time.monotonic() + PASS_SECONDS
        while self._store.commit_lsn < passed:
            if time.monotonic() > deadline:
                raise Retry(DISK)
            await asyncio.sleep(0.002)
