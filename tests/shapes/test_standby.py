"""Two instances of one stream: one writes, the other reads along, and takes over without loss or repetition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psycopg
import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.crash]


@pytest.fixture
def items(database: Database) -> Database:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a')")
    return database


def standby_of(make_server: Callable[..., ShapesServer], **environment: str) -> ShapesServer:
    """A second instance on the storage `one`, which serves what the first one has."""
    second = make_server("one", **environment).start(active=False)
    second.wait(lambda: second.health() == (202, "waiting") and reads_along(second), 60, "the standby")
    return second


def reads_along(server: ShapesServer) -> bool:
    return server.http.get(server.url + "/ready?standby=true").status_code == 200


def value_of(client: Client) -> str | None:
    row = client.rows.get('"public"."items"/"1"')
    return None if row is None else row["v"]


@one_version
def test_a_standby_serves_what_is_known(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    first = make_server("one").start()
    writer_side = Client(first, table="items")
    writer_side.sync()
    second = standby_of(make_server, ELECTRIC_LONG_POLL_TIMEOUT="4000")
    assert second.http.get(second.url + "/ready").status_code == 503

    client = Client(second, table="items")
    client.sync()
    assert client.handle == writer_side.handle
    assert client.rows == writer_side.rows
    items.execute("UPDATE items SET v = 'b'")
    writer_side.sync_past(0)
    first.wait(lambda: bool(writer_side.sync() or value_of(writer_side) == "b"), 60, "the update")
    client.sync()
    assert value_of(client) == "b", "a read is fresh"

    # A live request sees the change without waiting for its time to end, which on a busy machine may be too short.
    for value in ("c", "d", "e"):
        polled: list[httpx.Response] = []
        thread = threading.Thread(target=lambda p=polled: p.append(client.step(live=True)))
        thread.start()
        second.wait(lambda: second.metric("switchgear_live_waiters") == 1, 60, "the request waits")
        items.execute(f"UPDATE items SET v = '{value}'")
        thread.join(60)
        assert [response.status_code for response in polled] == [200]
        if polled[0].headers["electric-has-data"] == "true":
            break
        first.wait(lambda v=value: bool(client.sync() or value_of(client) == v), 60, "the update")
    assert value_of(client) == value
    assert polled[0].headers["electric-has-data"] == "true"
    quiet = client.step(live=True)
    assert (quiet.status_code, quiet.headers["electric-has-data"]) == (200, "false")

    # The client may have its offset from an instance that knows more.
    ahead = second.get(table="items", offset="9000000000000000000_0", handle=str(client.handle), live="true")
    assert (ahead.status_code, ahead.headers["retry-after"]) == (503, "10")

    # What only the writer may do.
    assert second.get(table="nope", offset="-1").status_code == 400
    started = time.monotonic()
    refused = second.get(table="items", columns="id", offset="-1")
    assert time.monotonic() - started > 4
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["message"] == "Timeout waiting for Postgres lock acquisition"

    # A shape that the writer makes and ends.
    made = first.get(table="items", columns="id", offset="-1").headers["electric-handle"]
    found = second.get(table="items", columns="id", offset="-1")
    assert (found.status_code, found.headers["electric-handle"]) == (200, made)
    items.execute("TRUNCATE items")
    first.wait(lambda: first.metric("electric_shapes_total_shapes_count") == 0, 60, "the shapes to end")
    assert client.step().status_code == 409 or client.restarts == 0
    assert second.stop() == 0


@one_version
def test_delete_is_for_the_writer(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    first = make_server("one").start()
    Client(first, table="items").sync()
    second = make_server("one", ELECTRIC_ENABLE_INTEGRATION_TESTING="true").start(active=False)
    second.wait(lambda: reads_along(second), 60, "the standby")
    response = second.http.delete(second.shape_url, params={"table": "items"})
    assert response.status_code == 503
    assert second.get(table="items", offset="-1").status_code == 200


@pytest.fixture
def writing(items: Database) -> Iterator[Callable[[], int]]:
    """Updates the row all the time; calling it stops that and gives the last value."""
    stop = threading.Event()
    last = [0]

    def write() -> None:
        with psycopg.connect(items.url, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute("UPDATE items SET v = %s WHERE id = 1", [str(last[0] + 1)])
                last[0] += 1
                time.sleep(0.002)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()

    def finish() -> int:
        stop.set()
        thread.join(60)
        return last[0]

    yield finish
    finish()


@one_version
@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_hand_over_under_writes(
    items: Database, make_server: Callable[..., ShapesServer], writing: Callable[[], int], ending: str
) -> None:
    """Clients move to the other instance in the middle of everything: each value comes once, in order."""
    first = make_server("one").start()
    clients = [Client(first, table="items"), Client(first, table="items", replica="full")]
    for client in clients:
        client.sync()
    for _ in range(2):
        second = standby_of(make_server)
        for client in clients:
            client.server = second  # reads along while the first still writes
            client.sync()
        if ending == "stop":
            first.terminate()
        else:
            first.kill()
        deadline = time.monotonic() + 60
        while second.health() != (200, "active"):
            assert time.monotonic() < deadline, second.log()[-3000:]
            for client in clients:
                try:
                    assert client.step(live=client.up_to_date).status_code in (200, 503)
                except httpx.TransportError:
                    continue
        first = second
    last = str(writing())
    for client in clients:
        first.wait(lambda c=client: bool(c.sync() or value_of(c) == last), 60, "the last value")
        assert client.restarts == 0


@one_version
def test_an_instance_that_lost_the_lock_lets_go(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Its connection was cut and the other one was quicker: it gives the storage up, and reads along in turn."""
    first = make_server("one").start()
    client = Client(first, table="items")
    client.sync()
    second = standby_of(make_server)
    with items.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    second.wait_active()
    first.wait(lambda: first.health() == (202, "waiting") and reads_along(first), 60, "the former writer to wait")
    items.execute("UPDATE items SET v = 'moved'")
    reader = Client(second, table="items")
    second.wait(lambda: bool(reader.sync() or value_of(reader) == "moved"), 60, "the update")
    client.sync()
    assert value_of(client) == "moved"
    assert client.handle == reader.handle
    assert client.restarts == 0


@one_version
def test_another_directory_is_not_served(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """What lies in a directory that nobody writes may be old: better no answer than an outdated one."""
    old = make_server("two").start()
    Client(old, table="items").sync()
    assert old.stop() == 0
    make_server("one").start()
    old.start(active=False)
    old.wait(lambda: old.health() == (202, "waiting"), 60, "waiting")
    time.sleep(2.5)
    assert not reads_along(old)
    assert old.get(table="items", offset="-1").status_code == 503
