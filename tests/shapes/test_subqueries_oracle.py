"""Shapes with subqueries against Postgres: at every point where a client is told that it is up to date, it has what
SELECT gives at the position that it is told, whatever moves, and whenever the server is stopped or killed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.tag_client import TagClient
from tests.support.postgres import Database

pytestmark = pytest.mark.pg

DDL = """
CREATE TABLE teams (id int PRIMARY KEY, region text, parent int);
CREATE TABLE users (id int PRIMARY KEY, team int, active bool, name text);
CREATE TABLE banned (user_id int, why text);
CREATE TABLE pairs (a int, b text, grp int);
CREATE TABLE items (id int PRIMARY KEY, owner int, team int, kind text, n numeric, a int, b text);
CREATE TABLE amounts (id int PRIMARY KEY, n numeric NOT NULL);
CREATE TABLE loose (owner int, note text);
"""
SOAK = int(os.environ.get("SHAPES_SOAK_SEED", "0"))
NAMES = ["", "x", 'a"b', "s/l", "ü☃", "back\\slash"]

LEAVES = [
    "kind = 'x'",
    "n > 1",
    "owner IS NULL",
    "a <> 2",
    "owner IN (SELECT id FROM users WHERE active)",
    "owner NOT IN (SELECT id FROM users WHERE active)",
    "owner IN (SELECT id FROM users)",
    "team IN (SELECT id FROM teams WHERE region = 'r1')",
    "team NOT IN (SELECT id FROM teams WHERE region = 'r1' OR region = 'r2')",
    "team IN (SELECT team FROM users WHERE name > 'm')",
    "owner NOT IN (SELECT user_id FROM banned WHERE why = 'spam')",
    "owner IN (SELECT id FROM users WHERE team IN (SELECT id FROM teams WHERE region = 'r2'))",
    "owner IN (SELECT id FROM users WHERE active OR team NOT IN (SELECT id FROM teams WHERE region = 'r1'))",
    "team IN (SELECT id FROM teams WHERE parent IN (SELECT id FROM teams WHERE parent IN (SELECT team FROM users)))",
    "(a, b) IN (SELECT a, b FROM pairs WHERE grp = 1)",
    "(a, b) NOT IN (SELECT a, b FROM pairs WHERE grp > 1)",
    "n IN (SELECT n FROM amounts)",
    "b IN (SELECT name FROM users WHERE active)",
    "id IN (SELECT id FROM items WHERE kind = 'y')",
]


def clause(rng: random.Random, depth: int) -> str:
    if depth == 0:
        return rng.choice(LEAVES)
    kind = rng.random()
    if kind < 0.2:
        return f"NOT ({clause(rng, depth - 1)})"
    word = " AND " if kind < 0.6 else " OR "
    return word.join(f"({clause(rng, depth - 1)})" for _ in range(2))


def shapes(rng: random.Random, count: int) -> list[dict[str, str]]:
    """Each leaf alone, and random clauses; some full, some with fewer columns."""
    found = [{"table": "items", "where": leaf} for leaf in LEAVES if "SELECT" in leaf]
    found.append({"table": "loose", "where": "owner IN (SELECT id FROM users WHERE active)"})
    found.append({"table": "loose", "columns": "note", "where": "owner NOT IN (SELECT id FROM users WHERE active)"})
    while len(found) < count:
        where = clause(rng, rng.choice([1, 2, 2, 3]))
        if "SELECT" not in where:
            continue
        shape = {"table": "items", "where": where}
        if rng.random() < 0.3:
            shape["replica"] = "full"
        if rng.random() < 0.3:
            shape["columns"] = "id,kind"
        found.append(shape)
    rng.shuffle(found)
    return found[:count]


def maybe(rng: random.Random, value: Any) -> Any:
    return None if rng.random() < 0.15 else value


def mutate(rng: random.Random, connection: psycopg.Connection[Any], nulls: bool) -> None:
    """One random statement in the open transaction."""
    run = connection.execute
    team = maybe(rng, rng.randrange(6)) if nulls else rng.randrange(6)
    small, id_, name = rng.randrange(6), rng.randrange(60), rng.choice(NAMES)
    match rng.randrange(14):
        case 0:
            statement = "INSERT INTO users VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
            run(statement, [small, team, rng.random() < 0.5, name])
        case 1:
            run("UPDATE users SET active = NOT active WHERE id = %s", [small])
        case 2:
            run("UPDATE users SET team = %s, name = %s WHERE id = %s", [team, name, small])
        case 3:
            run("DELETE FROM users WHERE id = %s", [small])
        case 4:
            region, parent = maybe(rng, f"r{rng.randrange(4)}"), maybe(rng, rng.randrange(6))
            run(
                "INSERT INTO teams VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET region = excluded.region,"
                " parent = excluded.parent",
                [small, region, parent],
            )
        case 5:
            run("DELETE FROM teams WHERE id = %s", [small])
        case 6:
            who = None if nulls and rng.random() < 0.1 else small
            run("INSERT INTO banned VALUES (%s, %s)", [who, rng.choice(["spam", "rude"])])
        case 7:
            run("DELETE FROM banned WHERE user_id = %s OR (user_id IS NULL AND random() < 0.7)", [small])
        case 8:
            run("INSERT INTO pairs VALUES (%s, %s, %s)", [rng.randrange(4), name, rng.randrange(3)])
        case 9:
            run("DELETE FROM pairs WHERE a = %s AND grp = %s", [rng.randrange(4), rng.randrange(3)])
        case 10:
            statement = "INSERT INTO amounts VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET n = excluded.n"
            run(statement, [small, rng.choice(["1", "1.0", "2.50", "2.5", "0"])])
        case 11:
            run("DELETE FROM items WHERE id = %s", [id_])
        case 12:
            free = rng.randrange(40, 60)
            statement = "UPDATE items SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM items WHERE id = %s)"
            run(statement, [free, id_, free])
            run("DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose LIMIT 1)")
            run("INSERT INTO loose VALUES (%s, %s)", [maybe(rng, small), str(rng.randrange(10**9))])
        case _:
            values = {
                "owner": maybe(rng, small),
                "team": maybe(rng, rng.randrange(6)),
                "kind": rng.choice(["x", "y", "z"]),
                "n": maybe(rng, rng.choice(["1", "1.00", "2.5", "0.0", "7"])),
                "a": maybe(rng, rng.randrange(4)),
                "b": maybe(rng, name),
            }
            chosen = rng.sample(sorted(values), rng.randrange(1, 7))
            if rng.random() < 0.5:
                marks = ", ".join(["%s"] * (1 + len(chosen)))
                statement = f"INSERT INTO items (id, {', '.join(chosen)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
                run(statement.encode(), [id_, *(values[c] for c in chosen)])
            else:
                sets = ", ".join(f"{c} = %s" for c in chosen)
                run(f"UPDATE items SET {sets} WHERE id %% 10 = %s".encode(), [*(values[c] for c in chosen), id_ % 10])


def transact(rng: random.Random, connection: psycopg.Connection[Any], nulls: bool = True) -> None:
    with connection.transaction(force_rollback=rng.random() < 0.05):
        for _ in range(rng.choice([1, 1, 1, 2, 3, 5])):
            mutate(rng, connection, nulls)


def expected(connection: psycopg.Connection[Any], shape: dict[str, str]) -> list[tuple[Any, ...]]:
    """The rows, as text, sorted."""
    columns = columns_of(shape)
    rendered = ", ".join(f"{name}::text" for name in columns)
    rows = connection.execute(f"SELECT {rendered} FROM {shape['table']} WHERE {shape['where']}".encode()).fetchall()
    return sorted(rows, key=repr)


def columns_of(shape: dict[str, str]) -> list[str]:
    everything = {"items": "id,owner,team,kind,n,a,b", "loose": "owner,note"}
    return shape.get("columns", everything[shape["table"]]).split(",")


def rows_of(client: Client) -> list[tuple[Any, ...]]:
    columns = columns_of(client.params)
    return sorted((tuple(row.get(name) for name in columns) for row in client.rows.values()), key=repr)


class History:
    """One writer, which notes what every shape is after each transaction, and where that is in the stream."""

    def __init__(self, connection: psycopg.Connection[Any], wanted: list[dict[str, str]], rng: random.Random) -> None:
        self._connection = connection
        self._shapes = wanted
        self._rng = rng
        self.points: list[tuple[int, int]] = []
        """(position right before the commit, right behind it)"""
        self.states: list[list[list[tuple[Any, ...]]]] = []
        self._note(self._position(), [expected(connection, shape) for shape in wanted])

    def _position(self) -> int:
        row = self._connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return int(row[0])

    def _note(self, before: int, state: list[list[tuple[Any, ...]]]) -> None:
        self.states.append(state)
        self.points.append((before, self._position()))

    def write(self) -> None:
        with self._connection.transaction():
            for _ in range(self._rng.choice([1, 1, 2, 4])):
                mutate(self._rng, self._connection, nulls=True)
            state = [expected(self._connection, shape) for shape in self._shapes]
            before = self._position()
        self._note(before, state)

    def possible(self, number: int, lsn: int) -> Iterator[list[tuple[Any, ...]]]:
        """What shape `number` may be for a client that has seen `lsn`."""
        for index, (before, _) in enumerate(self.points):
            following = self.points[index + 1] if index + 1 < len(self.points) else None
            if (index == 0 or before <= lsn) and (following is None or lsn < following[1]):
                yield self.states[index][number]


def check(history: History, number: int, client: Client) -> None:
    lsn = int(client.last_control["global_last_seen_lsn"])
    have = rows_of(client)
    for state in history.possible(number, lsn):
        if have == state:
            return
    raise AssertionError(
        f"{client.params} at {lsn}: {have}\nbut SELECT gives one of {list(history.possible(number, lsn))}\n"
        f"{client.messages[-12:]}\n{client.server.log()[-2000:]}"
    )


def durable(connection: psycopg.Connection[Any], server: ShapesServer) -> int:
    """Wait until all that the server has so far is on the disk; a position behind that."""
    connection.execute("CREATE TABLE IF NOT EXISTS marker (id int)")
    marker = Client(server, table="marker")
    marker.sync()
    connection.execute("INSERT INTO marker VALUES (1)")
    deadline = time.monotonic() + 60
    while not marker.rows:
        assert time.monotonic() < deadline, server.log()[-3000:]
        marker.step()
    connection.execute("DROP TABLE marker")
    return int(marker.last_control["global_last_seen_lsn"])


def quiet(connection: psycopg.Connection[Any], clients: Sequence[Client]) -> None:
    """After all that was written: every client has what SELECT gives."""
    lsn = durable(connection, clients[0].server)
    for client in clients:
        client.sync_past(lsn)
        assert rows_of(client) == expected(connection, client.params), client.params


LONG = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("seed", "count", "turns"), [(1, 30, 40), *(pytest.param(n, 60, 300, marks=LONG) for n in (2, 7703))]
)
def test_every_state_that_a_client_is_told_is_one_of_the_database(
    database: Database, make_server: Callable[..., ShapesServer], seed: int, count: int, turns: int
) -> None:
    """One writer, so that the state at every position is known; the server is killed and stopped meanwhile."""
    rng = random.Random(seed + SOAK)
    server = make_server().start()
    with database.connect() as connection:
        connection.execute(DDL.encode())
        for _ in range(60):
            transact(rng, connection)
        wanted = shapes(rng, count)
        history = History(connection, wanted, rng)
        clients = [TagClient(server, **shape) for shape in wanted]
        for number, client in enumerate(clients):
            client.sync()
            check(history, number, client)
        durable(connection, server)  # what is lost before that begins anew, as it may
        for turn in range(turns):
            history.write()
            for number in rng.sample(range(len(clients)), 6):
                client = clients[number]
                client.sync()
                check(history, number, client)
            if turn % 20 == 8:
                server.kill()
                history.write()
                server.start()
            elif turn % 20 == 17:
                assert server.stop() == 0
                server.start()
        quiet(connection, clients)
    for client in clients:
        assert client.restarts == 0 or "NOT" in client.params["where"], client.params
    assert sum(len(client.events) for client in clients) > 30


class Writer(threading.Thread):
    again: tuple[type[psycopg.Error], ...] = (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation)
    """What happens to transactions that overlap."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(daemon=True)
        self._database = database
        self.rng = random.Random(seed + SOAK)
        self._over = threading.Event()
        self.transactions = 0

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with self._database.connect() as connection:
                    self.write(connection)
            except self.again:
                continue

    def write(self, connection: psycopg.Connection[Any]) -> None:
        while not self._over.is_set():
            transact(self.rng, connection, nulls=False)
            self.transactions += 1
            time.sleep(self.rng.random() * 0.02)

    def finish(self) -> None:
        self._over.set()
        self.join(60)
        assert not self.is_alive()


