"""A real `switchgear-streams` process behind a real edge, as a pod of a StreamsService would run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from switchgear_local.processes import free_port
from switchgear_model import kinds
from tests.edge.world import HOST, EdgeProcess, Service, World, code, wait
from tests.streams.test_clients import HERE, conformance
from tests.support import nodejs

PROXY = HERE / "proxy.js"


class StreamsPod:
    """The server with the pod's command line, key by environment."""

    def __init__(self, folder: Path, service: Service, edge: EdgeProcess, port: int, *flags: str) -> None:
        self.folder, self.service, self.edge, self.port, self.flags = folder, service, edge, port, flags
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        root = f"/v1/stream/{self.service.service_id}"
        command = ["--host", HOST, "--port", str(self.port), "--data-dir", str(self.folder / "data")]
        command += ["--root-path", root, "--public-url", self.edge.url, *self.flags]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "switchgear_streams", *command],
                env={**os.environ, "STREAMS_SECRET": self.service.pod_key},
                stdout=log,
                stderr=log,
            )
        wait(self._ready)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", trust_env=False).text

    def end(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)


@pytest.fixture
async def pod(edge: EdgeProcess, world: World, tmp_path: Path) -> AsyncIterator[StreamsPod]:
    service = world.service(kinds.STREAMS_SERVICE)
    made = StreamsPod(tmp_path, service, edge, free_port(), "--long-poll-timeout-ms", "30000")
    try:
        await asyncio.to_thread(made.start)
        world.pod(service, made.port)
        await asyncio.to_thread(edge.wait_route, service)
        yield made
    finally:
        made.end()


