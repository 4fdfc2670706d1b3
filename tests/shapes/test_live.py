"""Live requests: long-polls, event streams, cursors, and what ends a shape while clients wait."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from switchgear_shapes.live import Live
from switchgear_shapes.live_requests import EventStream
from switchgear_wire import Request
from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database

pytestmark = pytest.mark.pg


TABLES = """
CREATE TABLE items (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO items VALUES (1, 'a')
"""


@pytest.fixture
def items(database: Database, server: ShapesServer) -> ShapesServer:
    database.execute(TABLES)
    return server


@pytest.fixture
def hasty(database: Database, make_server: Callable[..., ShapesServer]) -> ShapesServer:
    """Its long-polls end after two seconds."""
    database.execute(TABLES)
    return make_server(ELECTRIC_LONG_POLL_TIMEOUT="2000").start()


@pytest.fixture
async def unstarted() -> EventStream:
    return EventStream(cast("Any", SimpleNamespace(id=1)), (0, 0), cast("Any", None), Live(), 600, 600)


class Background(threading.Thread):
    """A request in a thread; `result()` gives its response."""

    def __init__(self, call: Callable[[], httpx.Response]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: httpx.Response | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._result = error

    def result(self) -> httpx.Response:
        self.join(60)
        assert isinstance(self._result, httpx.Response), self._result
        return self._result


def waiting(server: ShapesServer, count: int) -> None:
    server.wait(lambda: server.metric("switchgear_live_waiters") == count, 60, f"{count} live waiters")


def synced(server: ShapesServer, **params: str) -> Client:
    client = Client(server, **({"table": "items"} | params))
    client.sync()
    return client


def test_long_poll_gets_the_change(database: Database, items: ShapesServer) -> None:
    client = synced(items)
    poll = Background(lambda: client.step(live=True))
    waiting(items, 1)
    database.execute("BEGIN; INSERT INTO items VALUES (2, 'b'); UPDATE items SET v = 'c' WHERE id = 1; COMMIT")
    response = poll.result()
    insert, update, control = response.json()
    assert insert["key"] == '"public"."items"/"2"'
    assert insert["value"] == {"id": "2", "v": "b"}
    assert insert["headers"]["operation"] == "insert"
    assert insert["headers"]["op_position"] == 0
    assert "last" not in insert["headers"]
    assert update["value"] == {"id": "1", "v": "c"}
    assert update["headers"]["op_position"] == 2
    assert update["headers"]["last"] is True
    assert update["headers"]["txids"] == insert["headers"]["txids"]
    lsn = update["headers"]["lsn"]
    assert response.headers["electric-offset"] == f"{lsn}_2"
    assert response.headers["electric-has-data"] == "true"
    assert response.headers["electric-up-to-date"] == ""
    assert response.headers["cache-control"] == "public, max-age=5, stale-while-revalidate=5"
    assert "electric-schema" not in response.headers
    assert control["headers"] == {"control": "up-to-date", "global_last_seen_lsn": lsn}
    assert int(response.headers["electric-cursor"]) > 0


@one_version
def test_long_poll_times_out(hasty: ShapesServer) -> None:
    items, client = hasty, synced(hasty)
    started = time.monotonic()
    first = items.get(table="items", offset=client.offset, handle=client.handle, live="true")
    assert time.monotonic() - started > 1.5
    assert first.status_code == 200
    assert [message["headers"]["control"] for message in first.json()] == ["up-to-date"]
    assert first.headers["electric-has-data"] == "false"
    assert first.headers["electric-up-to-date"] == ""
    assert first.headers["electric-offset"] == client.offset
    assert first.headers["etag"].count(":") == 3
    cursor = first.headers["electric-cursor"]
    second = items.get(table="items", offset=client.offset, handle=client.handle, live="true", cursor=cursor)
    assert int(second.headers["electric-cursor"]) > int(cursor)
    ahead = str(int(cursor) + 10**9)
    third = items.get(table="items", offset=client.offset, handle=client.handle, live="", cursor=ahead)
    assert int(ahead) < int(third.headers["electric-cursor"]) <= int(ahead) + 3600


@one_version
def test_cursors_collapse(database: Database, items: ShapesServer) -> None:
    """Clients that ask within one time slot get the same cursor, hence the same next URL."""
    client = synced(items)
    polls = [
        Background(lambda: items.get(table="items", offset=client.offset, handle=client.handle, live="true"))
        for _ in range(5)
    ]
    waiting(items, 5)
    database.execute("INSERT INTO items VALUES (2, 'b')")
    cursors = sorted(int(poll.result().headers["electric-cursor"]) for poll in polls)
    assert cursors[-1] - cursors[0] <= 20, "as long as a poll may wait; a boundary may lie between two of them"
    assert all(cursor % 20 == 0 for cursor in cursors)


@one_version
def test_live_with_data_answers_at_once(database: Database, items: ShapesServer) -> None:
    client = synced(items)
    offset = client.offset
    database.execute("INSERT INTO items VALUES (5, 'e')")
    items.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the row")
    response = items.get(table="items", offset=offset, handle=client.handle, live="true")
    assert [m["headers"].get("operation") for m in response.json()] == ["insert", None]


def test_an_unrelated_commit_raises_the_global_lsn(database: Database, items: ShapesServer) -> None:
    client, other = synced(items), synced(items, table="other")
    before = int(client.last_control["global_last_seen_lsn"])
    database.execute("INSERT INTO other VALUES (1)")
    items.wait(lambda: bool(other.sync() or other.rows), 60, "the other row")
    client.sync()
    assert int(client.last_control["global_last_seen_lsn"]) > before
    assert client.offset == "0_inf"


@one_version
def test_many_waiters_share_a_change(database: Database, items: ShapesServer) -> None:
    client = synced(items)
    params = {"table": "items", "offset": client.offset, "handle": client.handle, "live": "true"}
    polls = [Background(lambda: items.get(**params)) for _ in range(20)]
    waiting(items, 20)
    database.execute("INSERT INTO items VALUES (3, 'x')")
    bodies = {poll.result().content for poll in polls}
    assert len(bodies) == 1
    assert b'"id":"3"' in bodies.pop()


ENDINGS = {
    "truncate": "TRUNCATE items",
    "truncate among others": "BEGIN; INSERT INTO items VALUES (9); TRUNCATE items; COMMIT",
    "column added": "ALTER TABLE items ADD COLUMN w int; INSERT INTO items VALUES (7)",
    "column dropped": "ALTER TABLE items DROP COLUMN v; INSERT INTO items VALUES (7)",
    "type changed": "ALTER TABLE items ALTER COLUMN v TYPE varchar(9); INSERT INTO items VALUES (7)",
    "renamed": "ALTER TABLE items RENAME TO other_name; INSERT INTO other_name VALUES (7);"
    " ALTER TABLE other_name RENAME TO items",
    "replica identity changed": "ALTER TABLE items REPLICA IDENTITY DEFAULT; UPDATE items SET v = 'z'",
}


@pytest.mark.parametrize("statement", ENDINGS.values(), ids=ENDINGS)
def test_what_ends_a_shape(database: Database, items: ShapesServer, statement: str) -> None:
    """Waiting clients get 409 at once, and starting over gives the table as it is now."""
    client = synced(items)
    old = client.handle
    poll = Background(lambda: client.step(live=True))
    waiting(items, 1)
    with database.connect() as connection:
        connection.execute(statement.encode())
        names = [row[0] for row in connection.execute("SELECT to_regclass('items')").fetchall()]
    response = poll.result()
    if response.status_code == 200:  # the change before the one that ended it
        assert names
        items.wait(lambda: items.get(table="items", offset="0_inf", handle=old).status_code == 409, 60, "the end")
    else:
        assert response.status_code == 409
        assert response.json() == [{"headers": {"control": "must-refetch"}}]
        assert response.headers["cache-control"].startswith("public, max-age=")
    stale = items.get(table="items", offset="0_inf", handle=old)
    assert stale.status_code == 409
    assert stale.headers["electric-handle"] != old
    client.restart(None)
    client.sync()
    with database.connect() as connection:
        rows = connection.execute("SELECT id::text FROM items ORDER BY 1").fetchall()
        assert sorted(row["id"] for row in client.rows.values()) == [row[0] for row in rows]
        connection.execute("INSERT INTO items (id) VALUES (4711)")
    items.wait(lambda: bool(client.sync() or '"public"."items"/"4711"' in client.rows), 60, "a new row")


def test_a_column_that_is_not_selected_may_change(database: Database, items: ShapesServer) -> None:
    database.execute("ALTER TABLE items ADD COLUMN note int")
    client = synced(items, columns="id,v")
    database.execute("ALTER TABLE items ADD COLUMN more int; ALTER TABLE items DROP COLUMN note")
    database.execute("INSERT INTO items VALUES (2, 'b', 5); UPDATE items SET more = 6 WHERE id = 1")
    items.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the row")
    assert client.restarts == 0
    assert client.rows['"public"."items"/"2"'] == {"id": "2", "v": "b"}
    assert not [m for m in client.messages if m["headers"].get("operation") == "update"]


def test_a_new_shape_of_an_altered_table(database: Database, items: ShapesServer) -> None:
    """What is cached of a table may be old; a new shape is made of the table as it is."""
    synced(items)
    database.execute("ALTER TABLE items ADD COLUMN note text DEFAULT 'n'")
    database.execute("ALTER TABLE items ALTER COLUMN v TYPE text[] USING ARRAY[v]")
    full = items.get(table="items", offset="-1", replica="full")
    assert full.status_code == 200
    assert set(full.json()[0]["value"]) == {"id", "v", "note"}
    assert '"dims":1' in full.headers["electric-schema"]
    database.execute("ALTER TABLE items DROP COLUMN note")
    response = items.get(table="items", offset="-1", columns="id,v", replica="full")
    assert response.status_code == 200


def test_a_dropped_table_is_noticed(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Without any write: by the periodic comparison with the catalogue."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    database.execute("CREATE TABLE gone (id int PRIMARY KEY)")
    server = make_server(ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD="300ms").start()
    client, gone = synced(server), synced(server, table="gone")
    database.execute("DROP TABLE gone; DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, v text)")
    old = client.handle
    server.wait(lambda: client.step().status_code == 409, 60, "409 for the table that was made anew")
    client.sync()
    assert client.handle != old
    server.wait(lambda: gone.step().status_code == 400, 60, "400 for the dropped table")


@one_version
def test_the_publication_follows_the_shapes(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server(
        ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD="300ms", ELECTRIC_ENABLE_INTEGRATION_TESTING="true"
    ).start()

    def published() -> list[str]:
        with database.connect() as connection:
            rows = connection.execute(
                "SELECT tablename FROM pg_publication_tables WHERE pubname = 'electric_publication_default'"
            ).fetchall()
        return [row[0] for row in rows]

    assert published() == []
    client = synced(server)
    assert published() == ["items"]
    database.execute("ALTER PUBLICATION electric_publication_default DROP TABLE items; INSERT INTO items VALUES (1)")
    server.wait(lambda: client.step().status_code == 409, 60, "409: changes were not published for a while")
    client.sync()
    assert list(client.rows) == ['"public"."items"/"1"']
    assert server.http.delete(server.shape_url, params={"table": "items"}).status_code == 202
    server.wait(lambda: published() == [], 60, "the table leaves the publication")


def test_large_values_and_toast(database: Database, items: ShapesServer) -> None:
    """A large value that an update does not touch is not in the stream, but clients of `full` get it."""
    database.execute("ALTER TABLE items ADD COLUMN big text")
    database.execute("ALTER TABLE items ALTER COLUMN big SET STORAGE EXTERNAL")
    database.execute("INSERT INTO items VALUES (2, 'b', repeat('toast', 20000))")
    full, plain = synced(items, replica="full"), synced(items)
    database.execute("UPDATE items SET v = 'c' WHERE id = 2")
    items.wait(lambda: bool(full.sync() or full.rows['"public"."items"/"2"']["v"] == "c"), 60, "the update")
    plain.sync()
    (update,) = [m for m in full.messages if m["headers"].get("operation") == "update"]
    assert update["value"]["big"] == "toast" * 20000
    assert update["old_value"] == {"v": "b"}
    (update,) = [m for m in plain.messages if m["headers"].get("operation") == "update"]
    assert update["value"] == {"id": "2", "v": "c"}


@pytest.mark.crash
def test_a_large_transaction_arrives_whole(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Larger than what is kept in memory; nothing of it is visible before all of it is, across a kill."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server().start()
    client = synced(server)
    server.wait_durable()
    database.execute("INSERT INTO items SELECT g, repeat('w', 500) FROM generate_series(1, 60000) g")
    time.sleep(0.5)
    server.kill()
    server.start()
    deadline = time.monotonic() + 60
    while not client.rows:
        assert time.monotonic() < deadline
        client.sync()
    assert len(client.rows) == 60_000
    last = [m for m in client.messages if m["headers"].get("last")]
    assert len(last) == 1
    assert last[0]["headers"]["op_position"] == 2 * 59_999
    assert client.restarts == 0
    assert server.metric("process_resident_memory_bytes") < 200_000_000


# -- events --


def events(response: httpx.Response) -> Iterator[str]:
    for block in response.iter_text():
        yield from (part for part in block.split("\n\n") if part)


def sse(server: ShapesServer, client: Client, **more: str) -> Any:
    params = {"table": "items", "offset": client.offset, "handle": client.handle, "live": "true", "live_sse": "true"}
    return server.http.stream("GET", server.shape_url, params={**params, **more})


def test_event_stream(database: Database, items: ShapesServer) -> None:
    client = synced(items)
    with sse(items, client) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["connection"] == "keep-alive"
        assert response.headers["cache-control"] == "public, max-age=59"
        assert response.headers["electric-handle"] == client.handle
        assert int(response.headers["electric-cursor"]) > 0
        lines = response.iter_lines()
        waiting(items, 1)
        for number in (2, 3):
            database.execute(f"INSERT INTO items VALUES ({number}, E'line\\nbreak')")
            message = json.loads(next(lines).removeprefix("data: "))
            assert message["value"] == {"id": str(number), "v": "line\nbreak"}
            assert next(lines) == ""
            control = json.loads(next(lines).removeprefix("data: "))
            assert control["headers"]["control"] == "up-to-date"
            assert control["headers"]["global_last_seen_lsn"] == message["headers"]["lsn"]
            assert next(lines) == ""
        database.execute("TRUNCATE items")
        assert list(lines) == []  # it just ends; the next request learns why
    assert items.get(table="items", offset=client.offset, handle=client.handle, live="true").status_code == 409


@one_version
def test_event_stream_with_data_ends(database: Database, hasty: ShapesServer) -> None:
    items, client = hasty, synced(hasty)
    database.execute("INSERT INTO items VALUES (2, 'b'), (3, 'c')")
    reader = synced(items)
    items.wait(lambda: bool(reader.sync() or len(reader.rows) == 3), 60, "the rows")
    with sse(items, client) as response:
        blocks = [part for part in response.read().decode().split("\n\n") if part]
        # The npm client takes it before it has the events: it is where they begin, should the connection break off.
        assert response.headers["electric-offset"] == client.offset
    assert len(blocks) == 3
    assert all(block.startswith("data: ") for block in blocks)
    # The npm client goes on from the control message's LSN: nothing comes twice.
    lsn = json.loads(blocks[2].removeprefix("data: "))["headers"]["global_last_seen_lsn"]
    client.offset = f"{lsn}_0"
    response = client.step(live=True)
    assert response.headers["electric-has-data"] == "false"


@one_version
@pytest.mark.parametrize("exactly", [False, True], ids=["and more comes", "exactly"])
def test_events_for_a_client_that_was_ahead(
    database: Database, make_server: Callable[..., ShapesServer], exactly: bool
) -> None:
    """As after a hand-over: what it waited for comes as events. It could not read anything else, and would lose it."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY, v text)")
    server = make_server(ELECTRIC_LONG_POLL_TIMEOUT="8s" if exactly else "60s").start()
    client = synced(server)
    synced(server, table="other")

    def read() -> httpx.Response:
        with sse(server, client) as response:
            response.read()
        return response

    table = "other" if exactly else "items"
    for attempt in range(5):
        with database.connect() as connection:
            ((now,),) = connection.execute("SELECT (pg_current_wal_lsn() - '0/0')::int8").fetchall()
        client.offset = f"{now + 20_000}_0"
        poll = Background(read)
        waiting(server, 1)
        database.execute(f"INSERT INTO {table} SELECT g, 'x' FROM generate_series({attempt}001, {attempt + 1}000) g")
        response = poll.result()
        if response.status_code == 200 or not exactly:
            break
        # It waits for four seconds, in which a busy machine may not get there.
        assert "out of bounds" in response.text
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert response.headers["electric-offset"] == client.offset
    if exactly:
        assert blocks == [": keep-alive"]
        return
    messages = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert [message.get("value", {}).get("id") for message in messages] == [*map(str, range(1, 1001)), None]


