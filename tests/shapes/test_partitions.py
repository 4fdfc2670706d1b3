"""Shapes of partitioned tables by their root: rows and changes are those of the partitions, whichever there are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.shapes.server import Client, ShapesServer
from tests.shapes.world import World, running
from tests.support.postgres import Postgres, create_database, drop_database

pytestmark = [pytest.mark.pg]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    periods = {"ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD": "1s", "ELECTRIC_TWEAKS_SCHEMA_RECONCILER_PERIOD": "1s"}
    with running(postgres, tmp_path_factory.mktemp("partitions"), **periods) as made:
        yield made


class Tree:
    """A root of ranges of ten, with a subtree, whose leaves differ in the order of their columns."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = name = world.table("id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id")
        self.run(
            f"CREATE TABLE {name}_0 PARTITION OF {name} FOR VALUES FROM (0) TO (10);"
            f"CREATE TABLE {name}_1 (v text, id int NOT NULL);"
            f"ALTER TABLE {name} ATTACH PARTITION {name}_1 FOR VALUES FROM (10) TO (20);"
            f"CREATE TABLE {name}_2 PARTITION OF {name} FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (id);"
            f"CREATE TABLE {name}_2a PARTITION OF {name}_2 FOR VALUES FROM (20) TO (30);"
            f"INSERT INTO {name} VALUES (1, 'a'), (11, 'b'), (21, 'c')"
        )

    def run(self, sql: str) -> None:
        self.world.database.execute(sql)

    def rows(self) -> list[tuple[Any, ...]]:
        with self.world.database.connect() as connection:
            return connection.execute(
                f"SELECT id::text, v FROM {self.name} ORDER BY {self.name}.id".encode()
            ).fetchall()

    def follow(self, **params: str) -> Client:
        client = Client(self.world.server, table=self.name, **params)
        client.sync()
        return client

    def check(self, client: Client) -> None:
        """What the client has becomes what the table has."""

        def same() -> bool:
            client.sync()
            return values(client) == self.rows()

        self.world.server.wait(same, 60, "the same rows as the table")
        assert all(key.startswith(f'"public"."{self.name}"/') for key in client.rows)


def values(client: Client) -> list[tuple[Any, ...]]:
    rows = sorted(client.rows.values(), key=lambda row: int(row["id"]))
    return [(row["id"], row["v"]) for row in rows]


@pytest.fixture
def tree(world: World) -> Tree:
    return Tree(world)


def test_rows_and_changes(tree: Tree) -> None:
    """Of all leaves, under the root's name; rows that move from leaf to leaf as well."""
    client = tree.follow(replica="full")
    assert values(client) == tree.rows()
    name = tree.name
    tree.run(
        f"BEGIN; INSERT INTO {name} VALUES (2, 'x'), (12, 'y'), (22, 'z');"
        f"UPDATE {name} SET v = v || '!' WHERE id > 10;"
        f"DELETE FROM {name} WHERE id = 1; UPDATE {name} SET id = 13 WHERE id = 2; COMMIT"
    )
    tree.check(client)
    tree.run(f"INSERT INTO {name}_1 (id, v) VALUES (19, 'by the leaf')")
    tree.check(client)
    assert client.restarts == 0
    schema = json.loads(tree.world.get(name).headers["electric-schema"])
    assert schema["id"] == {"type": "int4", "pk_index": 0, "not_null": True}


def test_root_and_leaf_shapes_side_by_side(tree: Tree) -> None:
    root = tree.follow()
    leaf = Client(tree.world.server, table=f"{tree.name}_1")
    leaf.sync()
    assert values(leaf) == [("11", "b")]
    tree.run(f"INSERT INTO {tree.name} VALUES (15, 'both'), (5, 'root only')")
    tree.check(root)
    tree.world.server.wait(lambda: bool(leaf.sync() or len(leaf.rows) == 2), 60, "the leaf's row")
    assert set(leaf.rows) == {f'"public"."{tree.name}_1"/"{n}"' for n in (11, 15)}
    assert (root.restarts, leaf.restarts) == (0, 0)


