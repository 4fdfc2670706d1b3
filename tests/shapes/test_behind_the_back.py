"""What happens to a table or to the publication without a word in the stream ends the shapes that it makes untrue."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from psycopg import errors

from tests.shapes.server import Client, ShapesServer
from tests.shapes.tag_client import TagClient
from tests.shapes.world import World, running
from tests.support.postgres import Database, Postgres

MENDED_MEANWHILE = (
    errors.UndefinedObject,
    errors.DuplicateObject,
    errors.UniqueViolation,  # both made it at the same moment
    errors.InternalError_,  # "tuple concurrently updated", or deleted
)
ROWS = "SELECT g, g, 'text ' || g FROM generate_series(1, 3) g"


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("behind")) as world:
        yield world


def publication(server: ShapesServer) -> str:
    return f"electric_publication_{server.environment['ELECTRIC_REPLICATION_STREAM_ID']}"


def synced(server: ShapesServer, table: str, **params: str) -> Client:
    client = Client(server, table=table, **params)
    client.sync()
    return client


def contents(database: Database, table: str, columns: str = "*") -> list[dict[str, str]]:
    each = "SELECT jsonb_object_agg(key, value) FROM jsonb_each_text(to_jsonb(whole_row))"
    with database.connect() as connection:
        query = f"SELECT ({each}) FROM (SELECT {columns} FROM {table}) whole_row"
        rows: list[dict[str, str]] = [row[0] for row in connection.execute(query.encode()).fetchall()]
    return sorted(rows, key=lambda row: row["id"])


def is_what_select_gives(client: Client, database: Database, table: str, columns: str = "*") -> bool:
    client.sync()
    return sorted(client.rows.values(), key=lambda row: row["id"]) == contents(database, table, columns)


REWRITES = {
    "a column made again": "ALTER TABLE {t} DROP COLUMN t; ALTER TABLE {t} ADD COLUMN t text DEFAULT 'new'",
    "another scale": "ALTER TABLE {t} ALTER COLUMN n TYPE numeric(10, 0)",
    "the same type": "ALTER TABLE {t} ALTER COLUMN t TYPE text USING upper(t)",
    "columns that changed their names": "ALTER TABLE {t} RENAME t TO x; ALTER TABLE {t} RENAME u TO t;"
    " ALTER TABLE {t} RENAME x TO u",
}


@pytest.mark.parametrize("written", [True, False], ids=["and a write", "without a write"])
@pytest.mark.parametrize("how", REWRITES)
def test_values_replaced_by_ddl(world: World, how: str, written: bool) -> None:
    table = world.table("id int PRIMARY KEY, n numeric(10, 2), u text, t text", "VALUES (1, 1.55, 'u', 'one')")
    whole = synced(world.server, table)
    some = synced(world.server, table, columns="id,t,n")
    other = synced(world.server, table, columns="id", where="id > 0")
    world.database.execute(REWRITES[how].format(t=table))
    if written:
        world.database.execute(f"INSERT INTO {table} (id, n, t) VALUES (2, 2, 'two')")
    else:
        world.get(table, where="id = 17")  # a new shape has the table looked at
        whole.restart(None)
        some.restart(None)
    world.server.wait(lambda: is_what_select_gives(whole, world.database, table), 60, "the whole table")
    world.server.wait(lambda: is_what_select_gives(some, world.database, table, "id, t, n"), 60, "some columns")
    world.server.wait(lambda: is_what_select_gives(other, world.database, table, "id"), 60, "the key alone")
    assert other.restarts == 0


def test_what_leaves_values_alone_ends_nothing(world: World) -> None:
    altered = world.table("id int PRIMARY KEY, n int, t varchar(20)", ROWS)
    moved = world.table("id int PRIMARY KEY, n int, t varchar(20)", ROWS)
    clients = {table: synced(world.server, table) for table in (altered, moved)}
    with world.database.connect() as connection:
        for statement in (
            "ALTER TABLE {a} ALTER COLUMN t TYPE varchar(40)",
            "ALTER TABLE {a} ALTER COLUMN n SET STATISTICS 10",
            "ALTER TABLE {a} ALTER COLUMN n SET NOT NULL",
            "ALTER TABLE {a} ALTER COLUMN n SET DEFAULT 5",
            "ANALYZE {a}",
            "VACUUM FULL {m}",
            "UPDATE {a} SET n = n + 1",
            "UPDATE {m} SET n = n + 1",
        ):
            connection.execute(statement.format(a=altered, m=moved).encode())
    for table, client in clients.items():
        world.server.wait(lambda c=client, t=table: is_what_select_gives(c, world.database, t), 60, "the update")  # type: ignore[misc]
        assert client.restarts == 0


ALTERATIONS = {
    "an operation left out for a while": "ALTER PUBLICATION {p} SET (publish = 'update');"
    " INSERT INTO {t} VALUES (7, 7, 'unseen');"
    " ALTER PUBLICATION {p} SET (publish = 'insert, update, delete, truncate')",
    "a row filter": "ALTER PUBLICATION {p} SET TABLE {t} WHERE (id > 100)",
    "a column list": "ALTER PUBLICATION {p} SET TABLE {t} (id, n)",
    "out and in": "ALTER PUBLICATION {p} DROP TABLE {t}; INSERT INTO {t} VALUES (7, 7, 'unseen');"
    " ALTER PUBLICATION {p} ADD TABLE {t}",
}


@pytest.mark.parametrize("how", ALTERATIONS)
def test_the_publication_altered_by_hand(world: World, how: str) -> None:
    table = world.table("id int PRIMARY KEY, n int, t text", ROWS)
    client = synced(world.server, table, replica="full")
    with world.database.connect() as connection:
        for statement in ALTERATIONS[how].format(p=publication(world.server), t=table).split(";"):
            connection.execute(statement.encode())
        connection.execute(f"INSERT INTO {table} VALUES (8, 8, 'later'), (108, 8, 'later')".encode())
    world.server.wait(lambda: is_what_select_gives(client, world.database, table), 60, "the rows that went unseen")
    world.database.execute(f"INSERT INTO {table} VALUES (9, 9, 'last')")
    world.server.wait(lambda: is_what_select_gives(client, world.database, table), 60, "the last row")
    assert client.restarts >= 1


@pytest.mark.parametrize("whose", ["its own", "the subquery's"])
@pytest.mark.parametrize("back", ["by hand", "for a new shape"])
def test_a_table_out_of_the_publication_after_a_reconnection(world: World, whose: str, back: str) -> None:
    """Nothing is known to be published then: whoever has the table published again must see that it was out."""
    table, asked = (world.table("id int PRIMARY KEY, n int, t text", ROWS) for _ in range(2))
    filters = ["true", f"id IN (SELECT id FROM {asked})"]
    clients = [Client(world.server, table=table), TagClient(world.server, table=table, where=filters[1])]
    for client in clients:
        client.sync()
    with world.database.connect() as connection:
        sender = "SELECT active_pid FROM pg_replication_slots WHERE active AND database = current_database()"
        before = connection.execute(sender).fetchone()
        assert before is not None
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", before)
        world.server.wait(lambda: connection.execute(sender).fetchone() not in (None, before), 60, "a new walsender")
        world.server.wait_active()
        time.sleep(1)  # all tables are looked at then
        out = table if whose == "its own" else asked
        connection.execute(f"ALTER PUBLICATION {publication(world.server)} DROP TABLE {out}".encode())
        connection.execute(f"INSERT INTO {table} VALUES (7, 7, 'unseen')".encode())
        connection.execute(f"INSERT INTO {asked} VALUES (7, 7, 'unseen')".encode())
        if back == "by hand":
            connection.execute(f"ALTER PUBLICATION {publication(world.server)} ADD TABLE {out}".encode())
        else:
            assert world.get(out, where="n > 0").status_code == 200
        connection.execute(f"INSERT INTO {out} VALUES (8, 8, 'later')".encode())
    for client, where in zip(clients, filters, strict=True):
        rows = f"{table} WHERE {where}"
        world.server.wait(lambda c=client, r=rows: is_what_select_gives(c, world.database, r), 60, "all rows")  # type: ignore[misc]


def test_a_publication_that_somebody_made_again(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Before Postgres 18 the slot never gets past what was written while there was none."""
    server = make_server(ELECTRIC_REPLICATION_STREAM_ID=f"again_{uuid.uuid4().hex[:8]}").start()
    database.execute(f"CREATE TABLE items (id int PRIMARY KEY, n int, t text); INSERT INTO items {ROWS}")
    client = synced(server, "items")
    name = publication(server)
    database.execute(f"DROP PUBLICATION {name}; INSERT INTO items VALUES (7, 7, 'unseen'); CREATE PUBLICATION {name}")
    with database.connect() as connection:
        for statement in (
            f"DROP PUBLICATION {name}",
            "INSERT INTO items VALUES (8, 8, 'unseen')",
            f"CREATE PUBLICATION {name} FOR TABLE items",
            "INSERT INTO items VALUES (9, 9, 'later')",
        ):
            # The server may be mending the first at the same time, as it would beside a person.
            with contextlib.suppress(*MENDED_MEANWHILE):
                connection.execute(statement.encode())
    for number in (10, 11):
        server.wait(lambda: is_what_select_gives(client, database, "items"), 60, "what SELECT gives")
        database.execute(f"INSERT INTO items VALUES ({number}, 1, 'last')")
    server.wait(lambda: is_what_select_gives(client, database, "items"), 60, "the last row")


