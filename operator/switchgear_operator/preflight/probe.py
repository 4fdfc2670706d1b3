"""Named checks of a database before a sync source is made: connection, replication, publication, WAL level, slots.

Opens one short connection, changes nothing, and answers within a fixed time whatever the database does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString

import psycopg

from switchgear_model import conditions as c
from switchgear_model.conditions import Reason
from switchgear_operator.preflight.errors import TIMED_OUT, Fault, connection_fault, query_fault
from switchgear_operator.preflight.results import Check, ProbeResult
from switchgear_operator.preflight.url import UrlInvalid, target

CONNECT_SECONDS: Final = 5
TOTAL_SECONDS: Final = 15.0


class DatabaseFault(Exception):
    """A connection or statement that failed, translated."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection in autocommit mode with short limits. Raises `DatabaseFault`."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="switchgear-operator",
            prepare_threshold=None,
        )
    except (psycopg.Error, OSError, ValueError) as error:
        sqlstate = getattr(error, "sqlstate", None)
        # `from None`: libpq's text may quote parts of the URL, and chained errors end up in logs.
        raise DatabaseFault(connection_fault(str(error), sqlstate)) from None
    try:
        yield connection
    finally:
        await connection.close()


async def fetch(
    connection: psycopg.AsyncConnection[Any], query: LiteralString, parameters: tuple[Any, ...], doing: str
) -> list[tuple[Any, ...]]:
    """Rows of a query. Raises `DatabaseFault`; `doing` completes "Could not …"."""
    try:
        cursor = await connection.execute(query, parameters)
        return await cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise DatabaseFault(query_fault(error.sqlstate, doing)) from None


async def probe(url: str, *, publishes: bool, slot: str) -> ProbeResult:
    """Makes the checks. `publishes`: the sync server makes the publication itself. `slot`: its slot, free to exist."""
    try:
        target(url)
    except UrlInvalid as error:
        message = f"The database URL in the Secret is not usable: {error}"
        return ProbeResult((Check(c.DATABASE_REACHABLE, False, Reason.DATABASE_URL_INVALID, message),))
    try:
        async with asyncio.timeout(TOTAL_SECONDS), connect(url) as connection:
            return ProbeResult((_passed(c.DATABASE_REACHABLE), *await _checks(connection, publishes, slot)))
    except DatabaseFault as error:
        fault = error.fault
    except TimeoutError:
        fault = TIMED_OUT
    return ProbeResult((Check(c.DATABASE_REACHABLE, False, fault.reason, fault.message, fault.transient),))


def _passed(type_: str) -> Check:
    return Check(type_, True, Reason.PASSED, "")


_FACTS: Final = """
    select r.rolsuper or r.rolreplication
             or exists (select from pg_auth_members m join pg_roles g on g.oid = m.roleid
                        where m.member = r.oid and g.rolname in ('rds_replication', 'rds_superuser')),
           r.rolsuper or has_database_privilege(current_database(), 'CREATE'),
           current_setting('wal_level'),
           current_setting('max_replication_slots')::int,
           (select count(*)::int from pg_replication_slots where slot_name <> %s),
           pg_is_in_recovery()
    from pg_roles r where r.rolname = current_user
"""


async def _checks(connection: psycopg.AsyncConnection[Any], publishes: bool, slot: str) -> list[Check]:
    rows = await fetch(connection, _FACTS, (slot,), "read the database's settings")
    replicates, creates, wal_level, slots, used, standby = rows[0]
    checks = [
        _check(
            c.REPLICATION_PRIVILEGE,
            bool(replicates),
            Reason.REPLICATION_NOT_PERMITTED,
            "The role in the URL has no REPLICATION attribute: ALTER ROLE … REPLICATION (on Amazon RDS: "
            "GRANT rds_replication TO …).",
        ),
        _check(
            c.WAL_LEVEL_LOGICAL,
            wal_level == "logical",
            Reason.WAL_LEVEL_NOT_LOGICAL,
            "wal_level is not logical: ALTER SYSTEM SET wal_level = 'logical' and restart the database (on a managed "
            "database: switch logical replication on).",
        ),
        _check(
            c.REPLICATION_SLOT_FREE,
            used < slots,
            Reason.NO_FREE_REPLICATION_SLOT,
            f"All {slots} replication slots are taken: drop unused ones, or raise max_replication_slots.",
        ),
    ]
    if publishes:
        checks.append(
            _check(
                c.PUBLICATION_PRIVILEGE,
                bool(creates) and not standby,
                Reason.PUBLICATION_NOT_PERMITTED,
                "The role in the URL may not create a publication: GRANT CREATE ON DATABASE … TO … (on the primary, "
                "not a read replica), or set manualTablePublishing: true and create it yourself.",
            )
        )
    return checks


def _check(type_: str, ok: bool, reason: Reason, message: str) -> Check:
    return _passed(type_) if ok else Check(type_, False, reason, message)
