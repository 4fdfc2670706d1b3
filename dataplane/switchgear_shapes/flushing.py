"""Nothing is shown for good that Postgres can still lose: commits that a snapshot sees are on its disk before.

With `synchronous_commit = off` a commit is visible before it is there, and gone after a crash. The stream never tells
of such a one, but a snapshot sees it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from switchgear_shapes.errors import snapshot_failed
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.postgres.session import PostgresError
from switchgear_shapes.replication.conversation import parse_lsn, reached
from switchgear_shapes.snapshot import SnapshotMark

log = logging.getLogger("switchgear.shapes.creation")

PATIENCE_SECONDS = 10.0
# A commit of its own, with a record that nobody asks for, has all that is before it written. It is not held up by a
# synchronous standby: a crash is what is at stake.
_FLUSH = (
    "BEGIN READ WRITE; SET LOCAL synchronous_commit = local;"
    " SELECT pg_logical_emit_message(true, 'switchgear', ''); COMMIT"
)


async def flushed(mark: SnapshotMark, position: str | None, sessions: Pool) -> None:
    """Return when all that the snapshot sees is on the database's disk; `position` was there when it was taken.

    Raises ShapeError, PoolTimeout, ConnectionLost, PostgresError.
    """
    if reached(parse_lsn(position or ""), mark.lsn):
        return
    async with sessions.session() as session:
        try:
            await session.query(_FLUSH)
            return
        except PostgresError as error:
            await session.query("ROLLBACK")
            log.info("Postgres is left to write its log at its own pace: %s", error.message)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            ((now,),) = await session.query("SELECT pg_current_wal_flush_lsn()")
            if reached(parse_lsn(now or ""), mark.lsn):
                return
            await asyncio.sleep(0.02)
    raise snapshot_failed("The database does not write its log")
