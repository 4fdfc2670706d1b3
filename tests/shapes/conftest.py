"""Fixtures of the sync server's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shapes.server import ShapesServer
from tests.support.postgres import Database


@pytest.fixture
def make_server(tmp_path: Path, database: Database) -> Iterator[Callable[..., ShapesServer]]:
    """A factory for (not started) servers on the test's database, each with a storage directory of its own."""
    made: list[ShapesServer] = []

    def make(folder: str = "server", **environment: str) -> ShapesServer:
        server = ShapesServer(tmp_path / folder, database.url, **environment)
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., ShapesServer]) -> ShapesServer:
    """A running, active server on a fresh database."""
    return make_server().start()
