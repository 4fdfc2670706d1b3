"""The HTTP surface, black box: routes, headers, parameters and their errors, caching."""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database, Postgres, create_database, drop_database

pytestmark = [pytest.mark.pg]

EXPOSED = (
    "electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,electric-up-to-date,"
    "electric-internal-known-error,retry-after"
)


TABLES = (
    "CREATE TABLE items (id int PRIMARY KEY, title varchar(20), tags text[], price numeric(10,2), note text);"
    "INSERT INTO items SELECT g, 'title ' || g, '{a,b}', g * 1.5, NULL FROM generate_series(1, 5) g;"
    "CREATE TABLE empty (id int PRIMARY KEY);"
    'CREATE SCHEMA s2; CREATE TABLE s2."Weird.Name" (b int, a int, c text, PRIMARY KEY (a, b));'
    "INSERT INTO s2.\"Weird.Name\" VALUES (1, 2, 'x')"
)


@contextmanager
def serving(postgres: Postgres, folder: Path, **environment: str) -> Iterator[ShapesServer]:
    database = create_database(postgres)
    database.execute(TABLES)
    # A slot's name is one for the whole Postgres, where servers of other tests run beside this one.
    stream = f"protocol_{uuid.uuid4().hex[:8]}"
    server = ShapesServer(folder, database.url, ELECTRIC_REPLICATION_STREAM_ID=stream, **environment)
    try:
        yield server.start()
    finally:
        server.close()
        drop_database(database)


@pytest.fixture(scope="module")
def items(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShapesServer]:
    """A server on a database with a few tables, for tests that only read: shapes may be there from one before."""
    with serving(postgres, tmp_path_factory.mktemp("items"), ELECTRIC_LONG_POLL_TIMEOUT="2000") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShapesServer]:
    """The same with the secret `s3cret`."""
    folder = tmp_path_factory.mktemp("guarded")
    with serving(postgres, folder, ELECTRIC_SECRET="s3cret", ELECTRIC_INSECURE="") as server:
        yield server


@pytest.fixture
def own_items(database: Database, server: ShapesServer) -> ShapesServer:
    """A server of the test's own, on a database with the same tables."""
    database.execute(TABLES)
    return server


def errors(response: Any) -> Any:
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["message"] == "Invalid request"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["surrogate-control"] == "no-store"
    assert response.headers["access-control-allow-origin"] == "*"
    return body["errors"]


