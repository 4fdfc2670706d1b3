"""Each `ELECTRIC_*` variable does what it says, over a running server; those that mean nothing here say so."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from switchgear_local import processes
from switchgear_shapes import settings
from switchgear_shapes.postgres.conninfo import PREFER_IPV6
from switchgear_shapes.settings import SettingsError, load
from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.postgres import Database

MINIMAL = {"DATABASE_URL": "postgresql://a@b/c", "ELECTRIC_INSECURE": "true"}
# Every variable of Electric 1.7.12 that this server reads, and the test that sees it at work (here, unless named).
SEEN = {
    "DATABASE_URL": "everywhere",
    "SWITCHGEAR_HOST": "test_start",
    "ELECTRIC_PORT": "test_start",
    "ELECTRIC_PROMETHEUS_PORT": "test_start",
    "ELECTRIC_LISTEN_ON_IPV6": "test_it_listens_on_ipv6",
    "ELECTRIC_STORAGE_DIR": "test_start",
    "ELECTRIC_REPLICATION_STREAM_ID": "test_start",
    "ELECTRIC_INSTANCE_ID": "test_a_temporary_slot_of_a_random_name",
    "ELECTRIC_DB_POOL_SIZE": "test_the_pool_bounds_connections",
    "ELECTRIC_MANUAL_TABLE_PUBLISHING": "test_start",
    "CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN": "test_a_temporary_slot_of_a_random_name",
    "ELECTRIC_TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME": "test_a_temporary_slot_of_a_random_name",
    "ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD": "test_protocol",
    "ELECTRIC_CACHE_MAX_AGE": "test_ages_and_idle_connections",
    "ELECTRIC_CACHE_STALE_AGE": "test_ages_and_idle_connections",
    "ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS": "test_a_shape_waits_with_so_many_transactions",
    "ELECTRIC_LONG_POLL_TIMEOUT": "test_live",
    "SWITCHGEAR_SSE_TIMEOUT": "test_live",
    "SWITCHGEAR_SSE_KEEPALIVE": "test_live",
    "ELECTRIC_MAX_CONCURRENT_REQUESTS": "test_http",
    "ELECTRIC_MAX_SHAPES": "test_http",
    "ELECTRIC_REPLICATION_IDLE_TIMEOUT": "test_faults",
    "SWITCHGEAR_COMPACTION_PERIOD": "test_compaction",
    "ELECTRIC_ENABLE_INTEGRATION_TESTING": "test_protocol",
    "ELECTRIC_TWEAKS_PUBLICATION_REFRESH_PERIOD": "test_live",
    "ELECTRIC_TWEAKS_SCHEMA_RECONCILER_PERIOD": "test_partitions",
    "ELECTRIC_TCP_SEND_TIMEOUT": "test_a_client_that_takes_nothing_is_cut",
    "ELECTRIC_TCP_READ_TIMEOUT": "test_ages_and_idle_connections",
    "ELECTRIC_LOG_LEVEL": "test_the_log_has_its_level",
    "ELECTRIC_STATSD_HOST": "test_telemetry",
    "ELECTRIC_OTLP_ENDPOINT": "test_telemetry",
    "ELECTRIC_OTEL_EXPORT_PERIOD": "test_telemetry",
    "ELECTRIC_SYSTEM_METRICS_POLL_INTERVAL": "test_telemetry",
    "ELECTRIC_SERVICE_NAME": "test_telemetry",
    "OTEL_RESOURCE_ATTRIBUTES": "test_telemetry",
    "ELECTRIC_INSECURE": "test_protocol",
    "ELECTRIC_SECRET": "test_protocol",
    "ELECTRIC_POOLED_DATABASE_URL": "test_error_table",
    "ELECTRIC_STORAGE": "test_there_is_one_storage",
    "ELECTRIC_PERSISTENT_STATE": "test_there_is_one_storage",
    "ELECTRIC_DATABASE_USE_IPV6": "test_which_addresses_of_the_database_are_tried_first",
    "ELECTRIC_DATABASE_CA_CERTIFICATE_FILE": "test_faults",
    "ELECTRIC_DATABASE_TCP_KEEPALIVE_IDLE": "test_the_kernel_watches_the_connections_to_the_database",
    "ELECTRIC_DATABASE_TCP_KEEPALIVE_INTERVAL": "test_the_kernel_watches_the_connections_to_the_database",
    "ELECTRIC_DATABASE_TCP_KEEPALIVE_COUNT": "test_the_kernel_watches_the_connections_to_the_database",
    "ELECTRIC_DATABASE_TCP_USER_TIMEOUT": "test_the_kernel_watches_the_connections_to_the_database",
}
# Electric's others, by the part that they are of.
NOTHING_HERE = """
DATABASE_ID CONSUMER_PARTITIONS SHAPE_HIBERNATE_AFTER SHAPE_SUSPEND_CONSUMER SHAPE_SUSPEND_AFTER
FLUSH_STALL_GRACE_PERIOD FEATURE_FLAGS SHAPE_DB_EXCLUSIVE_MODE SHAPE_DB_STORAGE_DIR SHAPE_DB_SYNCHRONOUS
SHAPE_DB_CACHE_SIZE SHAPE_DB_ENABLE_STATS SHAPE_DB_ENABLE_MEMORY_STATS CLEANUP_INTERVAL_MS
PUBLICATION_ALTER_DEBOUNCE_TIME TWEAKS_CONN_MAX_REQUESTS TWEAKS_HTTP_API_NUM_ACCEPTORS
TWEAKS_PROCESS_REGISTRY_PARTITIONS TWEAKS_HANDLER_FULLSWEEP_AFTER PROCESS_SPAWN_OPTS CONSUMER_GC_HEAP_THRESHOLD
EXPERIMENTAL_MAX_TXN_SIZE EXPERIMENTAL_MAX_BATCH_SIZE PROFILE_WHERE_CLAUSES OTEL_DEBUG OTEL_SAMPLING_RATIO
METRICS_SAMPLING_RATIO EXCLUDE_SPANS DROP_EMPTY_RESPONSE_SPANS HNY_API_KEY HNY_DATASET STACK_TELEMETRY_INIT_DELAY
TELEMETRY_TOP_PROCESS_LIMIT TELEMETRY_LONG_GC_THRESHOLD TELEMETRY_LONG_SCHEDULE_THRESHOLD LIVE_DASHBOARD_PORT
LOG_COLORS LOG_OTP_REPORTS USAGE_REPORTING TELEMETRY_URL
"""


def test_every_variable_is_seen_at_work() -> None:
    read = {*settings._VARIABLES, *settings._SPECIAL, "DATABASE_URL"}
    assert read == set(SEEN)
    folder = Path(__file__).parent
    here = Path(__file__).read_text("utf-8")
    for variable, place in SEEN.items():
        if place == "everywhere":
            continue
        file = folder / f"{place}.py"
        if not file.exists():
            assert f"def {place}(" in here, variable
            continue
        flag = "--" + settings._flag_name(variable)
        assert variable in file.read_text("utf-8") or f'"{flag}' in file.read_text("utf-8"), (variable, place)


def test_those_that_mean_nothing_here_say_so() -> None:
    names = ["SENTRY_DSN", *(f"ELECTRIC_{name}" for name in NOTHING_HERE.split())]
    _, warnings = load(MINIMAL | dict.fromkeys(names, "1"))
    assert sorted(warnings) == sorted(f"{name} has no effect in this server" for name in names)


def test_older_names() -> None:
    old = {"ELECTRIC_QUERY_DATABASE_URL": "postgresql://old@x/y", "ELECTRIC_EXPERIMENTAL_MAX_SHAPES": "7"}
    made, warnings = load(MINIMAL | old)
    assert (made.pooled_database.params["user"], made.max_shapes, warnings) == ("old", 7, [])
    new = {"ELECTRIC_POOLED_DATABASE_URL": "postgresql://new@x/y", "ELECTRIC_MAX_SHAPES": "8"}
    made, _ = load(MINIMAL | old | new)
    assert (made.pooled_database.params["user"], made.max_shapes) == ("new", 8)


def test_there_is_one_storage() -> None:
    load(MINIMAL | {"ELECTRIC_STORAGE": "fast_file", "ELECTRIC_PERSISTENT_STATE": "file"})
    for name in ("ELECTRIC_STORAGE", "ELECTRIC_PERSISTENT_STATE"):
        with pytest.raises(SettingsError, match=f"{name} must be"):
            load(MINIMAL | {name: "MEMORY"})


def test_what_is_read_by_libpq_or_by_one_part() -> None:
    given = {
        "ELECTRIC_DATABASE_TCP_KEEPALIVE_IDLE": "30s",
        "ELECTRIC_DATABASE_TCP_KEEPALIVE_INTERVAL": "5000",
        "ELECTRIC_DATABASE_TCP_KEEPALIVE_COUNT": "4",
        "ELECTRIC_DATABASE_TCP_USER_TIMEOUT": "2min",
        "ELECTRIC_DATABASE_USE_IPV6": "true",
        "ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS": "12",
    }
    made, warnings = load(MINIMAL | given)
    assert not warnings
    assert made.subquery_buffer_transactions == 12
    for info in (made.database, made.pooled_database):
        wanted = {"keepalives_idle": "30", "keepalives_interval": "5", "keepalives_count": "4"}
        assert (wanted | {"tcp_user_timeout": "120000"}).items() <= info.params.items()
        assert PREFER_IPV6 in info.params
    gone_within_a_minute = {"keepalives_idle": "30", "tcp_user_timeout": "60000"}
    assert gone_within_a_minute.items() <= load(MINIMAL)[0].database.params.items()


# -- running servers --


@pytest.fixture
def items(database: Database) -> Database:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    database.execute("INSERT INTO items SELECT g, repeat('x', 10000) FROM generate_series(1, 2000) g")
    return database


@pytest.mark.pg
@one_version
def test_ages_and_idle_connections(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(
        ELECTRIC_CACHE_MAX_AGE="7", ELECTRIC_CACHE_STALE_AGE="11", ELECTRIC_TCP_READ_TIMEOUT="1s"
    ).start()
    client = Client(server, table="items", columns="id")
    client.sync()
    response = client.step()
    assert response.headers["cache-control"] == "public, max-age=7, stale-while-revalidate=11"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        while sock.recv(65536):  # kept for a while, then closed; not at all within the time-out otherwise
            continue


@pytest.mark.pg
@one_version
def test_a_client_that_takes_nothing_is_cut(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_TCP_SEND_TIMEOUT="1s").start()
    assert server.http.head(server.shape_url, params={"table": "items", "offset": "-1"}).status_code == 200
    server.wait_durable()
    before = server.metric("switchgear_http_connections")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(8) == b"HTTP/1.1"  # it is there; whether it is seen before it ends is a matter of luck
        server.wait(lambda: server.metric("switchgear_http_connections") <= before, 60, "its end")


@pytest.mark.pg
@one_version
def test_a_temporary_slot_of_a_random_name(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(
        CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN="true",
        ELECTRIC_TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME="true",
        ELECTRIC_INSTANCE_ID="one-two",
    ).start()
    query = "SELECT slot_name, temporary FROM pg_replication_slots WHERE database = current_database()"
    with items.connect() as connection:
        assert connection.execute(query).fetchall() == [("electric_slot_default_one_two", True)]
        assert server.stop() == 0
        server.wait(lambda: not connection.execute(query).fetchall(), 60, "the slot to go")


@pytest.mark.pg
@one_version
def test_the_pool_bounds_connections(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_DB_POOL_SIZE="3").start()
    # Not autovacuum's workers, which are in the same view.
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type IN ('client backend', 'walsender')"
    )
    threads = [
        threading.Thread(target=server.get, kwargs={"table": "items", "offset": "-1", "where": f"id > {n}"})
        for n in range(30)
    ]
    for thread in threads:
        thread.start()
    most = 0
    with items.connect() as connection:
        while True:
            running = any(thread.is_alive() for thread in threads)
            ((now,),) = connection.execute(count).fetchall()
            most = max(most, now)
            if not running:
                break
            time.sleep(0.005)
    for thread in threads:
        thread.join(60)
    assert 2 <= most <= 4, "three for queries, and the replication"


@pytest.mark.pg
@one_version
def test_it_listens_on_ipv6(make_server: Callable[..., ShapesServer]) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = make_server(ELECTRIC_LISTEN_ON_IPV6="true").start(active=False)
    assert httpx.get(f"http://[::1]:{server.port}/v1/health").status_code in (200, 202)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/v1/health")


@pytest.mark.pg
@one_version
def test_the_log_has_its_level(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    server = make_server(ELECTRIC_LOG_LEVEL="debug").start()
    assert server.stop() == 0
    port = processes.free_port()
    quiet = make_server("quiet", ELECTRIC_LOG_LEVEL="error", ELECTRIC_PORT=str(port), ELECTRIC_HNY_DATASET="x")
    quiet._wait_port = lambda offset: None  # type: ignore[method-assign] # it does not say where it listens
    quiet.port = port
    quiet.start()
    assert quiet.stop() == 0
    assert not re.findall(r"Z (?:info|warning|debug) ", quiet.log())
    assert re.findall(r"Z info ", server.log())


OPTIONS = {"TCP_KEEPIDLE": 31, "TCP_KEEPINTVL": 7, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 45_000}


@pytest.mark.pg
@one_version
def test_the_kernel_watches_the_connections_to_the_database(
    items: Database, make_server: Callable[..., ShapesServer]
) -> None:
    """Asked of the server's own sockets, replication and queries."""
    server = make_server(
        ELECTRIC_DATABASE_TCP_KEEPALIVE_IDLE="31s",
        ELECTRIC_DATABASE_TCP_KEEPALIVE_INTERVAL="7s",
        ELECTRIC_DATABASE_TCP_KEEPALIVE_COUNT="4",
        ELECTRIC_DATABASE_TCP_USER_TIMEOUT="45s",
    ).start()
    assert server.get(table="items", columns="id", offset="-1").status_code == 200
    port = urlsplit(items.url).port
    found = []
    for sock in sockets_of(server):
        with sock:
            if sock.family in (socket.AF_INET, socket.AF_INET6) and _peer_port(sock) == port:
                found.append(
                    {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OPTIONS}
                    | {"keepalive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
                )
    assert len(found) >= 2
    assert all(options == OPTIONS | {"keepalive": 1} for options in found), found


PIDFD_GETFD = 438


def sockets_of(server: ShapesServer) -> list[socket.socket]:
    """Duplicates of a server's sockets."""
    assert server.process is not None
    call = ctypes.CDLL(None, use_errno=True).syscall
    process = os.pidfd_open(server.process.pid)
    made = []
    try:
        for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
            try:
                if not entry.readlink().name.startswith("socket:"):
                    continue
            except FileNotFoundError:  # closed since it was listed
                continue
            fd = call(PIDFD_GETFD, process, int(entry.name), 0)
            if fd < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
                pytest.skip("another process's sockets cannot be looked at here")
            if fd >= 0:
                made.append(socket.socket(fileno=fd))
    finally:
        os.close(process)
    return made


def _peer_port(sock: socket.socket) -> int | None:
    try:
        return int(sock.getpeername()[1])
    except OSError:
        return None


@pytest.mark.parametrize("first", ["true", "false"])
def test_which_addresses_of_the_database_are_tried_first(tmp_path: Path, first: str) -> None:
    """A name with addresses of both kinds, where nobody answers: only the first of them is called."""
    kinds = {entry[0] for entry in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)}
    if kinds != {socket.AF_INET, socket.AF_INET6}:
        pytest.skip("localhost has no addresses of both kinds here")
    with socket.socket() as v4, socket.socket(socket.AF_INET6) as v6:
        v4.bind(("127.0.0.1", 0))
        try:
            v6.bind(("::1", v4.getsockname()[1]))
        except OSError:
            pytest.skip("this machine has no IPv6")
        v4.listen()
        v6.listen()
        url = f"postgresql://a:b@localhost:{v4.getsockname()[1]}/c"
        server = ShapesServer(tmp_path, url, ELECTRIC_DATABASE_USE_IPV6=first)
        try:
            server.start(active=False)
            ready, _, _ = select.select([v4, v6], [], [], 60)
            assert ready == [v6 if first == "true" else v4]
        finally:
            server.close()


@pytest.mark.pg
@one_version
def test_a_shape_waits_with_so_many_transactions(items: Database, make_server: Callable[..., ShapesServer]) -> None:
    """What a step asks is held back by a lock, and transactions go on: with more than three the shape ends."""
    items.execute("CREATE TABLE wanted (id int PRIMARY KEY); INSERT INTO wanted VALUES (1)")
    server = make_server(ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS="3").start()
    client = Client(server, table="items", columns="id", where="id IN (SELECT id FROM wanted)")
    client.sync()
    numbers = itertools.count(2)
    with items.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")

        def ended() -> bool:
            items.execute(f"INSERT INTO wanted VALUES ({next(numbers)})")
            return "see ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS" in server.log()

        server.wait(ended, 60, "the shape to end")
        assert "more than 3 transactions" in server.log()
        holder.rollback()
    client.sync()
    assert client.restarts == 1
    assert len(client.rows) == next(numbers) - 1
