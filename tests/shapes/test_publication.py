"""What is in the publication, while shapes come and go."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from switchgear_shapes.postgres.conninfo import parse_url
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.replication.publication import Publication
from tests.shapes.server import one_version
from tests.support.postgres import Database

pytestmark = pytest.mark.pg


@one_version
def test_a_table_that_comes_into_use_stays(database: Database) -> None:
    """A shape may begin, with a table that is known to be published, while it is asked which tables are unused."""

    async def run() -> None:
        publication = Publication("p", Pool(parse_url(database.url), 3), manual=False)
        await publication.ensure(oid, "public", "items")
        used: set[int] = set()
        with psycopg.connect(database.url) as connection:
            connection.execute("LOCK TABLE pg_publication_rel IN ACCESS EXCLUSIVE MODE")
            removing = asyncio.ensure_future(publication.remove_unused(lambda: set(used)))
            with database.connect() as other:
                while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            used.add(oid)
            await publication.ensure(oid, "public", "items")
            connection.commit()
        await removing
        assert published(database) == ["items"]
        used.clear()
        await publication.remove_unused(lambda: set(used))
        assert published(database) == []
        await publication.ensure(oid, "public", "items")
        assert published(database) == ["items"]

    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION p")
    with database.connect() as connection:
        ((oid,),) = connection.execute("SELECT 'items'::regclass::oid::int8").fetchall()
    asyncio.run(asyncio.wait_for(run(), 60))


def published(database: Database) -> list[str]:
    with database.connect() as connection:
        return [row[0] for row in connection.execute("SELECT tablename FROM pg_publication_tables").fetchall()]