NO_TABLE = (
    'Table "public"."nope" does not exist. If the table name contains capitals or special characters you must quote it.'
)
BAD_REQUESTS: list[tuple[dict[str, str], dict[str, list[str]]]] = [
    ({}, {"offset": ["can't be blank"]}),
    ({"offset": ""}, {"offset": ["can't be blank"]}),
    ({"table": "items"}, {"offset": ["can't be blank"]}),
    *(
        ({"table": "items", "offset": bad}, {"offset": ["has invalid format"]})
        for bad in ("10", "1_2_3", "-1 ", "0_1.5", "-2", "0_-1", "x", "_", "1_", "0_infinity", "99999999999999999999_0")
    ),
    ({"offset": "-1"}, {"table": ["can't be blank"]}),
    ({"table": " ", "offset": "-1"}, {"table": ["can't be blank"]}),
    ({"table": "items", "offset": "0_0"}, {"handle": ["can't be blank when offset != -1"]}),
    ({"table": "items", "offset": "-1", "live": "true"}, {"live": ["can't be true when offset == -1"]}),
    ({"table": "items", "offset": "-1", "live": ""}, {"live": ["can't be true when offset == -1"]}),
    ({"table": "items", "offset": "now", "live": "true"}, {"live": ["can't be true when offset is 'now'"]}),
    (
        {"table": "items", "offset": "0_0", "handle": "1-1", "live_sse": "true"},
        {"live_sse": ["can't be true unless live is also true"]},
    ),
    ({"table": "nope", "offset": "-1"}, {"table": [NO_TABLE]}),
    (
        {"table": "pg_catalog.pg_class", "offset": "-1"},
        {
            "table": [
                '"pg_catalog"."pg_class" is a table of the system catalog, whose changes Postgres does not replicate: '
                "copy what is needed into a table of your own"
            ]
        },
    ),
    ({"table": "a.b.c", "offset": "-1"}, {"table": ["Invalid relation identifier, too many delimiters: a.b.c"]}),
    *(
        ({"table": name, "offset": "-1"}, {"table": ["Invalid zero-length delimited identifier"]})
        for name in ('""', ".a", "a.")
    ),
    *(
        (
            {"table": "items", "offset": "-1", "columns": names},
            {"columns": ["Invalid zero-length delimited identifier"]},
        )
        for names in (",,,", "id,", "id,,title")
    ),
    (
        {"table": "it ems", "offset": "-1"},
        {"table": ["Invalid unquoted identifier contains special characters: it ems"]},
    ),
    ({"table": '"a"b"', "offset": "-1"}, {"table": ['Invalid identifier with unescaped quote: a"b']}),
    ({"table": "a" * 64, "offset": "-1"}, {"table": ["Identifier is too long (max length is 63)"]}),
    (
        {"table": "items", "offset": "-1", "columns": "title"},
        {"columns": ["The list of columns must include all primary key columns, missing: id"]},
    ),
    (
        {"table": "items", "offset": "-1", "columns": "id,zz,Title,yy"},
        {"columns": ["The following columns are not found on the table: yy, zz"]},
    ),
    ({"table": "items", "offset": "-1", "columns": ""}, {"columns": ["The list of columns must not be empty"]}),
    (
        {"table": "items", "offset": "-1", "queryable_columns": "title"},
        {"queryable_columns": ["The list of queryable columns must include all primary key columns, missing: id"]},
    ),
    (
        {"table": "items", "offset": "-1", "queryable_columns": "id,title", "columns": "id,note"},
        {"columns": ["The following columns are not found on the table: note"]},
    ),
    ({"table": "items", "offset": "-1", "replica": "half"}, {"replica": ["is invalid"]}),
    (
        {"table": "items", "offset": "bad", "replica": "half", "log": "none"},
        {"replica": ["is invalid"], "log": ["is invalid"]},
    ),
]


@one_version
def test_bad_requests(items: ShapesServer) -> None:
    for params, expected in BAD_REQUESTS:
        assert errors(items.get(**params)) == expected, params


def errors_of_post(response: Any) -> Any:
    assert response.status_code == 400, response.text
    assert response.headers["cache-control"] == "no-cache"
    return response.json()["errors"]


@one_version
def test_post(items: ShapesServer) -> None:
    """Like GET, never cached; a body cannot change the shape that a proxy put into the URL."""
    params = {"table": "items", "offset": "-1"}
    for body in (b"", b"{}", b"  "):
        response = items.http.post(items.shape_url, params=params, content=body)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-cache"
        assert len(response.json()) == 6
    response = items.http.post(items.shape_url, params=params, json={"table": "empty", "columns": "id"})
    assert set(errors_of_post(response)) == {"table", "columns"}
    response = items.http.post(items.shape_url, params=params, content=b"[1]")
    assert (response.status_code, response.json()) == (400, {"error": "Request body must be a JSON object"})
    response = items.http.post(items.shape_url, params=params, content=b"{nope")
    assert response.status_code == 400
    assert response.json()["error"] == "Invalid JSON in request body"
    response = items.http.post(items.shape_url, params=params, content=b"[" * 9_000_000)
    assert response.status_code == 413


def test_initial_response(items: ShapesServer) -> None:
    response = items.get(table="items", offset="-1")
    assert response.status_code == 200
    headers = response.headers
    handle = headers["electric-handle"]
    assert handle.replace("-", "").isdigit()
    assert handle.count("-") == 1
    assert headers["electric-offset"] == "0_0"
    assert headers["electric-has-data"] == "true"
    assert "electric-up-to-date" not in headers
    assert "electric-cursor" not in headers
    assert headers["etag"] == f'"{handle}:-1:0_0"'
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["cache-control"] == "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746"
    assert headers["electric-server"].startswith("ElectricSQL/")
    assert headers["access-control-expose-headers"] == EXPOSED
    assert headers["access-control-allow-methods"] == "GET, POST, HEAD, DELETE, OPTIONS"
    assert "vary" not in headers
    *rows, end = response.json()
    assert rows[0] == {
        "key": '"public"."items"/"1"',
        "value": {"id": "1", "note": None, "price": "1.50", "tags": "{a,b}", "title": "title 1"},
        "headers": {"operation": "insert", "relation": ["public", "items"]},
    }
    assert end["headers"]["control"] == "snapshot-end"
    assert int(end["headers"]["xmin"]) <= int(end["headers"]["xmax"])
    assert end["headers"]["xip_list"] == []
    assert '"not_null":true' in headers["electric-schema"]
    assert json.loads(headers["electric-schema"]) == {
        "id": {"type": "int4", "pk_index": 0, "not_null": True},
        "title": {"type": "varchar", "max_length": 20},
        "tags": {"type": "text", "dims": 1},
        "price": {"type": "numeric", "precision": 10, "scale": 2},
        "note": {"type": "text"},
    }


