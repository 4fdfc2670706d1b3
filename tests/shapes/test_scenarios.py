"""Scenarios that the tests of Electric, TanStack's Electric collection and Electric Circuits name, and ours had not.

What they have in common is only where they come from. All share one server; each has tables of its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.shapes.server import Client, one_version
from tests.shapes.tag_client import TagClient
from tests.shapes.test_behind_the_back import publication
from tests.shapes.world import World, errors_of, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("scenarios")) as made:
        yield made


def synced(world: World, table: str, **params: str) -> Client:
    client = Client(world.server, table=table, **params)
    client.sync()
    return client


def wait_rows(world: World, client: Client, count: int) -> None:
    world.server.wait(lambda: bool(client.sync() or len(client.rows) == count), 60, f"{count} rows")


# -- what TanStack's collection makes of its queries --

PEOPLE = """
id int PRIMARY KEY, name text, code varchar(9), roles text[], levels int[], moods mood[], big int8, key uuid,
active bool, seen bool, "madeAt" timestamp, doc jsonb
"""
KEY = "0000000a-0000-4000-8000-000000000001"
ROWS = f"""VALUES
(1, 'Ann', 'boss', '{{boss,dev}}', '{{1,2}}', '{{sad}}', 9007199254740993, '{KEY}', true, true,
 '2024-01-01 10:00', '{{"a": {{"n": 10, "s": "x"}}}}'),
(2, 'bob', 'dev', '{{dev}}', '{{3}}', '{{ok,happy}}', 5, NULL, false, NULL, '2025-01-01 10:00',
 '{{"a": {{"n": null}}}}'),
