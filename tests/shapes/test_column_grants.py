"""A role that may read some columns of a table only: shapes of these columns, and what others are told."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from switchgear_shapes.postgres.conninfo import parse_url
from switchgear_shapes.relations import from_rows, query_by_name
from switchgear_shapes.snapshot import begin_text
from tests.shapes.server import Client, ShapesServer
from tests.shapes.test_behind_subqueries import RowClient
from tests.shapes.test_behind_the_back import contents, is_what_select_gives
from tests.support.postgres import Database

TABLES = """
CREATE TABLE items (id int PRIMARY KEY, n int, t text, secret text);
INSERT INTO items SELECT g, g, 'text ' || g, 'secret' FROM generate_series(1, 5) g;
CREATE TABLE owners (id int PRIMARY KEY, active boolean, secret text);
INSERT INTO owners SELECT g, g > 2, 'secret' FROM generate_series(1, 5) g;
ALTER TABLE items REPLICA IDENTITY FULL; ALTER TABLE owners REPLICA IDENTITY FULL;
CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'pw';
GRANT SELECT (id, n, t) ON items TO {role}; GRANT SELECT (id, active) ON owners TO {role};
CREATE PUBLICATION electric_publication_default FOR TABLE items, owners;
"""
COLUMNS = "id, n, t"


@pytest.fixture
def server(database: Database, make_server: Callable[..., ShapesServer]) -> Iterator[ShapesServer]:
    role = f"r_{uuid.uuid4().hex[:12]}"
    database.execute(TABLES.format(role=role))
    port = parse_url(database.url).params["port"]
    url = f"postgresql://{role}:pw@127.0.0.1:{port}/{database.name}"
    server = make_server(DATABASE_URL=url, ELECTRIC_MANUAL_TABLE_PUBLISHING="true")
    yield server.start()
    server.close()
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_granted_columns_are_enough(database: Database, server: ShapesServer) -> None:
    where = {
        "items": {"columns": "id,n,t"},
        "items WHERE t LIKE 'text%'": {"columns": "id,n,t", "where": "t LIKE 'text%'", "replica": "full"},
        "items WHERE n IN (SELECT id FROM owners WHERE active)": {
            "columns": "id,n,t",
            "where": "n IN (SELECT id FROM owners WHERE active)",
        },
        "items WHERE n IN (SELECT id FROM owners WHERE NOT active)": {
            "columns": "id,t",
            "where": "n IN (SELECT id FROM owners WHERE NOT active)",
        },
    }
    clients = {table: RowClient(server, table="items", **params) for table, params in where.items()}
    for statement in (
        "SELECT 1",
        "UPDATE items SET n = n + 1, secret = 'other'",
        "UPDATE owners SET active = NOT active, secret = 'other'",
        "INSERT INTO items VALUES (8, 2, 'new', 'secret'); DELETE FROM items WHERE id = 3",
    ):
        database.execute(statement)
        for table, client in clients.items():
            columns = where[table]["columns"]
            server.wait(lambda c=client, t=table, n=columns: is_what_select_gives(c, database, t, n), 60, table)  # type: ignore[misc]
    assert [client.restarts for client in clients.values()] == [0, 0, 0, 0]
    subset = server.get(table="items", columns="id,n,t", offset="-1", subset__where="t = 'new'")
    assert subset.status_code == 200, subset.text
    assert [message["value"]["id"] for message in subset.json()["data"]] == ["8"]


def test_a_column_that_is_not_granted_is_refused_with_what_helps(database: Database, server: ShapesServer) -> None:
    refused = [
        server.get(table="items", offset="-1"),
        server.get(table="items", offset="-1", columns="id,secret"),
        server.get(table="items", offset="-1", columns="id", where="secret = 'x'"),
        server.get(table="items", offset="-1", columns="id", where="id IN (SELECT id FROM items WHERE secret = 'x')"),
        server.get(table="items", offset="-1", subset__where="secret = 'secret'"),
    ]
    for response in refused:
        assert response.status_code == 503, response.text
        assert response.headers["retry-after"] == "10"
        message = response.json()["message"]
        assert message.startswith("Unable to create initial snapshot: permission denied for table items")
        assert "GRANT SELECT ON items TO the role of DATABASE_URL" in message
        assert "GRANT SELECT (columns)" in message
    role = parse_url(server.environment["DATABASE_URL"]).params["user"]
    database.execute(f"GRANT SELECT (secret) ON items TO {role}")
    client = Client(server, table="items")
    server.wait(lambda: is_what_select_gives(client, database, "items"), 60, "all columns")


REWRITTEN = "ALTER TABLE items ALTER t TYPE text USING upper(t)"
CHANGES = {
    "rewritten": REWRITTEN,
    "another table": "ALTER TABLE items RENAME TO former; CREATE TABLE items (id int, n int, t text)",
    "nothing that matters": "ALTER TABLE items ADD COLUMN more int DEFAULT 7",
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_stamp_of_what_changed_before_the_lock(database: Database, change: str) -> None:
    database.execute("CREATE TABLE items (id int, n int, t text); INSERT INTO items VALUES (1, 1, 'x')")
    with database.connect() as looking:
        rows = looking.execute(query_by_name("public", "items").encode()).fetchall()
    relation = replace(from_rows([tuple(None if v is None else _text(v) for v in row) for row in rows])[0], whole=False)
    stamps: list[str | None] = []

    def begin() -> None:
        with database.connect() as asking:
            cursor = asking.execute(begin_text(relation, "ONLY public.items", 30).encode())
            while cursor.nextset():
                pass
            stamps.extend(row[2] for row in cursor.fetchall())
            asking.execute("ROLLBACK")

    with database.connect(autocommit=False) as altering:
        altering.execute("LOCK TABLE items")
        asking = threading.Thread(target=begin)
        asking.start()
        deadline = time.monotonic() + 60
        while not waits(database):
            assert time.monotonic() < deadline, "the snapshot does not wait"
            time.sleep(0.02)
        altering.execute(CHANGES[change].encode())
    asking.join(60)
    assert stamps == [relation.stamp if change == "nothing that matters" else None]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    return value if isinstance(value, str) else json.dumps(value)


def test_ddl_between_the_snapshot_and_its_lock(database: Database, server: ShapesServer) -> None:
    """The snapshot is taken, then waits for the lock: the rows that it sees may be gone by then."""
    warm = Client(server, table="items", columns="id,n", where="n = 1")
    warm.sync()
    client = Client(server, table="items", columns="id,n,t")
    with database.connect(autocommit=False) as altering:
        altering.execute("LOCK TABLE items")
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(client.step()))
        asking.start()
        server.wait(lambda: waits(database), 60, "the snapshot to wait for the table")
        altering.execute(REWRITTEN.encode())
    asking.join(60)
    assert not asking.is_alive()
    (answer,) = answers
    if answer.status_code == 200:  # not when the lock was held for too long
        assert sorted(client.rows.values(), key=lambda row: row["id"]) == contents(database, "items", COLUMNS)
    server.wait(lambda: is_what_select_gives(client, database, "items", COLUMNS), 60, "the rows")


def waits(database: Database) -> bool:
    with database.connect() as connection:
        return bool(connection.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'").fetchall())
