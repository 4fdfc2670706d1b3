"""Subset snapshots beside the log, as clients join them that load on demand: no row gets old, lost or doubled.

`OnDemand` skips what a snapshot has already by the rule of `@electric-sql/client` (its `SnapshotTracker`).
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.world import World, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg, one_version]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("subset_log")) as made:
        yield made


class OnDemand(Client):
    """Begins with the log of changes alone; rows come by `load`."""

    def __init__(self, server: ShapesServer, **params: str) -> None:
        super().__init__(server, log="changes_only", **params)
        self.snapshots: dict[int, tuple[dict[str, Any], set[str]]] = {}

    def load(self, **subset: str) -> None:
        params = {**self.params, "offset": self.offset, **{f"subset__{name}": text for name, text in subset.items()}}
        if self.handle is not None:
            params["handle"] = self.handle
        response = self.server.get(**params)
        assert response.status_code == 200, response.text
        self._join(response)

    def _join(self, response: httpx.Response) -> None:
        assert self.handle in (None, response.headers["electric-handle"])
        body = response.json()
        mark = body["metadata"]
        self.snapshots[mark["snapshot_mark"]] = mark, {row["key"] for row in body["data"]}
        for row in body["data"]:
            self.rows[row["key"]] = dict(row["value"])

    def restart(self, handle: str | None) -> None:
        raise AssertionError("a client that loads on demand has to begin again")

    def apply(self, message: dict[str, Any]) -> None:
        headers = message["headers"]
        self.up_to_date = headers.get("control") == "up-to-date"
        if self.up_to_date:
            self.last_control = headers
            seen = int(headers["global_last_seen_lsn"])
            self.snapshots = {n: s for n, s in self.snapshots.items() if int(s[0]["database_lsn"]) > seen}
        if "key" not in message or self._has(message["key"], headers.get("txids")):
            return
        if headers["operation"] == "delete":
            self.rows.pop(message["key"], None)
        elif headers["operation"] == "insert":
            self.rows[message["key"]] = dict(message["value"])
        elif message["key"] in self.rows:
            self.rows[message["key"]].update(message["value"])

    def _has(self, key: str, txids: list[int] | None) -> bool:
        if not txids:
            return False
        xid = max(txids)
        self.snapshots = {n: s for n, s in self.snapshots.items() if xid < int(s[0]["xmax"])}
        return any(key in keys and str(xid) not in mark["xip_list"] for mark, keys in self.snapshots.values())


def expected(world: World, table: str, where: str) -> dict[str, dict[str, Any]]:
    with world.database.connect() as connection:
        cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}".encode())
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, (None if v is None else str(v) for v in row), strict=True)) for row in cursor]
    return {f'"public"."{table}"/"{row["id"]}"': row for row in rows}


def reach(world: World, *clients: OnDemand) -> None:
    """Everything written so far has come."""
    with world.database.connect() as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    world.database.execute("DELETE FROM empty; INSERT INTO empty VALUES (1)")
    world.get("empty", log="changes_only")
    world.database.execute("DELETE FROM empty; INSERT INTO empty VALUES (2)")
    for client in clients:
        client.sync_past(int(row[0]))


@pytest.fixture
def teams(world: World) -> tuple[str, str, str]:
    """(table of teams, table of rows, the filter that says which rows)"""
    teams = world.table("id int PRIMARY KEY, shown int", "SELECT g, g % 2 FROM generate_series(1, 4) g")
    rows = world.table("id int PRIMARY KEY, team int, v int", "SELECT g, 1 + g % 4, 0 FROM generate_series(1, 20) g")
    return teams, rows, f"team IN (SELECT id FROM {teams} WHERE shown = 1) AND NOT (v > 90)"


def test_rows_that_move_in_do_not_undo_what_a_subset_had(world: World, teams: tuple[str, str, str]) -> None:
    team, table, where = teams
    client = OnDemand(world.server, table=table, where=where)
    client.sync()
    world.database.execute(f"UPDATE {team} SET shown = 1 WHERE id = 2")
    world.database.execute(f"UPDATE {table} SET v = 1 WHERE team = 2")
    client.load(order_by="id")
    assert client.rows == expected(world, table, where)
    reach(world, client)
    assert client.rows == expected(world, table, where)


def test_rows_that_move_out_and_come_back_are_not_lost(world: World, teams: tuple[str, str, str]) -> None:
    team, table, where = teams
    client = OnDemand(world.server, table=table, where=where)
    client.sync()
    client.load(order_by="id")
    world.database.execute(f"UPDATE {team} SET shown = 0 WHERE id = 1")
    world.database.execute(f"UPDATE {table} SET team = 3, v = 7 WHERE team = 1")
    client.load(order_by="id")
    assert client.rows == expected(world, table, where)
    reach(world, client)
    assert client.rows == expected(world, table, where)


def mutate(rng: random.Random, team: str, table: str) -> str:
    number = rng.randrange(1, 21)
    match rng.randrange(6):
        case 0:
            return f"UPDATE {team} SET shown = 1 - shown WHERE id = {number % 4 + 1}"
        case 1:
            return f"UPDATE {table} SET team = {rng.randrange(1, 5)} WHERE id = {number}"
        case 2:
            return f"DELETE FROM {table} WHERE id = {number}"
        case 3:
            return f"INSERT INTO {table} VALUES ({number}, {number % 4 + 1}, 0) ON CONFLICT DO NOTHING"
        case 4:
            free = f"NOT EXISTS (SELECT FROM {table} WHERE id = {number + 100})"
            return f"UPDATE {table} SET id = {number + 100} WHERE id = {number} AND {free}"
        case _:
            return f"UPDATE {table} SET v = {rng.randrange(100)} WHERE id % 5 = {number % 5}"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_moves_between_subsets(world: World, teams: tuple[str, str, str], seed: int) -> None:
    """What a client has is never old, lacks nothing, and has left nothing behind."""
    rng = random.Random(seed)
    team, table, where = teams
    clients = [OnDemand(world.server, table=table, where=w) for w in (where, f"NOT ({where})", "v < 5", "true")]
    for client in clients:
        client.sync()
        client.load(order_by="id")
    with world.database.connect() as connection:
        for _ in range(60):
            with connection.transaction():
                for _ in range(rng.choice([1, 1, 2, 3])):
                    connection.execute(mutate(rng, team, table).encode())
            for client in clients:
                match rng.randrange(4):
                    case 0:
                        client.load(order_by="id")
                    case 1:
                        client.load(where=f"v > {rng.randrange(50)}", order_by="id DESC", limit="5")
                    case 2:
                        client.step()
    reach(world, *clients)
    for client in clients:
        assert client.rows == expected(world, table, client.params["where"]), client.params


@pytest.mark.parametrize("moving", [1, 2])
@pytest.mark.parametrize("where_read", ["here", "before a crash", "at the standby"])
def test_a_subset_between_two_transactions_that_come_together(
    world: World, teams: tuple[str, str, str], moving: int, where_read: str
) -> None:
    """The first one is visible before it is in the stream: told as one step with the second one, it would leave a row
    behind that came and went, and keep from the client one that went and came back."""
    team, table, where = teams
    client = OnDemand(world.server, table=table, where=where)
    client.sync()
    world.server.wait_durable()
    flip = f"UPDATE {team} SET shown = 1 - shown WHERE id = {moving}".encode()
    with world.database.connect() as connection, contextlib.ExitStack() as servers:
        if where_read == "at the standby":
            client.server = servers.enter_context(standby_of(world))
        connection.execute("SET synchronous_commit = off")
        connection.execute(flip)
        client.load(order_by="id")
        if where_read == "before a crash":
            world.server.kill()
        connection.execute(flip)
        client.server = world.server
    if where_read == "before a crash":
        world.server.start()
    reach(world, client)
    assert client.rows == expected(world, table, where)


@contextlib.contextmanager
def standby_of(world: World) -> Iterator[ShapesServer]:
    """A second instance, which reads the storage of the first one along."""
    server = ShapesServer(world.server.folder, world.server.database_url, **world.server.environment)
    try:
        server.start(active=False)
        ready = f"{server.url}/ready?standby=true"
        server.wait(lambda: server.http.get(ready).status_code == 200, 60, "the standby")
        yield server
    finally:
        server.close()


def test_subsets_while_a_membership_flips_all_the_time(world: World, teams: tuple[str, str, str]) -> None:
    team, table, where = teams
    stop, begun = threading.Event(), threading.Event()
    flips = [0]

    def flip() -> None:
        with world.database.connect() as connection:
            connection.execute("SET synchronous_commit = off")  # they come in bundles
            while not stop.is_set() or flips[0] % 2:
                flips[0] += 1
                connection.execute(f"UPDATE {team} SET shown = {flips[0] % 2} WHERE id = 2".encode())
                begun.set()
                time.sleep(0.002)

    thread = threading.Thread(target=flip)
    clients = [OnDemand(world.server, table=table, where=where) for _ in range(8)]
    for client in clients:
        client.sync()
    thread.start()
    try:
        assert begun.wait(60)
        for client in clients:
            client.load(order_by="id")
            client.step()
    finally:
        stop.set()
        thread.join(60)
    reach(world, *clients)
    for client in clients:
        assert client.rows == expected(world, table, where)
