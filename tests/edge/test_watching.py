"""The edge's routes follow the API server and outlive it: real processes, and a line to the server that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from switchgear_edge import kube as edge_kube
from switchgear_edge.routes import RouteTable
from switchgear_edge.watch import Collection, Watcher, collections
from switchgear_local.processes import free_port
from switchgear_model import kinds, labels
from switchgear_wire import Request, Response, StreamResponse
from tests.edge.test_forwarding import EVENTS, served
from tests.edge.world import HOST, REGION_KEY, EdgeProcess, Service, World, code, start_pod, until
from tests.support.kube import Kube


class Line:
    """A TCP relay to the API server that can be cut and restored; the server itself stays up for the other tests."""

    def __init__(self, kube: Kube, folder: Path, account: str = labels.EDGE_ACCOUNT) -> None:
        self._target = int(re.search(r":(\d+)", kube.server.partition("//")[2])[1])  # type: ignore[index]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = free_port()  # none that another server or a connection gets while it is cut
        self._source = kube.account_kubeconfig(account)
        self.kubeconfig = folder / "kubeconfig.yaml"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self._port)
        config = yaml.safe_load(self._source.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{HOST}:{self._port}"
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection(HOST, self._target)
        self._writers |= {writer, there}
        await asyncio.gather(self._pump(reader, there), self._pump(there_reader, writer))
        self._writers -= {writer, there}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def line(kube: Kube, tmp_path: Path) -> AsyncIterator[Line]:
    made = Line(kube, tmp_path)
    await made.open()
    yield made
    made.cut()


@pytest.fixture
def own_edge(line: Line, tmp_path: Path) -> Iterator[EdgeProcess]:
    """An edge of this test's own behind the line."""
    running = EdgeProcess(tmp_path, line.kubeconfig, "--drain-seconds", "60")
    try:
        running.wait_listening()
        yield running
    finally:
        running.stop(signal.SIGKILL)


async def get(edge: EdgeProcess, service: Service, **options: float) -> httpx.Response:
    async with httpx.AsyncClient(base_url=edge.url, trust_env=False, timeout=60) as client:
        if service.kind == kinds.SYNC_SOURCE:
            return await client.get(service.shape(), **options)  # type: ignore[arg-type]
        return await client.get(f"/v1/stream/{service.service_id}/a", headers=service.bearer, **options)  # type: ignore[arg-type]


def closed(answer: httpx.Response) -> bool:
    return (answer.status_code, code(answer), bool(answer.headers.get("retry-after"))) == (
        503,
        "SERVICE_UNAVAILABLE",
        True,
    )


async def test_a_service_without_a_ready_pod(edge: EdgeProcess, world: World) -> None:
    pod = await start_pod()
    service = world.service()
    await until(lambda: edge.service(service.service_id) is not None)
    assert closed(await get(edge, service))
    name = world.pod(service, pod.port, ready=False)
    assert closed(await get(edge, service))
    world.pod_status(name, ready=True)
    await asyncio.to_thread(edge.wait_route, service)
    assert (await get(edge, service)).status_code == 200
    world.pod_status(name, ready=False)
    await asyncio.to_thread(edge.wait_route, service, ready=False)
    assert closed(await get(edge, service))
    world.pod_status(name, ready=True)
    await asyncio.to_thread(edge.wait_route, service)
    world.delete_pod(name)
    await asyncio.to_thread(edge.wait_route, service, ready=False)
    assert closed(await get(edge, service))


async def test_a_pod_that_died_without_a_word(edge: EdgeProcess, world: World) -> None:
    port = free_port()  # none that another server or a connection gets while it is dead
    pod = await start_pod(port=port)
    service = world.service(kinds.STREAMS_SERVICE)
    world.pod(service, port)
    await asyncio.to_thread(edge.wait_route, service)
    assert pod.server is not None
    pod.server.close()
    answer = await get(edge, service)
    assert closed(answer)
    async with httpx.AsyncClient(base_url=edge.url, trust_env=False) as client:
        # Refused, so certainly without effect: the client may send it again.
        url = f"/v1/stream/{service.service_id}/a"
        assert closed(await client.post(url, headers=service.bearer, content=b"x"))
    await start_pod(port=port)
    assert (await get(edge, service)).status_code == 200
    assert service.secret not in edge.log
    assert service.pod_key not in edge.log


