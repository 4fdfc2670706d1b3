"""What looking at the catalogue costs Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.postgres.session import Row
from tests.support.postgres import Database

pytestmark = pytest.mark.pg


class Told:
    """A pool of one session that keeps what it is asked, and knows nothing."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    @asynccontextmanager
    async def session(self, wait: float = 30.0) -> AsyncIterator[Told]:
        yield self

    async def query(self, sql: str) -> list[Row]:
        self.statements.append(sql)
        return []


async def test_the_look_is_not_compiled(database: Database) -> None:
    """Just-in-time compilation makes half a second of 20 ms, for every table that is first asked for."""
    told: Any = Told()
    catalog = Catalog(told)
    await catalog.get("public", "t")
    await catalog.read([1])
    notices: list[str] = []
    with database.connect() as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute(b"CREATE TYPE pair AS (a int, b text); CREATE TABLE t (id int PRIMARY KEY, p pair)")
        if connection.execute(b"SELECT pg_jit_available()").fetchone() != (True,):
            pytest.skip("this Postgres was built without LLVM")
        connection.execute(
            b"LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;"
            b"SET auto_explain.log_level = 'notice'; SET jit = on; SET jit_above_cost = 0"
        )
        for statement in told.statements:
            connection.execute(statement.encode())
    plans = [notice for notice in notices if "Query Text" in notice]
    assert len(plans) == 2
    assert [plan for plan in plans if "JIT:" in plan] == []
