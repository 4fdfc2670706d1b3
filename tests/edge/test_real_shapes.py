"""A real `switchgear-shapes` process on a real Postgres behind a real edge, as a pod of a SyncSource would run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from switchgear_local.processes import free_port
from switchgear_model import ids
from tests.edge.world import HOST, EdgeProcess, Service, World, wait
from tests.support.postgres import Database

pytestmark = pytest.mark.pg


class ShapesPod:
    """The server with the pod's environment."""

    def __init__(self, folder: Path, service: Service, database: Database) -> None:
        self.port = free_port()
        self.service = service
        self._log = folder / "log"
        environment = {
            "SWITCHGEAR_HOST": HOST,
            "ELECTRIC_PORT": str(self.port),
            "DATABASE_URL": database.url,
            "ELECTRIC_SECRET": service.pod_key,
            "ELECTRIC_REPLICATION_STREAM_ID": ids.stream_id(service.service_id),
            "ELECTRIC_STORAGE_DIR": str(folder / "shapes"),
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "switchgear_shapes"], env={**os.environ, **environment}, stdout=log, stderr=log
            )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
async def pod(edge: EdgeProcess, world: World, tmp_path: Path, database: Database) -> AsyncIterator[ShapesPod]:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
    database.execute("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 100) n")
    service = world.service()
    made = ShapesPod(tmp_path, service, database)
    try:
        await asyncio.to_thread(wait, made.ready)
        world.pod(service, made.port)
        await asyncio.to_thread(edge.wait_route, service)
        yield made
    finally:
        made.process.terminate()
        made.process.wait(60)


async def follow(client: httpx.AsyncClient, service: Service, first: httpx.Response, **more: str) -> httpx.Response:
    query = {"offset": first.headers["electric-offset"], "handle": first.headers["electric-handle"], **more}
    return await client.get(service.shape("table=items&" + "&".join(f"{k}={v}" for k, v in query.items())))


async def test_a_shape_through_the_edge(pod: ShapesPod, client: httpx.AsyncClient, database: Database) -> None:
    service = pod.service
    first = await client.get(service.shape("table=items&offset=-1"), headers={"Origin": "https://app.test"})
    assert first.status_code == 200, first.text
    assert first.headers["access-control-allow-origin"] == "https://app.test"
    assert len(first.headers.get_list("access-control-allow-origin")) == 1
    rows = [m for m in first.json() if "value" in m]
    page = first
    while "electric-up-to-date" not in page.headers:
        page = await follow(client, service, page)
        rows += [m for m in page.json() if "value" in m]
    assert len(rows) == 100
    live = asyncio.ensure_future(follow(client, service, page, live="true"))
    await asyncio.sleep(0.3)
    database.execute("INSERT INTO items VALUES (101, 'new')")
    changed = await live
    assert [m["value"]["id"] for m in changed.json() if "value" in m] == ["101"]
    spelled = await client.get(service.shape("table=items&offset=-1").replace("/v1/shape", "/v1//%73hape/"))
    assert spelled.status_code == 200
    assert spelled.headers["electric-handle"] == first.headers["electric-handle"]
    head = await client.head(service.shape("table=items&offset=-1"))
    assert head.headers["electric-handle"] == first.headers["electric-handle"]
    wrong = await client.get(service.shape("table=nowhere&offset=-1"))
    assert wrong.status_code == 400
    assert service.secret not in pod.log


async def test_the_pod_takes_nothing_but_its_key(pod: ShapesPod) -> None:
    async with httpx.AsyncClient(base_url=pod.url, trust_env=False) as direct:
        url = "/v1/shape?table=items&offset=-1"
        for headers in ({}, pod.service.bearer, {"Authorization": "Bearer x"}):
            assert (await direct.get(url, headers=headers)).status_code == 401
        assert (await direct.get(pod.service.shape())).status_code == 401
        good = {"Authorization": f"Bearer {pod.service.pod_key}"}
        assert (await direct.get(url, headers=good)).status_code == 200
