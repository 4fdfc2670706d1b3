"""What a database or a role has set, and what somebody put into its schemas, changes no value, query or connection."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.world import World
from tests.support.postgres import Postgres, create_database, drop_database

SETTINGS = """
bytea_output = escape; DateStyle = German; TimeZone = 'Asia/Kolkata'; extra_float_digits = -3;
IntervalStyle = postgres_verbose; client_encoding = LATIN1; statement_timeout = '3s'; lock_timeout = '1s';
idle_in_transaction_session_timeout = '1s'; idle_session_timeout = '1s'; standard_conforming_strings = off;
default_transaction_isolation = serializable; default_transaction_read_only = on; default_transaction_deferrable = on;
search_path = 'elsewhere', 'public', 'pg_catalog'; row_security = on
"""
# Better matches for what a snapshot's statement calls than Postgres' own functions, and operators before Postgres' own.
TRAPS = """
CREATE SCHEMA elsewhere;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION public.concat(mood) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
CREATE FUNCTION public.to_json(text) RETURNS json LANGUAGE sql AS $$ SELECT '"trapped"'::json $$;
CREATE FUNCTION elsewhere.md5(text) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
CREATE FUNCTION elsewhere.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
CREATE FUNCTION elsewhere.hashtext(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 / 0 $$;
CREATE FUNCTION elsewhere.never(mood, mood) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
CREATE OPERATOR public.= (LEFTARG = mood, RIGHTARG = mood, FUNCTION = elsewhere.never);
CREATE TABLE odd (id int PRIMARY KEY, bytes bytea, moment timestamptz, day date, span interval, number float8,
  feeling mood, words text, moments timestamptz[], relation regclass);
CREATE TABLE bare (feeling mood, words text);
"""
ROWS = r"""
SELECT 1, '\x00ff41'::bytea, '2024-12-31 03:04:05.678+02'::timestamptz, '2024-12-31'::date,
  '1 year 2 mons 3 days 04:05:06.7'::interval, 0.1::float8 * 3, 'ok'::mood, E'Zoë \\ "x"',
  ARRAY['2024-12-31 03:04:05+02'::timestamptz], 'public.odd'::regclass
"""
EXPECTED = {
    "id": "1",
    "bytes": "\\x00ff41",
    "moment": "2024-12-31 01:04:05.678+00",
    "day": "2024-12-31",
    "span": "P1Y2M3DT4H5M6.7S",
    "number": "0.30000000000000004",
    "feeling": "ok",
    "words": 'Zoë \\ "x"',
    "moments": '{"2024-12-31 01:04:05+00"}',
    "relation": "public.odd",
}


@pytest.fixture(scope="module")
def odd_world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    database = create_database(postgres)
    settings = [setting.strip() for setting in SETTINGS.replace("\n", " ").split(";")]
    if postgres.version >= 17:
        settings.append("transaction_timeout = '1s'")
    database.execute(TRAPS)
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        for setting in settings:
            admin.execute(f'ALTER DATABASE "{database.name}" SET {setting}'.encode())
    server = ShapesServer(
        tmp_path_factory.mktemp("odd"), database.url, ELECTRIC_REPLICATION_STREAM_ID=f"odd_{uuid.uuid4().hex[:8]}"
    )
    try:
        yield World(database, server.start())
    finally:
        server.close()
        drop_database(database)


WRITING = {
    "default_transaction_read_only": "off",
    "search_path": "public",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
}
LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")


def connected(world: World, *, autocommit: bool = True, **settings: str) -> psycopg.Connection:
    """A session without the limits, which are too short for whoever has to wait for a processor."""
    limits = [*LIMITS, *(["transaction_timeout"] if world.database.version >= 17 else [])]
    given = settings | dict.fromkeys(limits, "0")
    options = " ".join(f"-c {name}={value}" for name, value in given.items())
    return psycopg.connect(world.database.url, autocommit=autocommit, connect_timeout=60, options=options)


def write(world: World, statement: str) -> None:
    with connected(world, **WRITING) as connection:
        connection.execute(statement.encode())


def test_values_and_filters(odd_world: World) -> None:
    write(odd_world, f"INSERT INTO public.odd {ROWS}")
    filters = ["feeling = 'ok'", "lower(words) LIKE 'zo%'", "feeling IN ('ok')"]
    clients = [Client(odd_world.server, table="odd", replica="full")]
    clients += [Client(odd_world.server, table="odd", where=where) for where in filters]
    bare = Client(odd_world.server, table="bare", columns="words")
    for client in clients:
        client.sync()
        assert list(client.rows.values()) == [EXPECTED]
    bare.sync()
    write(odd_world, f"UPDATE public.odd SET id = 2; INSERT INTO public.odd {ROWS}")
    for client in clients:
        odd_world.server.wait(lambda client=client: client.sync() or len(client.rows) == 2, 60, "both rows")
        assert sorted(client.rows.values(), key=lambda row: row["id"]) == [EXPECTED, EXPECTED | {"id": "2"}]
    # Keys are the same whether a row came with the snapshot or with the stream.
    write(odd_world, "INSERT INTO public.bare VALUES ('ok', 'a')")
    odd_world.server.wait(lambda: bare.sync() or len(bare.rows) == 1, 60, "a row")
    again = odd_world.get("bare", columns="words", where="words <> 'b'")
    streamed = next(iter(bare.rows))
    assert "trapped" not in again.text
    assert streamed.startswith('"public"."bare"/"a"/"')
    subset = odd_world.get("odd", subset__where="feeling = 'ok'", subset__order_by="id", subset__limit=5)
    assert [row["value"] for row in subset.json()["data"]] == [EXPECTED, EXPECTED | {"id": "2"}]


@pytest.fixture
def limited(odd_world: World) -> Iterator[str]:
    """The URL of a role that owns nothing, in the same database."""
    name = f"r_{uuid.uuid4().hex[:12]}"
    write(odd_world, f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'x'")
    host = urlsplit(odd_world.database.url).netloc.rpartition("@")[2]
    yield urlsplit(odd_world.database.url)._replace(netloc=f"{name}:x@{host}").geturl()
    write(odd_world, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_row_policies_are_not_half_applied(
    odd_world: World, limited: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The stream tells of all rows: a snapshot of some of them would be wrong, and pretend to hide the others."""
    role = urlsplit(limited).username
    stream = f"rls_{uuid.uuid4().hex[:8]}"
    write(
        odd_world,
        "CREATE TABLE guarded (id int PRIMARY KEY, owner text); INSERT INTO guarded VALUES (1, 'a'), (2, 'b');"
        "ALTER TABLE guarded REPLICA IDENTITY FULL; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY own ON guarded USING (owner = 'a'); GRANT SELECT ON guarded TO {role};"
        f"CREATE PUBLICATION electric_publication_{stream} FOR TABLE guarded",
    )
    server = ShapesServer(
        tmp_path_factory.mktemp("rls"),
        limited,
        ELECTRIC_REPLICATION_STREAM_ID=stream,
        ELECTRIC_MANUAL_TABLE_PUBLISHING="true",
    )
    try:
        server.start()
        for subset in ({}, {"subset__limit": 1, "subset__order_by": "id"}):
            refused = server.get(table="guarded", offset="-1", **subset)
            assert refused.status_code == 503
            assert "row-level security" in refused.json()["message"]
            assert "BYPASSRLS" in refused.json()["message"]
        write(odd_world, f"ALTER ROLE {role} BYPASSRLS")
        assert len([m for m in server.get(table="guarded", offset="-1").json() if "key" in m]) == 2
    finally:
        server.close()


@one_version
def test_not_null_that_was_never_checked(odd_world: World) -> None:
    """Postgres 18 has NOT NULL constraints that old rows need not keep."""
    write(
        odd_world,
        "CREATE TABLE unchecked (id int PRIMARY KEY, n int, t text); "
        "INSERT INTO unchecked VALUES (1, NULL, NULL), (2, 3, 'x');"
        "ALTER TABLE unchecked ADD NOT NULL n NOT VALID, ADD NOT NULL t NOT VALID",
    )
    answer = odd_world.get("unchecked")
    rows = [message["value"] for message in answer.json() if "key" in message]
    assert rows == [{"id": "1", "n": None, "t": None}, {"id": "2", "n": "3", "t": "x"}]
    assert '"n":{"type":"int4"}' in answer.headers["electric-schema"]


def test_idle_connections_that_postgres_ended(odd_world: World) -> None:
    """Nobody is told of it before the next use."""
    write(odd_world, "CREATE TABLE next (id int PRIMARY KEY); INSERT INTO next VALUES (1)")
    assert odd_world.get("odd", where="id = 11").status_code == 200
    write(
        odd_world,
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )
    answer = odd_world.get("next")
    assert answer.status_code == 200, answer.text


def test_snapshots_may_take_longer_than_the_role_s_transactions(odd_world: World) -> None:
    """A lock that somebody holds makes the snapshot wait for longer than any of the timeouts above."""
    write(odd_world, "CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1)")
    first = odd_world.get("slow")
    assert first.status_code == 200, first.text
    # It waits for five seconds, and two may be as long as that on a busy machine.
    while (answer := held_up(odd_world)).status_code == 503:
        assert "locked by another transaction" in answer.text, answer.text
        assert answer.elapsed.total_seconds() > 4, answer.text
    assert answer.status_code == 200, answer.text


def held_up(odd_world: World) -> httpx.Response:
    """The answer to a request for a new shape whose snapshot waits for two seconds."""
    with connected(odd_world, autocommit=False) as blocker:
        blocker.execute("SET TRANSACTION READ WRITE")
        blocker.execute("LOCK TABLE public.slow IN ACCESS EXCLUSIVE MODE")
        with psycopg.connect(odd_world.database.postgres.admin_url, autocommit=True) as watch:
            query = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = %s"
            query += " AND NOT granted"
            answers: list[httpx.Response] = []
            asking = threading.Thread(target=lambda: answers.append(odd_world.get("slow", where="id = 1")), daemon=True)
            asking.start()
            waiting = lambda: watch.execute(query, [odd_world.database.name]).fetchone() == (1,)  # noqa: E731
            odd_world.server.wait(waiting, 60, "a waiting snapshot")
            watch.execute("SELECT pg_sleep(2)")
        blocker.rollback()
        asking.join(60)
    return answers[0]