def test_while_nobody_ran(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_REPLICATION_STREAM_ID=f"away_{uuid.uuid4().hex[:8]}")
    tables = ["kept", "made_again", "out_and_in"]
    for table in tables:
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, n int, t text); INSERT INTO {table} {ROWS}")
    server.start()
    clients = {table: synced(server, table) for table in tables}
    server.stop()
    database.execute("ALTER TABLE made_again DROP COLUMN t; ALTER TABLE made_again ADD COLUMN t text DEFAULT 'new'")
    with database.connect() as connection:
        for statement in ALTERATIONS["out and in"].format(p=publication(server), t="out_and_in").split(";"):
            connection.execute(statement.encode())
    server.start()
    for table, client in clients.items():
        server.wait(lambda c=client, t=table: is_what_select_gives(c, database, t), 60, table)  # type: ignore[misc]
    assert {table: client.restarts for table, client in clients.items()} == {
        "kept": 0,
        "made_again": 1,
        "out_and_in": 1,
    }


def test_changes_under_the_root_s_name(world: World) -> None:
    """`publish_via_partition_root`, which somebody set: a partition's changes would not be known for its own."""
    root = world.table("id int, n int, t text, PRIMARY KEY (id)", "SELECT 1, 1, 'x' LIMIT 0")
    world.database.execute(
        f"DROP TABLE {root}; CREATE TABLE {root} (id int PRIMARY KEY, n int, t text) PARTITION BY RANGE (id);"
        f"CREATE TABLE {root}_leaf PARTITION OF {root} FOR VALUES FROM (0) TO (1000); INSERT INTO {root} {ROWS}"
    )
    whole, leaf = synced(world.server, root), synced(world.server, f"{root}_leaf")
    name = publication(world.server)
    world.database.execute(f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true)")
    world.database.execute(f"INSERT INTO {root} VALUES (8, 8, 'later')")
    for client, table in ((whole, root), (leaf, f"{root}_leaf")):
        world.server.wait(lambda c=client, t=table: is_what_select_gives(c, world.database, t), 60, "the row")  # type: ignore[misc]
    world.database.execute(f"INSERT INTO {root} VALUES (9, 9, 'last')")
    for client, table in ((whole, root), (leaf, f"{root}_leaf")):
        world.server.wait(lambda c=client, t=table: is_what_select_gives(c, world.database, t), 60, "the row")  # type: ignore[misc]


