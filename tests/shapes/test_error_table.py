"""The protocol's table of statuses, row by row over HTTP: exact body, the headers it must have, and those it must not.

Texts of parameters are in `test_protocol` and `test_parameters`, admission in `test_http`, publishing in `test_start`.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.shapes.server import ShapesServer, one_version
from tests.shapes.world import World, running
from tests.support.postgres import Database, Postgres

pytestmark = [pytest.mark.pg, one_version]

NO_STORE = {"cache-control": "no-store", "surrogate-control": "no-store"}
NO_CACHE = {"cache-control": "no-cache", "surrogate-control": None}
JSON = {"content-type": "application/json; charset=utf-8"}
KNOWN = NO_STORE | JSON | {"retry-after": "10", "electric-internal-known-error": "true"}
EVERY = ("electric-server", "x-request-id", "access-control-allow-origin", "access-control-expose-headers")
ONLY_WITH_A_SHAPE = ("electric-handle", "electric-offset", "electric-schema", "electric-up-to-date", "electric-cursor")
REFETCH = [{"headers": {"control": "must-refetch"}}]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = {"ELECTRIC_ENABLE_INTEGRATION_TESTING": "true", "ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD": "20000"}
    with running(postgres, tmp_path_factory.mktemp("errors"), **settings) as made:
        yield made


def check(response: httpx.Response, status: int, body: Any, headers: dict[str, str | None]) -> None:
    """`headers`: name → value, or None for one that must not be there."""
    assert response.status_code == status, response.text
    assert (response.json() if response.content else None) == body
    for name in EVERY:
        assert name in response.headers, name
    absent = dict.fromkeys((*ONLY_WITH_A_SHAPE, "retry-after", "electric-internal-known-error", "etag"))
    for name, value in (absent | headers).items():
        assert response.headers.get(name) == value, name


def invalid(**errors: Any) -> dict[str, Any]:
    return {"message": "Invalid request", "errors": errors}


Ask = Callable[[World], httpx.Response]
ROWS: dict[str, tuple[Ask, int, Any, dict[str, str | None]]] = {
    "400": (lambda w: w.get(offset="x"), 400, invalid(offset=["has invalid format"]), NO_STORE | JSON),
    "400 to HEAD has no body": (
        lambda w: w.server.http.head(w.server.shape_url, params={"table": "items", "offset": "x"}),
        400,
        None,
        NO_STORE | JSON,
    ),
    "400 to POST": (lambda w: w.post({}, offset="x"), 400, invalid(offset=["has invalid format"]), NO_CACHE | JSON),
    "400 nested": (
        lambda w: w.get(subset__limit=0, subset__order_by="id"),
        400,
        invalid(subset={"limit": ["must be greater than 0"]}),
        NO_STORE | JSON,
    ),
    "400 at run time": (
        lambda w: w.get(subset__where="mood = 'angry'"),
        400,
        invalid(subset={"where": 'invalid input value for enum mood: "angry"'}),
        NO_STORE | JSON,
    ),
    "400 compaction of subqueries": (
        lambda w: w.get(where="id IN (SELECT id FROM empty)", experimental_compaction="true"),
        400,
        invalid(experimental_compaction=["can't be enabled for shapes with subqueries"]),
        NO_STORE | JSON,
    ),
    "404 route": (
        lambda w: w.server.http.get(w.server.url + "/v1/shapes"),
        404,
        "Not found",
        {"content-type": "text/plain; charset=utf-8", "cache-control": "max-age=0, private, must-revalidate"},
    ),
    "404 DELETE": (
        lambda w: w.server.http.delete(w.server.shape_url, params={"table": "empty", "columns": "id"}),
        404,
        {"message": "No existing shape found"},
        NO_CACHE | JSON,
    ),
    "400 DELETE": (
        lambda w: w.server.http.delete(w.server.shape_url, params={"table": "items", "handle": "1-1"}),
        400,
        {
            "message": "The specified shape definition and handle do not match. Please ensure the shape definition is"
            " correct or omit the shape handle from the request to obtain a new one."
        },
        NO_CACHE | JSON,
    ),
    "400 DELETE of nothing": (
        lambda w: w.server.http.delete(w.server.shape_url, params={"where": "id = 1"}),
        400,
        invalid(handle=["can't be blank when shape definition is missing"]),
        NO_CACHE | JSON,
    ),
    "413": (
        lambda w: w.server.http.post(w.server.shape_url, params={"table": "items"}, content=b"x" * 8_000_001),
        413,
        {"error": "Request body too large"},
        NO_CACHE | JSON,
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_row(world: World, row: str) -> None:
    ask, status, body, headers = ROWS[row]
    response = ask(world)
    if isinstance(body, str):
        assert response.text == body
        headers = headers | dict.fromkeys(("etag", "surrogate-control"))
        assert response.status_code == status
        assert {name: response.headers.get(name) for name in headers} == headers
    else:
        check(response, status, body, headers)


def test_409_with_a_replacement_and_without(world: World) -> None:
    table = world.table("id int PRIMARY KEY, t text", "SELECT g, repeat('x', 90) FROM generate_series(1, 1000) g")
    handle = world.get(table, "now").headers["electric-handle"]
    world.server.wait_durable()  # its file is whole
    late = world.get(table, "0_0", handle="1-1")
    etag = f'"{handle}:0_0:0_0"'
    cache = {"cache-control": "public, max-age=60, must-revalidate", "surrogate-control": None}
    check(late, 409, REFETCH, JSON | cache | {"electric-handle": handle, "etag": etag})
    # Its file is gone: there is nothing yet that would replace it.
    (file,) = newest_snapshot(world)
    file.unlink()
    cache = {"cache-control": "public, max-age=1, must-revalidate", "surrogate-control": None}
    check(world.get(table), 409, REFETCH, JSON | cache)
    again = world.get(table)
    assert again.status_code == 200
    assert again.headers["electric-handle"] != handle


def newest_snapshot(world: World) -> list[Path]:
    files = list((world.server.folder / "storage" / "shapes").glob("*/*.snapshot"))
    return sorted(files, key=lambda path: int(path.stem))[-1:]


def test_500_of_a_storage_that_cannot_be_read(world: World) -> None:
    table = world.table("id int PRIMARY KEY, t text", "SELECT g, repeat('x', 90) FROM generate_series(1, 1000) g")
    world.get(table, "now")
    world.server.wait_durable()  # its file is whole
    (file,) = newest_snapshot(world)
    file.unlink()
    file.mkdir()
    try:
        body = {"message": "Unable to retrieve shape log: storage error"}
        check(world.get(table), 500, body, NO_STORE | JSON)
    finally:
        file.rmdir()


def test_202_204_and_401(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    server = make_server(
        ELECTRIC_INSECURE="", ELECTRIC_SECRET="s3cret", ELECTRIC_ENABLE_INTEGRATION_TESTING="true"
    ).start()
    named = {"table": "items", "offset": "-1"}
    unauthorized = {"message": "Unauthorized - Invalid API secret"}
    for method, cache in (("GET", NO_STORE), ("POST", NO_CACHE), ("DELETE", NO_CACHE), ("HEAD", NO_STORE)):
        response = server.http.request(method, server.shape_url, params=named | {"secret": "wrong"})
        check(response, 401, None if method == "HEAD" else unauthorized, cache)
    assert server.get(secret="s3cret", **named).status_code == 200
    check(server.http.delete(server.shape_url, params={"table": "items", "secret": "s3cret"}), 202, None, NO_CACHE)
    preflight = server.http.options(server.shape_url)
    check(preflight, 204, None, {"cache-control": None, "access-control-max-age": "86400"})


CHUNKED, LENGTH = b"transfer-encoding: chunked", b"content-length: 30"


@pytest.mark.parametrize("pause", [True, False], ids=["later", "at once"])
@pytest.mark.parametrize(
    ("framing", "body", "end"),
    [(CHUNKED, b"zz\r\n{}", False), (CHUNKED, b"5\r\n{", True), (LENGTH, b'{"where": "id', True)],
    ids=["malformed", "a chunk breaks off", "it breaks off"],
)
def test_400_of_a_body_that_cannot_be_read(world: World, framing: bytes, body: bytes, end: bool, pause: bool) -> None:
    """The connection is of no use any more; the server goes on."""
    head = b"POST /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % framing
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=60) as sock:
        if pause:
            sock.sendall(head)
            time.sleep(0.1)  # either way the answer is the same
            sock.sendall(body)
        else:
            sock.sendall(head + body)
        if end:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while block := sock.recv(65536):
            answer += block
    head, _, rest = answer.partition(b"\r\n\r\n")
    lines = [line.partition(b": ")[::2] for line in head.lower().split(b"\r\n")[1:]]
    headers = {name.decode(): value.decode() for name, value in lines}
    response = httpx.Response(int(answer[9:12]), headers=headers, content=rest)
    check(response, 400, {"error": "Failed to read request body"}, NO_CACHE | JSON | {"connection": "close"})
    assert world.get().status_code == 200


def test_a_client_that_hangs_up_within_its_body(world: World) -> None:
    """Nobody reads an answer; nothing of the request is left."""
    before = world.server.metric("switchgear_http_connections")
    for framing in (CHUNKED + b"\r\n\r\n5\r\n{", LENGTH + b"\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", world.server.port), timeout=60) as sock:
            sock.sendall(b"POST /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\n" + framing)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone = "the connections to be gone"
    world.server.wait(lambda: world.server.metric("switchgear_http_connections") <= before, 60, gone)
    assert world.get().status_code == 200


# -- 503 --


def test_503_the_database_cannot_be_asked(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Replication runs, and queries are answered by nobody."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"postgresql://a@127.0.0.1:{probe.getsockname()[1]}/b"
        server = make_server(ELECTRIC_POOLED_DATABASE_URL=nowhere).start()
        text = "Cannot connect to the database to verify the shape. Please try again later."
        check(server.get(table="items", offset="-1"), 503, {"message": text}, NO_STORE | JSON | {"retry-after": "1"})


@pytest.fixture
def locked(world: World) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """A table that is published already, and a transaction that has locked it."""
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 1)")
    assert world.get(table).status_code == 200
    with world.database.connect(autocommit=False) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield table, connection
        connection.rollback()


def test_503_the_table_is_locked(world: World, locked: tuple[str, psycopg.Connection[Any]]) -> None:
    text = "Unable to create initial snapshot: the table is locked by another transaction"
    check(world.get(locked[0], columns="id"), 503, {"message": text}, KNOWN)
    check(world.get(locked[0], subset__order_by="id"), 503, {"message": text}, KNOWN)


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_503_the_query_or_its_connection_is_ended(
    world: World, locked: tuple[str, psycopg.Connection[Any]], how: str
) -> None:
    """By an administrator, while the snapshot of a shape or a subset is made: it can be asked again."""
    table, connection = locked
    body: dict[str, str] = {"code": "database_unreachable", "error": "Database is unreachable"}
    if how == "cancel":
        refused = "the database refused it (SQLSTATE 57014); the sync server's log has the reason"
        body = {"message": f"Unable to create initial snapshot: {refused}"}
    found: list[httpx.Response] = []
    for extra in ({"where": "v = 1"}, {"subset__where": "v = 1"}):
        thread = threading.Thread(target=lambda e=extra: found.append(world.get(table, **e)))
        thread.start()
        end = f"SELECT pg_{how}_backend(pid) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        world.server.wait(lambda q=end: bool(connection.execute(q, [table]).fetchall()), 60, "a session that waits")
        thread.join(60)
        check(found.pop(), 503, body, KNOWN)
    connection.rollback()
    for number in range(3):  # it is only that query, or connection, which ended
        assert world.get(table, where=f"v < {number}").status_code == 200


@pytest.mark.long
def test_503_no_connection_is_free(world: World) -> None:
    """More subsets that take their time than there are connections."""
    table = world.table("id int PRIMARY KEY", "SELECT generate_series(1, 300000)")
    world.get(table, log="changes_only")
    statuses: list[tuple[int, str]] = []

    def ask() -> None:
        slow = " AND ".join(f"(id::text || '{n}') LIKE '%{n}%'" for n in range(60))
        response = world.get(table, log="changes_only", subset__where=slow, subset__order_by="id DESC", subset__limit=1)
        statuses.append((response.status_code, response.text[:200]))

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {status for status, _ in statuses} <= {200, 503}
    bodies = [json.loads(text) for status, text in statuses if status == 503]
    refused = {body.get("message", body.get("error")) for body in bodies}
    # A machine that is busy enough does not get a new connection in time either.
    waited = "Timed out while waiting for a database connection to create the snapshot"
    assert refused <= {waited, "Database is unreachable"}
