"""Sessions that are used again: one that has ended meanwhile is nobody's failure."""

from __future__ import annotations

import pytest

from switchgear_shapes.postgres import pool
from switchgear_shapes.postgres.conninfo import parse_url
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.postgres.session import Session
from tests.shapes.server import one_version
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, one_version]


async def test_a_session_that_ends_as_it_is_asked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Postgres' limit for idle sessions, or a pooler's: the question and the news of the end pass each other."""
    sessions = Pool(parse_url(database.url), 1)
    async with sessions.session() as session:
        ((pid,),) = await session.query("SELECT pg_backend_pid()")
    database.execute(f"SELECT pg_terminate_backend({pid}, 60000)")
    monkeypatch.setattr(Session, "usable", property(lambda session: not session.closed))
    monkeypatch.setattr(pool, "FRESH_SECONDS", 0.0)
    async with sessions.session() as session:
        assert await session.query("SELECT 7") == [("7",)]
    sessions.close()


async def test_a_session_that_is_silent_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Pool(parse_url(database.url), 1)
    async with sessions.session() as session:
        ((pid,),) = await session.query("SELECT pg_backend_pid()")
        asked = session.query

    async def silent(sql: str) -> list[tuple[str | None, ...]]:
        return await asked("SELECT pg_sleep(300)")

    monkeypatch.setattr(session, "query", silent)
    monkeypatch.setattr(pool, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.1)
    async with sessions.session() as following:
        assert following is not session
        assert await following.query("SELECT pg_backend_pid()") != [(pid,)]
    assert session.closed
    sessions.close()