MODIFIERS: dict[str, dict[str, Any]] = {
    "char": {"type": "bpchar", "length": 1},
    "char(5)": {"type": "bpchar", "length": 5},
    "varchar": {"type": "varchar"},
    "varchar(3)": {"type": "varchar", "max_length": 3},
    "varchar(4)[]": {"type": "varchar", "dims": 1, "max_length": 4},
    "bit(3)": {"type": "bit", "length": 3},
    "varbit": {"type": "varbit"},
    "varbit(6)": {"type": "varbit", "length": 6},
    "numeric": {"type": "numeric"},
    "numeric(5)": {"type": "numeric", "precision": 5, "scale": 0},
    "numeric(3,-2)": {"type": "numeric", "precision": 3, "scale": -2},
    "numeric(4,1)[][]": {"type": "numeric", "dims": 2, "precision": 4, "scale": 1},
    "time(0)": {"type": "time", "precision": 0},
    "timetz(2)": {"type": "timetz", "precision": 2},
    "timestamp(3)": {"type": "timestamp", "precision": 3},
    "timestamptz(6)": {"type": "timestamptz", "precision": 6},
    "timestamptz": {"type": "timestamptz"},
    "interval": {"type": "interval"},
    "interval(3)": {"type": "interval", "precision": 3},
    "interval month": {"type": "interval", "fields": "MONTH"},
    "interval year to month": {"type": "interval", "fields": "YEAR TO MONTH"},
    "interval day to second(2)": {"type": "interval", "precision": 2, "fields": "DAY TO SECOND"},
    "interval hour to second": {"type": "interval", "fields": "HOUR TO SECOND"},
    "short": {"type": "short"},
    "short[]": {"type": "short", "dims": 1},
    "pair": {"type": "pair"},
    '"char"': {"type": "char"},
    "name": {"type": "name"},
    "int4range": {"type": "int4range"},
    "money": {"type": "money"},
    "point": {"type": "point"},
    "oidvector": {"type": "oidvector"},
    "interval second(4)[]": {"type": "interval", "dims": 1, "precision": 4, "fields": "SECOND"},
    "char[][]": {"type": "bpchar", "dims": 2, "length": 1},
    "date": {"type": "date"},
}


@one_version
def test_schema_of_types_with_modifiers(database: Database, own_items: ShapesServer) -> None:
    columns = ", ".join(f"c{number} {text}" for number, text in enumerate(MODIFIERS))
    database.execute("CREATE DOMAIN short AS varchar(7); CREATE TYPE pair AS (x int, y int)")
    database.execute(f"CREATE TABLE typed (b int, a int, {columns}, PRIMARY KEY (a, b))")
    schema = json.loads(own_items.get(table="typed", offset="-1").headers["electric-schema"])
    assert {text: schema[f"c{number}"] for number, text in enumerate(MODIFIERS)} == MODIFIERS
    assert schema["a"] == {"type": "int4", "pk_index": 0, "not_null": True}
    assert schema["b"] == {"type": "int4", "pk_index": 1, "not_null": True}


@one_version
def test_after_the_snapshot(items: ShapesServer) -> None:
    first = items.get(table="items", offset="-1")
    handle = first.headers["electric-handle"]
    response = items.get(table="items", offset="0_0", handle=handle)
    assert response.status_code == 200
    assert response.headers["electric-offset"] == "0_inf"
    assert response.headers["electric-up-to-date"] == ""
    assert response.headers["etag"] == f'"{handle}:0_0:0_inf"'
    assert response.headers["cache-control"] == "public, max-age=60, stale-while-revalidate=300"
    assert "electric-schema" in response.headers
    (control,) = response.json()
    assert control["headers"]["control"] == "up-to-date"
    assert int(control["headers"]["global_last_seen_lsn"]) >= 0
    for offset in ("0_02", "0_inf"):
        again = items.get(table="items", offset=offset, handle=handle)
        assert again.headers["electric-offset"] == "0_inf"


