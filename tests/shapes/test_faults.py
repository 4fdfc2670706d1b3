"""Full disks, lost slots, databases that fail over or refuse: nothing is lost, doubled or pretended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from switchgear_local import processes
from switchgear_local.postgres import PostgresError, PostgresServer, find
from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.tag_client import TagClient
from tests.support.postgres import Database, Postgres, PostgresServers, create_database, drop_slot

pytestmark = [pytest.mark.pg, pytest.mark.crash]

PUBLICATION = "electric_publication_default"
NESTED = "id IN (SELECT id FROM items)"
ITEMS = "CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a')"


def synced(server: ShapesServer, **params: str) -> Client:
    client = Client(server, table="items", **params)
    client.sync()
    return client


def follow(client: Client, rows: int, seconds: float = 60) -> None:
    client.server.wait(lambda: bool(client.sync() or len(client.rows) == rows), seconds, f"{rows} rows")


@pytest.fixture
def items(database: Database) -> Database:
    database.execute(ITEMS)
    return database


@pytest.mark.parametrize("where", [None, "id IN (SELECT id FROM chosen)"], ids=["plain", "subquery"])
def test_postgres_can_stop(items: Database, server: ShapesServer, where: str | None) -> None:
    """It waits until its last record is acknowledged, and what came just before needs a database that lets us in."""
    items.execute("CREATE TABLE chosen (id int PRIMARY KEY); INSERT INTO chosen VALUES (1)")
    client = Client(server, table="items") if where is None else TagClient(server, table="items", where=where)
    client.sync()
    log = items.postgres.server.log_file
    with items.connect() as connection:
        for number in range(2, 12):
            connection.execute(f"INSERT INTO items VALUES ({number}, 'b')".encode())
            connection.execute(f"INSERT INTO chosen VALUES ({number})".encode())
    before = log.stat().st_size
    items.postgres.server.stop()
    said = log.read_bytes()[before:].decode()
    items.postgres.server.start()
    assert "database system is shut down" in said, said[-2000:]
    assert "immediate shutdown request" not in said
    server.wait_active()
    follow(client, 11)
    assert client.restarts == 0


@one_version
@pytest.mark.timeout(900)  # 45 MB on their way through two processes: minutes where there is little of a processor
@pytest.mark.parametrize("restart", [False, True], ids=["waits", "restarted"])
def test_a_full_disk_pauses_and_goes_on(
    items: Database, make_server: Callable[..., ShapesServer], restart: bool
) -> None:
    server = make_server(module="tests.shapes.faulty", FAULTY_HOW="full")
    trigger = server.folder / "fail"
    server.environment["FAULTY_WHEN"] = str(trigger)
    server.start()
    client = synced(server)
    # A snapshot is shown before it is durable, and a shape without one does not survive; a change is shown after.
    items.execute("UPDATE items SET v = 'b'")
    server.wait(lambda: bool(client.sync() or [row["v"] for row in client.rows.values()] == ["b"]), 60, "the update")
    trigger.touch()
    for start in range(1, 6):  # more than is held in memory
        items.execute(f"INSERT INTO items SELECT g, repeat('x', 9000) FROM generate_series({start}000, {start}999) g")
    server.wait(lambda: "the disk is full" in server.log(), 60, "the full disk to be noticed")
    refused = server.get(table="items", columns="id", offset="-1")
    assert refused.status_code == 503
    assert "disk" in refused.json()["message"]
    assert client.step().status_code == 200, "what is there can be read"
    assert len(client.rows) == 1, "what is not on the disk is not shown"
    assert server.metric("process_resident_memory_bytes") < 300_000_000
    time.sleep(2)
    assert server.health() == (200, "active")
    if restart:
        server.kill()
        server.start(active=False)
        server.wait(lambda: "No space left" in server.log(), 60, "the start to be refused")
    trigger.unlink()
    server.wait_active()
    follow(client, 5001, 200)
    assert client.restarts == 0
    assert server.log().count("replication is running") == (2 if restart else 1)
    assert len(synced(server, columns="id").rows) == 5001
    items.execute("INSERT INTO items VALUES (2, 'new')")
    follow(client, 5002)


@one_version
def test_a_publication_that_leaves_operations_out(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD="500ms").start()
    client = synced(server)
    items.execute(f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert, update')")
    items.execute("INSERT INTO items VALUES (2, 'b'); DELETE FROM items WHERE id = 1")
    server.wait(lambda: bool(client.sync() or list(client.rows) == ['"public"."items"/"2"']), 60, "the truth")
    assert client.restarts == 1
    items.execute("DELETE FROM items")
    follow(client, 0)


@one_version
def test_idle_connections_are_closed_and_opened(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(
        ELECTRIC_REPLICATION_IDLE_TIMEOUT="1s", ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD="500ms"
    ).start()
    client = synced(server)

    def connections() -> int:
        with psycopg.connect(items.postgres.admin_url, autocommit=True) as admin:
            found = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [items.name]).fetchone()
        assert found is not None
        return int(found[0])

    for value in ("b", "c"):
        server.wait(lambda: connections() == 0, 60, "the connections to be closed")
        assert server.health() == (200, "active")
        assert server.http.get(server.url + "/ready").status_code == 200
        items.execute(f"UPDATE items SET v = '{value}'")
        before = server.log().count("replication is running")

        def answered() -> bool:
            """It is held until the database is there; five seconds are little for a busy machine."""
            response = client.step()
            assert response.status_code == 200 or "Timeout waiting for" in response.text
            return response.status_code == 200

        server.wait(answered, 60, "the answer")
        assert server.log().count("replication is running") > before
        server.wait(lambda v=value: bool(client.sync() or next(iter(client.rows.values()))["v"] == v), 60, "the update")
    assert client.restarts == 0


@one_version
def test_the_lock_of_a_dead_instance_is_broken(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """A session that holds the lock and does nothing, without a stream: what a dead server leaves behind a proxy."""
    with items.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(hashtext('electric_slot_default'))")
        server = make_server().start(active=False)
        server.wait(lambda: server.health() == (202, "waiting"), 60, "waiting")
        server.wait_active(60)
    synced(server)


@one_version
def test_a_database_without_free_connections(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Replication has its connection, but none is left for queries: requests are told so, and then served."""
    role = f"limited_{items.name}"
    items.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'pw'; GRANT ALL ON DATABASE {items.name} TO {role};"
        f" ALTER TABLE items OWNER TO {role}; ALTER DATABASE {items.name} CONNECTION LIMIT 0"
    )
    server = make_server()
    port = items.url.rsplit(":", 1)[1].split("/")[0]
    server.database_url = f"postgresql://{role}:pw@127.0.0.1:{port}/{items.name}"
    server.start()
    refused = server.get(table="items", offset="-1")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "too many connections" in server.log()
    # One for the catalogue, and none for snapshots.
    items.execute(f"ALTER DATABASE {items.name} CONNECTION LIMIT 1")
    for subset in ({}, {"subset__limit": 1, "subset__order_by": "id"}):
        refused = server.get(table="items", offset="-1", **subset)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10"), refused.text
        assert "SQLSTATE 53300" in refused.json()["message"]
        assert role not in refused.text
    items.execute(f"ALTER DATABASE {items.name} CONNECTION LIMIT -1")
    follow(synced(server), 1)
    assert server.stop() == 0
    drop_slot(items, "electric_slot_default")
    items.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@one_version
