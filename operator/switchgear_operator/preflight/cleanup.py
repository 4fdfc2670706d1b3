"""Drops the replication slot and the publication of a deleted sync source.

Idempotent: what is gone already is a success. A walsender that still holds the slot is terminated first (its
pod is gone by then). A database that no longer exists on a server that answers has taken both with it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import psycopg
from psycopg import sql

from switchgear_model.conditions import Reason
from switchgear_operator.preflight.errors import TIMED_OUT, query_fault
from switchgear_operator.preflight.probe import DatabaseFault, connect, fetch
from switchgear_operator.preflight.results import CleanupResult

TOTAL_SECONDS: Final = 30.0
_SLOT_SECONDS: Final = 15.0


async def cleanup(url: str, fallback_url: str | None, *, slot: str, publication: str) -> CleanupResult:
    """Never raises. `fallback_url` leads to the same database, and is tried when the first one's login is refused."""
    result = await _attempt(url, slot, publication)
    login_failed = result.fault is not None and result.fault.reason in (
        Reason.DATABASE_AUTHENTICATION_FAILED,
        Reason.DATABASE_NOT_ADMITTED,
        Reason.DATABASE_TLS_FAILED,
    )
    if login_failed and fallback_url is not None:
        return await _attempt(fallback_url, slot, publication)
    return result


async def _attempt(url: str, slot: str, publication: str) -> CleanupResult:
    try:
        async with asyncio.timeout(TOTAL_SECONDS), connect(url) as connection:
            await _drop_slot(connection, slot)
            await _drop_publication(connection, publication)
            return CleanupResult()
    except DatabaseFault as error:
        if error.fault.reason is Reason.DATABASE_NOT_FOUND:
            return CleanupResult()
        return CleanupResult(error.fault)
    except TimeoutError:
        return CleanupResult(TIMED_OUT)


async def _drop_slot(connection: psycopg.AsyncConnection[Any], slot: str) -> None:
    doing = f"drop the replication slot {slot}"
    deadline = asyncio.get_running_loop().time() + _SLOT_SECONDS
    while True:
        rows = await fetch(
            connection, "select active_pid from pg_replication_slots where slot_name = %s", (slot,), doing
        )
        if not rows:
            return
        try:
            if rows[0][0] is not None:
                await fetch(connection, "select pg_terminate_backend(%s)", (rows[0][0],), doing)
            await fetch(connection, "select pg_drop_replication_slot(%s)", (slot,), doing)
            return
        except DatabaseFault as error:
            busy = error.fault.reason is Reason.DATABASE_BUSY
            if not busy or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


async def _drop_publication(connection: psycopg.AsyncConnection[Any], publication: str) -> None:
    try:
        await connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(publication)))
    except psycopg.Error as error:
        raise DatabaseFault(query_fault(error.sqlstate, f"drop the publication {publication}")) from None
