"""Snapshot and stream together against Postgres: what a client has built equals what SELECT says.

Random transactions over many types run while clients follow; between rounds the server is killed, stopped or Postgres
restarted. Values are compared as the text that the type's output function makes.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.shapes.server import Client, ShapesServer
from tests.support.postgres import Database

pytestmark = pytest.mark.pg

DDL = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN flag AS bool;
CREATE TABLE "Odd.table/""name" (
  "Id" int NOT NULL, part text NOT NULL, n numeric, t text, "quo""te" varchar(40), b bool, f flag, c char(6),
  j json, jb jsonb, bin bytea, arr text[], ints int[], ts timestamptz, d date, iv interval, u uuid, m mood, p pair,
  net inet, nm name, big text, PRIMARY KEY (part, "Id")
);
CREATE TABLE nokey (a int, b text, c bool);
CREATE TABLE plain (id bigint PRIMARY KEY, v int, w text);
"""
NASTY = [
    "",
    " ",
    "a'b",
    'say "hi"',
    "back\\slash",
    "\\N",
    "new\nline",
    "tab\t\r",
    "ünïcødé ☃ 🎉",
    "},\n{",
    "NULL",
    "\x01\x02",
]
SOAK = int(os.environ.get("SHAPES_SOAK_SEED", "0"))
"""Another number gives other transactions: for soaking, `SHAPES_SOAK_SEED=17 pytest tests/shapes/test_oracle.py`."""
ODD = '"Odd.table/""name"'
SHAPES: list[dict[str, str]] = [
    {"table": 'public."Odd.table/""name"'},
    {"table": 'public."Odd.table/""name"', "replica": "full"},
    {"table": 'public."Odd.table/""name"', "columns": '"Id",part,t,b,"quo""te",big'},
    {"table": "nokey"},
    {"table": "nokey", "columns": "b"},
    {"table": "plain"},
    {"table": "plain", "columns": "id,w", "replica": "full"},
]


def text(rng: random.Random) -> str | None:
    choice = rng.random()
    if choice < 0.15:
        return None
    if choice < 0.6:
        return rng.choice(NASTY)
    return "".join(rng.choice("abc\"\\'/{},:\n\t☃") for _ in range(rng.randrange(12)))


def literal(value: Any) -> str:
    return psycopg.sql.Literal(value).as_string(None)


def odd_values(rng: random.Random) -> dict[str, Any]:
    def maybe(make: Callable[[], Any]) -> Any:
        return None if rng.random() < 0.2 else make()

    values = {
        "n": maybe(lambda: rng.choice(["1.50", "-0", "NaN", "12345678901234567890.123456789"])),
        "t": text(rng),
        '"quo""te"': text(rng),
        "b": maybe(lambda: rng.random() < 0.5),
        "f": maybe(lambda: rng.random() < 0.5),
        "c": maybe(lambda: rng.choice(["a", "ab cd", "", "x'"])),
        "j": maybe(lambda: rng.choice(['{"a" : 1,\n "b":[true, null]}', '"\\u00fc\\n"', "17"])),
        "jb": maybe(lambda: rng.choice(['{"a" : "x\\ny"}', "[1, 2]", '"\\\\"'])),
        "bin": maybe(lambda: rng.randbytes(rng.randrange(5))),
        "arr": maybe(lambda: [rng.choice(NASTY[:-1]) for _ in range(rng.randrange(3))]),
        "ints": maybe(lambda: [rng.randrange(100), None]),
        "ts": maybe(lambda: f"20{rng.randrange(10, 60)}-03-01 12:34:56.789+05"),
        "d": maybe(lambda: "1999-12-31"),
        "iv": maybe(lambda: rng.choice(["1 day 02:03:04", "-3 months", "P1Y2M"])),
        "u": maybe(lambda: f"{rng.getrandbits(128):032x}"),
        "m": maybe(lambda: rng.choice(["sad", 'it\'s "fine"'])),
        "p": maybe(lambda: rng.choice(["(1,x)", '(,"a b")', "(,)"])),
        "net": maybe(lambda: rng.choice(["10.0.0.1", "10.0.0.0/8", "::1"])),
        "nm": maybe(lambda: "a name"),
        "big": maybe(lambda: "".join(rng.choice("0123456789abcdef") for _ in range(rng.choice([10, 9000])))),
    }
    chosen = rng.sample(sorted(values), rng.randrange(1, len(values)))
    return {name: values[name] for name in chosen}


