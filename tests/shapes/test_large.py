"""Transactions that do not fit into memory: whole or not at all, whatever comes in between, in bounded memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest

from tests.shapes.server import Client, ShapesServer, one_version
from tests.support.effort import effort
from tests.support.files import total_size
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.crash]

TABLE = "CREATE TABLE items (id int PRIMARY KEY, v text NOT NULL); INSERT INTO items VALUES (0, 'first')"


def count(server: ShapesServer, handle: str, **params: str) -> tuple[int, int]:
    """(lines, last offset's transaction) of a shape's log, read chunk by chunk without keeping it."""
    offset, lines = "0_inf", 0
    deadline = time.monotonic() + 300
    while True:
        response = server.get(table="items", offset=offset, handle=handle, **params)
        assert response.status_code == 200, response.text
        lines += response.content.count(b'"op_position":')
        before, offset = offset, response.headers["electric-offset"]
        assert "electric-up-to-date" in response.headers or offset != before, "the same chunk for ever"
        assert time.monotonic() < deadline, f"still reading at {offset}\n{server.log()[-2000:]}"
        if "electric-up-to-date" in response.headers:
            return lines, int(offset.split("_")[0]) if "_inf" not in offset else 0


@one_version
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ending", ["kill", "disconnect", "none"])
def test_a_large_transaction_is_whole(
    database: Database, make_server: Callable[..., ShapesServer], ending: str
) -> None:
    """Three shapes, each with more than may wait in memory. Readers see all of it or nothing, over a crash, too."""
    rows = effort(75_000, 150_000)
    database.execute(TABLE)
    server = make_server().start()
    client = Client(server, table="items")
    client.sync()
    others = [Client(server, table="items", columns="id"), Client(server, table="items", replica="full")]
    for other in others:
        other.sync()
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                response = server.get(table="items", offset="0_inf", handle=client.handle or "")
                if response.status_code == 200:
                    more = "electric-up-to-date" not in response.headers
                    seen.add(-1 if more else response.content.count(b'"op_position":'))
            except Exception:
                continue
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    fill = f"INSERT INTO items SELECT g, repeat('x', 60) FROM generate_series(1, {rows}) g"
    database.execute(f"SET statement_timeout = '120s'; {fill}")
    if ending != "none":
        wal = server.folder / "storage" / "wal"
        written = total_size(wal.iterdir())
        server.wait(lambda: total_size(wal.iterdir()) > written or bool(seen - {0}), 60, "its parts")
        if ending == "kill":
            server.kill()
            server.start()
        else:
            database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
            server.wait_active()
    database.execute("INSERT INTO items VALUES (-1, 'last')")
    server.wait(lambda: bool(client.sync() or len(client.rows) == rows + 2), 120, "all rows")
    stop.set()
    watcher.join(60)
    assert seen <= {0, rows, rows + 1, -1}, seen
    assert client.restarts == 0
    for other in others:
        assert other.handle is not None
        params = {key: value for key, value in other.params.items() if key != "table"}
        assert count(server, other.handle, **params)[0] == rows + 1


@one_version
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_memory_is_bounded_in_a_huge_transaction(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """Two million rows in one transaction, for 5 shapes: 2 GB through a process that stays small."""
    rows = 2_000_000
    database.execute(TABLE)
    server = make_server().start()
    handles = {}
    kinds: list[dict[str, str]] = [{"replica": "full"}, {}, {"columns": "id"}, {"columns": "id,v"}]
    for params in [*kinds, {"columns": "id,v", "replica": "full"}]:
        response = server.get(table="items", offset="-1", **params)
        assert response.status_code == 200, response.text
        handles[response.headers["electric-handle"]] = params
    started = time.monotonic()
    peak = 0.0
    fill = f"INSERT INTO items SELECT g, repeat('x', 20) FROM generate_series(1, {rows}) g"
    writer = threading.Thread(target=database.execute, args=(f"SET statement_timeout = '600s'; {fill}",), daemon=True)
    writer.start()
    waiting = dict(handles)
    while waiting:
        peak = max(peak, server.metric("process_resident_memory_bytes"))
        handle, params = next(iter(waiting.items()))
        lsn = server.get(table="items", offset="now", handle=handle, **params)
        if not lsn.headers["electric-offset"].endswith("_inf"):
            del waiting[handle]
        assert time.monotonic() - started < 900, server.log()[-2000:]
        time.sleep(0.5)
    writer.join(60)
    assert not writer.is_alive()
    print(json.dumps({"rows": rows, "shapes": 5, "seconds": time.monotonic() - started, "peak_mb": peak / 1e6}))
    assert peak < 400_000_000
    assert server.log().count("replication is running") == 1
    handle, params = next(iter(handles.items()))
    assert count(server, handle, **params)[0] == rows
