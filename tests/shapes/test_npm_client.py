"""The real npm client `@electric-sql/client`, unchanged, in Node.js."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.shapes.server import ShapesServer, one_version
from tests.support.nodejs import environment, node_project
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.node]

SCRIPT = """
import { ShapeStream, Shape } from '@electric-sql/client'
const [url, table, mode] = process.argv.slice(2)
const params = { table }
if (mode === 'full') params.replica = 'full'
const stream = new ShapeStream({ url, params, liveSse: mode === 'sse', log: mode === 'changes_only' ? mode : undefined,
  onError: (error) => { console.log(JSON.stringify({ error: String(error) })); return {} } })
const shape = new Shape(stream)
stream.subscribe((messages) => {
  for (const m of messages)
    if (m.headers.operation) {
      console.log(JSON.stringify({ operation: m.headers.operation, key: m.key, old: m.old_value }))
    }
})
shape.subscribe(({ rows }) => console.log(JSON.stringify({ rows: rows.map((r) => ({ ...r, big: String(r.big) })) })))
"""


class NodeClient:
    """A Shape in Node.js; `rows` is its latest state, `operations` all changes, `errors` what it reported.

    `console` is what the package printed (it warns when a connection ends early, as it must when a server is killed).
    """

    def __init__(self, server: ShapesServer, table: str, mode: str = "") -> None:
        self.rows: list[dict[str, Any]] | None = None
        self.operations: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.console: list[str] = []
        self.process = subprocess.Popen(
            ["node", "--input-type=module", "-", server.shape_url, table, mode],
            cwd=node_project(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(SCRIPT)
        self.process.stdin.close()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                self.console.append(line)
                continue
            if "rows" in message:
                self.rows = sorted(message["rows"], key=lambda row: row["id"])
            elif "operation" in message:
                self.operations.append(message)
            else:
                self.errors.append(message["error"])

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (
                f"not within {seconds} s: {what}; {self.rows}; {self.errors}; {self.console}"
            )
            time.sleep(0.02)

    def wait_rows(self, expected: list[dict[str, Any]]) -> None:
        self.wait(lambda: self.rows == expected, f"rows {expected}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)


@pytest.mark.parametrize("mode", ["", "full", "sse"])
def test_a_shape_in_node(database: Database, server: ShapesServer, mode: str) -> None:
    """Initial rows with their types, then inserts, updates and deletes, a kill, and a must-refetch."""
    database.execute(
        "CREATE TABLE things (id int PRIMARY KEY, name text, ok bool, big int8, list int[], data jsonb);"
        "INSERT INTO things VALUES (1, E'quote \" and \\n', true, 9007199254740993, '{1,2,NULL}', '{\"a\": [1]}'),"
        " (2, NULL, NULL, NULL, NULL, NULL)"
    )
    one = {"id": 1, "name": 'quote " and \n', "ok": True, "big": "9007199254740993", "list": [1, 2, None]}
    one["data"] = {"a": [1]}
    two = {"id": 2, "name": None, "ok": None, "big": "null", "list": None, "data": None}
    client = NodeClient(server, "things", mode)
    try:
        client.wait_rows([one, two])
        with database.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO things (id, name) VALUES (3, 'three')")
            connection.execute("UPDATE things SET ok = false WHERE id = 1")
            connection.execute("DELETE FROM things WHERE id = 2")
            connection.commit()
        three = two | {"id": 3, "name": "three"}
        client.wait_rows([one | {"ok": False}, three])
        database.execute("UPDATE things SET id = 4 WHERE id = 3")
        client.wait_rows([one | {"ok": False}, three | {"id": 4}])
        server.kill()
        database.execute("UPDATE things SET name = 'while away' WHERE id = 4")
        server.start()
        client.wait_rows([one | {"ok": False}, three | {"id": 4, "name": "while away"}])
        client.wait(lambda: len(client.operations) >= 8, "all operations")
        made = [(op["operation"], op["key"].rpartition("/")[2]) for op in client.operations]
        assert made == [
            ("insert", '"1"'),
            ("insert", '"2"'),
            ("insert", '"3"'),
            ("update", '"1"'),
            ("delete", '"2"'),
            ("delete", '"3"'),
            ("insert", '"4"'),
            ("update", '"4"'),
        ]
        if mode == "full":
            assert client.operations[3]["old"] == {"ok": True}
        database.execute("TRUNCATE things")
        database.execute("INSERT INTO things (id, name) VALUES (9, 'fresh')")
        client.wait_rows([two | {"id": 9, "name": "fresh"}])
        database.execute("INSERT INTO things (id, name) VALUES (10, 'more')")
        client.wait(lambda: client.rows is not None and len(client.rows) == 2, "the row after the refetch")
        assert client.errors == []
    finally:
        client.close()


def test_more_events_than_one_answer_has(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    """The client forgets events that no up-to-date follows: a stream must not end before it."""
    database.execute("CREATE TABLE things (id int PRIMARY KEY, big int8, v text)")
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="3MB").start()
    client = NodeClient(server, "things", "sse")
    try:
        client.wait(lambda: client.rows == [], "the empty shape")
        server.wait(lambda: server.metric("switchgear_live_waiters") == 1, 60, "the stream")
        database.execute("INSERT INTO things SELECT g, g, repeat('x', 4000) FROM generate_series(1, 4000) g")
        client.wait(lambda: bool(client.rows), "rows", 60)
        database.execute("INSERT INTO things VALUES (0, 0, 'last')")
        client.wait(lambda: bool(client.rows) and client.rows[0]["id"] == 0, "the last row", 60)
        assert client.rows is not None
        assert len(client.rows) == 4001
        client.wait(lambda: len(client.operations) >= 4001, "all operations")  # they are told behind the rows
        assert len(client.operations) == 4001
    finally:
        client.close()


def test_errors_reach_the_client(database: Database, server: ShapesServer) -> None:
    client = NodeClient(server, "missing")
    try:
        client.wait(lambda: bool(client.errors), "an error")
        assert "does not exist" in client.errors[0]
    finally:
        client.close()


SUBSETS = """
import { ShapeStream } from '@electric-sql/client'
import { createInterface } from 'node:readline'
const [url, method] = process.argv.slice(2)
const say = (message) => console.log(JSON.stringify(message, (_, v) => (typeof v === 'bigint' ? String(v) : v)))
const stream = new ShapeStream({
  url, log: 'changes_only', offset: 'now', subsetMethod: method,
  params: { table: 'notes', where: 'owner = $1', params: ['me'], columns: ['id', 'text', 'day'], replica: 'full' },
  onError: (error) => { say({ error: String(error) }); return {} },
})
stream.subscribe((messages) => {
  for (const { key, value, old_value, headers } of messages) say({ key, value, old: old_value, headers })
})
say({ started: true })
const asked = async (name, params) => {
  try {
    const { metadata, data } = await stream.requestSnapshot(params)
    say({ name, ids: data.map((row) => row.value.id), texts: data.map((row) => row.value.text), metadata })
  } catch (error) {
    say({ name, refused: error.json ?? String(error) })
  }
}
await asked('first', { where: 'day > $1', params: { 1: '2' }, orderBy: 'id DESC', limit: 2 })
await asked('second', { where: 'day > $1', params: { 1: '2' }, orderBy: 'id DESC', limit: 2, offset: 2 })
await asked('all', { orderBy: 'id' })
await asked('wrong', { where: 'nope = 1' })
say({ ready: true })
"""


@pytest.mark.parametrize("method", ["GET", "POST"])
@one_version
def test_subsets_and_changes_in_node(database: Database, server: ShapesServer, method: str) -> None:
    """A stream of changes only, filled by `requestSnapshot`: filters, parameters, pages, errors; then live changes."""
    database.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, owner text, text text, day int);"
        "INSERT INTO notes SELECT g, (ARRAY['me','you'])[1 + g % 2], 'note ' || g, g FROM generate_series(1, 12) g"
    )
    process = subprocess.Popen(
        ["node", "--input-type=module", "-", server.shape_url, method],
        cwd=node_project(),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    told: list[dict[str, Any]] = []

    def wait(condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + 90
        while not (found := [message for message in list(told) if condition(message)]):
            assert time.monotonic() < deadline, f"not within 90 s: {what}; {told[-6:]}"
            time.sleep(0.02)
        return found[0]

    assert process.stdin is not None
    process.stdin.write(SUBSETS)
    process.stdin.close()

    def follow() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                told.append(json.loads(line))

    threading.Thread(target=follow, daemon=True).start()
    try:
        wait(lambda m: "ready" in m, "the end of the script")
        answers = {message["name"]: message for message in told if "name" in message}
        assert answers["first"]["ids"] == [12, 10]
        assert answers["second"]["ids"] == [8, 6]
        assert answers["all"]["ids"] == [2, 4, 6, 8, 10, 12]
        assert "unknown reference nope" in json.dumps(answers["wrong"]["refused"])
        database.execute(
            "BEGIN; UPDATE notes SET text = 'mine' WHERE id = 8; UPDATE notes SET text = 'yours' WHERE id = 7;"
            "UPDATE notes SET owner = 'you' WHERE id = 6; UPDATE notes SET owner = 'me' WHERE id = 5; COMMIT"
        )
        wait(lambda m: m.get("headers", {}).get("last"), "the transaction")
        changes = [m for m in told if "txids" in m.get("headers", {})]
        assert [(m["headers"]["operation"], m["key"].rpartition("/")[2]) for m in changes] == [
            ("update", '"8"'),
            ("delete", '"6"'),
            ("insert", '"5"'),
        ]
        assert changes[0]["old"] == {"text": "note 8"}
        assert changes[2]["value"] == {"id": 5, "text": "note 5", "day": 5}
        assert [m for m in told if "error" in m] == []
    finally:
        process.kill()
        process.wait(60)