@one_version
def test_304(items: ShapesServer) -> None:
    first = items.get(table="items", offset="-1")
    url = items.shape_url
    params = {"table": "items", "offset": "-1"}
    for value in (first.headers["etag"], f'"other", {first.headers["etag"]}', first.headers["etag"].strip('"')):
        response = items.http.get(url, params=params, headers={"if-none-match": value})
        assert response.status_code == 304, value
        assert response.content == b""
        assert response.headers["electric-handle"] == first.headers["electric-handle"]
        assert response.headers["electric-offset"] == "0_0"
        assert response.headers["etag"] == first.headers["etag"]
        assert response.headers["cache-control"] == first.headers["cache-control"]
        assert "electric-schema" not in response.headers
    assert items.http.get(url, params=params, headers={"if-none-match": '"nope"'}).status_code == 200


@one_version
def test_offset_now(items: ShapesServer) -> None:
    shape = {"table": "items", "columns": "id,tags"}  # of this test only: it is made by this request
    response = items.get(**shape, offset="now", handle="9-9")
    assert response.status_code == 200
    assert response.headers["electric-offset"] == "0_inf"
    assert response.headers["electric-has-data"] == "false"
    assert response.headers["electric-up-to-date"] == ""
    assert "electric-schema" in response.headers
    assert response.headers["etag"].count(":") == 3
    assert [message["headers"]["control"] for message in response.json()] == ["up-to-date"]
    assert response.headers["cache-control"] == "public, max-age=60, stale-while-revalidate=300"
    snapshot = items.get(**shape, offset="-1")
    assert snapshot.headers["electric-handle"] == response.headers["electric-handle"]


@one_version
def test_changes_only_has_an_empty_snapshot(database: Database, own_items: ShapesServer) -> None:
    client = Client(own_items, table="items", log="changes_only")
    (end,) = client.step().json()
    assert end["headers"]["control"] == "snapshot-end"
    database.execute("INSERT INTO items (id) VALUES (77)")
    own_items.wait(lambda: bool(client.sync() or client.rows), 60, "the change")
    assert list(client.rows) == ['"public"."items"/"77"']


@one_version
def test_empty_table(items: ShapesServer) -> None:
    response = items.get(table="empty", offset="-1")
    assert [message["headers"]["control"] for message in response.json()] == ["snapshot-end"]
    assert response.headers["electric-offset"] == "0_0"
    assert "electric-up-to-date" not in response.headers


def test_columns_and_identity(items: ShapesServer) -> None:
    """Permuted columns are one shape; columns, replica and log mode make others."""
    base = items.get(table="items", offset="-1").headers["electric-handle"]
    some = items.get(table="items", offset="-1", columns="title,id")
    assert set(some.json()[0]["value"]) == {"id", "title"}
    assert list(some.json()[0]["value"]) == ["id", "title"]
    same = items.get(table="PUBLIC.Items", offset="-1", columns='"id",TITLE')
    assert same.headers["electric-handle"] == some.headers["electric-handle"]
    others = [
        items.get(table="items", offset="-1", **extra).headers["electric-handle"]
        for extra in ({"replica": "full"}, {"log": "changes_only"}, {"columns": "id,title,tags,price,note"})
    ]
    assert len({base, some.headers["electric-handle"], *others}) == 5
    unknown = items.get(table="items", offset="-1", unrelated="x", **{"cache-buster": "y", "expired_handle": "z"})
    assert unknown.headers["electric-handle"] == base


@one_version
def test_queryable_columns_select(items: ShapesServer) -> None:
    response = items.get(table="items", offset="-1", queryable_columns="id,note")
    assert set(response.json()[0]["value"]) == {"id", "note"}


@one_version
def test_quoted_names_and_composite_keys(items: ShapesServer) -> None:
    response = items.get(table='s2."Weird.Name"', offset="-1")
    assert response.json()[0]["key"] == '"s2"."Weird..Name"/"2"/"1"'
    assert '"pk_index":1' in response.headers["electric-schema"]