(3, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(4, NULL, 'boss', '{{NULL}}', '{{NULL}}', '{{}}', 1, NULL, true, false, NULL, '{{}}')
"""
ASKED: list[tuple[str, list[str], str]] = [
    ("true = true", [], "1234"),
    ('"name" = $1', [""], "3"),
    ('"roles" @> ARRAY[$1] AND "roles" IS NOT NULL', ["boss"], "1"),
    ('NOT ("roles" @> ARRAY[$1] AND "roles" IS NOT NULL)', ["boss"], "234"),
    ('"levels" @> ARRAY[$1] AND "levels" IS NOT NULL', ["2"], "1"),
    ('"moods" @> ARRAY[$1]', ["happy"], "2"),
    ('ARRAY[$1,$2] = "moods"', ["ok", "happy"], "2"),
    ('"roles" @> ARRAY["code"] AND "roles" IS NOT NULL', [], "12"),
    ('"code" = ANY("roles")', [], "12"),
    ('"code" = ANY($1)', ['{"boss","x"}'], "14"),
    ('"id" = ANY($1)', ["{}"], ""),
    ('"key" = ANY($1)', [f'{{"{KEY}"}}'], "1"),
    ('"big" = ANY($1)', ["{9007199254740992,9007199254740993}"], "1"),
    ('("active" OR "seen") = $1', ["true"], "14"),
    ('(NOT ("active" = $1)) = ANY($2)', ["true", "{true,false}"], "124"),
    ('("big" > $1) IS NULL', ["3"], "3"),
    ('("active") = FALSE', [], "2"),
    ('("active") <> ("active")', [], ""),
    ('("active") = ("active")', [], "124"),
    ('"madeAt" > $1', ["2024-06-01T00:00:00.000Z"], "2"),
    ('LOWER("name") ILIKE $1', ["%ANN%"], "1"),
    ('LOWER(COALESCE("name",$1)) LIKE $2', ["none", "%n%"], "14"),
    ('CONCAT("name",$1) = $2', ["!", "bob!"], "2"),
    ("((\"doc\"::jsonb #>> ARRAY['a', 'n']))::double precision > $1", ["5"], "1"),
    ("((\"doc\"::jsonb #>> ARRAY['a', 's'])) = $1", ["x"], "1"),
    (
        '("doc"::jsonb IS NULL OR "doc"::jsonb = \'null\'::jsonb OR'
        " (\"doc\"::jsonb #> ARRAY['a']) = 'null'::jsonb) IS TRUE",
        [],
        "3",
    ),
]


@pytest.fixture(scope="module")
def people(world: World) -> str:
    return world.table(PEOPLE, ROWS)


@pytest.mark.parametrize(("where", "params", "expected"), ASKED, ids=[where for where, _, _ in ASKED])
def test_what_tanstack_asks_for(world: World, people: str, where: str, params: list[str], expected: str) -> None:
    """As a subset, which only Postgres evaluates, and as a shape."""
    values = {str(number): value for number, value in enumerate(params, 1)}
    asked = {"subset__where": where, "subset__params": json.dumps(values), "subset__order_by": '"id" ASC NULLS LAST'}
    subset = world.get(people, log="changes_only", **asked)
    assert subset.status_code == 200, subset.text
    assert [row["value"]["id"] for row in subset.json()["data"]] == list(expected)
    shape = world.get(people, where=where, **{f"params[{number}]": value for number, value in values.items()})
    assert shape.status_code == 200, shape.text
    assert sorted(message["value"]["id"] for message in shape.json() if "value" in message) == list(expected)


@one_version
def test_arrays_of_literals_and_columns_on_the_stream(world: World) -> None:
    """What an array beside `ARRAY[…]` is, text[] or varchar[], is nothing that Postgres lets pass: it was a 500."""
    table = world.table("id int PRIMARY KEY, texts text[], codes varchar[], code varchar(9), t text, numbers int[]")
    wheres = {
        "texts @> ARRAY[code]": {"2"},
        "ARRAY[t] <@ codes": {"1"},
        "ARRAY['y'] <@ codes": {"2"},
        "numbers @> ARRAY['2']": {"1"},
        "array_prepend(code, texts) = codes": set(),
    }
    clients = {where: synced(world, table, where=where) for where in list(wheres)[:4]}
    world.database.execute(
        f"INSERT INTO {table} VALUES (1, '{{x}}', '{{x}}', 'z', 'x', '{{1,2}}'),"
        " (2, '{x,y}', '{y}', 'y', 'z', '{3}'), (3, NULL, NULL, NULL, NULL, NULL)"
    )
    for where, client in clients.items():
        wait_rows(world, client, len(wheres[where]))
        assert {row["id"] for row in client.rows.values()} == wheres[where], where
    for refused in (
        "texts = codes",
        "texts && codes",
        "texts IS DISTINCT FROM codes",
        "array_append(codes, t) = texts",
    ):
        assert "unknown cast from type" in errors_of(world.get(table, where=refused))["where"][0], refused
    assert world.get(table, where="array_prepend(code, texts) = codes").status_code == 200


@one_version
def test_a_clause_that_reads_bytes(world: World) -> None:
    """As text they can be compared. The next change of the table ended the server, and again after each start."""
    table = world.table("id int PRIMARY KEY, data bytea, t text", "VALUES (1, 'a', 'x')")
    wheres = {
        r"data::text = '\x62'": {"2"},
        r"concat(t, data) LIKE 'y\\x%'": {"2"},
        r"data::text LIKE '\\x6%'": {"1", "2"},
    }
    clients = {where: synced(world, table, where=where) for where in wheres}
    world.database.execute(f"INSERT INTO {table} VALUES (2, 'b', 'y'), (3, NULL, 'y')")
    for where, client in clients.items():
        wait_rows(world, client, len(wheres[where]))
        assert {row["id"] for row in client.rows.values()} == wheres[where]


@one_version
def test_a_domain_over_an_enum(world: World) -> None:
    """Postgres has no operators for it, and a shape was answered 500; as text it is compared."""
    world.database.execute("CREATE DOMAIN feeling AS mood")
    table = world.table("id int PRIMARY KEY, f feeling", "VALUES (1, 'sad')")
    for where in ("f = 'sad'", "f IN ('sad', 'ok')", "f = f"):
        text = "feeling, a domain over an enum, has no comparisons; cast it to text"
        assert errors_of(world.get(table, where=where)) == {"where": [f"At location 0: {text}"]}
    client = synced(world, table, where="f::text = 'sad'")
    world.database.execute(f"INSERT INTO {table} VALUES (2, 'sad'), (3, 'ok')")
    wait_rows(world, client, 2)


# -- the log --


KEYS_CHANGE = (
    "UPDATE {t} SET id = 3 WHERE id = 20; UPDATE {t} SET id = 11 WHERE id = 2; UPDATE {t} SET id = 5 WHERE id = 1"
)
IN_AND_OUT = [("insert", 3, 0, {}), ("delete", 2, 2, {}), ("delete", 1, 4, {"to": 5}), ("insert", 5, 5, {"from": 1})]
EVERYWHERE = [
    *(("delete", 20, 0, {"to": 3}), ("insert", 3, 1, {"from": 20}), ("delete", 2, 2, {"to": 11})),
    *(("insert", 11, 3, {"from": 2}), ("delete", 1, 4, {"to": 5}), ("insert", 5, 5, {"from": 1})),
]


@one_version
@pytest.mark.parametrize("replica", ["default", "full"])
@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "whole"])
def test_rows_that_get_other_keys(world: World, replica: str, filtered: bool) -> None:
    """A row that stays is deleted and inserted, each naming the other; one that crosses the filter is only one of the
    two. An operation has two positions, one for each half; the last of the transaction says so."""
    table = world.table("id int PRIMARY KEY, n int", "VALUES (1, 1), (2, 2), (20, 20)")
    client = synced(world, table, replica=replica, where="id < 10" if filtered else "")
    world.database.execute("BEGIN; " + KEYS_CHANGE.format(t=table) + "; COMMIT")
    world.server.wait(lambda: bool(client.sync() or "lsn" in client.messages[-2]["headers"]), 60, "the changes")
    changes = [message for message in client.messages if "lsn" in message["headers"]]
    told = IN_AND_OUT if filtered else EVERYWHERE
    values = {1: "1", 2: "2", 20: "20", 3: "20", 5: "1", 11: "2"}
    (position,) = {(message["headers"]["lsn"], *message["headers"]["txids"]) for message in changes}
    for index, (message, (operation, number, place, other)) in enumerate(zip(changes, told, strict=True)):
        assert message["key"] == f'"public"."{table}"/"{number}"'
        whole = operation == "insert" or replica == "full"
        assert message["value"] == {"id": f"{number}"} | ({"n": values[number]} if whole else {})
        named = {f"key_change_{way}": f'"public"."{table}"/"{key}"' for way, key in other.items()}
        last = {"last": True} if index == len(told) - 1 else {}
        assert message["headers"] == named | last | {
            "operation": operation,
            "relation": ["public", table],
            "lsn": position[0],
            "txids": [position[1]],
            "op_position": place,
        }
    assert client.offset == f"{position[0]}_5"


@one_version
def test_a_row_without_a_primary_key_is_another_one_when_it_changes(world: World) -> None:
    table = world.table("a text, b text", "VALUES ('1', NULL)")
    client = synced(world, table)
    world.database.execute(f"UPDATE {table} SET a = '3'")
    world.server.wait(lambda: bool(client.sync() or "lsn" in client.messages[-2]["headers"]), 60, "the change")
    gone, come = client.messages[-3:-1]
    keys = [f'"public"."{table}"/"{value}"/_' for value in "13"]
    assert [gone["key"], come["key"]] == keys
    assert (gone["value"], come["value"]) == ({"a": "1", "b": None}, {"a": "3", "b": None})
    assert (gone["headers"]["key_change_to"], come["headers"]["key_change_from"]) == (keys[1], keys[0])


@one_version
@pytest.mark.parametrize("live", [{}, {"live": "true"}], ids=["catching up", "live"])
def test_a_client_that_is_ahead_is_served_when_the_log_gets_there(world: World, live: dict[str, str]) -> None:
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 1)")
    client = synced(world, table)
    world.database.execute(f"UPDATE {table} SET v = 2")
    world.server.wait(lambda: bool(client.sync() or "lsn" in client.messages[-2]["headers"]), 60, "the change")
    ahead = f"{int(client.offset.partition('_')[0]) + 1}_0"
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(world.get(table, ahead, handle=client.handle, **live)))
    asking.start()
    world.server.wait(lambda: world.server.metric("switchgear_live_waiters") == 1, 60, "a request that waits")
    world.database.execute(f"UPDATE {table} SET v = 3")
    asking.join(60)
    (response,) = found
    assert response.status_code == 200
    assert response.json()[0]["value"] == {"id": "1", "v": "3"}
    assert response.headers["electric-up-to-date"] == ""


# -- DDL --


def test_a_column_that_may_be_null_from_now_on(world: World) -> None:
    """The next change of the table brings it; the shape goes on."""
    table = world.table("id int PRIMARY KEY, v text NOT NULL", "VALUES (1, 'a')")
    client = Client(world.server, table=table)
    assert json.loads(client.step().headers["electric-schema"])["v"] == {"type": "text", "not_null": True}
    world.database.execute(f"ALTER TABLE {table} ALTER COLUMN v DROP NOT NULL; INSERT INTO {table} VALUES (2, NULL)")
    wait_rows(world, client, 2)
    response = world.get(table, offset=client.offset, handle=client.handle)
    assert json.loads(response.headers["electric-schema"])["v"] == {"type": "text"}
    assert client.restarts == 0


def test_a_table_made_again_with_other_columns(world: World) -> None:
    """A filter of a column that is gone is the client's mistake from the first request on."""
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 1)")
    assert world.get(table).status_code == 200
    world.database.execute(f"DROP TABLE {table}; CREATE TABLE {table} (id int PRIMARY KEY, w int)")
    assert errors_of(world.get(table, where="v + 1 >= 2")) == {"where": ["At location 0: unknown reference v"]}
    assert world.get(table, where="w > 1").status_code == 200
    world.database.execute(f"DROP TABLE {table}")
    assert "does not exist" in errors_of(world.get(table, where="w > 2"))["table"][0]


