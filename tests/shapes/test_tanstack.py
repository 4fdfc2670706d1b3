"""TanStack DB's Electric collection, unchanged, as a small app would use it: the packages run in Node.js."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.shapes.server import ShapesServer, one_version
from tests.support import nodejs
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, pytest.mark.node]

APP = nodejs.HERE / "tanstack_app.mjs"
Rows = list[dict[str, Any]]


class App:
    """The app's process, and its backend: it writes to Postgres what the app asks for, and tells it the txid."""

    def __init__(self, server: ShapesServer, database: Database, mode: str, **params: str) -> None:
        self._database = database
        self.messages: list[dict[str, Any]] = []
        self.backend_is_down = False
        self.process = nodejs.start(APP, server.shape_url, json.dumps(params), mode)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith("{"):
                continue  # what the packages print on their own
            message = json.loads(line)
            self.messages.append(message)
            if "write" in message:
                self._send(self._write(message["write"], message["row"]) | {"n": message["n"]})

    def _write(self, operation: str, row: dict[str, Any]) -> dict[str, Any]:
        statements = {
            "insert": "INSERT INTO todos (id, title) VALUES (%(id)s, %(title)s)",
            "update": "UPDATE todos SET title = %(title)s WHERE id = %(id)s",
            "delete": "DELETE FROM todos WHERE id = %(id)s",
        }
        if self.backend_is_down:
            return {"error": "the backend is down"}
        with psycopg.connect(self._database.url) as connection:
            connection.execute(statements[operation].encode(), row)
            found = connection.execute("SELECT pg_current_xact_id()::xid::text").fetchone()
            assert found is not None
            return {"txid": int(found[0])}

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def do(self, what: str, **more: Any) -> None:
        self._send({"do": what} | more)

    def wait(self, condition: Callable[[dict[str, Any]], bool], what: str, seconds: float = 90.0) -> dict[str, Any]:
        """The last message that fulfils the condition, once there is one."""
        deadline = time.monotonic() + seconds
        while True:
            for message in reversed(self.messages):
                if condition(message):
                    return message
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; {self.messages[-5:]}"
            time.sleep(0.02)

    def wait_rows(self, expected: Rows, of: str = "todos") -> None:
        deadline = time.monotonic() + 90
        while True:
            told = [message["rows"] for message in self.messages if message.get("of") == of]
            if told and told[-1] == expected:
                return
            assert time.monotonic() < deadline, f"not {expected} within 90 s, but {told[-1:]}; {self.messages[-5:]}"
            time.sleep(0.02)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)


@contextmanager
def app(server: ShapesServer, database: Database, mode: str, **params: str) -> Iterator[App]:
    running = App(server, database, mode, **params)
    try:
        yield running
    finally:
        running.close()


def row(number: int, title: str) -> dict[str, Any]:
    return {"id": number, "title": title}


@pytest.fixture
def todos(database: Database, server: ShapesServer) -> ShapesServer:
    database.execute("CREATE TABLE todos (id int PRIMARY KEY, title text); INSERT INTO todos VALUES (1, 'one')")
    return server


def test_an_app(todos: ShapesServer, database: Database) -> None:
    """Initial sync, live changes, writes confirmed by txid, a refused one, a refetch, a server that was away."""
    with app(todos, database, "eager", table="todos") as running:
        running.wait_rows([row(1, "one")])
        database.execute("INSERT INTO todos VALUES (2, 'two')")
        running.wait_rows([row(1, "one"), row(2, "two")])

        running.do("insert", row=row(3, "three"))
        optimistic = running.wait(lambda m: m.get("optimistic") == "insert", "the optimistic insert")
        assert row(3, "three") in optimistic["rows"]
        confirmed = running.wait(lambda m: m.get("confirmed") == "insert", "the confirmed insert")
        assert row(3, "three") in confirmed["rows"]
        running.do("update", row=row(3, "drei"))
        assert row(3, "drei") in running.wait(lambda m: m.get("confirmed") == "update", "the update")["rows"]
        running.do("delete", row=row(1, "one"))
        running.wait(lambda m: m.get("confirmed") == "delete", "the delete")
        running.wait_rows([row(2, "two"), row(3, "drei")])

        running.backend_is_down = True
        running.do("insert", row=row(4, "lost"))
        refused = running.wait(lambda m: m.get("refused") == "insert", "the refusal")
        assert row(4, "lost") not in refused["rows"]
        running.backend_is_down = False

        database.execute("BEGIN; TRUNCATE todos; INSERT INTO todos VALUES (7, 'seven'); COMMIT")
        running.wait_rows([row(7, "seven")])

        todos.kill()
        database.execute("UPDATE todos SET title = 'while away'")
        running.do("insert", row=row(8, "offline"))
        running.wait(lambda m: m.get("optimistic") == "insert" and row(8, "offline") in m["rows"], "offline insert")
        todos.start()
        running.wait_rows([row(7, "while away"), row(8, "offline")])
        running.wait(lambda m: m.get("confirmed") == "insert" and row(8, "offline") in m["rows"], "its confirmation")


@one_version
def test_on_demand(todos: ShapesServer, database: Database) -> None:
    """Only what queries ask for is loaded, as subsets; and it stays live."""
    database.execute("INSERT INTO todos SELECT g, 'row ' || g FROM generate_series(2, 500) g")
    with app(todos, database, "on-demand", table="todos") as running:
        running.do("query", max=2)
        running.wait_rows([row(1, "one"), row(2, "row 2")], of="query 2")
        running.do("query", max=3)
        running.wait_rows([row(1, "one"), row(2, "row 2"), row(3, "row 3")], of="query 3")
        database.execute("UPDATE todos SET title = 'new' WHERE id IN (2, 400)")
        running.wait_rows([row(1, "one"), row(2, "new")], of="query 2")
        running.do("insert", row=row(0, "zero"))
        running.wait(lambda m: m.get("confirmed") == "insert", "the insert")
        running.wait_rows([row(0, "zero"), row(1, "one"), row(2, "new")], of="query 2")
        errors = [message for message in running.messages if "error" in message]
        assert errors == []