@one_version
def test_event_stream_keeps_alive_and_ends(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server(SWITCHGEAR_SSE_TIMEOUT="4s", SWITCHGEAR_SSE_KEEPALIVE="100ms").start()
    client = synced(server)
    with sse(server, client) as response:
        text = response.read().decode()
    assert text.count(": keep-alive\n\n") >= 3
    assert text.replace(": keep-alive\n\n", "") == ""
    with server.http.stream(
        "GET",
        server.shape_url,
        params={
            "table": "items",
            "offset": client.offset,
            "handle": client.handle,
            "live": "true",
            "experimental_live_sse": "true",
        },
    ) as response:
        assert response.headers["content-type"] == "text/event-stream"


@one_version
def test_a_slow_reader_of_events_gets_them_up_to_the_end(
    database: Database, make_server: Callable[..., ShapesServer]
) -> None:
    """It takes nothing for longer than the stream lasts: what it is sent then still ends with an up-to-date."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="3MB", SWITCHGEAR_SSE_TIMEOUT="1s").start()
    client, other = synced(server), synced(server)
    database.execute("INSERT INTO items SELECT g, repeat('x', 4000) FROM generate_series(1, 4000) g")
    server.wait(lambda: bool(other.sync() or other.rows), 60, "the rows")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", server.port))
        path = f"/v1/shape?table=items&offset={client.offset}&handle={client.handle}&live=true&live_sse=true"
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = HTTPResponse(sock)
        answer.begin()
        assert answer.status == 200
        time.sleep(2)  # the stream's time, which began before, is over
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        taken = answer.read()
    assert taken.count(b'"operation":"insert"') == 4000
    assert taken.count(b'"control":"up-to-date"') == 1
    assert taken.endswith(b"}}\n\n")


@one_version
def test_slow_readers_of_events_hold_little_memory(
    database: Database, make_server: Callable[..., ShapesServer]
) -> None:
    """A burst that nobody takes is not kept once for each of them."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server().start()
    client, other = synced(server), synced(server)
    path = f"/v1/shape?table=items&offset={client.offset}&handle={client.handle}&live=true&live_sse=true"
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        waiting(server, 40)
        database.execute("INSERT INTO items SELECT g, repeat('x', 4000) FROM generate_series(1, 2300) g")
        server.wait(lambda: bool(other.sync() or other.rows), 60, "the rows")
        assert server.metric("process_resident_memory_bytes") < 250_000_000


async def test_who_left_before_the_events_began_holds_no_place(unstarted: EventStream) -> None:
    """The request waited for its shape meanwhile."""
    ended: list[bool] = []
    unstarted.on_end = lambda: ended.append(True)
    request = Request(cast("Any", None), "")
    request.gone()
    unstarted.response(200, b"", request)
    assert ended == [True]


async def test_who_leaves_before_the_events_begin_holds_no_place(unstarted: EventStream) -> None:
    ended: list[bool] = []
    unstarted.on_end = lambda: ended.append(True)
    request = Request(cast("Any", None), "")
    unstarted.response(200, b"", request)
    assert not ended
    request.gone()
    assert ended == [True]


@one_version
def test_deleting_a_shape_releases_waiters(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Long-polls learn that it is gone, and not yet of another; event streams just end."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server(ELECTRIC_ENABLE_INTEGRATION_TESTING="true", ELECTRIC_LONG_POLL_TIMEOUT="300000").start()
    client = synced(server)
    poll = Background(lambda: server.get(table="items", offset=client.offset, handle=client.handle, live="true"))
    with sse(server, client) as stream:
        waiting(server, 2)
        assert server.http.delete(server.shape_url, params={"handle": client.handle}).status_code == 202
        assert list(stream.iter_lines()) == []
    refused = poll.result()
    assert (refused.status_code, refused.json()) == (409, [{"headers": {"control": "must-refetch"}}])
    assert refused.headers["cache-control"] == "public, max-age=1, must-revalidate"
    assert "electric-handle" not in refused.headers
    again = server.get(table="items", offset=client.offset, handle=client.handle, live="true")
    assert (again.status_code, again.headers["cache-control"]) == (409, "public, max-age=60, must-revalidate")
    assert again.headers["electric-handle"] != client.handle


@one_version
def test_stopping_releases_waiters(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """A graceful stop answers long-polls and ends streams instead of cutting them."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    server = make_server(ELECTRIC_LONG_POLL_TIMEOUT="300000").start()
    client = synced(server)
    poll = Background(lambda: server.get(table="items", offset=client.offset, handle=client.handle, live="true"))
    waiting(server, 1)
    assert server.stop() == 0, "long before the poll's own time is over"
    assert poll.result().status_code == 200
