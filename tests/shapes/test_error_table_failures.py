"""The protocol's table of statuses, where a query fails in Postgres or the server itself fails.

One row has no cause outside: `Internal server error` is for faults of our own. What can be done to the process from
outside has an answer of its own: files that are gone (409), cannot be read or are shorter than they were (500, `storage
error`), cannot be written (500, or 503 on a full disk), databases that are away, locked, slow or raise errors (here,
`test_error_table`). So that fault is put in (`hasty`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shapes import hasty
from tests.shapes.server import Client, one_version
from tests.shapes.test_error_table import JSON, KNOWN, NO_STORE, check, newest_snapshot
from tests.shapes.world import World, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg, one_version]

TABLES = """
CREATE TABLE slow (id int PRIMARY KEY, t text);
INSERT INTO slow SELECT g, repeat('ab', 2000000) FROM generate_series(1, 30) g;
CREATE TABLE fine (id int PRIMARY KEY, v text);
INSERT INTO fine SELECT g, repeat('x', 90) FROM generate_series(1, 2000) g;
"""
UNEXPECTED = {"message": "Unexpected error while creating snapshot"}


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("failures")
    with running(postgres, folder, "tests.shapes.hasty", ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="20000") as made:
        made.database.execute(TABLES)
        yield made


def test_503_no_row_comes_in_time(world: World) -> None:
    """Values of 4 MB that are searched again and again: no row is found in half a minute."""
    where = " OR ".join(f"t LIKE '%a_{chr(code)}%'" for code in range(ord("c"), ord("z")))
    text = "Snapshot query took too long to return data (cancelled after 3000ms); check the query's plan and the load"
    check(world.get("slow", where=where), 503, {"message": text}, KNOWN)
    text = "The subset query took longer than 3 s; add a limit or an index"
    check(world.get("slow", log="changes_only", subset__where=where), 503, {"message": text}, KNOWN)
    left = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' AND state = 'active'"
    with world.database.connect() as connection:
        ended = "the queries to be cancelled"
        world.server.wait(lambda: not connection.execute(left.encode()).fetchall(), 60, ended)


def test_503_postgres_cannot_read_the_table(world: World) -> None:
    """A file of its is missing. What it says stays here."""
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 1)")
    assert world.get(table, "now", log="changes_only").status_code == 200
    with world.database.connect() as connection:
        connection.execute("CHECKPOINT")
        where = f"SELECT current_setting('data_directory') || '/' || pg_relation_filepath('{table}')"
        ((path,),) = connection.execute(where.encode()).fetchall()
    file = Path(path)
    refused = "the database refused it (SQLSTATE 58P01); the sync server's log has the reason"
    text = f"Unable to create initial snapshot: {refused}"
    aside = file.with_name("aside")
    file.rename(aside)
    try:
        for extra in ({}, {"where": "v = 1"}, {"log": "changes_only", "subset__where": "v = 1"}):
            check(world.get(table, **extra), 503, {"message": text}, KNOWN)
    finally:
        aside.rename(file)
    assert "No such file" in world.server.log()
    assert world.get(table).status_code == 200


def test_500_of_files_that_cannot_be_made_or_are_cut(world: World) -> None:
    shapes = world.server.folder / "storage" / "shapes"
    before = {file.name for file in shapes.glob("*/*")}
    aside = shapes.with_name("aside")
    shapes.rename(aside)
    shapes.write_bytes(b"")
    try:
        check(world.get("fine", where="id > 0"), 500, UNEXPECTED, NO_STORE | JSON)
    finally:
        shapes.unlink()
        aside.rename(shapes)
    Client(world.server, table="fine", where="id > 1").sync()  # the file is whole
    (file,) = newest_snapshot(world)
    assert file.name not in before
    with file.open("r+b") as opened:
        opened.truncate(100)
    body = {"message": "Unable to retrieve shape log: storage error"}
    check(world.get("fine", where="id > 1"), 500, body, NO_STORE | JSON)


def test_500_a_fault_of_the_server_itself(world: World) -> None:
    where = f"v <> {hasty.FAULT}"
    check(world.get("fine", where=where), 500, {"error": "Internal server error"}, NO_STORE | JSON)
    assert "a secret detail" in world.server.log()
    assert world.get("fine", where="id > 2").status_code == 200
