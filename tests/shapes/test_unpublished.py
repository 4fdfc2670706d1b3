"""Relations whose changes Postgres does not replicate: shapes and subqueries of them are refused with the way out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from switchgear_shapes.relations import Relation, obstacle
from tests.shapes.server import Client
from tests.shapes.world import World, errors_of, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg]

RELATIONS = """
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, n int);
CREATE VIEW looks AS SELECT id, n FROM items;
CREATE MATERIALIZED VIEW kept AS SELECT id, n FROM items;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE elsewhere (id int, n int) SERVER nowhere;
CREATE SEQUENCE counting;
"""
UNLOGGED = (
    '"public"."unlogged" is an unlogged table, whose changes Postgres does not replicate:'
    ' run ALTER TABLE "public"."unlogged" SET LOGGED'
)
REFUSED = [
    ("unlogged", UNLOGGED),
    ("looks", '"public"."looks" is a view, whose changes Postgres does not replicate: ask for a shape of the tables'),
    ("kept", '"public"."kept" is a materialized view, whose changes Postgres does not replicate: ask for a shape of'),
    ("elsewhere", '"public"."elsewhere" is a foreign table, whose changes Postgres does not replicate: connect a sync'),
    ("counting", '"public"."counting" is a sequence, whose changes Postgres does not replicate: ask for a shape of'),
    ("pg_catalog.pg_class", '"pg_catalog"."pg_class" is a table of the system catalog, whose changes'),
    ("pg_catalog.pg_tables", '"pg_catalog"."pg_tables" is a view of the system catalog, whose changes'),
    ("information_schema.sql_features", '"information_schema"."sql_features" is a table of the system catalog'),
]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("unpublished")) as made:
        made.database.execute(RELATIONS)
        yield made


def test_a_shape_is_refused_with_the_way_out(world: World) -> None:
    for table, text in REFUSED:
        for offset in ("-1", "now"):
            (message,) = errors_of(world.get(table, offset))["table"]
            assert message.startswith(text), table
        assert errors_of(world.get(table, subset__limit="1", subset__order_by="1"))["table"][0].startswith(text)


def test_a_subquery_is_refused_with_the_way_out(world: World) -> None:
    for table, text in REFUSED:
        if table in ("unlogged", "looks", "kept", "elsewhere"):
            errors = errors_of(world.get(where=f"id IN (SELECT id FROM {table})"))
            assert errors["where"][0].startswith(text), table


def test_a_temporary_table_of_another_session_is_refused(world: World) -> None:
    with world.database.connect() as connection:
        connection.execute("CREATE TEMPORARY TABLE passing (id int PRIMARY KEY)")
        row = connection.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
        assert row is not None
        (message,) = errors_of(world.get(f"{row[0]}.passing"))["table"]
        assert message.endswith(
            "is a temporary table, whose changes Postgres does not replicate: use a permanent table"
        )


def test_a_table_is_served_as_soon_as_it_is_what_it_should_be(world: World) -> None:
    name = world.table("id int PRIMARY KEY, n int", "VALUES (1, 1)")
    world.database.execute(f"ALTER TABLE {name} SET UNLOGGED")
    assert errors_of(world.get(name))["table"]
    world.database.execute(f"ALTER TABLE {name} SET LOGGED")
    client = Client(world.server, table=name)
    client.sync()
    assert len(client.rows) == 1


def test_a_table_that_was_made_unlogged_after_it_was_looked_at_is_refused(world: World) -> None:
    name = world.table("id int PRIMARY KEY, n int", "VALUES (1, 1)")
    assert "where" in errors_of(world.get(name, where="m = 1"))  # the server knows the table from here on
    world.database.execute(f"ALTER TABLE {name} SET UNLOGGED")
    (message,) = errors_of(world.get(name))["table"]
    assert "is an unlogged table" in message


def test_a_root_with_a_partition_that_is_not_replicated_is_refused(world: World) -> None:
    name = world.table("id int, PRIMARY KEY (id)) PARTITION BY RANGE (id")
    world.database.execute(f"CREATE UNLOGGED TABLE {name}_0 PARTITION OF {name} FOR VALUES FROM (0) TO (10)")
    (message,) = errors_of(world.get(name))["table"]
    assert message.startswith(f'"public"."{name}_0" is an unlogged table')


def test_tables_of_people_have_no_obstacle() -> None:
    for kind in "rp":
        assert obstacle(Relation(16_384, "public", "t", kind, "d", ())) is None
