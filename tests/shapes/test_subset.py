"""Subset snapshots: queries beside the log, their marks, limits and errors, by GET and POST."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.shapes.server import Client
from tests.shapes.world import World, errors_of, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("subset"), ELECTRIC_DB_POOL_SIZE="6") as made:
        yield made


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["value"]["id"] for row in response.json()["data"]]


def test_form_and_headers(world: World) -> None:
    shape = world.get()
    response = world.get(subset__order_by="id", subset__limit=2)
    assert response.status_code == 200
    headers = response.headers
    assert headers["electric-snapshot"] == "true"
    assert headers["electric-handle"] == shape.headers["electric-handle"]
    assert headers["electric-offset"] == "0_inf"
    assert headers["electric-schema"] == shape.headers["electric-schema"]
    assert headers["cache-control"] == "no-cache"
    for absent in ("etag", "electric-cursor", "electric-up-to-date", "electric-has-data"):
        assert absent not in headers
    body = response.json()
    assert list(body) == ["metadata", "data"]
    metadata = body["metadata"]
    assert set(metadata) == {"database_lsn", "snapshot_mark", "xip_list", "xmax", "xmin"}
    assert isinstance(metadata["snapshot_mark"], int)
    assert 0 <= metadata["snapshot_mark"] < 2**31
    assert int(metadata["database_lsn"]) > 0
    assert int(metadata["xmin"]) <= int(metadata["xmax"])
    assert metadata["xip_list"] == []
    first, second = body["data"]
    expected = shape.json()[0]
    assert first["key"] == expected["key"]
    assert first["value"] == expected["value"]
    assert first["headers"] == expected["headers"] | {"snapshot_mark": metadata["snapshot_mark"]}
    assert second["key"] == '"public"."items"/"2"'


def test_get_and_post_mean_the_same(world: World) -> None:
    wanted = ["4", "5"]
    assert ids(world.get(subset__order_by="id", subset__limit=2, subset__offset=3)) == wanted
    assert ids(world.get(**{"subset[order_by]": "id", "subset[limit]": 2, "subset[offset]": 3})) == wanted
    for body in (
        {"order_by": "id", "limit": 2, "offset": 3},
        {"subset": {"order_by": "id", "limit": "2", "offset": 3}},
        {"order_by": "id", "order_by_expr": [{"column": "id"}], "limit": 2, "offset": 3},
    ):
        assert ids(world.post(body)) == wanted
    assert ids(world.post({}, subset__order_by="id", subset__limit=2, subset__offset=3)) == wanted
    assert (
        world.server.http.post(
            world.server.shape_url, params={"table": "items", "offset": "-1"}, json={"subset": {}}
        ).headers["electric-snapshot"]
        == "true"
    )


def test_a_proxys_subset_is_not_overridden(world: World) -> None:
    response = world.post({"order_by": "id"}, subset__order_by="id", subset__limit=1)
    assert errors_of(response) == {"subset": ["is given both in the query and in the body"]}


def test_no_rows(world: World) -> None:
    response = world.get("empty", subset__order_by="id")
    assert response.json()["data"] == []
    assert ids(world.get(subset__order_by="id", subset__limit=5, subset__offset=100)) == []


@pytest.mark.parametrize("offset", ["now", "0_0", "0_inf", "7_3"])
def test_any_offset(world: World, offset: str) -> None:
    """The client goes on from its own offset: nothing of the log is skipped."""
    handle = world.get().headers["electric-handle"]
    response = world.get(offset=offset, handle=handle, subset__order_by="id", subset__limit=1, live="false")
    assert ids(response) == ["1"]
    assert response.headers["electric-offset"] == ("0_inf" if offset == "now" else offset)


def test_a_stale_handle_comes_first(world: World) -> None:
    handle = world.get().headers["electric-handle"]
    for response in (
        world.get(offset="0_0", handle="1-1", subset__order_by="id"),
        world.post({"order_by": "id"}, offset="0_0", handle="1-1"),
    ):
        assert response.status_code == 409
        assert response.json() == [{"headers": {"control": "must-refetch"}}]
        assert response.headers["electric-handle"] == handle


def test_head(world: World) -> None:
    params = {"table": "items", "offset": "-1", "subset__order_by": "id"}
    response = world.server.http.head(world.server.shape_url, params=params)
    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["electric-snapshot"] == "true"


def test_projection_and_hidden_columns(world: World) -> None:
    response = world.get(columns="id,n", subset__order_by="id", subset__limit=1)
    assert response.json()["data"][0]["value"] == {"id": "1", "n": "1"}
    assert "hidden" not in response.text


def test_keys_without_a_primary_key(world: World) -> None:
    """They are the log's keys, although columns that are not selected are part of them."""
    table = world.table("a int, b int", "VALUES (1, 1), (1, 2)")
    keys = [message["key"] for message in world.get(table, columns="a").json() if "key" in message]
    rows = world.get(table, columns="a", subset__order_by="b").json()["data"]
    assert sorted(row["key"] for row in rows) == sorted(keys)
    assert len(set(keys)) == 2


