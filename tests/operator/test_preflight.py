"""Databases are checked and cleaned up: real Postgres 15 and 18, every fault with its reason, no secret shown."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from switchgear_local.processes import free_port
from switchgear_model import conditions as c
from switchgear_model import ids
from switchgear_model.conditions import Reason
from switchgear_operator.preflight.cleanup import cleanup
from switchgear_operator.preflight.probe import probe
from switchgear_operator.preflight.results import ProbeResult
from tests.operator import databases as db
from tests.support.postgres import Database

pytestmark = pytest.mark.pg
SID = "svc-a-b-0123456789"


async def check(url: str, publishes: bool = True) -> ProbeResult:
    return await probe(url, publishes=publishes, slot=ids.slot_name(SID))


async def test_a_good_database_passes_every_check(database: Database) -> None:
    result = await check(database.url)
    assert result.failure is None
    assert [k.type for k in result.checks] == [
        c.DATABASE_REACHABLE,
        c.REPLICATION_PRIVILEGE,
        c.WAL_LEVEL_LOGICAL,
        c.REPLICATION_SLOT_FREE,
        c.PUBLICATION_PRIVILEGE,
    ]


async def test_a_role_without_rights_is_told_which(database: Database) -> None:
    with db.role(database.url, "") as (_, url):
        result = await check(url)
        failed = {k.type: k.reason for k in result.checks if not k.ok}
        assert failed == {
            c.REPLICATION_PRIVILEGE: Reason.REPLICATION_NOT_PERMITTED,
            c.PUBLICATION_PRIVILEGE: Reason.PUBLICATION_NOT_PERMITTED,
        }
        assert result.failure is not None and "ALTER ROLE" in result.failure.message


async def test_a_role_with_just_the_rights_passes(database: Database) -> None:
    with db.role(database.url, "replication") as (name, url):
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("grant create on database {} to {}").format(sql.Identifier(database.name), sql.Identifier(name))
            )
        assert (await check(url)).failure is None


async def test_without_publishing_create_is_not_needed(database: Database) -> None:
    with db.role(database.url, "replication") as (_, url):
        result = await check(url, publishes=False)
        assert result.failure is None
        assert c.PUBLICATION_PRIVILEGE not in {k.type for k in result.checks}


async def only_failure(url: str) -> tuple[Reason, str, bool]:
    result = await check(url)
    assert result.failure is not None and len(result.checks) == 1
    assert result.failure.type == c.DATABASE_REACHABLE
    return result.failure.reason, result.failure.message, result.failure.transient


async def test_faults_of_the_connection_have_reasons_and_no_secrets(database: Database) -> None:
    wrong = "hunter2secret"
    cases = {
        db.with_user(database.url, "postgres", wrong): Reason.DATABASE_AUTHENTICATION_FAILED,
        db.with_user(database.url, "nobody", wrong): Reason.DATABASE_AUTHENTICATION_FAILED,
        database.url.replace(database.name, "missing_database"): Reason.DATABASE_NOT_FOUND,
        database.url + "?sslmode=require": Reason.DATABASE_TLS_FAILED,
        f"postgresql://a:{wrong}@127.0.0.1:{free_port()}/x": Reason.DATABASE_UNREACHABLE,
        f"postgresql://a:{wrong}@no-such-host.invalid/x": Reason.DATABASE_UNREACHABLE,
    }
    for url, expected in cases.items():
        reason, message, transient = await only_failure(url)
        assert reason is expected, message
        assert wrong not in message and "127.0.0.1" not in message
        assert transient == (expected is Reason.DATABASE_UNREACHABLE)


async def test_a_server_that_never_answers_is_given_up() -> None:
    import asyncio

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(60):
            reason, _, transient = await only_failure(f"postgresql://a:b@127.0.0.1:{port}/x")
        assert reason is Reason.DATABASE_UNREACHABLE and transient
    finally:
        listener.close()


async def test_what_is_no_usable_url_is_not_connected_to() -> None:
    reason, message, transient = await only_failure("mysql://a:hunter2secret@host/x")
    assert reason is Reason.DATABASE_URL_INVALID and not transient
    assert "postgresql://" in message and "hunter2secret" not in message


@pytest.fixture(scope="module")
def small_server() -> Iterator[str]:
    settings = {"wal_level": "replica", "max_replication_slots": "1"}
    with tempfile.TemporaryDirectory(prefix="sg-op-") as folder, db.server(Path(folder), **settings) as server:
        yield server.url


async def test_wal_level_and_slots(small_server: str) -> None:
    with psycopg.connect(small_server, autocommit=True) as connection:
        connection.execute("select pg_create_physical_replication_slot('other')")
    result = await check(small_server)
    failed = {k.type: k.reason for k in result.checks if not k.ok}
    assert failed == {
        c.WAL_LEVEL_LOGICAL: Reason.WAL_LEVEL_NOT_LOGICAL,
        c.REPLICATION_SLOT_FREE: Reason.NO_FREE_REPLICATION_SLOT,
    }
    assert result.failure is not None and "restart" in result.failure.message


async def clean(url: str, fallback: str | None = None) -> Reason | None:
    slot, publication = ids.slot_name(SID), ids.publication_name(SID)
    fault = (await cleanup(url, fallback, slot=slot, publication=publication)).fault
    return fault.reason if fault else None


async def test_cleaning_up_drops_both_and_may_be_repeated(database: Database) -> None:
    db.make_slot(database.url, SID)
    assert db.left(database.url, SID) == {"slot", "publication"}
    assert await clean(database.url) is None
    assert db.left(database.url, SID) == set()
    assert await clean(database.url) is None


async def test_a_walsender_that_holds_the_slot_is_ended(database: Database) -> None:
    db.make_slot(database.url, SID)
    sender = psycopg.connect(f"{database.url}?replication=database", autocommit=True)
    try:
        start = f"START_REPLICATION SLOT {ids.slot_name(SID)} LOGICAL 0/0 "
        start += f"(proto_version '1', publication_names '{ids.publication_name(SID)}')"
        assert sender.pgconn.exec_(start.encode()).status == psycopg.pq.ExecStatus.COPY_BOTH
        assert await clean(database.url) is None
    finally:
        sender.close()
    assert db.left(database.url, SID) == set()


async def test_a_database_that_is_gone_has_nothing_left(database: Database) -> None:
    assert await clean(database.url.replace(database.name, "missing_database")) is None


async def test_new_credentials_of_the_same_database_are_tried(database: Database) -> None:
    db.make_slot(database.url, SID)
    old = db.with_user(database.url, "postgres", "rotated")
    assert await clean(old) is Reason.DATABASE_AUTHENTICATION_FAILED
    assert db.left(database.url, SID) == {"slot", "publication"}
    assert await clean(old, database.url) is None
    assert db.left(database.url, SID) == set()


async def test_an_absent_server_is_reported() -> None:
    assert await clean(f"postgresql://a:b@127.0.0.1:{free_port()}/x") is Reason.DATABASE_UNREACHABLE