def test_the_publication_leaves_generated_columns_out_and_has_them_again(world: World) -> None:
    """Altered by hand: shapes with such columns ended with every change, for ever. Others may begin anew."""
    table = world.table("id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED", "VALUES (1, 1)")
    if world.database.version < 18:
        text = "The following columns are generated and cannot be included in the shape: twice"
        for columns in ({}, {"columns": "id,twice"}):
            (found,) = errors_of(world.get(table, **columns))["columns"]
            assert found.startswith(text)
        return
    whole, other = synced(world, table), synced(world, table, columns="id,n")
    name = publication(world.server)
    world.database.execute(f"ALTER PUBLICATION {name} SET (publish_generated_columns = none)")
    world.database.execute(f"INSERT INTO {table} VALUES (2, 2)")
    wait_rows(world, other, 2)
    world.server.wait(lambda: world.get(table).status_code == 503, 60, "a refusal")
    refused = world.get(table, columns="id,twice")
    assert refused.json()["message"] == (
        f'Publication "{name}" does not publish generated columns. This is a feature introduced in PostgreSQL 18 and'
        " requires setting the publication parameter 'publish_generated_columns' to 'stored'. Alternatively, you can"
        " exclude them from the shape by explicitly listing which columns to fetch in the 'columns' query param."
    )
    assert refused.headers["retry-after"] == "10"
    assert refused.headers["electric-internal-known-error"] == "true"
    assert "generated" in errors_of(world.get(table, columns="id,n", where="twice = 4"))["where"][0]
    world.database.execute(f"ALTER PUBLICATION {name} SET (publish_generated_columns = stored)")
    assert world.get(table, columns="id", where="twice = 4").status_code == 200
    whole.sync()
    world.database.execute(f"INSERT INTO {table} VALUES (3, 3)")
    wait_rows(world, whole, 3)
    wait_rows(world, other, 3)
    assert {row["twice"] for row in whole.rows.values()} == {"2", "4", "6"}


