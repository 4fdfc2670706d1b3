"""The full path with the real npm clients: YAML by kubectl, both services `active`, rows and records by the edge."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support import nodejs
from tests.support.postgres import PostgresServers, create_database, drop_database
from tests.support.region import ROOT, Region, wait_until

HERE = ROOT / "tests/support/node"
QUICKSTART = "quickstart"


@pytest.fixture(scope="module")
def database_url(postgres_servers: PostgresServers) -> Iterator[str]:
    """A database with 1,000 rows, on the oldest Postgres that the suite has."""
    database = create_database(postgres_servers.get(15))
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, title text NOT NULL, n int)")
        connection.execute("INSERT INTO items SELECT i, 'item ' || i, i % 7 FROM generate_series(1, 1000) i")
    yield database.url
    drop_database(database)


@pytest.fixture(scope="module")
def quickstart(region: Region, database_url: str) -> Iterator[Region]:
    """`kubectl apply -f examples/quickstart.yaml`, waited for; its namespace is deleted as a whole afterwards."""
    region.kubectl("create", "namespace", QUICKSTART)
    url = f"--from-literal=url={database_url}"
    region.kubectl("create", "secret", "generic", "quickstart-database", "-n", QUICKSTART, url)
    region.kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))
    region.wait_active(QUICKSTART, ("syncsource", "app-production-db"), ("streamsservice", "app-production-events"))
    yield region
    region.kubectl("delete", "namespace", QUICKSTART, "--timeout=120s")
    with psycopg.connect(database_url) as connection:
        slots = "SELECT slot_name FROM pg_replication_slots WHERE NOT temporary AND database = current_database()"
        assert connection.execute(slots).fetchall() == []
        assert connection.execute("SELECT pubname FROM pg_publication").fetchall() == []


class Follower:
    """Electric's client in Node, and the rows as its messages make them."""

    def __init__(self, url: str, params: dict[str, str]) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.error = ""
        self.process = nodejs.start(HERE / "follow_shape.mjs", url, json.dumps(params))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "error" in message:
                self.error = message["error"]
                return
            operation = message["headers"].get("operation")
            if operation == "delete":
                del self.rows[message["key"]]
            elif operation == "insert":
                assert message["key"] not in self.rows, f"{message['key']} came twice"
                self.rows[message["key"]] = message["value"]
            elif operation == "update":
                self.rows[message["key"]].update(message["value"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(60)


@pytest.mark.node
def test_quickstart_with_electrics_own_client(quickstart: Region, database_url: str) -> None:
    sync = quickstart.endpoint("syncsource", QUICKSTART, "app-production-db")
    follower = Follower(sync.url, {"table": "items", **sync.params})
    try:
        wait_until(lambda: len(follower.rows) == 1000, 60, lambda: f"{len(follower.rows)} rows, {follower.error}")
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("INSERT INTO items VALUES (1001, 'new \"quoted\" \\ ünï', NULL)")
            connection.execute("UPDATE items SET title = 'changed' WHERE id = 7")
            connection.execute("DELETE FROM items WHERE id BETWEEN 100 AND 199")
            with connection.transaction():
                connection.execute("INSERT INTO items VALUES (1002, 'in a transaction', 1)")
                connection.execute("UPDATE items SET n = 99 WHERE id = 1")
            truth = connection.execute("SELECT id, title, n FROM items").fetchall()
        expected = {f'"public"."items"/"{i}"': {"id": i, "title": title, "n": n} for i, title, n in truth}
        wait_until(lambda: follower.rows == expected, 60, lambda: f"rows differ ({follower.error})")
    finally:
        follower.stop()


@pytest.mark.node
@pytest.mark.parametrize("live", ["long-poll", "sse"])
def test_quickstart_with_durable_streams_own_client(quickstart: Region, live: str) -> None:
    streams = quickstart.endpoint("streamsservice", QUICKSTART, "app-production-events")
    done = subprocess.run(
        [nodejs.node_bin() / "node", nodejs.script(HERE / "use_stream.mjs"), f"{streams.url}/room/{live}", "50", live],
        env=nodejs.environment() | {"STREAM_SECRET": streams.secret},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seen"] == list(range(50))
