"""Starting, waiting, taking over, and what the server does when something in Postgres is not as it should be."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from switchgear_local import processes
from switchgear_shapes.postgres.conninfo import parse_url
from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database, PostgresServers, create_database, drop_database, drop_slot

pytestmark = pytest.mark.pg

SLOT = "electric_slot_default"
PUBLICATION = "electric_publication_default"


def synced(server: ShapesServer, table: str = "items") -> Client:
    client = Client(server, table=table)
    client.sync()
    return client


def ready(server: ShapesServer) -> int:
    return server.http.get(server.url + "/ready").status_code


@pytest.fixture
def items(database: Database) -> Database:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a')")
    return database


@one_version
def test_without_postgres_it_starts_and_says_so(make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(DATABASE_URL="postgresql://nobody:secret-word@127.0.0.1:9/none").start(active=False)
    assert server.health() == (202, "starting")
    assert ready(server) == 503
    assert server.http.get(server.url + "/live").status_code == 200
    started = time.monotonic()
    response = server.get(table="items", offset="-1")
    assert time.monotonic() - started > 4
    assert response.status_code == 503
    assert response.json()["message"].startswith("Timeout waiting for replication client to be ready")
    assert response.headers["retry-after"] == "5"
    assert response.headers["cache-control"] == "no-store"
    assert "secret-word" not in server.log()
    assert server.stop() == 0


@pytest.mark.crash
def test_a_second_instance_waits_and_takes_over(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Same storage: the shapes live on under their handles, with nothing lost or repeated in between."""
    first = make_server("one").start()
    second = make_server("one").start(active=False)
    wait_waiting(second)
    assert ready(second) == 503
    client = synced(first)
    for ending in ("stop", "kill"):
        items.execute("UPDATE items SET v = v || 'x'")
        assert second.health() == (202, "waiting")
        if ending == "stop":
            assert first.stop() == 0
        else:
            first.kill()
        items.execute("UPDATE items SET v = v || 'y'")
        second.wait_active()
        assert ready(second) == 200
        client.server = second
        follow(client, client_value(items))
        first, second = second, make_server("one").start(active=False)
        wait_waiting(second)
    assert client.restarts == 0


def wait_waiting(server: ShapesServer) -> None:
    server.wait(lambda: server.health() == (202, "waiting"), 60, "waiting for the lock")


def follow(client: Client, value: str) -> None:
    key = '"public"."items"/"1"'
    client.server.wait(lambda: bool(client.sync() or client.rows[key]["v"] == value), 60, "the updates")


def client_value(database: Database) -> str:
    with database.connect() as connection:
        row = connection.execute("SELECT v FROM items WHERE id = 1").fetchone()
    assert row is not None
    return str(row[0])