# -- names --


@one_version
def test_names_of_all_kinds(world: World) -> None:
    """Unquoted ones are lowered in ASCII only, quoted ones may have anything; keys are the same on the stream."""
    column = 'col with ""\' in it'
    schema = 'CREATE SCHEMA "foo.bar"; CREATE TABLE "foo.bar"."baz" (id int PRIMARY KEY, v int)'
    made = ("Δtable$", '"!table "".a"', '"Tbl"')
    for name in made:
        world.database.execute(f'CREATE TABLE {name} (id int PRIMARY KEY, "{column}" int)')
    world.database.execute(schema)
    for written, stored in (
        ("Δtable$", "Δtable$"),
        ("ΔTABLE$", "Δtable$"),
        ('"!table "".a"', '!table "..a'),
        ('"Tbl"', "Tbl"),
    ):
        client = synced(world, written, where=f'"{column}" = 1')
        before = len(client.rows)
        quoted = written if written.startswith('"') else "Δtable$"
        world.database.execute(f"INSERT INTO {quoted} SELECT coalesce(max(id), 0) + 1, 1 FROM {quoted}")
        wait_rows(world, client, before + 1)
        expected = {f'"public"."{stored}"/"{number}"' for number in range(1, before + 2)}
        assert set(client.rows) == expected == set(synced(world, written, columns=f'id,"{column}"').rows)
    dotted = synced(world, '"foo.bar".baz')
    world.database.execute('INSERT INTO "foo.bar".baz VALUES (1, 1)')
    wait_rows(world, dotted, 1)
    assert list(dotted.rows) == ['"foo..bar"."baz"/"1"']
    missing = errors_of(world.get("_val1d_schëmaΦ$.Φtàble"))["table"][0]
    assert missing.startswith('Table "_val1d_schëmaΦ$"."Φtàble" does not exist.')


