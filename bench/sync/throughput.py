"""How many changes a second go through, how fast shapes are made, and how fast their bytes are served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

from bench.sync.http import Connection, answers
from bench.sync.latency import items
from bench.sync.report import Figure
from bench.sync.world import LOAD_CORE, SERVER_CORE, Server, World, expect, wal_position
from switchgear_shapes.definition import define
from switchgear_shapes.parameters import Query
from switchgear_shapes.relations import from_rows, query_by_name
from switchgear_shapes.request import parse
from switchgear_shapes.snapshot import copy_statement


def changes(
    server: Server, shape: dict[str, Any], statement: str, marker: str, transactions: int, rows: int
) -> tuple[float, float]:
    """Row changes a second that the server takes from Postgres when `transactions` × `rows` of them have piled up, and
    the microseconds of its CPU for each.

    `marker` changes a row that the shape has, after all others: its commit lies behind a position that was taken before
    it, so that the shape's log says when all is done, and no keep-alive is waited for.
    """
    watcher = Connection(server.port)
    server.synced(watcher, shape)
    with psycopg.connect(server.url) as database:
        with server.paused():
            for number in range(transactions):
                database.execute(statement.format(start=number * rows, end=number * rows + rows - 1).encode())
                database.commit()
            end = wal_position(database)
            database.execute(marker.encode())
            database.commit()
            cpu = server.cpu()
        began = time.perf_counter()
        done = server.wait_lsn(watcher, shape, end)
        cpu = server.cpu() - cpu
    watcher.close()
    return transactions * rows / (done - began), cpu / (transactions * rows) * 1e6


def matching(world: World, count: int = 10_000) -> list[Figure]:
    url = world.database()
    items(url, count)
    update = "UPDATE items SET n = n + 1 WHERE id BETWEEN {start} % 10000 AND {end} % 10000"
    shape = {"table": "items", "where": "field = 7"}
    marker = "UPDATE items SET n = n + 1 WHERE id = 7"
    with world.server(url) as server:
        server.create([{"table": "items", "where": f"field = {i}"} for i in range(count)])
        changes(server, shape, update, marker, 50, 100)
        runs = [changes(server, shape, update, marker, 2000, 100) for _ in range(2)]
    rate, cpu = max(runs)[0], min(run[1] for run in runs)
    figure = Figure(
        f"row changes/s through to the shape log, {count:,} indexed shapes, each change in 1 (transactions of 100)",
        f"{rate:,.0f}/s ({cpu:.1f} µs of the server's CPU for each)",
        "≥ 50,000/s",
        rate >= 50_000,
        "Electric: 4,000–6,000/s",
    )
    return [figure]


def not_matching(world: World, count: int = 10_000) -> list[Figure]:
    url = world.database()
    items(url, count)
    update = "UPDATE items SET n = n + 1 WHERE id BETWEEN {start} % 10000 AND {end} % 10000"
    shape = {"table": "items", "where": "field = -1"}
    marker = "UPDATE items SET n = n + 1 WHERE id = -1"
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("INSERT INTO items VALUES (-1, -1, 0, 'marker', 'p')")
    with world.server(url) as server:
        server.create([{"table": "items", "where": f"field = {20_000 + i}"} for i in range(count)])
        changes(server, shape, update, marker, 50, 100)
        with psycopg.connect(url, autocommit=True) as database:
            database.execute("UPDATE items SET field = field + 100000 WHERE id >= 0")
        runs = [changes(server, shape, update, marker, 3000, 100) for _ in range(2)]
    rate, cpu = max(runs)[0], min(run[1] for run in runs)
    figure = Figure(
        f"changes/s that match none of {count:,} shapes of the table (transactions of 100)",
        f"{rate:,.0f}/s ({cpu:.1f} µs of the server's CPU for each)",
        "≥ 150,000/s",
        rate >= 150_000,
        "Electric: 50,000/s",
    )
    return [figure]


def creation(world: World, count: int = 450) -> list[Figure]:
    url = world.database()
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("CREATE TABLE grouped (id int PRIMARY KEY, g int NOT NULL, pad text)")
        database.execute(
            f"INSERT INTO grouped SELECT i, i % 5000, repeat('p', 80) FROM generate_series(1, {100 * 5000}) i"
        )
        database.execute("CREATE INDEX ON grouped (g)")
        database.execute("VACUUM ANALYZE grouped")
    means = []
    allowed = '{"initial":1000,"existing":10000}'  # by default, no more than 300 wait for shapes that are being made
    with world.server(url, ELECTRIC_MAX_CONCURRENT_REQUESTS=allowed) as server:
        server.create([{"table": "grouped", "where": f"g = {4000 + i}"} for i in range(20)])
        for turn in range(3):
            connections = [Connection(server.port) for _ in range(count)]
            began = time.perf_counter()
            for index, connection in enumerate(connections):
                connection.ask(table="grouped", where=f"g = {turn * count + index}", offset="-1")
            got = answers(connections)
            means.append(sum(expect(answer).at - began for answer in got) / count * 1000)
            for connection in connections:
                connection.close()
    mean = sorted(means)[1]
    return [
        Figure(
            f"{count} shapes of 100 rows created at once: mean until the first chunk is there",
            f"{mean:.0f} ms",
            "≤ 250 ms",
            mean <= 250,
            "Electric: 1,110 ms; bare snapshots over 16 connections: 76 ms",
        )
    ]


def initial_sync(world: World, rows: int = 1_000_000) -> list[Figure]:
    url = world.database()
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("CREATE TABLE big (id int PRIMARY KEY, a text NOT NULL, b int NOT NULL, c text NOT NULL)")
        database.execute(
            f"INSERT INTO big SELECT i, md5(i::text), i % 1000, repeat('c', 48) FROM generate_series(1, {rows}) i"
        )
        database.execute("VACUUM ANALYZE big")
        found = database.execute(query_by_name("public", "big").encode()).fetchall()
    relation = from_rows([tuple(None if v is None else _text(v) for v in row) for row in found])[0]
    definition = define(
        parse(Query([("table", "big"), ("offset", "-1")])).params, relation, stored_generated=False, publication=""
    )
    copy = copy_statement(definition, relation)
    times, ours, peak, idle, size = [], [], 0.0, 0.0, 0
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(["psql", url, "-qc", copy], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - began)
    for turn in range(3):
        with world.server(url, ELECTRIC_STORAGE_DIR=str(world.folder / f"big{turn}")) as server:
            idle = server.memory()
            connection = Connection(server.port)
            began = time.perf_counter()
            answer = expect(connection.get(table="big", offset="-1"))
            size = answer.size
            while "electric-up-to-date" not in answer.headers:
                answer = expect(
                    connection.get(
                        table="big",
                        handle=answer.headers["electric-handle"],
                        offset=answer.headers["electric-offset"],
                    )
                )
                size += answer.size
            ours.append(time.perf_counter() - began)
            peak = max(peak, server.memory("VmHWM"))
            connection.close()
    plain, mine = sorted(times)[1], sorted(ours)[1]
    return [
        Figure(
            f"initial sync of {rows:,} rows of 100 bytes ({size / 1e6:,.0f} MB) to the client / psql's COPY of the"
            " same lines",
            f"{mine:.2f} / {plain:.2f} s ({mine / plain:.2f} ×)",
            "≤ 1.5 ×",
            mine <= 1.5 * plain,
            "psql, measured beside",
        ),
        Figure(
            "memory during it: idle → peak", f"{idle:.0f} → {peak:.0f} MB", "flat (≤ 100 MB more)", peak - idle <= 100
        ),
    ]


def _text(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    return value.decode() if isinstance(value, bytes) else str(value)


def chunk(world: World) -> list[Figure]:
    """A complete chunk of about 100 KB by our server and by nginx, each alone on one core."""
    if not all(map(shutil.which, ("wrk", "nginx"))):
        return [Figure("serving a complete chunk: ratio to nginx", "wrk or nginx is not installed", "≥ 0.5", None)]
    url = world.database()
    items(url, 3000)
    with world.server(url, ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="100000") as server:
        connection = Connection(server.port)
        answer = expect(connection.get(table="items", offset="-1"))
        handle = answer.headers["electric-handle"]
        second = expect(connection.get(table="items", handle=handle, offset="0_0"))
        ours = _wrk(f"http://127.0.0.1:{server.port}/v1/shape?table=items&handle={handle}&offset=0_0")
        theirs = _nginx(world.folder, second.body)
    ratio = ours / theirs
    return [
        Figure(
            f"serving a complete chunk of {second.size / 1000:.0f} KB from disk: ours / nginx, requests a second",
            f"{ours:,.0f} / {theirs:,.0f} ({ratio:.2f} ×)",
            "≥ 0.5 ×",
            ratio >= 0.5,
            "nginx 1.22, one worker, measured beside",
        )
    ]


def _wrk(url: str) -> float:
    rates = []
    for _ in range(3):
        command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", "-c64", "-d4s", url]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        if "Non-2xx" in text:
            raise RuntimeError(text)
        rates.append(float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0]))
    return sorted(rates)[1]


def _nginx(folder: Path, body: bytes) -> float:
    root = folder / "nginx"
    (root / "files").mkdir(parents=True)
    (root / "files/chunk").write_bytes(body)
    config = root / "nginx.conf"
    listening = 18_000 + (hash(str(root)) % 2000)
    config.write_text(
        f"daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log; user root;\n"
        "events { worker_connections 512; }\n"
        f"http {{ access_log off; sendfile on; keepalive_requests 1000000000;\n"
        f"  server {{ listen 127.0.0.1:{listening}; root {root}/files; }} }}\n"
    )
    process = subprocess.Popen(["taskset", "-c", str(SERVER_CORE), "nginx", "-p", str(root), "-c", str(config)])
    try:
        time.sleep(0.5)
        return _wrk(f"http://127.0.0.1:{listening}/chunk")
    finally:
        process.terminate()
        process.wait(10)