@one_version
def test_handles(items: ShapesServer) -> None:
    handle = items.get(table="items", offset="-1").headers["electric-handle"]
    wrong = items.get(table="items", offset="0_0", handle="1-1")
    assert wrong.status_code == 409
    assert wrong.content == b'[{"headers":{"control":"must-refetch"}}]'
    assert wrong.headers["electric-handle"] == handle
    assert wrong.headers["cache-control"] == "public, max-age=60, must-revalidate"
    # An unknown shape is made, and its handle is told.
    shape = {"table": "empty", "replica": "full"}
    made = items.get(**shape, offset="0_0", handle="1-1")
    assert made.status_code == 409
    follow = items.get(**shape, offset="-1", handle=made.headers["electric-handle"])
    assert follow.headers["electric-handle"] == made.headers["electric-handle"]


@one_version
def test_out_of_bounds(items: ShapesServer) -> None:
    handle = items.get(table="items", offset="-1").headers["electric-handle"]
    response = items.get(table="items", offset="9000000000000000000_0", handle=handle)
    assert errors(response) == {"offset": ["out of bounds for this shape"]}
    response = items.get(table="items", offset="9000000000000000000_0", handle=handle, live="true")
    assert errors(response) == {"offset": ["out of bounds for this shape"]}


@one_version
def test_an_offset_before_the_logs_first_line(database: Database, own_items: ShapesServer) -> None:
    """It reads the log from there, also while that has no file; the shape goes on."""
    client = Client(own_items, table="items")
    client.sync()
    for number in (1, 2):
        database.execute(f"DELETE FROM items WHERE id = {number}")

        def has_it(number: int = number) -> bool:
            client.sync()
            return f'"public"."items"/"{number}"' not in client.rows

        own_items.wait(has_it, 60, "the change")
    for _ in range(2):
        response = own_items.get(table="items", offset="1_0", handle=client.handle)
        assert response.status_code == 200
        assert response.json()[0]["headers"]["operation"] == "delete"