def test_a_narrowed_table_is_named(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(
        ELECTRIC_MANUAL_TABLE_PUBLISHING="true", ELECTRIC_REPLICATION_STREAM_ID=f"manual_{uuid.uuid4().hex[:8]}"
    )
    database.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int); ALTER TABLE items REPLICA IDENTITY FULL;"
        f"CREATE PUBLICATION {publication(server)} FOR TABLE items WHERE (id > 5)"
    )
    server.start()
    refused = server.get(table="items", offset="-1")
    assert refused.status_code == 503
    assert "row filter or a column list" in refused.json()["message"]
    database.execute(f"ALTER PUBLICATION {publication(server)} SET TABLE items")
    assert server.get(table="items", offset="-1").status_code == 200


def test_rows_that_take_each_other_s_keys(world: World) -> None:
    """A deferrable key may be there twice within a transaction, which no log of keys can tell."""
    table = world.table("id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, n int, t text", ROWS)
    clients = [synced(world.server, table), synced(world.server, table, where="id > 0", replica="full")]
    for statement in (
        "UPDATE {t} SET id = id + 1",
        "UPDATE {t} SET id = 5 - id WHERE id IN (2, 3)",
        "INSERT INTO {t} VALUES (4, 44, 'double'); DELETE FROM {t} WHERE id = 4 AND n <> 44",
        "UPDATE {t} SET n = n + 1",
    ):
        world.database.execute(statement.format(t=table))
        for client in clients:
            world.server.wait(lambda c=client: is_what_select_gives(c, world.database, table), 60, statement)  # type: ignore[misc]
    before = [client.restarts for client in clients]
    assert before == [3, 3]
    world.database.execute(f"UPDATE {table} SET id = 100 WHERE id = 4; INSERT INTO {table} VALUES (17, 1, 'new')")
    for client in clients:
        world.server.wait(lambda c=client: is_what_select_gives(c, world.database, table), 60, "new keys")  # type: ignore[misc]
    assert [client.restarts for client in clients] == before
