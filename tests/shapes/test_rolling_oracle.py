"""Two instances that hand over to one another in every way, against Postgres; and somebody at its console meanwhile.

With one writer the state at every position is known: whatever a client is told, by the instance that writes or by the
one that reads along, is what SELECT gives there. `SHAPES_SOAK_SEED` gives other transactions and ends,
`SHAPES_SOAK_ROUNDS` more of them.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.shapes.console import TABLES, Console
from tests.shapes.server import Client, ShapesServer
from tests.shapes.test_subqueries_oracle import (
    DDL,
    LONG,
    SOAK,
    History,
    Writer,
    check,
    columns_of,
    durable,
    expected,
    quiet,
    rows_of,
    shapes,
    transact,
)
from tests.shapes.two_instances import ENDINGS, Loader, Pair, Roaming, RoamingTags, poll
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.crash]

ROUNDS = int(os.environ.get("SHAPES_SOAK_ROUNDS", "40"))
PLAIN = [{"table": "items", "where": "true"}, {"table": "items", "where": "n > 1 OR kind = 'x'", "replica": "full"}]


def follower(pair: Pair, shape: dict[str, str]) -> Client:
    return RoamingTags(pair, **shape) if "SELECT" in shape["where"] else Roaming(pair, **shape)


def all_is_there(connection: psycopg.Connection[Any], clients: list[Client], loaders: list[Loader]) -> None:
    quiet(connection, clients)
    lsn = int(clients[0].last_control["global_last_seen_lsn"])
    for loader in loaders:
        loader.sync_past(lsn)
        loader.check(expected(connection, loader.params), columns_of(loader.params))


@pytest.mark.parametrize(
    ("seed", "count", "rounds"),
    [(1, 16, 5), *(pytest.param(n, 40, ROUNDS, marks=LONG) for n in (2, 3))],
)
def test_every_state_is_one_of_the_database(
    database: Database, make_server: Callable[..., ShapesServer], seed: int, count: int, rounds: int
) -> None:
    rng = random.Random(seed + SOAK)
    pair = Pair(make_server, ELECTRIC_LONG_POLL_TIMEOUT="300")
    with database.connect() as connection:
        connection.execute(DDL.encode())
        for _ in range(60):
            transact(rng, connection)
        wanted = [*PLAIN, *shapes(rng, count)]
        history = History(connection, wanted, rng)
        clients = [follower(pair, shape) for shape in wanted]
        loaded = [shape for shape in wanted if shape["table"] == "items" and "replica" not in shape][: count // 4]
        loaders = [Loader(pair, **shape) for shape in loaded]
        for client in [*clients, *loaders]:
            client.sync()
        durable(connection, pair.active)  # what is lost before that begins anew, as it may
        ends = [*ENDINGS, *(rng.choice(ENDINGS) for _ in range(rounds))][:rounds]
        rng.shuffle(ends)
        for how in ends:
            for _ in range(rng.randrange(2, 8)):
                history.write()
                follow(rng, pair, history, clients, loaders)
            for client in [*clients, *loaders]:
                client.server = pair.any(rng)
            pair.end(how, history.write)
            follow(rng, pair, history, clients, loaders)
            if rng.random() < 0.3:
                pair.wait_ready()
            number = rng.randrange(len(clients))
            assert clients[number].restarts == 0 or "NOT" in wanted[number]["where"]
            clients[number] = follower(pair, wanted[number])  # clients begin anew, too
        pair.wait_ready()
        clients[0].server = pair.active  # it is asked for a new shape
        all_is_there(connection, clients, loaders)
    for client in clients:
        assert client.restarts == 0 or "NOT" in client.params["where"], client.params
    assert pair.hand_overs > 0


def follow(rng: random.Random, pair: Pair, history: History, clients: list[Client], loaders: list[Loader]) -> None:
    for number in rng.sample(range(len(clients)), 5):
        client = clients[number]
        client.server = pair.any(rng)
        if rng.random() < 0.2:
            poll(client)
        client.sync()
        check(history, number, client)
    loader = rng.choice(loaders)
    loader.server = pair.any(rng)
    if rng.random() < 0.5:
        loader.load_some(rng)
    else:
        loader.sync()


class Lenient(Client):
    """Takes whatever comes while `lenient`, as long as its shape lacks what was kept from the stream."""

    lenient = True

    def apply(self, message: dict[str, Any]) -> None:
        if "event" in message["headers"]:
            self.up_to_date = False
        elif self.lenient and "key" in message:
            self.up_to_date = False
            if message["headers"]["operation"] == "delete":
                self.rows.pop(message["key"], None)
            else:
                self.rows.setdefault(message["key"], {}).update(message["value"])
        else:
            super().apply(message)


class Tireless(Writer):
    """Goes on over whatever happens to the database; the commits of some are not waited for."""

    again = (psycopg.Error,)

    def write(self, connection: psycopg.Connection[Any]) -> None:
        time.sleep(0.05)
        if self.rng.random() < 0.5:
            connection.execute("SET synchronous_commit = off")
        super().write(connection)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("seed", "count", "rounds"), [(1, 8, 2), pytest.param(2, 24, ROUNDS, marks=LONG)])
def test_whatever_is_done_behind_the_back(
    database: Database, make_server: Callable[..., ShapesServer], seed: int, count: int, rounds: int
) -> None:
    """Whatever it ends, afterwards every client has what SELECT gives, and goes on having it."""
    rng = random.Random(seed + SOAK)
    period = "2s" if rounds < ROUNDS else rng.choice(["60s", "2s"])
    stream = f"rolling_{uuid.uuid4().hex[:8]}"
    pair = Pair(make_server, ELECTRIC_TWEAKS_SCHEMA_RECONCILER_PERIOD=period, ELECTRIC_REPLICATION_STREAM_ID=stream)
    with database.connect() as connection:
        connection.execute(DDL.encode())
        for _ in range(60):
            transact(rng, connection, nulls=False)
    wanted = [*PLAIN, *shapes(rng, count)]
    clients = [Lenient(pair.active, **shape) for shape in wanted]
    for client in clients:
        client.sync()
    console = Console(database, rng)
    for _ in range(rounds):
        writers = [Tireless(database, rng.randrange(2**30)) for _ in range(2)]
        for writer in writers:
            writer.start()
        for _ in range(rng.choice([1, 1, 2, 3])):
            for client in rng.sample(clients, 4):
                client.server = pair.any(rng)
                poll(client)
            console.act()
            if rng.random() < 0.3:
                pair.end(rng.choice(ENDINGS), lambda: None)
        for writer in writers:
            writer.finish()
        pair.wait_ready()
        settle(database, console, pair, clients)


def settle(database: Database, console: Console, pair: Pair, clients: list[Lenient]) -> None:
    """All comes right by itself, and from there on nothing is missed and nothing begins anew.

    The stream tells nothing of a table that left the publication: until all tables were looked at, a shape may have
    begun anew in time for what was written before, and miss what comes. That takes a minute at most.
    """
    deadline = time.monotonic() + 120
    with database.connect() as connection:
        while True:
            for table in TABLES:
                # A new shape has the table looked at.
                pair.active.wait(lambda t=table: pair.active.get(table=t, offset="-1").status_code == 200, 60, table)  # type: ignore[misc]
                console.touch(table)
            comes_right(connection, console, pair, clients)
            try:
                stays_right(connection, console, clients)
            except AssertionError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{error}\nafter {console.done}\n{pair.active.log()[-8000:]}") from error
                for client in clients:
                    client.restart(None)  # it took a part of an answer
            else:
                return


def comes_right(connection: psycopg.Connection[Any], console: Console, pair: Pair, clients: list[Lenient]) -> None:
    deadline = time.monotonic() + 90
    for client in clients:
        client.lenient = True
        client.server = pair.active
        while client.sync() or rows_of(client) != (want := expected(connection, client.params)):
            assert time.monotonic() < deadline, (
                f"after {console.done}\n{client.params}\n{rows_of(client)}\nbut SELECT gives\n{want}\n"
                f"{pair.active.log()[-4000:]}"
            )
            time.sleep(0.1)


def stays_right(connection: psycopg.Connection[Any], console: Console, clients: list[Lenient]) -> None:
    before = [client.restarts for client in clients]
    for client in clients:
        client.lenient = False
    for table in TABLES:
        console.touch(table)
    quiet(connection, clients)
    assert [client.restarts for client in clients] == before, console.done
    for client in clients:
        client.lenient = True