def mutate(rng: random.Random, connection: psycopg.Connection[Any]) -> None:
    """One random statement in the open transaction."""
    table = rng.choice([ODD, ODD, "nokey", "plain"])
    kind = rng.random()
    if table == "plain":
        number = rng.randrange(60)
        if kind < 0.4:
            connection.execute(
                "INSERT INTO plain VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [number, rng.randrange(5), text(rng)]
            )
        elif kind < 0.6:
            connection.execute("UPDATE plain SET v = v + %s WHERE id %% 7 = %s", [rng.randrange(2), number % 7])
        elif kind < 0.8:
            free = rng.randrange(1000, 10**9)
            connection.execute("UPDATE plain SET id = %s, w = %s WHERE id = %s", [free, text(rng), number])
        else:
            connection.execute("DELETE FROM plain WHERE id = %s", [number])
    elif table == "nokey":
        a = rng.randrange(10**9)
        if kind < 0.5:
            connection.execute("INSERT INTO nokey VALUES (%s, %s, %s)", [a, text(rng), rng.random() < 0.5])
        elif kind < 0.8:
            connection.execute("UPDATE nokey SET b = %s WHERE a %% 3 = %s", [text(rng), a % 3])
        else:
            connection.execute("DELETE FROM nokey WHERE a %% 5 = %s", [a % 5])
    else:
        number, part = rng.randrange(30), rng.choice(["x", "a/b", 'q"', ""])
        values = odd_values(rng)
        if kind < 0.45:
            names = ", ".join(['"Id"', "part", *values])
            marks = ", ".join(literal(value) for value in (number, part, *values.values()))
            connection.execute(f"INSERT INTO {ODD} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING".encode())
        elif kind < 0.8:
            sets = ", ".join(f"{name} = {literal(value)}" for name, value in values.items())
            connection.execute(f'UPDATE {ODD} SET {sets} WHERE "Id" = {number} OR random() < 0.05'.encode())
        elif kind < 0.9:
            free = rng.randrange(1000, 10**9)
            connection.execute(
                f'UPDATE {ODD} SET "Id" = {free} WHERE "Id" = {number} AND part = {literal(part)}'.encode()
            )
        else:
            connection.execute(f'DELETE FROM {ODD} WHERE "Id" = {number}'.encode())


def transact(rng: random.Random, connection: psycopg.Connection[Any]) -> None:
    """One random transaction; some roll back, some use a savepoint."""
    with connection.transaction(force_rollback=rng.random() < 0.1):
        for _ in range(rng.randrange(1, 8)):
            if rng.random() < 0.1:
                with connection.transaction(force_rollback=rng.random() < 0.5):
                    mutate(rng, connection)
            else:
                mutate(rng, connection)


def expected(connection: psycopg.Connection[Any], shape: dict[str, str]) -> list[dict[str, str | None]]:
    """The rows of a shape as their output functions render them, sorted."""
    table = shape["table"].removeprefix("public.")
    for setting in (
        "bytea_output = hex",
        "DateStyle = 'ISO, DMY'",
        "TimeZone = UTC",
        "extra_float_digits = 1",
        "IntervalStyle = iso_8601",
    ):
        connection.execute(f"SET {setting}".encode())
    columns = [
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            [table],
        )
    ]
    if "columns" in shape:
        wanted = {name.strip('"').replace('""', '"') for name in shape["columns"].split(",")}
        columns = [name for name in columns if name in wanted]
    quoted = ['"' + name.replace('"', '""') + '"' for name in columns]
    rendered = ", ".join(f"CASE WHEN num_nulls({name}) = 0 THEN format('%s', {name}) END" for name in quoted)
    rows = connection.execute(f"SELECT {rendered} FROM {table}".encode()).fetchall()
    return sorted((dict(zip(columns, row, strict=True)) for row in rows), key=repr)


def check(connection: psycopg.Connection[Any], clients: list[Client]) -> None:
    """Quiesce: after a marker commit that every client has passed, all agree with Postgres."""
    connection.execute("INSERT INTO plain VALUES (-1, 0, now()::text) ON CONFLICT (id) DO UPDATE SET w = excluded.w")
    row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    marker = connection.execute("SELECT w FROM plain WHERE id = -1").fetchone()
    assert marker is not None
    watcher = next(client for client in clients if client.params == {"table": "plain"})
    deadline = time.monotonic() + 60
    while watcher.rows.get('"public"."plain"/"-1"', {}).get("w") != marker[0]:
        assert time.monotonic() < deadline, watcher.server.log()[-4000:]
        watcher.sync()
    lsn = int(watcher.last_control["global_last_seen_lsn"])
    for client in clients:
        client.sync_past(lsn)
        want = expected(connection, client.params)
        columns = list(want[0]) if want else []
        got = sorted(({name: row.get(name) for name in columns} for row in client.rows.values()), key=repr)
        assert got == want, client.params


