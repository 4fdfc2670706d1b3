"""Filtered shapes against a real Postgres: updates that bring rows in and take them out, and every index at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database

pytestmark = pytest.mark.pg


def operations(client: Client, count: int) -> list[tuple[str, str, dict[str, str | None]]]:
    """The last changes that the client got: (operation, key, value)."""
    changes = [m for m in client.messages if "operation" in m["headers"]]
    return [(m["headers"]["operation"], m["key"].rpartition("/")[2], m["value"]) for m in changes[-count:]]


def test_updates_that_cross_the_filter(server: ShapesServer, database: Database) -> None:
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, owner text, note text)")
        connection.execute("INSERT INTO t VALUES (1, 'ann', 'a'), (2, 'bob', 'b')")
        narrow = Client(server, table="t", where="owner = 'ann'", columns="id,note")
        full = Client(server, table="t", where="owner = 'ann'", replica="full")
        whole = Client(server, table="t")
        for client in (narrow, full, whole):
            client.sync()
        assert list(narrow.rows.values()) == [{"id": "1", "note": "a"}]
        for statement in (
            "UPDATE t SET owner = 'ann' WHERE id = 2",  # in: the whole row, although one column changed
            "UPDATE t SET owner = 'bob', note = 'z' WHERE id = 1",  # out: a delete with the old key
            "UPDATE t SET note = 'c' WHERE id = 2",  # within
            "UPDATE t SET note = 'y' WHERE id = 1",  # without
            "UPDATE t SET id = 20, owner = 'bob' WHERE id = 2",  # out, while the key changes
            "UPDATE t SET id = 21, owner = 'ann' WHERE id = 20",  # in, while the key changes
            "UPDATE t SET id = 22 WHERE id = 21",  # within, while the key changes
            "UPDATE t SET note = note",  # nothing
        ):
            connection.execute(statement.encode())
    for client, count in ((narrow, 7), (full, 7), (whole, 10)):
        client.sync()
        while len(operations(client, 100)) < count + 1 + (client is whole):
            client.step(live=True)
            client.sync()
    assert operations(narrow, 7) == [
        ("insert", '"2"', {"id": "2", "note": "b"}),
        ("delete", '"1"', {"id": "1"}),
        ("update", '"2"', {"id": "2", "note": "c"}),
        ("delete", '"2"', {"id": "2"}),
        ("insert", '"21"', {"id": "21", "note": "c"}),
        ("delete", '"21"', {"id": "21"}),
        ("insert", '"22"', {"id": "22", "note": "c"}),
    ]
    assert operations(full, 7)[1] == ("delete", '"1"', {"id": "1", "owner": "ann", "note": "a"})
    assert operations(full, 7)[3] == ("delete", '"2"', {"id": "2", "owner": "ann", "note": "c"})
    assert set(whole.rows) == {'"public"."t"/"1"', '"public"."t"/"22"'}
    assert list(full.rows.values()) == [{"id": "22", "owner": "ann", "note": "c"}]


CLAUSES = [
    "i = 3",
    "4 = i",
    "i IN (1, 2, 5)",
    "i BETWEEN 2 AND 4",
    "i > 6",
    "i < 1 OR i >= 8",
    "n = 1.5",
    "n >= 0.5 AND n < 2",
    "i = 3 AND n > 1",
    "i = 3 AND t LIKE 'ab%'",
    "t LIKE 'a%'",
    "t ILIKE '%B%'",
    "t IS NULL",
    "t IS NOT NULL AND i <> 3",
    "NOT (i < 5 OR b)",
    "b",
    "b IS NOT TRUE",
    "c = 'x'",
    "d > '2024-02-01'",
    "t = 'abc' OR (i = 2 AND b) OR n IN (7, 8)",
    "i + 1 = 4",
    "f = 0",
]
VALUES: dict[str, list[str]] = {
    "i": ["NULL", *map(str, range(10))],
    "n": ["NULL", "'1.5'", "'1.50'", "'0.5'", "'2'", "'7.0'", "'NaN'"],
    "t": ["NULL", "''", "'a'", "'abc'", "'xB'", "'ünï'"],
    "b": ["NULL", "true", "false"],
    "c": ["NULL", "'x'", "'y'"],
    "d": ["NULL", "'2024-01-01'", "'2024-03-01'", "'infinity'", "'-infinity'"],
    "f": ["NULL", "'-0'", "'0'", "'1.5'", "'NaN'"],
}


@one_version
def test_filters_follow_the_table(make_server: Callable[..., ShapesServer], database: Database) -> None:
    """Random transactions; after each round, and after a kill, every filtered shape is what SELECT says."""
    rng = random.Random(4)
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="4000").start()
    with database.connect(autocommit=False) as connection:
        columns = "i int, n numeric, t text, b bool, c char(3), d date, f float8"
        connection.execute(f"CREATE TABLE r (id int PRIMARY KEY, {columns})".encode())
        connection.commit()
        server_side = [clause for clause in CLAUSES if supported(server, clause)]
        assert len(server_side) >= len(CLAUSES) - 2
        clients = [Client(server, table="r", where=clause) for clause in server_side]
        clients += [Client(server, table="r", where=clause, columns="id,i", replica="full") for clause in CLAUSES[:4]]
        for number in range(6):
            for _ in range(8):
                for _ in range(rng.randrange(1, 12)):
                    connection.execute(change(rng).encode())
                connection.commit()
            if number == 3:
                server.kill()
                server.start()
            for client in clients:
                client.sync()
                wanted = expected(connection, client)
                deadline = time.monotonic() + 60
                while {row["id"]: row for row in client.rows.values()} != wanted and time.monotonic() < deadline:
                    client.step(live=True)
                assert {row["id"]: row for row in client.rows.values()} == wanted, client.params
            connection.rollback()


def supported(server: ShapesServer, clause: str) -> bool:
    return server.get(table="r", where=clause, offset="-1").status_code == 200


def change(rng: random.Random) -> str:
    number = rng.randrange(40)
    chosen = {name: rng.choice(pool) for name, pool in VALUES.items() if rng.random() < 0.6}
    kind = rng.random()
    if kind < 0.4 or not chosen:
        names = "".join(f", {name}" for name in chosen)
        values = "".join(f", {value}" for value in chosen.values())
        return f"INSERT INTO r (id{names}) VALUES ({number}{values}) ON CONFLICT DO NOTHING"
    if kind < 0.85:
        sets = ", ".join(f"{name} = {value}" for name, value in chosen.items())
        return f"UPDATE r SET {sets} WHERE id % 7 = {number % 7}"
    return f"DELETE FROM r WHERE id = {number}"


def expected(connection: psycopg.Connection, client: Client) -> dict[str, dict[str, str | None]]:
    names = ["id", *VALUES] if "columns" not in client.params else ["id", "i"]
    texts = ", ".join(f"CASE WHEN {name} IS NULL THEN NULL ELSE concat({name}) END" for name in names)
    rows = connection.execute(f"SELECT {texts} FROM r WHERE {client.params['where']}".encode()).fetchall()
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}