def test_a_slot_that_somebody_else_reads(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Another walsender has the slot: the server waits for it, says so, and goes on."""
    server = make_server().start()
    client = synced(server)
    assert server.stop() == 0
    binaries = items.postgres.server.binaries
    options = ["-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}"]
    other = subprocess.Popen(
        [
            str(binaries.path("pg_recvlogical")),
            *("-d", items.url, "--slot", "electric_slot_default", "--start", "-f", "/dev/null", *options),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        with items.connect() as connection:
            active = "SELECT bool_or(active) FROM pg_replication_slots WHERE database = current_database()"
            server.wait(lambda: connection.execute(active).fetchone() == (True,), 60, "the other reader")
        server.start(active=False)
        server.wait(lambda: "is active for PID" in server.log(), 60, "the conflict to be named")

        def told() -> bool:
            """Between two attempts. For a moment of each, it waits for the lock."""
            problem = server.http.get(server.url + "/ready").json()["waiting_for"]
            return "is active for PID" in problem and server.health() == (202, "starting")

        server.wait(told, 60, "the conflict to be told")
    finally:
        other.terminate()
        other.wait(60)
    server.wait_active()
    items.execute("INSERT INTO items VALUES (2, 'b')")
    follow(client, 2)


@one_version
def test_a_publication_of_somebody_else(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """The role owns the table, but not the publication."""
    role = f"plain_{items.name}"
    items.execute(f"CREATE PUBLICATION {PUBLICATION}")
    items.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'pw'; ALTER TABLE items OWNER TO {role}")
    server = make_server()
    port = items.url.rsplit(":", 1)[1].split("/")[0]
    server.database_url = f"postgresql://{role}:pw@127.0.0.1:{port}/{items.name}"
    server.start()
    refused = server.get(table="items", offset="-1")
    assert refused.status_code == 503
    assert refused.json()["message"] == (
        f'Database table "public.items" is missing from the publication "{PUBLICATION}" and Electric lacks'
        " privileges to add it"
    )
    items.execute(f"ALTER PUBLICATION {PUBLICATION} ADD TABLE items; ALTER TABLE items REPLICA IDENTITY FULL")
    follow(synced(server), 1)
    assert server.stop() == 0
    drop_slot(items, "electric_slot_default")
    items.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@one_version
def test_a_temporary_slot_goes_with_the_server(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Nothing holds back WAL after the end, however it came; the next start makes everything anew."""
    server = make_server(
        CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN="true",
        ELECTRIC_TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME="true",
        ELECTRIC_INSTANCE_ID="0b2d-77",
    )
    server.start()
    client = synced(server)

    def slots() -> list[tuple[str, bool]]:
        with items.connect() as connection:
            return connection.execute(
                "SELECT slot_name, temporary FROM pg_replication_slots WHERE database = current_database()"
            ).fetchall()

    assert slots() == [("electric_slot_default_0b2d_77", True)]
    server.kill()
    server.wait(lambda: slots() == [], 60, "the slot to go")
    items.execute("INSERT INTO items VALUES (2, 'between')")
    server.start()
    assert client.step().status_code == 409
    follow(client, 2)
    items.execute("INSERT INTO items VALUES (3, 'new')")
    follow(client, 3)


@one_version
def test_the_other_kind_of_address(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """The database listens on IPv4 only, and IPv6 is to be tried first."""
    server = make_server(ELECTRIC_DATABASE_USE_IPV6="true")
    server.database_url = items.url.replace("127.0.0.1", "localhost")
    server.start()
    synced(server)


# -- with a database server of their own --


class OwnServer:
    """A server that a test may restart, break and copy."""

    def __init__(self, folder: Path, copies: Path, version: int, **settings: str) -> None:
        try:
            binaries = find(version)
        except PostgresError as error:
            pytest.skip(str(error))
        self.folder = folder
        own = {"shared_buffers": "16MB"} | settings
        self.server = PostgresServer(binaries, folder, durable=False, settings=own, binary_copies=copies)

    def start(self) -> OwnServer:
        self.server.start()
        return self

    def database(self) -> Database:
        return create_database(Postgres(self.server.version, self.server.url, self.server))


@pytest.fixture
def own_server(postgres_servers: PostgresServers) -> Iterator[Callable[..., OwnServer]]:
    made: list[OwnServer] = []

    def make(version: int = 18, **settings: str) -> OwnServer:
        folder = Path(tempfile.mkdtemp(prefix="sg-own-"))
        folder.chmod(0o755)
        server = OwnServer(folder / "db", postgres_servers.binary_copies, version, **settings)
        made.append(server)
        return server

    yield make
    for server in made:
        server.server.stop()
        shutil.rmtree(server.folder.parent, ignore_errors=True)


@pytest.fixture
def server_on(tmp_path: Path) -> Iterator[Callable[..., ShapesServer]]:
    made: list[ShapesServer] = []

    def make(url: str, folder: str = "server", **environment: str) -> ShapesServer:
        made.append(ShapesServer(tmp_path / folder, url, **environment))
        return made[-1]

    yield make
    for server in made:
        server.close()


@contextlib.contextmanager
def held_back(database: Database, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Meanwhile the statement is committed, and nobody sees it: a synchronous standby is away. The connection does not
    wait for that one."""
    database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    database.execute("SELECT pg_reload_conf()")
    database.execute("CHECKPOINT")  # whoever makes it is who tells the others to wait, and reads the settings before

    def commit() -> None:
        with database.connect() as connection:
            connection.execute("SET synchronous_commit = on")
            connection.execute(statement.encode())

    thread = threading.Thread(target=commit, daemon=True)
    with database.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        thread.start()
        deadline = time.monotonic() + 60
        while not connection.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchall():
            assert time.monotonic() < deadline, "the commit is not held back"
            time.sleep(0.02)
        try:
            yield connection
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
    thread.join(60)
    assert not thread.is_alive()


def refused(server: ShapesServer, **params: str) -> None:
    """A new shape cannot be made as long as a commit is held back."""
    response = server.get(table="items", offset="-1", **params)
    assert response.status_code == 503, response.text[:200]
    assert "does not become visible" in response.json()["message"]


def test_commits_that_pass_long_before_they_are_visible(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    """A synchronous standby that is away holds a commit back, which is in the stream; a thousand others follow.

    A shape that is made now has it neither in its snapshot nor ever in its log: it must not be made before it is seen.
    """
    database = own_server(18).start().database()
    database.execute(ITEMS)
    server = server_on(database.url).start()
    first = synced(server)
    with held_back(database, "INSERT INTO items VALUES (1000000, 'held back')") as connection:
        for number in range(1100):
            connection.execute("INSERT INTO items VALUES (%s, 'x')", [number + 1000])
        server.wait(lambda: bool(first.sync() or len(first.rows) == 1102), 60, "all rows, in the stream")
        refused(server, columns="id")
    late = Client(server, table="items", columns="id")
    late.sync()
    assert set(late.rows) == set(first.rows)


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_commit_that_is_held_back_while_the_server_is_started_again(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer], ending: str
) -> None:
    """It was logged before the restart, and is seen only after it: new shapes lack it until then."""
    database = own_server(18).start().database()
    database.execute(ITEMS)
    server = server_on(database.url).start()
    first = synced(server)
    with held_back(database, "INSERT INTO items VALUES (1000000, 'held back')") as connection:
        connection.execute("INSERT INTO items VALUES (2, 'after it')")
        server.wait(lambda: bool(first.sync() or len(first.rows) == 3), 60, "both rows, in the stream")
        time.sleep(2.5)  # what may be acknowledged is
        if ending == "stop":
            assert server.stop() == 0
        else:
            server.kill()
        server.start()
        refused(server, columns="id")
        nested = threading.Thread(target=server.get, kwargs={"table": "items", "offset": "-1", "where": NESTED})
        nested.start()
        time.sleep(0.5)
    nested.join(60)
    for params in ({"columns": "id"}, {"where": NESTED}, {"where": "id > 0"}):
        late = Client(server, table="items", **params)
        late.sync()
        assert set(late.rows) == set(first.rows), params
    first.sync()
    assert (len(first.rows), first.restarts) == (3, 0)


def test_a_commit_that_is_held_back_while_the_slot_is_made(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    """It is before the slot's beginning, so that the stream never brings it: nothing begins before it is seen."""
    database = own_server(18).start().database()
    database.execute(ITEMS)
    database.execute(f"ALTER TABLE items REPLICA IDENTITY FULL; CREATE PUBLICATION {PUBLICATION} FOR TABLE items")
    database.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = local")
    server = server_on(database.url, ELECTRIC_MANUAL_TABLE_PUBLISHING="true")

    def opened(connection: psycopg.Connection[Any]) -> str:
        row = connection.execute("SELECT pg_current_xact_id()").fetchone()
        assert row is not None
        return str(row[0])

    with database.connect() as admin, psycopg.connect(database.url) as one, psycopg.connect(database.url) as two:

        def awaited(xid: str) -> bool:
            """The slot is made in phases: each waits for the transactions that it found."""
            query = (
                "SELECT 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid = %s::xid"
            )
            return bool(admin.execute(query, [xid]).fetchall())

        first = opened(one)
        server.start(active=False)
        server.wait(lambda: awaited(first), 60, "the first phase")
        second = opened(two)
        one.commit()
        server.wait(lambda: awaited(second), 60, "the second phase")
        with held_back(database, "INSERT INTO items VALUES (2, 'held back')"):
            two.commit()
            time.sleep(1.5)
            assert server.health() == (202, "starting")
    server.wait_active()
    assert len(synced(server).rows) == 2


def test_a_snapshot_among_a_thousand_open_transactions(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    """Each is in the log of a shape that was made meanwhile, and told as running by snapshots and subsets."""
    count = 1100
    database = own_server(18, max_prepared_transactions=str(count), autovacuum="off").start().database()
    database.execute(ITEMS)
    server = server_on(database.url).start()
    synced(server)
    with database.connect() as connection:
        for number in range(count):
            for statement in (
                "BEGIN",
                f"INSERT INTO items VALUES ({1000 + number})",
                f"PREPARE TRANSACTION '{number}'",
            ):
                connection.execute(statement.encode())
        connection.execute("INSERT INTO items VALUES (2)")  # with a later id than all of those
        client = Client(server, table="items", columns="id")
        client.sync()
        assert len(client.rows) == 2
        (end,) = [m["headers"] for m in client.messages if m["headers"].get("control") == "snapshot-end"]
        assert len(end["xip_list"]) == count
        subset = server.get(table="items", columns="id", offset="-1", subset__order_by="id").json()
        assert len(subset["metadata"]["xip_list"]) == count
        for number in range(count):
            connection.execute(f"COMMIT PREPARED '{number}'".encode())
        server.wait(lambda: bool(client.sync() or len(client.rows) == count + 2), 60, "all rows")
    server.kill()
    server.start()
    client.sync()
    assert (len(client.rows), client.restarts) == (count + 2, 0)


def test_a_slot_that_fell_too_far_behind(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    database = own_server(18, max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB").start().database()
    database.execute(ITEMS)
    server = server_on(database.url).start()
    client = synced(server)
    assert server.stop() == 0
    database.execute("INSERT INTO items VALUES (2, 'missed')")
    with database.connect() as connection:
        for _ in range(8):
            connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('y', 1000000))")
            connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")
        status = connection.execute("SELECT wal_status FROM pg_replication_slots").fetchone()
    assert status == ("lost",)
    server.start()
    assert client.step().status_code == 409
    follow(client, 2)
    database.execute("INSERT INTO items VALUES (3, 'new')")
    follow(client, 3)


def test_failing_over_to_a_replica(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    """A real promotion: what only the old primary had is gone from the shapes, and what the new one gets arrives."""
    primary = own_server(18).start()
    database = primary.database()
    database.execute(ITEMS)
    replica = own_server(18)
    _copy(primary, replica)
    replica.start()
    database.execute("INSERT INTO items VALUES (2, 'both')")
    _wait_for_rows(replica, database.name, 2)
    with psycopg.connect(replica.server.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
        admin.execute("SELECT pg_reload_conf()")
    alone = "SELECT count(*) = 0 FROM pg_stat_replication"
    with psycopg.connect(primary.server.url, autocommit=True) as admin:
        _until(lambda: admin.execute(alone).fetchone() == (True,))
    server = server_on(database.url).start()
    database.execute("INSERT INTO items VALUES (3, 'only here')")
    client = synced(server)
    assert len(client.rows) == 3
    primary.server.stop()
    with psycopg.connect(replica.server.url, autocommit=True) as admin:
        assert admin.execute("SELECT pg_promote()").fetchone() == (True,)
    server.kill()
    server.database_url = replica.server.url_of(database.name)
    server.start()
    assert client.step().status_code == 409
    follow(client, 2)
    with psycopg.connect(server.database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO items VALUES (4, 'after')")
    follow(client, 3)


def test_a_new_timeline_under_the_same_slot(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    primary = own_server(15).start()
    database = primary.database()
    database.execute(ITEMS)
    server = server_on(database.url).start()
    client = synced(server)
    assert server.stop() == 0
    primary.server.stop()
    (primary.server.pgdata / "standby.signal").touch()
    primary.server.account.give(primary.server.pgdata / "standby.signal")
    primary.start()
    with psycopg.connect(primary.server.url, autocommit=True) as admin:
        server.start(active=False)
        server.wait(lambda: "read-only standby" in server.log(), 60, "the standby to be refused")
        assert admin.execute("SELECT pg_promote()").fetchone() == (True,)
        assert admin.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (1,)
    server.wait_active()
    assert "another timeline" in server.log()
    assert client.step().status_code == 409
    database.execute("INSERT INTO items VALUES (2, 'new')")
    follow(client, 2)


def test_a_database_without_logical_replication(
    own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]
) -> None:
    own = own_server(15, wal_level="replica").start()
    database = own.database()
    database.execute(ITEMS)
    server = server_on(database.url).start(active=False)
    server.wait(lambda: "wal_level of the database is replica" in server.log(), 60, "the cause to be named")
    assert "ALTER SYSTEM SET wal_level" in server.http.get(server.url + "/ready").json()["waiting_for"]
    own.server.stop()
    own.server._settings["wal_level"] = "logical"
    own.start()
    server.wait_active()
    synced(server)


def test_verified_tls(own_server: Callable[..., OwnServer], server_on: Callable[..., ShapesServer]) -> None:
    own = own_server(15)
    own.server.initialise()
    certificate, key = own.server.pgdata / "server.crt", own.server.pgdata / "server.key"
    _certify(certificate, key)
    for path in (certificate, key):
        own.server.account.give(path)
    own.server._settings |= {"ssl": "on"}
    database = own.start().database()
    database.execute(ITEMS)
    authority = own.folder / "ca.crt"
    shutil.copy(certificate, authority)
    server = server_on(database.url, ELECTRIC_DATABASE_CA_CERTIFICATE_FILE=str(authority)).start()
    synced(server)
    with database.connect() as connection:
        found = connection.execute(
            "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)"
            " WHERE a.application_name = 'switchgear-shapes'"
        ).fetchone()
    assert found == (True,)
    assert server.stop() == 0
    _certify(authority, own.folder / "other.key")
    server.start(active=False)
    server.wait(lambda: "certificate verify failed" in server.log(), 60, "the stranger to be refused")
    assert server.health() == (202, "starting")


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")
@one_version
def test_through_a_transaction_pooler(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Queries go through PgBouncer, which gives each transaction another session; replication goes past it."""
    items.execute("INSERT INTO items SELECT g, repeat('x', 100) FROM generate_series(2, 20000) g")
    folder = Path(tempfile.mkdtemp(prefix="sg-pgb-"))
    port = processes.free_port()
    url = psycopg.conninfo.conninfo_to_dict(items.url)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{items.name} = host=127.0.0.1 port={url['port']} user={url['user']} password={url['password']}\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=any\n"
        "pool_mode=transaction\ndefault_pool_size=3\nlogfile=\npidfile=\n"
    )
    account = items.postgres.server.account
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").chmod(0o644)
    process = subprocess.Popen(  # type: ignore[call-overload]
        ["pgbouncer", "-q", str(folder / "pgbouncer.ini")],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        **account.popen_args(),
    )
    try:
        server = make_server(ELECTRIC_POOLED_DATABASE_URL=f"postgresql://any@127.0.0.1:{port}/{items.name}").start()
        clients = [synced(server, **extra) for extra in ({}, {"columns": "id"}, {"replica": "full"})]
        assert all(len(client.rows) == 20000 for client in clients)
        items.execute("DELETE FROM items WHERE id % 2 = 0")
        for client in clients:
            follow(client, 10000)
        assert server.stop() == 0
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _copy(primary: OwnServer, replica: OwnServer) -> None:
    """A streaming replica, made by pg_basebackup."""
    server, target = primary.server, replica.server
    target.data_dir.mkdir(parents=True)
    target.data_dir.chmod(0o700)
    server.account.give(target.data_dir)
    shutil.copy(server.data_dir / "password", target.data_dir / "password")
    subprocess.run(  # type: ignore[call-overload]
        [
            str(server.binaries.path("pg_basebackup")),
            *("-D", str(target.pgdata), "-R", "-X", "stream", "-c", "fast", "-d", server.url),
        ],
        check=True,
        cwd="/",
        timeout=120,
        **server.account.popen_args(),
    )


def _wait_for_rows(server: OwnServer, database: str, rows: int) -> None:
    with psycopg.connect(server.server.url_of(database), autocommit=True) as connection:
        _until(lambda: connection.execute("SELECT count(*) FROM items").fetchone() == (rows,))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _certify(certificate: Path, key: Path) -> None:
    """A self-signed certificate, which is its own authority."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    key.chmod(0o600)


@one_version
def test_a_database_that_falls_silent(
    items: Database, tmp_path: Path, make_server: Callable[..., ShapesServer]
) -> None:
    """Its connections stand, and nothing comes over them: a machine that hangs, a proxy that lost what is behind it."""
    server = make_server(module="tests.shapes.impatient").start()
    client = synced(server)
    with psycopg.connect(items.postgres.admin_url, autocommit=True) as admin:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type IN ('client backend', 'walsender')"
        )
        silent = [pid for (pid,) in admin.execute(query, [items.name])]
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)
        try:
            server.wait(lambda: server.health()[1] != "active", 60, "the stream given up")
            # New connections are answered: questions to the database find their way.
            server.wait(lambda: server.get(table="missing", offset="-1").status_code == 503, 60, "an answer")
        finally:
            for pid in silent:
                os.kill(pid, signal.SIGCONT)
    assert "Postgres was silent" in server.log()
    server.wait_active(60)
    items.execute("INSERT INTO items VALUES (2, 'b')")
    follow(client, 2)
    assert client.restarts == 0, server.log()