def test_filters_and_columns(tree: Tree) -> None:
    client = tree.follow(where="v LIKE 'b%'", columns="id")
    assert [row["id"] for row in client.rows.values()] == ["11"]
    tree.run(f"UPDATE {tree.name} SET v = 'b' || v WHERE id IN (1, 21)")
    tree.world.server.wait(lambda: bool(client.sync() or len(client.rows) == 3), 60, "rows that came to match")
    tree.run(f"UPDATE {tree.name} SET v = 'x' WHERE id = 11")
    tree.world.server.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "a row that no longer matches")
    assert client.restarts == 0


def test_subsets(tree: Tree) -> None:
    response = tree.world.get(tree.name, subset__order_by="id DESC", subset__limit=2)
    assert [row["value"]["id"] for row in response.json()["data"]] == ["21", "11"]


def test_new_partitions(tree: Tree) -> None:
    """Also one that is made and filled in one transaction, and one below another; nobody fetches anything again."""
    client = tree.follow()
    name = tree.name
    tree.run(f"CREATE TABLE {name}_4 PARTITION OF {name} FOR VALUES FROM (40) TO (50)")
    tree.run(f"INSERT INTO {name} VALUES (41, 'new')")
    tree.check(client)
    tree.run(
        f"BEGIN; CREATE TABLE {name}_5 PARTITION OF {name} FOR VALUES FROM (50) TO (60);"
        f"INSERT INTO {name} VALUES (51, 'at once'), (1000 - 958, 'among'), (9, 'others'); COMMIT;"
    )
    tree.run(
        f"BEGIN; CREATE TABLE {name}_2b PARTITION OF {name}_2 FOR VALUES FROM (30) TO (40);"
        f"INSERT INTO {name} VALUES (31, 'below'); COMMIT"
    )
    tree.check(client)
    assert client.restarts == 0
    full = f"SELECT bool_and(relreplident = 'f') FROM pg_class WHERE relkind = 'r' AND relname LIKE '{name}%'"

    def identities() -> bool:
        with tree.world.database.connect() as connection:
            return connection.execute(full.encode()).fetchone() == (True,)

    tree.world.server.wait(identities, 60, "full replica identity of the new partitions")
    tree.run(f"UPDATE {name} SET v = 'changed'")
    tree.check(client)
    assert client.restarts == 0


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE {0}_1",
        "ALTER TABLE {0} DETACH PARTITION {0}_1",
        "CREATE TABLE {0}_x (id int NOT NULL, v text); INSERT INTO {0}_x VALUES (61, 'before');"
        "ALTER TABLE {0} ATTACH PARTITION {0}_x FOR VALUES FROM (60) TO (70)",
        "TRUNCATE {0}_1",
        "TRUNCATE {0}",
        "ALTER TABLE {0} ADD COLUMN w int; INSERT INTO {0} VALUES (3)",
    ],
    ids=["drop", "detach", "attach", "truncate leaf", "truncate root", "alter"],
)
def test_what_no_log_can_tell_ends_the_shape(tree: Tree, change: str) -> None:
    client = tree.follow()
    for statement in change.format(tree.name).split(";"):
        tree.run(statement)
    tree.world.server.wait(lambda: bool(client.sync() or client.restarts), 60, "the end of the shape")
    tree.check(client)


def test_attached_while_the_stream_goes_on(tree: Tree) -> None:
    """A row of a partition that was attached with rows tells of it at once, not only the next look at the catalogue."""
    client = tree.follow()
    tree.run(f"CREATE TABLE {tree.name}_x (id int NOT NULL, v text); INSERT INTO {tree.name}_x VALUES (61, 'before')")
    tree.run(
        f"ALTER TABLE {tree.name} ATTACH PARTITION {tree.name}_x FOR VALUES FROM (60) TO (70);"
        f"INSERT INTO {tree.name} VALUES (62, 'after')"
    )
    tree.world.server.wait(lambda: bool(client.sync() or client.restarts), 60, "the end of the shape")
    tree.check(client)


