"""One server and one database for all tests of a module: most of what HTTP answers needs no fresh one.

Tests make tables of their own, or use the common ones and leave their rows alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.shapes.server import ShapesServer
from tests.support.postgres import Database, Postgres, create_database, drop_database

TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE items (id int PRIMARY KEY, title varchar(20), n int, mood mood, tags text[], secret text);
INSERT INTO items SELECT g, 'title ' || g, g % 3, (ARRAY['sad','ok','happy']::mood[])[1 + g % 3], ARRAY['t' || g],
  'hidden ' || g FROM generate_series(1, 9) g;
CREATE TABLE empty (id int PRIMARY KEY);
"""


class World:
    """A running server with the common tables."""

    def __init__(self, database: Database, server: ShapesServer) -> None:
        self.database = database
        self.server = server

    def table(self, columns: str, rows: str = "") -> str:
        """A new table; its name."""
        name = f"t{uuid.uuid4().hex[:10]}"
        self.database.execute(f"CREATE TABLE {name} ({columns})")
        if rows:
            self.database.execute(f"INSERT INTO {name} {rows}")
        return name

    def get(self, table: str = "items", offset: str = "-1", **params: Any) -> httpx.Response:
        return self.server.get(table=table, offset=offset, **params)

    def post(self, body: Any, table: str = "items", offset: str = "-1", **params: Any) -> httpx.Response:
        query = {"table": table, "offset": offset, **params}
        return self.server.http.post(self.server.shape_url, params=query, json=body)

    def raw(self, method: str, **params: str) -> tuple[int, Message, Any]:
        """A request whose URL is longer than httpx makes them: status, headers and the body's JSON."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request(method, f"/v1/shape?{urlencode(params)}")
            response = connection.getresponse()
            return response.status, response.headers, json.loads(response.read())
        finally:
            connection.close()


@contextmanager
def running(postgres: Postgres, folder: Path, module: str = "switchgear_shapes", **environment: str) -> Iterator[World]:
    database = create_database(postgres)
    # Slots are the whole Postgres server's: a name of its own keeps this server out of the way of others.
    stream = {"ELECTRIC_REPLICATION_STREAM_ID": f"world_{uuid.uuid4().hex[:8]}"}
    server = ShapesServer(folder, database.url, module, **stream | environment)
    try:
        database.execute(TABLES)
        yield World(database, server.start())
    finally:
        server.close()
        drop_database(database)


def errors_of(response: httpx.Response) -> Any:
    """The errors of a 400, whose form and headers are checked."""
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["message"] == "Invalid request"
    assert set(body) == {"message", "errors"}
    if response.request.method in ("GET", "HEAD"):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["surrogate-control"] == "no-store"
    else:
        assert response.headers["cache-control"] == "no-cache"
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.headers["access-control-allow-origin"] == "*"
    return body["errors"]
