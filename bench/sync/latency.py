"""How long a write takes to a client: one shape, many shapes, many clients."""

from __future__ import annotations

import select
import time
from typing import Any

import psycopg

from bench.sync.http import Answer, Connection, Gathering
from bench.sync.replica import ReplicationClient
from bench.sync.report import Figure, percentile
from bench.sync.world import Server, World, position

ROUNDS = 200


def items(url: str, rows: int) -> None:
    """A table of `rows` rows: `id`, `field` (0 to 9,999), `n`, `name` and 60 bytes more."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE items (id int PRIMARY KEY, field int NOT NULL, n int NOT NULL, name text NOT NULL, pad text)"
        )
        connection.execute(
            "INSERT INTO items SELECT i, i % 10000, 0, 'name' || i || 'x', repeat('p', 60)"
            f" FROM generate_series(0, {rows - 1}) i"
        )
        connection.execute("CREATE INDEX ON items (field)")
        connection.execute("ANALYZE items")


def over_replication(server: Server, shape: dict[str, Any], update: bytes, rounds: int = ROUNDS) -> list[float]:
    """Milliseconds from a plain replication client's seeing the commit to a live client's having the change."""
    plain = ReplicationClient(server.url, "electric_publication_default")
    connection = Connection(server.port)
    now = server.synced(connection, shape)
    found = []
    with psycopg.connect(server.url, autocommit=True) as database:
        for _ in range(rounds + 20):
            connection.ask(**shape, **now, live="true")
            time.sleep(0.02)
            database.execute(update)
            plain_at: float | None = None
            answer: Answer | None = None
            while plain_at is None or answer is None:
                ready, _, _ = select.select([plain.fileno, connection.socket.fileno()], [], [], 30)
                if not ready:
                    raise TimeoutError("the change did not arrive")
                if plain.fileno in ready and plain.commit_seen():
                    plain_at = time.perf_counter()
                if connection.socket.fileno() in ready:
                    connection.receive()
                    answer = connection.parsed()
            now = position(answer)
            found.append((answer.at - plain_at) * 1000)
    plain.close()
    connection.close()
    return found[20:]  # the first rounds warm everything up


def one_shape(world: World) -> tuple[list[Figure], float]:
    url = world.database()
    items(url, 1000)
    with world.server(url) as server:
        found = over_replication(server, {"table": "items"}, b"UPDATE items SET n = n + 1 WHERE id = 1")
    p50, p99 = percentile(found, 0.5), percentile(found, 0.99)
    figure = Figure(
        "write → client, 1 shape, idle server, over a plain replication client: p50 / p99",
        f"{p50:.2f} / {p99:.2f} ms",
        "≤ 2 / ≤ 6 ms",
        p50 <= 2 and p99 <= 6,
        "Electric: 3 ms",
    )
    return [figure], p50


def many_equal(world: World, alone: float, count: int = 10_000) -> list[Figure]:
    url = world.database()
    items(url, count)
    with world.server(url) as server:
        server.create([{"table": "items", "where": f"field = {i}"} for i in range(count)])
        shape = {"table": "items", "where": "field = 7"}
        found = over_replication(server, shape, b"UPDATE items SET n = n + 1 WHERE id = 7")
    p50 = percentile(found, 0.5)
    return [
        Figure(
            f"the same with {count:,} `field = const` shapes: p50 / p99",
            f"{p50:.2f} / {percentile(found, 0.99):.2f} ms ({p50 / alone:.2f} ×)",
            "≤ 1.2 × of the line above",
            p50 <= 1.2 * alone,
            "Electric: flat",
        )
    ]


def many_ilike(world: World, count: int = 10_000) -> list[Figure]:
    url = world.database()
    items(url, 100)
    with world.server(url) as server:
        server.create([{"table": "items", "where": f"name ILIKE '%E{i}X%'"} for i in range(count)])
        shape = {"table": "items", "where": "name ILIKE '%E7X%'"}
        found = over_replication(server, shape, b"UPDATE items SET n = n + 1 WHERE id = 7", 50)
    p50 = percentile(found, 0.5)
    return [
        Figure(
            f"the same with {count:,} `ILIKE` shapes: p50 / p99",
            f"{p50:.1f} / {percentile(found, 0.99):.1f} ms",
            "≤ 40 ms",
            p50 <= 40,
            "Electric: about 100 ms",
        )
    ]


def last_of(server: Server, shapes: list[dict[str, Any]], update: bytes, rounds: int) -> list[float]:
    """Milliseconds from COMMIT until the last of the live clients, one for each of `shapes`, has the change."""
    connections = [Connection(server.port) for _ in shapes]
    positions: list[dict[str, str]] = []
    known: dict[str, dict[str, str]] = {}
    for connection, shape in zip(connections, shapes, strict=True):
        name = str(shape)
        if name not in known:
            known[name] = server.synced(connection, shape)
        positions.append(known[name])
    found = []
    with psycopg.connect(server.url, autocommit=True) as database:
        for _ in range(rounds + 2):
            for connection, shape, now in zip(connections, shapes, positions, strict=True):
                connection.ask(**shape, **now, live="true")
            gathering = Gathering(connections)
            time.sleep(1.0)
            database.execute(update)
            committed = time.perf_counter()
            got = gathering.answers()
            found.append((max(answer.at for answer in got) - committed) * 1000)
            positions = [position(answer) for answer in got]
    for connection in connections:
        connection.close()
    return found[2:]


def fan_out(world: World) -> list[Figure]:
    url = world.database()
    items(url, 100)
    figures = []
    with world.server(url) as server:
        for clients, reach, electric in ((1000, 60, "334 ms"), (100, 10, "53 ms")):
            shapes = [{"table": "items"}] * clients
            found = last_of(server, shapes, b"UPDATE items SET n = n + 1 WHERE id = 7", 20)
            p50 = percentile(found, 0.5)
            figures.append(
                Figure(
                    f"last of {clients:,} live long-polls on one shape has the change: median / worst of 20",
                    f"{p50:.1f} / {max(found):.1f} ms",
                    f"≤ {reach} ms",
                    p50 <= reach,
                    f"Electric: {electric}",
                )
            )
    return figures


def all_shapes(world: World, count: int = 1500) -> list[Figure]:
    url = world.database()
    items(url, 2)
    with world.server(url) as server:
        shapes = [{"table": "items", "where": f"field IN (1, {1000 + i})"} for i in range(count)]
        server.create(shapes)
        found = last_of(server, shapes, b"UPDATE items SET n = n + 1 WHERE id = 1", 15)
    p50 = percentile(found, 0.5)
    return [
        Figure(
            f"a write visible in all of {count:,} shapes, a live client on each: median / worst of 15",
            f"{p50:.1f} / {max(found):.1f} ms",
            "≤ 100 ms",
            p50 <= 100,
            "Electric: 710 ms",
        )
    ]