def test_restarts(world: World) -> None:
    """Shapes go on after a kill; one whose partition went meanwhile ends, one with a new partition does not."""
    stays, shrinks = Tree(world), Tree(world)
    first, second = stays.follow(), shrinks.follow()
    stays.run(f"CREATE TABLE {stays.name}_4 PARTITION OF {stays.name} FOR VALUES FROM (40) TO (50)")
    shrinks.run(f"CREATE TABLE {shrinks.name}_4 PARTITION OF {shrinks.name} FOR VALUES FROM (40) TO (50)")
    for tree, client in ((stays, first), (shrinks, second)):
        tree.run(f"INSERT INTO {tree.name} VALUES (42, 'new')")
        tree.check(client)
    world.server.kill()
    stays.run(
        f"CREATE TABLE {stays.name}_5 PARTITION OF {stays.name} FOR VALUES FROM (50) TO (60);"
        f"INSERT INTO {stays.name} VALUES (55, 'while away')"
    )
    shrinks.run(f"DROP TABLE {shrinks.name}_4")
    world.server.start()
    stays.check(first)
    assert first.restarts == 0
    world.server.wait(lambda: bool(second.sync() or second.restarts), 60, "the end of the shape")
    shrinks.check(second)


def test_manual_publishing(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Somebody else publishes the root, and gives the leaves their identity: the server says what is missing."""
    database = create_database(postgres)
    publication = "electric_publication_manual_parts"
    server = ShapesServer(
        tmp_path_factory.mktemp("manual"),
        database.url,
        ELECTRIC_MANUAL_TABLE_PUBLISHING="true",
        ELECTRIC_REPLICATION_STREAM_ID="manual_parts",
    )
    try:
        database.execute(f"CREATE PUBLICATION {publication}")
        tree = Tree(World(database, server.start()))

        def refusal() -> str:
            response = server.get(table=tree.name, offset="-1")
            assert response.status_code == 503, response.text
            assert response.headers["electric-internal-known-error"] == "true"
            return str(response.json()["message"])

        assert "is missing from the publication" in refusal()
        tree.run(f"ALTER PUBLICATION {publication} ADD TABLE {tree.name}")
        for leaf in ("_0", "_1", "_2a"):
            text = f'Database table "public.{tree.name}{leaf}" does not have its replica identity set to FULL'
            assert refusal() == text
            tree.run(f"ALTER TABLE {tree.name}{leaf} REPLICA IDENTITY FULL")
        client = tree.follow()
        tree.run(f"UPDATE {tree.name} SET v = 'x'")
        tree.check(client)
        assert client.restarts == 0
    finally:
        server.close()
        drop_database(database)


@pytest.mark.parametrize(
    "how",
    [
        "CREATE UNLOGGED TABLE {0}_u PARTITION OF {0} FOR VALUES FROM (50) TO (60)",
        "CREATE UNLOGGED TABLE {0}_u (id int NOT NULL, v text);"
        "ALTER TABLE {0} ATTACH PARTITION {0}_u FOR VALUES FROM (50) TO (60)",
        "ALTER TABLE {0}_2a SET UNLOGGED",
    ],
    ids=["created", "attached", "altered"],
)
def test_a_partition_that_is_not_replicated_ends_the_shapes(tree: Tree, how: str) -> None:
    """They would lack its rows for ever; who asks again learns why."""
    client = tree.follow()
    tree.run(how.format(tree.name))
    tree.world.server.wait(lambda: client.step().status_code != 200, 60, "the shape to end")
    refused = tree.world.get(tree.name)
    assert refused.status_code == 400, refused.text
    assert "is an unlogged table, whose changes Postgres does not replicate" in refused.text
    subset = tree.world.get(tree.name, subset__order_by="id")
    assert subset.status_code == 400, subset.text


TOAST = """
CREATE TABLE {0} (id int, part int, body text, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE {0}_1 PARTITION OF {0} FOR VALUES IN (1);
CREATE TABLE {0}_2 (note text, body text, part int NOT NULL, id int NOT NULL);
ALTER TABLE {0} ATTACH PARTITION {0}_2 FOR VALUES IN (2);
ALTER TABLE {0}_1 ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE {0}_2 ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO {0} SELECT g, 1 + g % 2, chr(97 + g % 3) || repeat(g::text, 3000), 'n' FROM generate_series(1, 12) g;
"""


def toast_mutation(rng: random.Random, name: str) -> str:
    number = rng.randrange(1, 13)
    match rng.randrange(7):
        case 0:
            return f"UPDATE {name} SET note = '{rng.randrange(100)}' WHERE id % 4 = {number % 4}"
        case 1:
            return f"UPDATE {name} SET body = '{rng.choice('abc')}' || repeat('{number}', 4000) WHERE id = {number}"
        case 2:
            free = f"NOT EXISTS (SELECT FROM {name} WHERE id = {number + 50})"
            return f"UPDATE {name} SET id = {number + 50} WHERE id = {number} AND {free}"
        case 3:
            both = f"EXISTS (SELECT FROM {name} WHERE id = {number} AND part = 1) AND EXISTS (SELECT FROM {name} WHERE"
            return f"UPDATE {name} SET part = 3 - part WHERE id = {number} AND NOT ({both} id = {number} AND part = 2))"
        case 4:
            return f"DELETE FROM {name} WHERE id = {number}"
        case 5:
            return f"INSERT INTO {name} VALUES ({number}, 1, repeat('q', {number * 700}), NULL) ON CONFLICT DO NOTHING"
        case _:
            return f"UPDATE {name} SET id = id, note = NULL WHERE id > {number}"


@pytest.mark.parametrize("seed", range(2))
def test_large_values_that_stay_through_moves(world: World, seed: int) -> None:
    """Values out of line are not sent again by Postgres: they come from the old row, also where the key or the leaf
    changes. `Client` checks each old value; subsets have the same rows."""
    rng = random.Random(seed)
    name = world.table("unused int")
    name += "p"
    world.database.execute(TOAST.format(name))
    wanted: list[dict[str, str]] = [
        {"replica": "full"},
        {},
        {"replica": "full", "where": "body LIKE 'a%'"},
        {"where": "NOT (body LIKE 'b%')", "columns": "id,part,note"},
    ]
    clients = [Client(world.server, table=name, **params) for params in wanted]
    for client in clients:
        client.sync()
    with world.database.connect() as connection:
        for turn in range(40):
            with connection.transaction():
                for _ in range(rng.choice([1, 2, 3])):
                    connection.execute(toast_mutation(rng, name).encode())
            rng.choice(clients).step()
            if turn % 10 < 9:
                continue
            for client in clients:
                columns = client.params.get("columns", "id,part,body,note").split(",")
                text = ", ".join(f"{column}::text" for column in columns)
                query = f"SELECT {text} FROM {name} WHERE {client.params.get('where', 'true')}"
                want = sorted(connection.execute(query.encode()).fetchall(), key=repr)

                def rows(found: Any, columns: list[str] = columns) -> list[Any]:
                    return sorted((tuple(row[column] for column in columns) for row in found), key=repr)

                world.server.wait(
                    lambda c=client, w=want, r=rows: bool(c.sync() or r(c.rows.values()) == w), 60, "the table's rows"
                )
                subset = world.get(
                    name, **{k: v for k, v in client.params.items() if k != "table"}, subset__order_by="id"
                )
                assert rows(row["value"] for row in subset.json()["data"]) == want
                assert {row["key"] for row in subset.json()["data"]} == set(client.rows)
    assert all(client.restarts == 0 for client in clients)
