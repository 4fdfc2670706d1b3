"""Shapes with subqueries on the wire: tags from SQL and from the stream, and TanStack's collection, unchanged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.shapes.server import ShapesServer, one_version
from tests.shapes.tag_client import TagClient
from tests.shapes.test_tanstack import App
from tests.support.postgres import Database

pytestmark = pytest.mark.pg

TYPES = {
    "int8": ["-5", "9223372036854775807"],
    "numeric": ["1", "1.0", "2.500", "0.00", "NaN", "100"],
    "float8": ["0", "-0", "1e300", "0.1", "NaN", "Infinity"],
    "text": ["", "a/b", 'q"', "_", "☃", "a\nb", "\\"],
    "char(4)": ["a", "a ", "ab/"],
    "bool": ["t", "f"],
    "uuid": ["6f1c2a0e-9f0d-4c39-9b0a-0123456789ab"],
    "date": ["1999-12-31", "infinity"],
    "timestamptz": ["2020-01-01 00:00:00+05", "2020-01-01 00:00:00.5+00"],
    "bytea": ["\\x00ff"],
    "feeling": ["sad", "it's"],
}


def test_tags_are_the_same_from_a_snapshot_and_from_the_stream(database: Database, server: ShapesServer) -> None:
    """Rows of a snapshot (tags made in SQL) are touched: the same rows from the stream have the same tags."""
    with database.connect() as connection:
        connection.execute("CREATE TYPE feeling AS ENUM ('sad', 'it''s')")
        for number, (kind, values) in enumerate(TYPES.items()):
            statements = (
                f"CREATE TABLE outer{number} (id int PRIMARY KEY, v {kind}, note text);"
                f" CREATE TABLE inner{number} (v {kind})"
            )
            connection.execute(statements.encode())
            for id_, value in enumerate([*values, None]):
                connection.execute(f"INSERT INTO outer{number} VALUES (%s, %s)".encode(), [id_, value])
                connection.execute(f"INSERT INTO inner{number} VALUES (%s)".encode(), [value])
        for number, (kind, values) in enumerate(TYPES.items()):
            where = f"v IN (SELECT v FROM inner{number}) OR id = {len(values)}"
            client = TagClient(server, table=f"outer{number}", where=where)
            client.sync()
            taken = tags_of(client)
            assert len(taken) == len(values) + 1, kind
            assert len({str(tag) for tag in taken.values()}) == DIFFERENT.get(kind, len(values)) + 1, kind
            client.messages.clear()
            connection.execute(f"UPDATE outer{number} SET note = 'touched'".encode())
            while len(tags_of(client)) < len(taken):
                assert client.step(live=client.up_to_date).status_code == 200
            assert tags_of(client) == taken, kind


DIFFERENT = {"numeric": 5, "float8": 5, "char(4)": 2}
"""Of how many values the rest are equal ones with other texts."""


def tags_of(client: TagClient) -> dict[str, list[str]]:
    return {message["key"]: message["headers"]["tags"] for message in client.messages if "key" in message}


@pytest.fixture
def todos(database: Database, server: ShapesServer) -> Iterator[ShapesServer]:
    database.execute(
        "CREATE TABLE todos (id int PRIMARY KEY, title text, list int, owner int);"
        "CREATE TABLE lists (id int PRIMARY KEY, shared bool); CREATE TABLE people (id int PRIMARY KEY, here bool)"
    )
    yield server


@one_version
@pytest.mark.node
def test_tanstack_has_what_select_gives(todos: ShapesServer, database: Database) -> None:
    where = (
        "(list IN (SELECT id FROM lists WHERE shared) AND owner IN (SELECT id FROM people WHERE here))"
        " OR owner NOT IN (SELECT id FROM people)"
    )
    rng = random.Random(3)
    with database.connect() as connection, closing(App(todos, database, "eager", table="todos", where=where)) as app:
        for turn in range(40):
            with connection.transaction():
                for _ in range(rng.randrange(1, 5)):
                    change(rng, connection)
            if turn == 20:
                todos.kill()
                todos.start()
            if turn % 8 == 7:
                found = connection.execute(f"SELECT id, title FROM todos WHERE {where} ORDER BY id".encode()).fetchall()
                app.wait_rows([{"id": id_, "title": title} for id_, title in found])
        assert not [message for message in app.messages if "error" in message]


def change(rng: random.Random, connection: Any) -> None:
    n, flag = rng.randrange(4), rng.random() < 0.6
    match rng.randrange(5):
        case 0:
            statement = "INSERT INTO lists VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET shared = excluded.shared"
            connection.execute(statement, [n, flag])
        case 1:
            statement = "INSERT INTO people VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET here = excluded.here"
            connection.execute(statement, [n, flag])
        case 2:
            connection.execute("DELETE FROM people WHERE id = %s", [n])
        case _:
            statement = (
                "INSERT INTO todos VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
                " SET title = excluded.title, list = excluded.list, owner = excluded.owner"
            )
            connection.execute(statement, [rng.randrange(12), f"t{rng.random()}", n, rng.randrange(5)])
