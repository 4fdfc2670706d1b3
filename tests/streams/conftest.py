"""One server for the tests that need nothing special of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.streams.server import StreamsServer, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamsServer]:
    """Open to all, long-polls of 500 ms, and small checkpoints so that every test meets packs."""
    with serving(tmp_path_factory.mktemp("streams"), "--checkpoint-bytes", "20000") as running:
        yield running


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamsServer]:
    """A server whose long-polls wait until they are woken."""
    with serving(tmp_path_factory.mktemp("patient"), long_poll_ms=60_000) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[StreamsServer]:
    """A server of the test's own, not started."""
    made = StreamsServer(tmp_path / "own")
    yield made
    made.end()


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as made:
        yield made


@pytest.fixture
def url(server: StreamsServer) -> str:
    """The address of a stream that does not exist yet."""
    return server.stream(f"t/{uuid.uuid4().hex}")