def test_unfinished_transactions_are_told(world: World) -> None:
    """A client can tell which transactions of the log it has seen already."""
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 0)")
    client = Client(world.server, table=table)
    client.sync()
    with world.database.connect(autocommit=False) as connection:
        connection.execute(f"UPDATE {table} SET v = 1".encode())
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        with world.database.connect() as other:
            other.execute("SELECT pg_current_xact_id()")
        body = world.get(table, subset__order_by="id").json()
        assert row[0] in body["metadata"]["xip_list"]
        assert body["data"][0]["value"]["v"] == "0"
        connection.commit()
    after = world.get(table, subset__order_by="id").json()
    assert after["data"][0]["value"]["v"] == "1"
    assert int(after["metadata"]["xmin"]) > int(row[0])
    client.sync_past(0)
    world.server.wait(lambda: bool(client.sync() or client.rows[f'"public"."{table}"/"1"']["v"] == "1"), 60, "update")
    (change,) = [message for message in client.messages if "lsn" in message["headers"]]
    assert change["headers"]["txids"] == [int(row[0]) % 2**32]
    assert int(change["headers"]["lsn"]) < int(after["metadata"]["database_lsn"])


def test_of_a_shape_that_has_only_changes(world: World) -> None:
    """Between the subset and the log nothing is lost, although the shape is made by this very request."""
    table = world.table("id int PRIMARY KEY", "VALUES (1)")
    response = world.get(table, offset="now", log="changes_only", subset__order_by="id")
    assert ids(response) == ["1"]
    client = Client(world.server, table=table, log="changes_only")
    client.offset, client.handle = response.headers["electric-offset"], response.headers["electric-handle"]
    world.database.execute(f"INSERT INTO {table} VALUES (2)")
    world.server.wait(lambda: bool(client.sync() or client.rows), 60, "the change")
    assert list(client.rows) == [f'"public"."{table}"/"2"']


def test_large_results_are_streamed(world: World) -> None:
    """Above a megabyte: in chunks, whole and in order, and no more in memory than a few blocks."""
    table = world.table("id int PRIMARY KEY, t text", "SELECT g, repeat('x', 2000) FROM generate_series(1, 20000) g")
    world.get(table, log="changes_only")
    before = world.server.metric("process_resident_memory_bytes")
    with world.server.http.stream(
        "GET",
        world.server.shape_url,
        params={"table": table, "offset": "-1", "subset__order_by": "id DESC", "log": "changes_only"},
    ) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        body = json.loads(b"".join(response.iter_raw()))
    assert [row["value"]["id"] for row in body["data"]] == [str(n) for n in range(20000, 0, -1)]
    assert world.server.metric("process_resident_memory_bytes") - before < 30e6


def test_clients_that_leave_free_their_connection(world: World) -> None:
    """More large queries than there are connections, none of them read to its end: the next one is served."""
    table = world.table("id int PRIMARY KEY, t text", "SELECT g, repeat('x', 20000) FROM generate_series(1, 1000) g")
    query = f"/v1/shape?table={table}&offset=-1&log=changes_only&subset__order_by=id"
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", world.server.port), timeout=60) as sock:
            sock.sendall(f"GET {query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert len(ids(world.get(table, log="changes_only", subset__order_by="id", subset__limit=3))) == 3
    world.server.wait(lambda: world.server.metric("switchgear_subsets_running") == 0, 60, "no query left")


def test_many_at_once(world: World) -> None:
    results: list[int] = []

    def ask() -> None:
        results.append(world.get(subset__order_by="id", subset__limit=3).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 20


def test_a_table_that_changes(world: World) -> None:
    """A client without a handle gets the table as it is; one that has the old shape is told so, and by what."""
    table = world.table("id int PRIMARY KEY", "VALUES (1)")
    old = world.get(table, subset__order_by="id")
    assert ids(old) == ["1"]
    world.database.execute(f"ALTER TABLE {table} ADD COLUMN c int DEFAULT 5")
    again = world.get(table, subset__order_by="id")
    assert again.status_code == 200
    assert again.json()["data"][0]["value"] == {"id": "1", "c": "5"}
    assert again.headers["electric-handle"] != old.headers["electric-handle"]
    late = world.get(table, offset="0_0", handle=old.headers["electric-handle"], subset__order_by="id")
    assert (late.status_code, late.headers["electric-handle"]) == (409, again.headers["electric-handle"])


def test_a_table_that_changes_where_the_shape_does_not_look(world: World) -> None:
    """The shape goes on, and so do its subsets."""
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 2)")
    old = world.get(table, columns="id,v", subset__order_by="id")
    assert ids(old) == ["1"]
    handle = old.headers["electric-handle"]
    world.database.execute(f"ALTER TABLE {table} ADD COLUMN c int DEFAULT 5")
    again = world.get(table, columns="id,v", offset="0_0", handle=handle, subset__order_by="id")
    assert (again.status_code, again.headers["electric-handle"]) == (200, handle)
