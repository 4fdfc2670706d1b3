"""A table's stamp: it changes with all that a snapshot relies on, and not with what happens to any table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from switchgear_shapes.relations import query_by_name, stamp_expression
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg]
TABLE = """
CREATE SCHEMA place;
CREATE TABLE place.t (id int PRIMARY KEY, v varchar(9), w int, g int GENERATED ALWAYS AS (id + 1) STORED);
"""
CHANGES = [
    "ALTER TABLE place.t ADD COLUMN n int",
    "ALTER TABLE place.t DROP COLUMN w",
    "ALTER TABLE place.t RENAME COLUMN v TO vv",
    "ALTER TABLE place.t ALTER COLUMN v TYPE varchar(10)",
    "ALTER TABLE place.t ALTER COLUMN v TYPE text",
    "ALTER TABLE place.t ALTER COLUMN w SET NOT NULL",
    "ALTER TABLE place.t ALTER COLUMN g DROP EXPRESSION",
    "ALTER TABLE place.t DROP CONSTRAINT t_pkey",
    "ALTER TABLE place.t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) INCLUDE (w)",
    "ALTER TABLE place.t RENAME TO u",
    "ALTER SCHEMA place RENAME TO elsewhere",
    "ALTER TABLE place.t SET SCHEMA public",
]
NOTHING = [
    "INSERT INTO place.t SELECT i, 'v', i FROM generate_series(1, 100) i",
    "ANALYZE place.t",
    "VACUUM (FREEZE) place.t",
    "VACUUM (FREEZE) pg_catalog.pg_attribute",
    "ALTER TABLE place.t REPLICA IDENTITY FULL",
    "CREATE INDEX ON place.t (w)",
    "GRANT SELECT ON place.t TO PUBLIC",
    "TRUNCATE place.t",
]


def stamp(database: Database) -> str | None:
    """As the catalogue query has it, and as a snapshot asks for it, which must be the same."""
    with database.connect() as connection:
        found = connection.execute("SELECT oid FROM pg_class WHERE relname IN ('t', 'u') AND relkind = 'r'").fetchone()
        assert found is not None
        asked = connection.execute(f"SELECT {stamp_expression(str(found[0]))}".encode()).fetchone()
        rows = connection.execute(query_by_name("place", "t").encode()).fetchall()
        assert asked is not None
        assert [row[18] for row in rows] == [asked[0], *[None] * (len(rows) - 1)][: len(rows)], "on the first row only"
        text: str | None = asked[0]
        return text


@pytest.fixture
def tables(databases: Callable[[], Database]) -> Callable[[], Database]:
    def make() -> Database:
        database = databases()
        database.execute(TABLE)
        return database

    return make


def test_what_a_snapshot_relies_on_changes_it(tables: Callable[[], Database]) -> None:
    database = tables()
    for statement in CHANGES:
        before = stamp(database)
        database.execute(statement)
        assert stamp(database) != before, statement
        database.execute("DROP SCHEMA IF EXISTS place CASCADE; DROP SCHEMA IF EXISTS elsewhere CASCADE")
        database.execute("DROP TABLE IF EXISTS public.t;" + TABLE)


def test_what_happens_to_any_table_does_not(tables: Callable[[], Database]) -> None:
    database = tables()
    before = stamp(database)
    assert before
    for statement in NOTHING:
        database.execute(statement)
        assert stamp(database) == before, statement


def test_a_table_that_is_gone_has_none(tables: Callable[[], Database]) -> None:
    with tables().connect() as connection:
        assert connection.execute(f"SELECT {stamp_expression('1')}".encode()).fetchone() == (None,)