@one_version
def test_two_storages_one_stream(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """The second server's storage is behind the slot: what it holds cannot be true, so it begins anew."""
    first = make_server("one").start()
    synced(first)
    assert first.stop() == 0
    second = make_server("two").start()
    stale = synced(second)
    items.execute("INSERT INTO items VALUES (2, 'b')")
    second.wait(lambda: bool(stale.sync() or len(stale.rows) == 2), 60, "the row")
    lsn = int(stale.messages[-2]["headers"]["lsn"])
    slot = "SELECT FROM pg_replication_slots WHERE database = current_database()"
    query = f"{slot} AND confirmed_flush_lsn > '0/0'::pg_lsn + {lsn}"
    with items.connect() as connection:
        second.wait(lambda: bool(connection.execute(query.encode()).fetchall()), 60, "the second to acknowledge it")
    assert second.stop() == 0
    first.start()
    client = synced(first)
    assert len(client.rows) == 2
    assert "ahead of the storage" in first.log()


@pytest.mark.parametrize("what", ["slot", "publication", "both"])
def test_a_lost_slot_or_publication_begins_anew(
    items: Database, make_server: Callable[..., ShapesServer], what: str
) -> None:
    server = make_server().start()
    client = synced(server)
    assert server.stop() == 0
    if what in ("slot", "both"):
        drop_slot(items, SLOT)
    if what in ("publication", "both"):
        items.execute(f"DROP PUBLICATION {PUBLICATION}")
    items.execute("INSERT INTO items VALUES (2, 'missed')")
    server.start()
    assert client.step().status_code == 409
    client.sync()
    assert len(client.rows) == 2
    items.execute("INSERT INTO items VALUES (3, 'new')")
    server.wait(lambda: bool(client.sync() or len(client.rows) == 3), 60, "the new row")


def test_a_publication_dropped_while_running(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD="500ms").start()
    client = synced(server)
    items.execute(f"DROP PUBLICATION {PUBLICATION}")
    items.execute("INSERT INTO items VALUES (2, 'x')")
    server.wait(lambda: _tolerant(client) and len(client.rows) == 2, 60, "everything anew")
    items.execute("INSERT INTO items VALUES (3, 'y')")
    server.wait(lambda: _tolerant(client) and len(client.rows) == 3, 60, "the new row")
    assert client.restarts == 1


def _tolerant(client: Client) -> bool:
    client.step()
    return client.up_to_date


def test_an_idle_slot_advances(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Writes that concern no shape must not pile up WAL behind the slot, nor be lost to a later shape."""
    server = make_server().start()
    synced(server)
    items.execute("CREATE TABLE noise (id int); INSERT INTO noise SELECT generate_series(1, 1000)")

    def lag() -> int:
        with items.connect() as connection:
            row = connection.execute(
                "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::int8 FROM pg_replication_slots"
                " WHERE slot_name = %s",
                [SLOT],
            ).fetchone()
        assert row is not None
        return int(row[0])

    server.wait(lambda: lag() == 0, 60, "the slot to catch up")
    server.kill()
    server.start()
    assert synced(server).restarts == 0


@pytest.fixture
def plain_role(items: Database) -> Iterator[str]:
    """A role that may replicate and read nothing yet; yields its database URL."""
    name, password = f"r_{uuid.uuid4().hex[:12]}", "pw"
    items.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD '{password}'")
    port = parse_url(items.url).params["port"]
    yield f"postgresql://{name}:{password}@127.0.0.1:{port}/{items.name}"
    items.execute(f"DROP OWNED BY {name}")
    items.execute(f"DROP ROLE {name}")


def test_manual_publishing(items: Database, make_server: Callable[..., ShapesServer], plain_role: str) -> None:
    """The four steps that someone else has to take, each asked for by name."""
    role = plain_role.split("/")[2].split(":")[0]
    server = make_server(DATABASE_URL=plain_role, ELECTRIC_MANUAL_TABLE_PUBLISHING="true")
    server.start(active=False)
    server.wait(lambda: "CREATE PUBLICATION" in server.log(), 60, "the missing publication to be named")
    items.execute(f"CREATE PUBLICATION {PUBLICATION}")
    server.wait_active()

    def refused() -> str:
        response = server.get(table="items", offset="-1")
        assert response.status_code == 503, response.text
        assert response.headers["retry-after"] == "10"
        assert response.headers["electric-internal-known-error"] == "true"
        return str(response.json()["message"])

    assert refused() == (
        f'Database table "public.items" is missing from the publication "{PUBLICATION}" and the'
        " ELECTRIC_MANUAL_TABLE_PUBLISHING setting prevents Electric from adding it"
    )
    items.execute(f"ALTER PUBLICATION {PUBLICATION} ADD TABLE items")
    assert refused() == 'Database table "public.items" does not have its replica identity set to FULL'
    items.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    assert refused() == (
        "Unable to create initial snapshot: permission denied for table items; run GRANT SELECT ON items TO the role"
        " of DATABASE_URL, or GRANT SELECT (columns) for the columns of the shape, of its key and of its filters"
    )
    items.execute(f"GRANT SELECT ON items TO {role}")
    client = synced(server)
    items.execute("INSERT INTO items VALUES (2, 'b')")
    server.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the row")
    assert server.stop() == 0


@one_version
def test_without_the_right_to_publish(
    items: Database, make_server: Callable[..., ShapesServer], plain_role: str
) -> None:
    server = make_server(DATABASE_URL=plain_role).start(active=False)
    server.wait(lambda: "CREATE PUBLICATION" in server.log(), 60, "the missing publication to be named")
    items.execute(f"CREATE PUBLICATION {PUBLICATION}")
    server.wait_active()
    response = server.get(table="items", offset="-1")
    assert response.status_code == 503
    assert response.json()["message"].endswith("and Electric lacks privileges to add it")
    assert server.stop() == 0


@one_version
def test_a_locked_table_is_reported(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """A long writer in the table: the request is refused in time, and works once the writer is done."""
    server = make_server().start()
    with items.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO items VALUES (5, 'x')")
        response = server.get(table="items", offset="-1")
        assert response.status_code == 503
        assert "items" in response.json()["message"]
        connection.commit()
    client = synced(server)
    assert len(client.rows) == 2


@pytest.mark.parametrize("ready_table", [False, True])
def test_a_writer_before_the_publication_is_not_missed(
    items: Database, make_server: Callable[..., ShapesServer], ready_table: bool
) -> None:
    """It wrote before its table was published and commits after the snapshot: its rows must come all the same."""
    if ready_table:
        items.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    server = make_server().start()
    with items.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO items VALUES (5, 'early')")
        request = _Later(lambda: server.get(table="items", offset="-1").status_code)
        time.sleep(0.5)
        connection.execute("INSERT INTO items VALUES (6, 'late')")
        connection.commit()
    assert request.result() == 200
    client = Client(server, table="items")
    server.wait(lambda: bool(client.sync() or len(client.rows) == 3), 60, "all rows")


class _Later:
    def __init__(self, call: Callable[[], int]) -> None:
        self._value: int | None = None
        self._thread = threading.Thread(target=lambda: setattr(self, "_value", call()), daemon=True)
        self._thread.start()

    def result(self) -> int | None:
        self._thread.join(60)
        return self._value


def test_slot_creation_waits_for_old_transactions(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    with items.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO items VALUES (9, 'open')")
        server = make_server().start(active=False)

        def waiting_for() -> str:
            return str(server.http.get(server.url + "/ready").json()["waiting_for"])

        server.wait(lambda: "older transactions" in waiting_for(), 60, "what it waits for")
        assert server.health() == (202, "starting")
        connection.commit()
    server.wait_active()
    assert len(synced(server).rows) == 2


@one_version
def test_memory_of_shapes_is_evicted(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_MAX_SHAPES="2", ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD="200ms").start()
    handles = [
        server.get(table="items", offset="-1", **extra).headers["electric-handle"]
        for extra in ({}, {"replica": "full"}, {"columns": "id"}, {"columns": "id,v"})
    ]
    assert len(set(handles)) == 4
    server.wait(lambda: server.metric("electric_shapes_total_shapes_count") == 2, 60, "eviction")
    last = server.get(table="items", offset="0_inf", handle=handles[3], columns="id,v")
    assert last.status_code == 200


@one_version
def test_another_database_begins_anew(
    items: Database, make_server: Callable[..., ShapesServer], postgres_servers: PostgresServers
) -> None:
    """The same storage on another cluster: its positions mean nothing there, and may be lower."""
    server = make_server().start()
    client = synced(server)
    items.execute("INSERT INTO items VALUES (2, 'b')")
    server.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the row")
    assert server.stop() == 0
    other = create_database(postgres_servers.get(15))
    try:
        other.execute("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (7, 'other')")
        server.database_url = other.url
        server.start()
        assert client.step().status_code == 409
        client.sync()
        assert list(client.rows) == ['"public"."items"/"7"']
        other.execute("INSERT INTO items VALUES (8, 'new')")
        server.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the new row")
    finally:
        server.kill()
        drop_database(other)


@one_version
@pytest.mark.crash
def test_a_failed_sync_stops_the_process(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """What was not synced is not shown, not acknowledged, and comes again after the restart."""
    server = make_server(module="tests.shapes.faulty")
    trigger = server.folder / "fail"
    server.environment["FAULTY_WHEN"] = str(trigger)
    server.start()
    client = synced(server)
    server.wait_durable()
    trigger.touch()
    items.execute("INSERT INTO items VALUES (2, 'b')")
    assert server.process is not None
    assert server.process.wait(60) == 74
    assert "cannot be written" in server.log()
    trigger.unlink()
    server.start()
    server.wait(lambda: bool(client.sync() or len(client.rows) == 2), 60, "the row")
    assert client.restarts == 0


@one_version
@pytest.mark.crash
def test_postgres_is_answered_while_the_disk_is_slow(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """The stream is held back, the connection is not lost, and nothing is lost either."""
    server = make_server(module="tests.shapes.faulty", FAULTY_HOW="slow", FAULTY_SECONDS="15", FAULTY_TIMES="2")
    trigger = server.folder / "fail"
    server.environment["FAULTY_WHEN"] = str(trigger)
    server.start()
    client = synced(server)
    with items.connect() as connection:
        connection.execute("ALTER SYSTEM SET wal_sender_timeout = '8s'")
        connection.execute("SELECT pg_reload_conf()")
    try:
        trigger.touch()
        for start in range(10, 60):
            items.execute(f"INSERT INTO items SELECT g, repeat('x', 9000) FROM generate_series({start}00, {start}99) g")
        server.wait(lambda: bool(client.sync() or len(client.rows) == 5001), 120, "all rows")
        assert server.log().count("replication is running") == 1
        assert server.metric("process_resident_memory_bytes") < 250_000_000
    finally:
        with items.connect() as connection:
            connection.execute("ALTER SYSTEM RESET wal_sender_timeout")
            connection.execute("SELECT pg_reload_conf()")


# -- settings --


def run(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "switchgear_shapes", *flags],
        env={"PATH": "/usr/bin:/bin", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_wrong_settings_are_listed_all_at_once(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        ELECTRIC_PORT="many",
        ELECTRIC_LONG_POLL_TIMEOUT="soon",
        ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="10 potatoes",
        ELECTRIC_REPLICATION_STREAM_ID="1-bad",
        DATABASE_URL="mysql://x",
    )
    assert done.returncode == 2
    for name in (
        "ELECTRIC_PORT",
        "ELECTRIC_LONG_POLL_TIMEOUT",
        "ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD",
        "ELECTRIC_REPLICATION_STREAM_ID",
        "DATABASE_URL",
        "ELECTRIC_SECRET",
    ):
        assert name in done.stderr
    both = run(tmp_path, DATABASE_URL="postgresql://a@b/c", ELECTRIC_SECRET="s", ELECTRIC_INSECURE="true")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr
    flags = run(tmp_path, "--database-url", "postgresql://a:hunter2@b/c", "--nope", "x", "--secret", "y")
    assert flags.returncode == 2
    assert "--database-url-file" in flags.stderr
    assert "--nope" in flags.stderr
    assert "--secret-file" in flags.stderr
    assert "hunter2" not in flags.stderr
    assert run(tmp_path, "--help").returncode == 0


@one_version
def test_flags_and_files(items: Database, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(items.url + "\n")
    (tmp_path / "secret").write_text("from-a-file\n")
    flags = ["--database-url-file", "url", "--secret-file", "secret", "--port=0", "--storage-dir", "data"]
    flags += ["--replication-stream-id", "flags", "--host", "127.0.0.1"]
    environment = {"PATH": "/usr/bin:/bin", "ELECTRIC_NO_SUCH_THING": "1", "ELECTRIC_HNY_DATASET": "x"}
    process = subprocess.Popen(
        [sys.executable, "-m", "switchgear_shapes", *flags], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        seen = ""
        while "replication is running" not in seen:
            line = process.stderr.readline().decode()
            assert line, seen
            seen += line
        assert "ELECTRIC_NO_SUCH_THING is unknown" in seen
        assert "ELECTRIC_HNY_DATASET has no effect" in seen
        assert "electric_slot_flags" in seen
        assert (tmp_path / "data" / "FORMAT").read_text().startswith("switchgear-shapes")
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0


@one_version
def test_another_format_is_refused(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server()
    storage = server.folder / "storage"
    storage.mkdir(parents=True)
    (storage / "FORMAT").write_text("switchgear-shapes 999\n")
    server.start(active=False)
    assert server.process is not None
    assert server.process.wait(60) == 1
    assert "switchgear-shapes 999" in server.log()


@one_version
def test_a_taken_port_is_reported(make_server: Callable[..., ShapesServer]) -> None:
    server = make_server().start()
    done = run(
        server.folder, DATABASE_URL=server.database_url, ELECTRIC_INSECURE="true", ELECTRIC_PORT=str(server.port)
    )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


@one_version
def test_metrics_have_a_port_of_their_own(make_server: Callable[..., ShapesServer]) -> None:
    port = processes.free_port()
    server = make_server(ELECTRIC_PROMETHEUS_PORT=str(port), ELECTRIC_SECRET="x", ELECTRIC_INSECURE="").start()
    response = server.http.get(f"http://127.0.0.1:{port}/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "electric_shapes_total_shapes_count 0" in response.text
    assert server.http.get(f"http://127.0.0.1:{port}/v1/shape").status_code == 404
    assert server.http.get(server.url + "/metrics").status_code == 200
