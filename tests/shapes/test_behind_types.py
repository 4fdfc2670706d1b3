"""Types whose values get another text without a word in the stream: shapes that have such values end, others do not."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from psycopg import errors

from tests.shapes.server import Client
from tests.shapes.test_behind_subqueries import RowClient
from tests.shapes.world import World, running
from tests.support.postgres import Database, Postgres

COMPOSITES = ["pair", "pairs", "nested", "domain", "span", "whole_row"]
ENUMS = ["mood", "moods", "felt"]
TYPES = """
CREATE TYPE {n}_pair AS (a int, b text);
CREATE TYPE {n}_mood AS ENUM ('sad', 'ok');
CREATE TABLE {n}_other (p {n}_pair, x int);
CREATE TYPE {n}_nested AS (p {n}_pair[], y int);
CREATE DOMAIN {n}_domain AS {n}_pair;
CREATE TYPE {n}_span AS RANGE (subtype = {n}_pair);
CREATE TYPE {n}_felt AS (m {n}_mood, y int);
CREATE TABLE {n} (id int PRIMARY KEY, plain text, pair {n}_pair, pairs {n}_pair[], nested {n}_nested, domain {n}_domain,
  span {n}_span, whole_row {n}_other, mood {n}_mood, moods {n}_mood[], felt {n}_felt);
INSERT INTO {n} VALUES (1, 'x', (1, 'b'), ARRAY[(1, 'b')::{n}_pair], (ARRAY[(1, 'b')::{n}_pair], 2), (1, 'b'),
  {n}_span((1, 'b'), (2, 'b')), ((1, 'b'), 7), 'sad', '{{sad,ok}}', ('sad', 1));
"""


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    environment = {"ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD": "1s"}
    with running(postgres, tmp_path_factory.mktemp("types"), **environment) as world:
        yield world


class Typed:
    """A table with a column of each kind, and a shape of each of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"t{uuid.uuid4().hex[:10]}"
        world.database.execute(TYPES.format(n=self.name))
        columns = ["plain", *COMPOSITES, *ENUMS]
        self.clients = {c: Client(world.server, table=self.name, columns=f"id,{c}") for c in columns}
        self.wait("the beginning")

    def execute(self, statement: str) -> None:
        with self.world.database.connect() as connection:
            connection.execute(statement.format(n=self.name).encode())

    def wait(self, what: str) -> None:
        for column, client in self.clients.items():

            def right(column: str = column, client: Client = client) -> bool:
                client.sync()
                found = {row["id"]: row[column] for row in client.rows.values()}
                return found == texts(self.world.database, self.name, column)

            self.world.server.wait(right, 60, f"{what}: {column}")

    @property
    def restarted(self) -> dict[str, int]:
        return {column: client.restarts for column, client in self.clients.items() if client.restarts}


def texts(database: Database, table: str, column: str) -> dict[str, str]:
    with database.connect() as connection:
        return dict(connection.execute(f"SELECT id::text, {column}::text FROM {table}".encode()).fetchall())


def test_attributes_that_come_and_go(world: World) -> None:
    typed = Typed(world)
    with pytest.raises(errors.FeatureNotSupported):  # Postgres refuses what would have to rewrite the values
        typed.execute("ALTER TYPE {n}_pair ALTER ATTRIBUTE a TYPE bigint")
    typed.execute("ALTER TYPE {n}_pair ADD ATTRIBUTE c int")
    typed.wait("an attribute more")
    assert typed.restarted == dict.fromkeys(COMPOSITES, 1)
    typed.execute("ALTER TYPE {n}_pair DROP ATTRIBUTE b")
    typed.wait("an attribute less")
    assert typed.restarted == dict.fromkeys(COMPOSITES, 2)
    typed.execute("ALTER TABLE {n}_other ADD COLUMN y int")
    typed.wait("a column more in a row")
    assert typed.restarted == dict.fromkeys(COMPOSITES, 2) | {"whole_row": 3}


def test_labels_that_get_another_name(world: World) -> None:
    typed = Typed(world)
    typed.execute("ALTER TYPE {n}_mood RENAME VALUE 'sad' TO 'blue'")
    typed.wait("another name")
    assert typed.restarted == dict.fromkeys(ENUMS, 1)


def test_a_label_that_is_added_and_gets_another_name_later(world: World) -> None:
    typed, other = Typed(world), Typed(world)
    typed.execute("ALTER TYPE {n}_mood ADD VALUE 'so-so' BEFORE 'ok'")
    typed.execute("INSERT INTO {n} (id, mood, moods, felt) VALUES (2, 'so-so', '{{so-so}}', ('so-so', 1))")
    typed.wait("a label more")
    other.execute("ALTER TYPE {n}_mood RENAME VALUE 'sad' TO 'blue'")
    other.wait("the next look")  # at all tables
    assert other.restarted == dict.fromkeys(ENUMS, 1)
    assert typed.restarted == {}
    typed.execute("ALTER TYPE {n}_mood RENAME VALUE 'so-so' TO 'middling'")
    typed.wait("another name")
    assert typed.restarted == dict.fromkeys(ENUMS, 1)


def test_labels_in_a_filter_and_in_a_subquery(world: World) -> None:
    typed = Typed(world)
    asking = world.table(f"id int PRIMARY KEY, mood {typed.name}_mood, t text", "VALUES (1, 'sad', 'sad')")
    clauses = [
        "mood = 'ok'",
        f"mood IN (SELECT mood FROM {typed.name})",
        f"id IN (SELECT id FROM {typed.name} WHERE mood::text = 'blue')",
    ]
    clients = {clause: RowClient(world.server, table=asking, where=clause, columns="id") for clause in clauses}
    bystander = RowClient(world.server, table=asking, columns="id", where=f"id IN (SELECT id FROM {typed.name})")
    for client in [*clients.values(), bystander]:
        client.sync()
    typed.execute("ALTER TYPE {n}_mood RENAME VALUE 'sad' TO 'blue'")

    def right() -> bool:
        for clause, client in clients.items():
            client.sync()
            with world.database.connect() as connection:
                found = connection.execute(f"SELECT id::text FROM {asking} WHERE {clause}".encode()).fetchall()
            if sorted(row["id"] for row in client.rows.values()) != sorted(row[0] for row in found):
                return False
        return all(client.restarts for client in clients.values())

    world.server.wait(right, 60, "another name")
    bystander.sync()
    assert bystander.restarts == 0


def test_while_nobody_ran(world: World) -> None:
    typed = Typed(world)
    world.server.stop()
    typed.execute("ALTER TYPE {n}_pair ADD ATTRIBUTE c int")
    typed.execute("ALTER TYPE {n}_mood RENAME VALUE 'ok' TO 'fine'")
    world.server.start()
    typed.wait("after the start")
    assert typed.restarted == dict.fromkeys([*COMPOSITES, *ENUMS], 1)
