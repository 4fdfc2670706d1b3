"""Fixtures of the demo's tests: one version of Postgres is enough, the newest that is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.browser import browser, page
from tests.demo.world import World
from tests.support.postgres import VERSIONS, PostgresServers, create_database, drop_database

__all__ = ["browser", "page", "worlds"]

MakeWorld = Callable[..., World]


@pytest.fixture
def worlds(postgres_servers: PostgresServers, tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes a world with nothing started; everything is stopped and dropped afterwards."""
    database = create_database(postgres_servers.get(max(VERSIONS)))
    made: list[World] = []

    def make(interval: float = 0.3) -> World:
        made.append(World(tmp_path, database.url, interval))
        return made[-1]

    yield make
    for world in made:
        world.stop()
    drop_database(database)
    for world in made:
        for name in ("demo", "shapes", "streams"):
            log = world.of(name).log
            assert world.sync_secret not in log, f"the log of {name} holds the sync secret"
            assert world.streams_secret not in log, f"the log of {name} holds the streams secret"
            assert "Traceback" not in log or name != "demo", log[-4000:]