# -- subqueries --


def families(world: World) -> tuple[str, str]:
    parents = world.table("id int PRIMARY KEY, ok bool", "VALUES (1, true), (2, true), (3, false)")
    return parents, world.table("id int PRIMARY KEY, parent int, v int", "VALUES (1, 1, 0), (2, 3, 0)")


def messages_of(client: TagClient) -> list[dict[str, Any]]:
    return [message["headers"] for message in client.messages if "control" not in message["headers"]]


@one_version
def test_tags_change_though_no_selected_column_does(world: World) -> None:
    """The row goes with its new parent, and not with the one that it had."""
    parents, children = families(world)
    where = f"parent IN (SELECT id FROM {parents} WHERE ok)"
    client = TagClient(world.server, table=children, where=where, columns="id")
    client.sync()
    (old,) = messages_of(client)[-1]["tags"]
    world.database.execute(f"UPDATE {children} SET parent = 2 WHERE id = 1; UPDATE {children} SET v = 9 WHERE id = 1")
    world.server.wait(lambda: bool(client.sync() or len(messages_of(client)) > 1), 60, "the update")
    update = messages_of(client)[-1]
    assert (update["operation"], update["removed_tags"]) == ("update", [old])
    assert client.messages[-2]["value"] == {"id": "1"}
    world.database.execute(f"UPDATE {parents} SET ok = false WHERE id = 1")
    world.server.wait(lambda: bool(client.sync() or len(messages_of(client)) > 2), 60, "what left")
    assert len(client.rows) == 1
    world.database.execute(f"UPDATE {parents} SET ok = false WHERE id = 2")
    world.server.wait(lambda: bool(client.sync() or not client.rows), 60, "the row to go")


@one_version
def test_a_row_gets_another_key_where_a_subquery_has_it(world: World) -> None:
    parents, children = families(world)
    where = f"parent IN (SELECT id FROM {parents} WHERE ok)"
    client = TagClient(world.server, table=children, where=where)
    client.sync()
    world.database.execute(f"UPDATE {children} SET id = 7 WHERE id = 1")
    world.server.wait(lambda: bool(client.sync() or len(messages_of(client)) > 2), 60, "both halves")
    gone, come = messages_of(client)[-2:]
    keys = [f'"public"."{children}"/"{number}"' for number in (1, 7)]
    assert (gone["operation"], gone["key_change_to"]) == ("delete", keys[1])
    assert (come["operation"], come["key_change_from"], come["last"]) == ("insert", keys[0], True)
    assert (gone["op_position"], come["op_position"]) == (0, 1)
    assert come["tags"] == messages_of(client)[0]["tags"]


@one_version
@pytest.mark.parametrize(("parent", "ok", "expected"), [(1, False, set()), (3, True, {"1", "2"})], ids=["out", "in"])
def test_the_query_for_what_moves_is_ended(world: World, parent: int, ok: bool, expected: set[str]) -> None:
    """By an administrator, or a failover: nobody who lost access keeps a row, and nobody who got it misses one."""
    parents, children = families(world)
    client = TagClient(world.server, table=children, where=f"parent IN (SELECT id FROM {parents} WHERE ok)")
    client.sync()
    end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with world.database.connect(autocommit=False) as holder, world.database.connect() as connection:
        holder.execute(f"LOCK TABLE {children} IN ACCESS EXCLUSIVE MODE".encode())
        connection.execute(f"UPDATE {parents} SET ok = {ok} WHERE id = {parent}".encode())
        world.server.wait(lambda: bool(connection.execute(end, [children]).fetchall()), 60, "a query that waits")
        holder.rollback()
    world.server.wait(
        lambda: bool(client.sync() or {row["id"] for row in client.rows.values()} == expected), 60, "what SELECT gives"
    )
    assert client.restarts == 0
