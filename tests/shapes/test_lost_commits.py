"""Postgres crashes and loses commits that nobody waited for: no client keeps what a snapshot has seen of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.shapes.console import Console
from tests.shapes.server import Client, ShapesServer
from tests.shapes.tag_client import TagClient
from tests.shapes.test_subset_log import OnDemand
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.crash]


@pytest.fixture
def lazy(database: Database) -> Iterator[Database]:
    """Its log is written late, if nobody waits for it."""
    database.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    database.execute("SELECT pg_reload_conf()")
    yield database
    database.execute("ALTER SYSTEM RESET wal_writer_delay")
    database.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("how", ["snapshot", "subquery", "subset"])
def test_what_a_client_was_shown_is_there_after_a_crash(
    lazy: Database, make_server: Callable[..., ShapesServer], how: str
) -> None:
    lazy.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE shown (id int); INSERT INTO items VALUES (1)")
    server = make_server().start()
    where = "id IN (SELECT id FROM shown)" if how == "subquery" else "id > 0"
    Client(server, table="items").sync()
    Client(server, table="shown").sync()  # both are published now
    with lazy.connect() as connection:
        client: Client
        connection.execute("SET synchronous_commit = off")
        connection.execute("INSERT INTO items VALUES (7)")
        connection.execute("INSERT INTO shown VALUES (7)")
        if how == "subset":
            loader = OnDemand(server, table="items", where=where)
            loader.load(order_by="id")
            client = loader
        else:
            client = (TagClient if how == "subquery" else Client)(server, table="items", where=where)
            client.sync()
        Console(lazy, random.Random(1)).crash_postgres("items")
    server.wait_active()
    with lazy.connect() as connection:
        connection.execute("INSERT INTO items VALUES (9)")
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        connection.execute("INSERT INTO items VALUES (10); INSERT INTO shown VALUES (9), (10)")
        client.sync_past(int(row[0]))
        server.wait(lambda: bool(client.sync() or len(client.rows) >= 3), 60, "the new rows")
        there = [str(row[0]) for row in connection.execute(f"SELECT id FROM items WHERE {where} ORDER BY 1".encode())]
    assert [row["id"] for row in sorted(client.rows.values(), key=lambda row: int(row["id"]))] == there