async def test_create_append_read_close_delete(pod: StreamsPod, client: httpx.AsyncClient) -> None:
    url = f"/v1/stream/{pod.service.service_id}/room/1"
    headers = pod.service.bearer
    json = {**headers, "Content-Type": "application/json"}
    made = await client.put(url, headers=json)
    assert made.status_code == 201
    assert made.headers["location"] == pod.edge.url + url
    for number in range(3):
        sent = await client.post(url, headers=json, content=b'{"n":%d}' % number)
        assert sent.status_code == 204
    for base in (url, url.replace("/stream/", "/streams/")):
        got = await client.get(base + "?offset=-1", headers=headers)
        assert got.json() == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert got.headers["stream-up-to-date"] == "true"
    again = await client.get(url + "?offset=-1", headers={**headers, "If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await client.head(url, headers=headers)
    assert head.headers["stream-next-offset"] == got.headers["stream-next-offset"]
    assert (await client.request("PATCH", url, headers=headers)).status_code == 405
    assert (await client.delete(url, headers=headers)).status_code == 204
    assert (await client.get(url + "?offset=-1", headers=headers)).status_code == 404


async def test_live_reads(pod: StreamsPod, client: httpx.AsyncClient) -> None:
    url = f"/v1/stream/{pod.service.service_id}/live"
    headers = {**pod.service.bearer, "Content-Type": "text/plain"}
    await client.put(url, headers=headers)
    poll = asyncio.ensure_future(client.get(f"{url}?offset=now&live=long-poll", headers=headers))
    got = b""
    async with client.stream("GET", f"{url}?offset=-1&live=sse", headers=headers) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        await asyncio.to_thread(wait, lambda: "\nstreams_long_polls 1\n" in pod.metrics())
        await client.post(url, headers=headers, content=b"first")
        assert (await poll).content == b"first"
        async with asyncio.timeout(60):
            async for part in events.aiter_raw():
                got += part
                if b"data:first" in got.replace(b"data: ", b"data:"):
                    break


async def test_the_pod_takes_nothing_but_its_key(pod: StreamsPod) -> None:
    url = f"{pod.url}/v1/stream/{pod.service.service_id}/a"
    async with httpx.AsyncClient(trust_env=False) as direct:
        for headers in ({}, pod.service.bearer, {"Authorization": "Bearer x"}):
            assert (await direct.put(url, headers=headers)).status_code == 401
        assert (await direct.put(f"{url}?secret={pod.service.secret}")).status_code == 401
        good = {"Authorization": f"Bearer {pod.service.pod_key}"}
        assert (await direct.put(url, headers=good)).status_code == 201


async def test_a_killed_pod_cuts_its_readers_and_comes_back(pod: StreamsPod, client: httpx.AsyncClient) -> None:
    url = f"/v1/stream/{pod.service.service_id}/a"
    headers = {**pod.service.bearer, "Content-Type": "text/plain"}
    await client.put(url, headers=headers, content=b"kept")
    with pytest.raises(httpx.RemoteProtocolError):
        async with client.stream("GET", f"{url}?offset=-1&live=sse", headers=headers) as events:
            async for part in events.aiter_raw():
                if b"kept" in part:
                    pod.end()
    for method in ("GET", "POST"):
        answer = await client.request(method, url, headers=headers, content=b"x" if method == "POST" else b"")
        assert (answer.status_code, code(answer)) == (503, "SERVICE_UNAVAILABLE")
    await asyncio.to_thread(pod.start)
    assert (await client.get(f"{url}?offset=-1", headers=headers)).content == b"kept"


async def test_a_wakes_token_opens_what_is_its_own_and_nothing_else(pod: StreamsPod, client: httpx.AsyncClient) -> None:
    """The whole life of a pull-wake subscription through the edge; its worker knows only the token."""
    root = f"/v1/stream/{pod.service.service_id}"
    owner = {**pod.service.bearer, "Content-Type": "application/json"}
    await client.put(f"{root}/wakes", headers=owner)
    await client.put(f"{root}/jobs", headers=owner)
    asked = {"type": "pull-wake", "streams": ["jobs"], "wake_stream": "wakes"}
    subscription = f"{root}/__ds/subscriptions/s"
    assert (await client.put(subscription, headers=owner, json=asked)).status_code == 201
    tail = (await client.post(f"{root}/jobs", headers=owner, json={"n": 1})).headers["stream-next-offset"]
    claim = (await client.post(f"{subscription}/claim", headers=owner, json={"worker": "w"})).json()
    worker = {"Authorization": f"Bearer {claim['token']}"}
    ack = {"wake_id": claim["wake_id"], "generation": claim["generation"], "acks": [], "done": False}

    keys = await client.get(f"{root}/__ds/jwks.json")
    assert keys.headers["content-type"] == "application/jwk-set+json"
    assert (await client.get(f"{root}/__ds/jwks.json", headers={"Authorization": "Bearer x"})).json() == keys.json()
    for path, method in (("jobs", "GET"), ("__ds/subscriptions/s", "GET"), ("__ds/subscriptions/s/claim", "POST")):
        answer = await client.request(method, f"{root}/{path}", headers=worker, content=b"{}")
        assert (answer.status_code, code(answer)) == (401, "INVALID_SECRET"), path
    basic = {"Authorization": f"Basic {claim['token']}"}
    for headers in ({}, pod.service.bearer, {"Authorization": "Bearer x.y"}, basic):
        answer = await client.post(f"{subscription}/ack", headers=headers, json=ack)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TOKEN_INVALID"), headers
    answer = await client.post(f"{subscription}/ack?secret={pod.service.secret}", json=ack)
    assert answer.json()["error"]["code"] == "TOKEN_INVALID"

    done = await client.post(f"{subscription}/ack", headers=worker, json=ack)
    assert done.json() == {"ok": True, "next_wake": False}
    ack["acks"] = [{"stream": "jobs", "offset": tail}]
    assert (await client.post(f"{subscription}/ack", headers=worker, json=ack)).status_code == 200
    shown = (await client.get(subscription, headers=owner)).json()
    assert shown["streams"][0]["acked_offset"] == tail
    assert (await client.post(f"{subscription}/release", headers=worker, json=ack)).status_code == 204
    assert (await client.post(f"{subscription}/ack", headers=worker, json=ack)).json()["error"]["code"] == "FENCED"

    other = await client.post("/v1/stream/svc-nobody/__ds/subscriptions/s/ack", headers=worker, json=ack)
    assert (other.status_code, code(other)) == (401, "INVALID_SECRET")
    assert code(await client.get("/v1/stream/svc-nobody/__ds/jwks.json")) == "MISSING_SECRET"


async def test_documents(pod: StreamsPod, client: httpx.AsyncClient) -> None:
    url = f"/v1/yjs/{pod.service.service_id}/docs/project/chapter-1"
    headers = pod.service.bearer
    assert (await client.put(url)).json()["code"] == "MISSING_SECRET"
    assert (await client.put(url, headers=headers)).headers["location"] == pod.edge.url + url
    assert (await client.post(url, headers=headers, content=b"\x02\x00\x00")).status_code == 204
    found = await client.get(f"{url}?offset=snapshot&secret={pod.service.secret}")
    assert (found.status_code, found.headers["location"]) == (307, f"{url}?offset=-1")
    assert (await client.get(f"{url}?offset=-1", headers=headers)).content == b"\x02\x00\x00"
    missing = await client.get(url + "x", headers=headers)
    assert missing.json()["error"]["code"] == "DOCUMENT_NOT_FOUND"
    assert (await client.post(f"{url}?awareness=default", headers=headers, content=b"\x01\x00")).status_code == 204


@pytest.mark.node
@pytest.mark.timeout(900)
async def test_conformance_through_the_edge(edge: EdgeProcess, world: World, tmp_path: Path) -> None:
    """All of the suite with a service's secret, which a proxy adds where the client brings no token of its own."""
    service = world.service(kinds.STREAMS_SERVICE)
    port = free_port()
    shown = f"http://{HOST}:{port}"
    flags = ("--public-root-url", f"{shown}/v1/stream", "--allow-loopback-webhooks", "--checkpoint-bytes", "100000")
    made = StreamsPod(tmp_path, service, edge, free_port(), *flags, "--long-poll-timeout-ms", "500")
    proxy = await asyncio.to_thread(
        nodejs.start, PROXY, str(port), HOST, str(edge.port), service.service_id, service.secret
    )
    try:
        await asyncio.to_thread(made.start)
        world.pod(service, made.port)
        await asyncio.to_thread(edge.wait_route, service)
        assert proxy.stdout is not None
        assert await asyncio.to_thread(proxy.stdout.readline) == "ready\n"
        await asyncio.to_thread(conformance, shown, f"edge-{tmp_path.name}")
        log = (tmp_path / "log").read_text()
        assert "Traceback" not in log, log
    finally:
        proxy.kill()
        proxy.wait()
        made.end()
