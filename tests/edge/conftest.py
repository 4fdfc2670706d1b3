"""One edge process and one world for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from switchgear_model import labels
from tests.edge.world import EdgeProcess, World
from tests.support.kube import Kube


@pytest.fixture(scope="session")
def edge(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """With the rights of the edge's own ServiceAccount only."""
    folder: Path = tmp_path_factory.mktemp("edge")
    running = EdgeProcess(folder, kube.account_kubeconfig(labels.EDGE_ACCOUNT))
    try:
        running.wait_ready()
        yield running
    finally:
        status = running.stop()
    assert status == 0, running.log
    assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="session")
def world(kube: Kube) -> Iterator[World]:
    made = World(kube)
    yield made
    made.close()


@pytest.fixture
async def client(edge: EdgeProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=edge.url, trust_env=False, timeout=60) as made:
        yield made