def raw(server: ShapesServer, request: bytes) -> bytes:
    """The answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(request)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize("path", [b"/v1/shape/", b"/v1//shape", b"/v1/shape//", b"/v1/%73hape", b"//v1/sh%61pe"])
@one_version
def test_odd_spellings_are_the_shape_route(guarded: ShapesServer, path: bytes) -> None:
    """And need the secret, however they are spelled."""
    for method in (b"GET", b"POST", b"DELETE"):
        answer = raw(
            guarded, method + b" %b?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path
        )
        assert answer.startswith(b"HTTP/1.1 401"), answer
    good = b"GET %b?table=items&offset=-1&secret=s3cret HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path
    assert raw(guarded, good).startswith(b"HTTP/1.1 200")


@one_version
def test_other_routes(items: ShapesServer) -> None:
    root = items.http.get(items.url + "/")
    assert (root.status_code, root.content) == (200, b"")
    assert root.headers["cache-control"] == "max-age=0, private, must-revalidate"
    for method, path in (("GET", "/v1/shapes"), ("GET", "/v2/shape"), ("PUT", "/v1/shape"), ("POST", "/v1/health")):
        response = items.http.request(method, items.url + path)
        assert (response.status_code, response.text) == (404, "Not found"), path
    assert items.http.get(items.url + "/live").status_code == 200
    assert items.http.get(items.url + "/ready").status_code == 200
    health = items.http.get(items.url + "/v1/health")
    assert health.json() == {"status": "active"}
    assert health.headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert health.headers["access-control-allow-methods"] == "GET, HEAD"
    assert items.http.head(items.url + "/v1/health").status_code == 200


@one_version
def test_request_ids(items: ShapesServer) -> None:
    url = items.url + "/"
    sane = "a" * 30
    assert items.http.get(url, headers={"x-request-id": sane}).headers["x-request-id"] == sane
    assert items.http.get(url, headers={"x-request-id": "no"}).headers["x-request-id"] != "no"
    assert items.http.get(url).headers["x-request-id"] != items.http.get(url).headers["x-request-id"]


@one_version
def test_head(items: ShapesServer) -> None:
    get = items.get(table="items", offset="-1")
    head = items.http.head(items.shape_url, params={"table": "items", "offset": "-1"})
    assert head.status_code == 200
    assert head.content == b""
    for name in ("electric-handle", "electric-offset", "electric-schema", "etag", "cache-control"):
        assert head.headers[name] == get.headers[name]
    assert items.http.head(items.shape_url).status_code == 400


@one_version
def test_cors(items: ShapesServer) -> None:
    origin = {"origin": "https://app.example"}
    response = items.http.get(items.shape_url, params={"table": "items", "offset": "-1"}, headers=origin)
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    bad = items.http.get(items.shape_url, headers=origin)
    assert bad.headers["access-control-allow-origin"] == "https://app.example"
    preflight = items.http.options(
        items.shape_url, headers=origin | {"access-control-request-headers": "authorization, If-None-Match, x-evil"}
    )
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-headers"] == "authorization, if-none-match"
    assert preflight.headers["access-control-max-age"] == "86400"
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, HEAD, DELETE, OPTIONS"
    assert "cache-control" not in preflight.headers
    plain = items.http.options(items.shape_url)
    assert "access-control-allow-headers" not in plain.headers
    assert plain.headers["connection"] == "keep-alive"
    last = raw(items, b"OPTIONS /v1/shape HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert re.findall(rb"connection: (.*)\r\n", last) == [b"close"], "not both"


@one_version
def test_secret(guarded: ShapesServer) -> None:
    server = guarded
    good = {"table": "items", "offset": "-1"}
    for params in (good, good | {"secret": "wrong"}, good | {"secret": ""}, {}, good | {"api_secret": "s3cre"}):
        response = server.get(**params)
        assert (response.status_code, response.json()) == (401, {"message": "Unauthorized - Invalid API secret"})
        assert response.headers["access-control-allow-origin"] == "*"
    assert server.get(**good, secret="s3cret").status_code == 200
    assert server.get(**good, api_secret="s3cret").status_code == 200
    bearer = server.http.get(server.shape_url, params=good, headers={"authorization": "Bearer s3cret"})
    assert bearer.status_code == 200
    wrong = server.http.get(server.shape_url, params=good, headers={"authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    body = server.http.post(server.shape_url, params=good, json={"secret": "s3cret"})
    assert body.status_code == 401
    assert server.http.options(server.shape_url).status_code == 204
    assert server.health() == (200, "active")
    assert "s3cret" not in server.log()


@one_version
def test_delete(make_server: Callable[..., ShapesServer], own_items: ShapesServer) -> None:
    refused = own_items.http.delete(own_items.shape_url, params={"table": "items"})
    assert (refused.status_code, refused.json()) == (405, {"message": "DELETE not allowed"})
    assert own_items.stop() == 0
    server = make_server(ELECTRIC_ENABLE_INTEGRATION_TESTING="true").start()
    missing = server.http.delete(server.shape_url, params={"table": "items"})
    assert (missing.status_code, missing.json()) == (404, {"message": "No existing shape found"})
    first = server.get(table="items", offset="-1").headers["electric-handle"]
    other = server.get(table="empty", offset="-1").headers["electric-handle"]
    mismatch = server.http.delete(server.shape_url, params={"table": "items", "handle": other})
    assert mismatch.status_code == 400
    assert mismatch.json()["message"].startswith("The specified shape definition and handle do not match.")
    deleted = server.http.delete(server.shape_url, params={"table": "items"})
    assert (deleted.status_code, deleted.content) == (202, b"")
    assert deleted.headers["cache-control"] == "no-cache"
    gone = server.get(table="items", offset="0_0", handle=first)
    assert gone.status_code == 409
    assert gone.headers["electric-handle"] != first
    assert server.http.delete(server.shape_url, params={"handle": other}).status_code == 202


def test_chunks(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Snapshot and log come in chunks near the threshold; complete chunks never change."""
    database.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, t text);"
        "INSERT INTO wide SELECT g, repeat('x', 400) FROM generate_series(1, 100) g"
    )
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="10000").start()
    bodies = {}
    client = Client(server, table="wide")
    while not client.up_to_date:
        asked = client.offset
        response = client.step()
        assert response.status_code == 200
        bodies[asked] = response
    assert len(client.rows) == 100
    assert len(bodies) > 5
    snapshot = [offset for offset in bodies if offset.startswith("0_")]
    for offset in ["-1", *snapshot[:-2]]:
        assert 8_000 <= len(bodies[offset].content) <= 12_000
    database.execute("UPDATE wide SET t = repeat('y', 300)")
    start = client.offset
    server.wait(lambda: bool(client.sync() or client.rows['"public"."wide"/"100"']["t"][0] == "y"), 60, "the update")
    again = Client(server, table="wide")
    again.offset, again.handle = start, client.handle
    again.rows = {key: dict(value) for key, value in client.rows.items()}
    seen: list[int] = []
    while not again.up_to_date:
        response = again.step()
        seen.append(len(response.content))
        # A read from the middle of a chunk ends where the chunk ends.
    assert len(seen) > 3
    assert all(8_000 <= size <= 12_000 for size in seen[:-1])
    for message in client.messages:
        headers = message["headers"]
        if "lsn" not in headers or headers["op_position"] % 20:
            continue
        middle = server.get(table="wide", offset=f"{headers['lsn']}_{headers['op_position']}", handle=client.handle)
        following = middle.json()[0]["headers"]
        if "lsn" in following:
            assert following["op_position"] == headers["op_position"] + 2
    for offset, response in bodies.items():
        if offset in ("-1", *snapshot[:-2]):
            assert server.get(table="wide", offset=offset, handle=client.handle).content == response.content