@pytest.mark.crash
@pytest.mark.parametrize(
    ("seed", "count", "turns"), [(7, 24, 2), *(pytest.param(n, 50, 12, marks=LONG) for n in (8, 9))]
)
def test_many_writers_and_kills(
    database: Database, make_server: Callable[..., ShapesServer], seed: int, count: int, turns: int
) -> None:
    """Transactions overlap, steps are under way when the server dies; nobody fetches anything anew."""
    rng = random.Random(seed + SOAK)
    server = make_server(ELECTRIC_SUBQUERY_BUFFER_MAX_TRANSACTIONS="1000000").start()  # however slow this machine is
    with database.connect() as connection:
        connection.execute(DDL.encode())
        for _ in range(60):
            transact(rng, connection, nulls=False)
        writers = [Writer(database, seed) for seed in (1, 2, 3)]
        for writer in writers:
            writer.start()
        clients = [TagClient(server, **shape) for shape in shapes(rng, count)]
        for client in clients:  # made while all write
            client.sync()
        durable(connection, server)
        for turn in range(turns):
            deadline = time.monotonic() + 0.3 + rng.random()
            while time.monotonic() < deadline:
                for client in rng.sample(clients, 5):
                    client.sync()
            if turn % 2:
                assert server.stop() == 0
            else:
                server.kill()
            server.start(active=False)
        server.wait(lambda: sum(writer.transactions for writer in writers) > 30, 60, "enough transactions")
        for writer in writers:
            writer.finish()
        quiet(connection, clients)
        quiet(connection, [TagClient(server, **client.params) for client in clients])
    assert all(client.restarts == 0 for client in clients)


@one_version
def test_a_new_shape_is_told_a_position_that_has_all_it_shows(
    database: Database, make_server: Callable[..., ShapesServer]
) -> None:
    """Its snapshot sees a transaction that the slow disk does not have yet."""
    database.execute(
        "CREATE TABLE rows (id int PRIMARY KEY); CREATE TABLE shown (id int); INSERT INTO shown VALUES (1)"
    )
    server = make_server(module="tests.shapes.faulty", FAULTY_HOW="slow")
    trigger = server.folder / "slow"
    server.environment["FAULTY_WHEN"] = str(trigger)
    server.start()
    Client(server, table="rows", where="id IN (SELECT id FROM shown)").sync()
    with database.connect() as connection:
        before = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert before is not None
        trigger.touch()
        connection.execute("INSERT INTO rows VALUES (1)")
        client = Client(server, table="rows", where="id IN (SELECT id FROM shown WHERE id > 0)")
        client.sync()
        trigger.unlink()
    assert len(client.rows) == 1
    assert int(client.last_control["global_last_seen_lsn"]) >= int(before[0])