@pytest.mark.parametrize("state", ["suspended", "deleting"])
async def test_suspended_and_deleting_services(edge: EdgeProcess, world: World, state: str) -> None:
    service, pod = await served(edge, world)
    world.status(service, state=state)
    await until(lambda: (edge.service(service.service_id) or {})["state"] == state)
    assert closed(await get(edge, service))
    async with httpx.AsyncClient(base_url=edge.url, trust_env=False) as client:
        answer = await client.get(f"/v1/stream/{service.service_id}/a?token=wrong")
        assert code(answer) == "INVALID_SECRET"  # only who has the secret learns of the state
    world.status(service, state="degraded")
    await until(lambda: (edge.service(service.service_id) or {})["state"] == "degraded")
    assert (await get(edge, service)).status_code == 200
    assert len(pod.seen) == 1


async def test_a_service_held_by_a_finalizer_while_it_is_deleted(edge: EdgeProcess, world: World) -> None:
    service, _ = await served(edge, world)
    world.patch(service, {"metadata": {"finalizers": [labels.FINALIZER]}})
    world.delete(service)
    async with asyncio.timeout(60):
        while not closed_or_ok(answer := await get(edge, service)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert closed(answer)
    world.patch(service, {"metadata": {"finalizers": []}})
    await until(lambda: edge.service(service.service_id) is None)
    assert code(await get(edge, service)) == "INVALID_SECRET"


def closed_or_ok(answer: httpx.Response) -> bool:
    assert answer.status_code in (200, 503)
    return answer.status_code == 503


async def test_a_pod_of_another_namespace_gets_nothing(edge: EdgeProcess, world: World, kube: Kube) -> None:
    thief, honest = await start_pod(), await start_pod()
    service = world.service()
    world.pod(service, thief.port, namespace=kube.new_namespace("thief"))
    await until(lambda: edge.service(service.service_id) is not None)
    world.pod(service, honest.port)
    await asyncio.to_thread(edge.wait_route, service)
    assert (await get(edge, service)).status_code == 200
    assert (len(thief.seen), len(honest.seen)) == (0, 1)


async def test_the_oldest_object_holds_an_id(edge: EdgeProcess, world: World) -> None:
    first, pod = await served(edge, world)
    await asyncio.sleep(1.1)  # creationTimestamp counts seconds
    second = world.service(kinds.STREAMS_SERVICE, service_id=first.service_id)
    marker = world.service()
    await until(lambda: edge.service(marker.service_id) is not None)
    await asyncio.sleep(0.2)
    assert (edge.service(first.service_id) or {})["name"] == first.name
    assert code(await get(edge, second)) == "INVALID_SECRET"
    assert (await get(edge, first)).status_code == 200
    world.delete(first)
    await until(lambda: (edge.service(first.service_id) or {}).get("name") == second.name)
    assert code(await get(edge, first)) == "INVALID_SECRET"
    assert closed(await get(edge, second))  # the old holder's pod is not the new one's
    assert len(pod.seen) == 1


async def test_routes_outlive_the_api_server(own_edge: EdgeProcess, line: Line, world: World) -> None:
    await asyncio.to_thread(own_edge.wait_ready)
    stays, _ = await served(own_edge, world)
    goes, _ = await served(own_edge, world, kinds.SYNC_SOURCE)
    line.cut()
    await until(lambda: own_edge.log.count("routes stay") >= 3)
    for _ in range(3):
        assert (await get(own_edge, stays)).status_code == 200
        assert (await get(own_edge, goes)).status_code == 200
    assert own_edge.ready()
    world.delete(goes)
    pod = await start_pod()
    new = world.service()
    world.pod(new, pod.port)
    await asyncio.sleep(1)
    await line.open()
    await asyncio.to_thread(own_edge.wait_route, new)
    await until(lambda: own_edge.service(goes.service_id) is None)
    assert (await get(own_edge, stays)).status_code == 200
    assert (await get(own_edge, new)).status_code == 200


async def test_a_short_break_goes_on_from_where_it_was(own_edge: EdgeProcess, line: Line, world: World) -> None:
    await asyncio.to_thread(own_edge.wait_ready)
    service, _ = await served(own_edge, world)
    line.cut()
    world.status(service, state="suspended")
    await line.open()
    await until(lambda: (own_edge.service(service.service_id) or {})["state"] == "suspended")


async def test_before_the_first_list_everything_waits(line: Line, world: World, tmp_path: Path) -> None:
    line.cut()
    running = EdgeProcess(tmp_path, line.kubeconfig)
    try:
        await asyncio.to_thread(running.wait_listening)
        assert not running.ready()
        service = world.service()
        answer = await get(running, service)
        assert (answer.status_code, code(answer), answer.headers["retry-after"]) == (503, "STARTING", "1")
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            assert (await client.get("/v1/health")).status_code == 503
            assert (await client.options("/v1/shape")).status_code == 204
            assert (await client.get(f"{running.internal_url}/live")).status_code == 200
        await line.open()
        await until(running.ready)
        assert closed(await get(running, service))
    finally:
        assert running.stop() == 0


async def test_stopping_ends_live_requests_and_finishes_the_others(own_edge: EdgeProcess, world: World) -> None:
    await asyncio.to_thread(own_edge.wait_ready)
    service, pod = await served(own_edge, world)
    url = f"/v1/stream/{service.service_id}/a"

    async def answer(request: Request) -> Response | StreamResponse:
        if b"sse" in request.query:
            return StreamResponse(200, EVENTS, lambda writer: writer.write(b"data: 1\n\n"))
        await asyncio.sleep(30 if b"live" in request.query else 1.5)
        return Response(200, b"", b"late")

    pod.answer = answer
    async with httpx.AsyncClient(base_url=own_edge.url, trust_env=False, timeout=60) as client:
        begun = asyncio.Event()

        async def events() -> bytes:
            got = b""
            async with client.stream("GET", url + "?live=sse", headers=service.bearer) as answer:
                async for part in answer.aiter_raw():
                    got += part
                    begun.set()
            return got

        waiting = [
            asyncio.ensure_future(events()),
            asyncio.ensure_future(client.get(url + "?live=long-poll", headers=service.bearer)),
            asyncio.ensure_future(client.get(url, headers=service.bearer)),
        ]
        await until(lambda: len(pod.seen) == 3)
        await asyncio.wait_for(begun.wait(), 60)
        own_edge.process.send_signal(signal.SIGTERM)
        event_bytes, poll, slow = await asyncio.gather(*waiting)
        assert event_bytes == b"data: 1\n\n"  # ended properly, so that the reader comes back at once
        assert (poll.status_code, code(poll)) == (503, "EDGE_STOPPING")
        assert (slow.status_code, slow.content) == (200, b"late")
    assert await asyncio.to_thread(own_edge.process.wait, 60) == 0


async def test_too_much_at_once_is_refused(kube: Kube, world: World, tmp_path: Path) -> None:
    flags = ("--max-service-requests", "2", "--max-connections", "3")
    running = EdgeProcess(tmp_path, kube.account_kubeconfig(labels.EDGE_ACCOUNT), *flags)
    try:
        await asyncio.to_thread(running.wait_ready)
        service, pod = await served(running, world)
        gate = asyncio.Event()

        async def answer(request: Request) -> Response:
            await gate.wait()
            return Response(200)

        pod.answer = answer
        waiting = [asyncio.ensure_future(get(running, service)) for _ in range(2)]
        await until(lambda: len(pod.seen) == 2)
        third = await get(running, service)
        assert (third.status_code, code(third)) == (503, "TOO_MANY_REQUESTS_IN_FLIGHT")
        await until(lambda: "switchgear_edge_connections 2\n" in running.metrics())  # the third one has left
        _, writer = await asyncio.open_connection(HOST, running.port)
        await until(lambda: "switchgear_edge_connections 3\n" in running.metrics())
        fourth = await get(running, service)
        assert (fourth.status_code, code(fourth)) == (503, "TOO_MANY_CONNECTIONS")
        assert third.headers["retry-after"] == fourth.headers["retry-after"] == "1"
        assert fourth.headers["access-control-allow-origin"] == "*"
        writer.close()
        gate.set()
        assert [a.status_code for a in await asyncio.gather(*waiting)] == [200, 200]
        assert (await get(running, service)).status_code == 200
    finally:
        running.stop(signal.SIGKILL)


async def test_a_wrong_configuration_is_told_and_ends(tmp_path: Path, kube: Kube) -> None:
    running = EdgeProcess(tmp_path, kube.admin_kubeconfig, "--head-timeout", "0", "--log-level", "loud")
    assert await asyncio.to_thread(running.process.wait, 90) == 2
    assert running.log.count("switchgear-edge: ") == 2


# -- one watcher alone, in this process, on the real API server --


@contextlib.asynccontextmanager
async def watching(kube: Kube, collection: Collection) -> AsyncIterator[Watcher]:
    watcher = Watcher(collection, partial(edge_kube.load, {"KUBECONFIG": str(kube.admin_kubeconfig)}))
    yield watcher


async def test_a_forgotten_version_is_listed_again(kube: Kube, world: World) -> None:
    table = RouteTable(lambda service_id: REGION_KEY)
    service = world.service(kinds.STREAMS_SERVICE)
    collection = next(c for c in collections(table) if c.name == "streamsservices")
    async with watching(kube, collection) as watcher:
        watcher._version = "1"  # the server has long forgotten it: 410
        task = asyncio.ensure_future(watcher.run())
        await until(lambda: table.find(service.service_id) is not None)
        assert watcher.failures == 1
        world.delete(service)
        await until(lambda: table.find(service.service_id) is None)
        task.cancel()


async def test_a_kind_that_comes_later(kube: Kube) -> None:
    seen: dict[tuple[str, str], str] = {}

    def apply(raw: object) -> None:
        metadata = raw["metadata"]  # type: ignore[index]
        seen[metadata.get("namespace", ""), metadata["name"]] = "there"

    def delete(key: tuple[str, str]) -> None:
        seen.pop(key, None)

    collection = Collection("things", "/apis/edge.test/v1/things", {}, apply, delete, lambda: list(seen))
    async with watching(kube, collection) as watcher:
        task = asyncio.ensure_future(watcher.run())
        await until(lambda: watcher.failures >= 2)
        assert not watcher.synced.is_set()
        with kube.api() as api:
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            names = {"plural": "things", "kind": "Thing"}
            spec = {"group": "edge.test", "scope": "Namespaced", "names": names, "versions": [version]}
            definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
            api.apply({**definition, "metadata": {"name": "things.edge.test"}, "spec": spec})
        async with asyncio.timeout(60):
            await watcher.synced.wait()
        with kube.api() as api:
            thing = {"apiVersion": "edge.test/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "default"}}
            api.create(thing)
            await until(lambda: ("default", "a") in seen)
            api.delete("edge.test/v1", "Thing", "a", "default")
            await until(lambda: not seen)
        task.cancel()


async def test_lists_come_in_pages(kube: Kube, world: World) -> None:
    with kube.api() as api:
        for number in range(12):
            data = {"metadata": {"name": f"page-{number}", "namespace": world.namespace}}
            api.create({"apiVersion": "v1", "kind": "ConfigMap", **data})
    reader = edge_kube.KubeReader(edge_kube.load({"KUBECONFIG": str(kube.admin_kubeconfig)}))
    path = f"/api/v1/namespaces/{world.namespace}/configmaps"
    items, version = await reader.list(path, {}, page_size=5)
    assert len([i for i in items if i["metadata"]["name"].startswith("page-")]) == 12
    assert version
    reader.close()