class Writer(threading.Thread):
    """Random transactions until told to stop; survives a restart of Postgres."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._rng = random.Random(seed + SOAK)
        self._stop_event = threading.Event()
        self.transactions = 0

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                with self._database.connect() as connection:
                    while not self._stop_event.is_set():
                        transact(self._rng, connection)
                        self.transactions += 1
                        time.sleep(self._rng.random() * 0.01)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                time.sleep(0.1)
            except psycopg.errors.DeadlockDetected:
                continue

    def finish(self) -> None:
        self._stop_event.set()
        self.join(60)
        assert not self.is_alive()


def prepare(database: Database, seed: int) -> random.Random:
    rng = random.Random(seed + SOAK)
    with database.connect() as connection:
        connection.execute(DDL.encode())
        for _ in range(30):
            transact(rng, connection)
    return rng


def test_snapshot_and_stream_equal_select(database: Database, server: ShapesServer) -> None:
    prepare(database, 1)
    writers = [Writer(database, seed) for seed in (11, 12)]
    clients: list[Client] = []
    for writer in writers:
        writer.start()
    for shape in SHAPES:  # made while both write: the stitch between snapshot and stream is what is tested
        client = Client(server, **shape)
        client.step()
        clients.append(client)
        time.sleep(0.1)
    for _ in range(15):
        for client in clients:
            client.sync()
    for writer in writers:
        writer.finish()
    with database.connect() as connection:
        check(connection, clients)
        late = [Client(server, **shape) for shape in SHAPES]
        check(connection, late)
        fresh = [Client(server, **shape, log="full", queryable_columns="id,v,w") for shape in SHAPES[5:6]]
        check(connection, [clients[5], *fresh])
    assert all(client.restarts == 0 for client in clients)


@pytest.mark.crash
@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_restarts_lose_and_repeat_nothing(
    database: Database, make_server: Callable[..., ShapesServer], ending: str
) -> None:
    """Handles survive every kind of end, and clients go on where they were."""
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="20000").start()
    rng = prepare(database, 2)
    clients = [Client(server, **shape) for shape in SHAPES]
    for client in clients:
        client.sync()
    server.wait_durable()
    writer = Writer(database, 21)
    writer.start()
    for _ in range(5):
        deadline = time.monotonic() + rng.random()
        while time.monotonic() < deadline:
            for client in rng.sample(clients, 3):
                client.sync()
        if ending == "kill":
            server.kill()
        else:
            assert server.stop() == 0
        time.sleep(rng.random() * 0.2)
        server.start(active=False)
    server.wait(lambda: writer.transactions > 50, 60, "enough transactions")
    writer.finish()
    with database.connect() as connection:
        check(connection, clients)
        check(connection, [Client(server, **shape) for shape in SHAPES])
    assert all(client.restarts == 0 for client in clients)


@pytest.mark.crash
def test_postgres_restarts(database: Database, server: ShapesServer) -> None:
    prepare(database, 3)
    clients = [Client(server, **shape) for shape in SHAPES]
    for client in clients:
        client.sync()
    writer = Writer(database, 31)
    writer.start()
    for _ in range(2):
        time.sleep(0.7)
        database.postgres.server.stop()
        # What is on disk stays readable while the database is away.
        assert clients[0].step().status_code == 200
        database.postgres.server.start()
        server.wait_active()
    time.sleep(0.5)
    writer.finish()
    with database.connect() as connection:
        check(connection, clients)
    assert all(client.restarts == 0 for client in clients)
    with database.connect() as connection:  # recovered means: processes what is new
        transact(random.Random(5), connection)
        check(connection, clients)


@pytest.mark.crash
def test_killed_while_snapshots_are_taken(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """A shape whose snapshot was not complete is made anew; no half of one is ever served as a whole."""
    server = make_server().start()
    with database.connect() as connection:
        connection.execute(DDL.encode())
        connection.execute("INSERT INTO plain SELECT g, g, repeat('x', 200) FROM generate_series(100, 60000) g")
    for delay in (0.0, 0.02, 0.1, 0.2):
        client = Client(server, table="plain")
        thread = threading.Thread(target=lambda c=client: _try(c.step), daemon=True)
        thread.start()
        time.sleep(delay)
        server.kill()
        thread.join(60)
        server.start()
        client.sync()
        with database.connect() as connection:
            check(connection, [client])
            connection.execute("UPDATE plain SET v = v + 1 WHERE id < 200")
            check(connection, [client])


def _try(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:
        return
