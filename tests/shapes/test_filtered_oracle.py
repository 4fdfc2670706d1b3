"""Filtered shapes against Postgres: generated filters × random transactions × restarts of server and clients.

Every client's rows equal what SELECT says at the same place in the log, value by value. A filter that raises an error
on a row (an overflow, say) does not have that row, as everywhere. `SHAPES_SOAK_SEED` gives other filters and other
transactions, `SHAPES_SOAK_ROUNDS` more of them; the seeds of found bugs stand in SEEDS.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from switchgear_shapes.postgres.session import DISPLAY_SETTINGS
from tests.shapes.server import Client, ShapesServer
from tests.shapes.where_expressions import conditions
from tests.shapes.where_support import VALUES, Table, column_name
from tests.support.effort import effort
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.crash, pytest.mark.timeout(900)]

SHAPES = 100
ROUNDS = int(os.environ.get("SHAPES_SOAK_ROUNDS", effort(5, 10)))
TRANSACTIONS = 10
"""A round."""
SEEDS = [int(os.environ.get("SHAPES_SOAK_SEED", "1"))]
ENDINGS = ("nothing", "kill", "stop", "hand over")
KINDS = {f"{column_name(kind)}{number}": kind for kind in VALUES for number in (1, 2)}


def filters(number: int) -> list[str]:
    """Many conditions, always the same for one number."""
    found: dict[str, None] = {}

    @seed(number)
    @settings(
        max_examples=4 * SHAPES,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(conditions())
    def collect(text: str) -> None:
        found[text] = None

    collect()
    return list(found)


def transact(rng: random.Random, connection: psycopg.Connection[Any]) -> None:
    """One random transaction of inserts, updates, changes of the key and deletions; some roll back."""
    with connection.transaction(force_rollback=rng.random() < 0.1):
        for _ in range(rng.randrange(1, 5)):
            chosen = {name: _value(rng, KINDS[name]) for name in rng.sample(sorted(KINDS), rng.randrange(1, 6))}
            number = rng.randrange(60)
            kind = rng.random()
            if kind < 0.2:
                names = ", ".join(f'"{name}"' for name in chosen)
                marks = ", ".join(f"%s::text::{KINDS[name]}" for name in chosen)
                connection.execute(
                    f"INSERT INTO items (id, {names}) VALUES (%s, {marks}) ON CONFLICT DO NOTHING".encode(),
                    [number, *chosen.values()],
                )
            elif kind < 0.85:
                sets = ", ".join(f'"{name}" = %s::text::{KINDS[name]}' for name in chosen)
                condition = "id = %s" if rng.random() < 0.7 else "id %% 9 = %s %% 9"
                connection.execute(f"UPDATE items SET {sets} WHERE {condition}".encode(), [*chosen.values(), number])
            elif kind < 0.92:
                connection.execute("UPDATE items SET id = %s WHERE id = %s", [rng.randrange(1000, 10**9), number])
            else:
                connection.execute("DELETE FROM items WHERE id = %s", [number])


def _value(rng: random.Random, kind: str) -> str | None:
    return None if rng.random() < 0.15 else rng.choice(VALUES[kind])


def check(connection: psycopg.Connection[Any], clients: dict[str, Client]) -> None:
    """After a commit that every client has passed, each has exactly the rows that its filter is true for."""
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    connection.execute("INSERT INTO items (id) VALUES (-1) ON CONFLICT (id) DO UPDATE SET id = -1")
    for client in clients.values():
        client.sync_past(int(row[0]))
    names = [column.name for column in connection.execute("SELECT * FROM items LIMIT 0").description or []]
    found = connection.pgconn.exec_(b"SELECT * FROM items ORDER BY id")
    rows = [
        {name: _text(found.get_value(index, column)) for column, name in enumerate(names)}
        for index in range(found.ntuples)
    ]
    verdicts = connection.execute(
        "SELECT verdict(c) FROM unnest(%s::text[]) WITH ORDINALITY u(c, n) ORDER BY n", [list(clients)]
    ).fetchall()
    for (condition, client), (verdict,) in zip(clients.items(), verdicts, strict=True):
        want = [values for values, letter in zip(rows, verdict, strict=True) if letter == "t"]
        got = sorted(client.rows.values(), key=lambda values: int(values["id"]))
        assert got == want, f"{condition}\nhas {[v['id'] for v in got]}, Postgres {[v['id'] for v in want]}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def subscribe(server: ShapesServer, candidates: list[str]) -> dict[str, Client]:
    """A client for each filter that the server takes, up to SHAPES. What it takes no part in is refused with 400."""
    clients: dict[str, Client] = {}
    for condition in candidates:
        client = Client(
            server, table="items", where=condition, replica=("full" if len(clients) % 5 == 0 else "default")
        )
        try:
            response = client.step()
        except httpx.RemoteProtocolError:
            continue  # a row raises an error after others have been sent
        if response.status_code == 200:
            clients[condition] = client
        else:
            assert response.status_code == 400, (condition, response.text)
        if len(clients) == SHAPES:
            break
    return clients


@pytest.mark.parametrize("number", SEEDS)
def test_filtered_shapes_equal_select(
    database: Database, make_server: Callable[..., ShapesServer], number: int
) -> None:
    rng = random.Random(number)
    Table.create(database, seed=number).connection.close()
    server = make_server("one").start()
    with database.connect() as connection:
        for setting, value in DISPLAY_SETTINGS.items():
            connection.execute(f"SET {setting} = '{value}'".encode())
        connection.execute(b"RESET search_path")  # the filters as they were written
        clients = subscribe(server, filters(number))
        assert len(clients) == SHAPES
        for turn in range(ROUNDS):
            server = _end(server, make_server, ENDINGS[turn % len(ENDINGS)], clients, rng, connection)
            for condition in rng.sample(list(clients), 5):  # clients restart too
                clients[condition] = Client(server, **clients[condition].params)
            for _ in range(TRANSACTIONS):
                transact(rng, connection)
                for client in rng.sample(list(clients.values()), 2):
                    client.sync()
            check(connection, clients)
    assert all(client.restarts == 0 for client in clients.values())


def _end(
    server: ShapesServer,
    make_server: Callable[..., ShapesServer],
    ending: str,
    clients: dict[str, Client],
    rng: random.Random,
    connection: psycopg.Connection[Any],
) -> ShapesServer:
    """End the server in one of the ways, with transactions meanwhile; the one that serves afterwards."""
    if ending == "nothing":
        return server
    if ending == "hand over":
        following = make_server("one").start(active=False)
        time.sleep(0.5)
        transact(rng, connection)
        assert server.stop() == 0
        following.wait_active()
    else:
        server.kill() if ending == "kill" else server.stop()
        transact(rng, connection)
        following = server.start()
    for client in clients.values():
        client.server = following
    return following
