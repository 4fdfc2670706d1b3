"""Snapshots whose rows come from Postgres piece by piece are the same as those that come at once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.shapes.server import Client, ShapesServer
from tests.support.postgres import Database

pytestmark = pytest.mark.pg

PIECE_BYTES = 4096
PAUSE_SECONDS = 0.1
"""Longer than the server waits for more before it passes on what it has."""


@contextlib.contextmanager
def in_pieces(url: str) -> Iterator[str]:
    """The database's URL through a relay from which large answers come slowly."""
    parts = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = [listener]

    def copy(source: socket.socket, target: socket.socket, pause: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                target.sendall(data)
                if len(data) == PIECE_BYTES:
                    time.sleep(pause)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((parts.hostname, parts.port))
                opened.extend((client, server))
                for source, target, pause in ((client, server, 0.0), (server, client, PAUSE_SECONDS)):
                    threading.Thread(target=copy, args=(source, target, pause), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    address = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield urlunsplit(parts._replace(netloc=address))
    finally:
        for end in opened:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("rows", [60, 400], ids=["small", "large"])
def test_rows_that_come_piece_by_piece(database: Database, make_server: Callable[..., ShapesServer], rows: int) -> None:
    """Such a small snapshot had its last line twice, the second in a chunk of its own."""
    database.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, t text);"
        f"INSERT INTO wide SELECT g, repeat('x', 400) FROM generate_series(1, {rows}) g"
    )
    with in_pieces(database.url) as url:
        server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="10000")
        server.database_url = url
        server.start()
        client = Client(server, table="wide")
        client.sync()
        assert ends(client) == 1
        assert len(client.rows) == rows
        first = server.get(table="wide", offset="-1", handle=str(client.handle)).content
        database.execute("UPDATE wide SET t = 'y' WHERE id = 1")
        server.wait(lambda: bool(client.sync() or client.rows['"public"."wide"/"1"']["t"] == "y"), 60, "the update")
        server.kill()
        server.start()
        again = Client(server, table="wide")
        again.sync()
        assert again.handle == client.handle
        assert ends(again) == 1
        assert again.rows == client.rows
        assert json.loads(first) == again.messages[: len(json.loads(first))]


def ends(client: Client) -> int:
    """How often the client was told that the snapshot is whole."""
    return sum(message["headers"].get("control") == "snapshot-end" for message in client.messages)