def test_generated_columns(database: Database, server: ShapesServer) -> None:
    database.execute("CREATE TABLE gen (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    database.execute("INSERT INTO gen VALUES (1)")
    response = server.get(table="gen", offset="-1")
    if database.version >= 18:
        assert response.json()[0]["value"] == {"id": "1", "twice": "2"}
        client = Client(server, table="gen")
        client.sync()
        database.execute("INSERT INTO gen VALUES (2)")
        server.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the row")
        assert client.rows['"public"."gen"/"2"'] == {"id": "2", "twice": "4"}
        return
    (text,) = errors(response)["columns"]
    assert text.startswith("The following columns are generated and cannot be included in the shape: twice")
    assert server.get(table="gen", offset="-1", columns="id").status_code == 200


@one_version
def test_hostile_requests_get_an_answer(items: ShapesServer) -> None:
    """Never a 500, whatever the parameters are."""
    values = [
        "",
        "\x00",
        "%",
        "'",
        '"',
        "💥",
        "a" * 5000,
        "0_0",
        "-1",
        "true",
        "[]",
        "{}",
        "1,2",
        '"\x00"',
        "../..",
        "\r\nx: y",
    ]
    names = [
        "table",
        "offset",
        "handle",
        "live",
        "columns",
        "replica",
        "cursor",
        "log",
        "queryable_columns",
        "live_sse",
    ]
    for name in names:
        for value in values:
            base = {"table": "items", "offset": "-1"}
            response = items.get(**(base | {name: value}))
            assert response.status_code in (200, 400, 409), (name, value, response.text)
    for path in (b"/%", b"/%zz", b"/v1/shape?%", b"/v1/shape?=&&==", b"/v1/shape?table=%ff&offset=-1"):
        answer = raw(items, b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path)
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), (path, answer)


@one_version
def test_admission(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Too many waiting requests are told to come back, before memory grows."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    server = make_server(ELECTRIC_MAX_CONCURRENT_REQUESTS='{"existing": 2}', ELECTRIC_LONG_POLL_TIMEOUT="60000").start()
    client = Client(server, table="items")
    client.sync()
    params = {"table": "items", "offset": client.offset, "handle": client.handle, "live": "true"}
    threads = [threading.Thread(target=server.get, kwargs=params) for _ in range(2)]
    for thread in threads:
        thread.start()
    server.wait(lambda: server.metric("switchgear_live_waiters") == 2, 60, "two waiters")
    refused = server.get(**params)
    assert refused.status_code == 503
    assert refused.json()["code"] == "concurrent_request_limit_exceeded"
    assert refused.json()["message"] == "Concurrent existing request limit exceeded (limit: 2), please retry"
    assert 6 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["electric-internal-known-error"] == "true"
    assert refused.headers["cache-control"] == "no-store"
    database.execute("INSERT INTO items VALUES (1)")
    for thread in threads:
        thread.join()
    assert server.get(**params).status_code == 200
