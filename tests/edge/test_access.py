"""Who gets in and what everybody else is told: a real edge on the real API server."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from switchgear_model import kinds
from switchgear_model.credentials import new_service_secret, sha256_hex
from switchgear_wire import Response
from tests.edge.world import EdgeProcess, Pod, Service, World, code, raw, start_pod, until

BOTH = [kinds.SYNC_SOURCE, kinds.STREAMS_SERVICE]


async def served(edge: EdgeProcess, world: World, kind: str) -> tuple[Service, Pod]:
    """A service with a ready pod that the edge knows."""
    pod = await start_pod(lambda r: Response(200, b"x-pod: 1\r\n", b"from the pod"))
    service = world.service(kind)
    world.pod(service, pod.port)
    await asyncio.to_thread(edge.wait_route, service)
    return service, pod


def asks(service: Service, secret: str | None, service_id: str | None = None) -> list[tuple[str, dict[str, str]]]:
    """Every way to present `secret` for a service (or for another id)."""
    service_id = service_id or service.service_id
    bearer = {"Authorization": f"Bearer {secret}"}
    if service.kind == kinds.SYNC_SOURCE:
        base = f"/v1/shape?table=t&source_id={service_id}"
    else:
        base = f"/v1/stream/{service_id}/a?x=1"
    if secret is None:
        return [(base, {})]
    return [(base, bearer), *[(f"{base}&{name}={secret}", {}) for name in ("secret", "source_secret", "token")]]


def shown(answer: httpx.Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """All bytes of an answer but for the time in them."""
    return answer.status_code, [(n, v) for n, v in answer.headers.raw if n != b"date"], answer.content


@pytest.mark.parametrize("kind", BOTH)
async def test_the_secret_opens_in_every_way(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, kind: str
) -> None:
    service, pod = await served(edge, world, kind)
    for url, headers in asks(service, service.secret):
        answer = await client.get(url, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"from the pod"), url
    assert len(pod.seen) == 4
    for seen in pod.seen:
        assert seen.get(b"authorization") == b"Bearer " + service.pod_key.encode()
        assert service.secret.encode() not in repr(seen).encode()


@pytest.mark.parametrize("kind", BOTH)
async def test_wrong_secrets_and_unknown_services_are_the_same_bytes(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, kind: str
) -> None:
    service, pod = await served(edge, world, kind)
    other, _ = await served(edge, world, kind)
    not_running = world.service(kind)
    wrong = new_service_secret(service.service_id, datetime.now(UTC))
    answers = []
    for secret, service_id in [
        (wrong, None),
        (wrong, "svc-no-such-service0"),
        (other.secret, None),
        (service.secret, other.service_id),
        (wrong, not_running.service_id),
        (service.secret, "svc-no-such-service0"),
        ("x", "%00"),
        ("no secret has this hash", None),
        ("\x00" * 32, None),
    ]:
        for url, headers in asks(service, secret.replace("\x00", "%00"), service_id):
            if "%00" not in str(headers):
                answers.append(shown(await client.get(url, headers={"Origin": "https://app.test", **headers})))
    assert all(a == answers[0] for a in answers)
    status, headers_, body = answers[0]
    assert status == 401
    assert body == b'{"code":"INVALID_SECRET","message":"There is no service with this id and this secret."}'
    assert (b"cache-control", b"no-store") in headers_
    assert (b"access-control-allow-origin", b"https://app.test") in headers_
    assert pod.seen == []


@pytest.mark.parametrize("kind", BOTH)
async def test_no_secret(edge: EdgeProcess, world: World, client: httpx.AsyncClient, kind: str) -> None:
    service, _ = await served(edge, world, kind)
    known = [shown(await client.get(url)) for url, _ in asks(service, None)]
    unknown = [shown(await client.get(url)) for url, _ in asks(service, None, "svc-no-such-service0")]
    assert known == unknown
    assert known[0][0] == 401
    assert b'"code":"MISSING_SECRET"' in known[0][2]
    basic = await client.get(asks(service, None)[0][0], headers={"Authorization": "Basic eDp5"})
    assert code(basic) == "MISSING_SECRET"


async def test_a_shape_needs_a_source_id(edge: EdgeProcess, client: httpx.AsyncClient) -> None:
    assert code(await client.get("/v1/shape?table=t")) == "MISSING_SECRET"
    answer = await client.get("/v1/shape?table=t&secret=x")
    assert (answer.status_code, code(answer)) == (400, "MISSING_SOURCE_ID")


@pytest.mark.parametrize("kind", BOTH)
async def test_a_secret_opens_only_its_own_kind_of_path(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, kind: str
) -> None:
    service, pod = await served(edge, world, kind)
    crossed = service.shape() if kind == kinds.STREAMS_SERVICE else f"/v1/stream/{service.service_id}/a"
    answer = await client.get(crossed, headers=service.bearer)
    assert (answer.status_code, code(answer)) == (401, "INVALID_SECRET")
    assert pod.seen == []


@pytest.mark.parametrize("path", ["/v1/shape/", "/v1//shape", "/v1/shape//", "/v1/%73hape", "//v1/shape"])
async def test_no_spelling_of_the_shape_route_is_open(
    edge: EdgeProcess, world: World, client: httpx.AsyncClient, path: str
) -> None:
    service, pod = await served(edge, world, kinds.SYNC_SOURCE)
    request = b"%b %b?table=t&source_id=%b%b HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
    sid = service.service_id.encode()
    for method in (b"GET", b"HEAD", b"POST", b"DELETE"):
        assert b" 401 " in (await raw(edge.port, request % (method, path.encode(), sid, b""))).split(b"\r\n")[0]
        assert (
            b" 401 " in (await raw(edge.port, request % (method, path.encode(), sid, b"&secret=x"))).split(b"\r\n")[0]
        )
    assert pod.seen == []
    got = await raw(edge.port, request % (b"GET", path.encode(), sid, b"&secret=" + service.secret.encode()))
    assert got.endswith(b"from the pod")
    assert pod.seen[0].path == path.encode()


async def test_the_time_of_a_refusal_says_nothing(edge: EdgeProcess, world: World, client: httpx.AsyncClient) -> None:
    """Only that the orders of magnitude are the same: a lookup, a file or a request more would show."""
    service, _ = await served(edge, world, kinds.SYNC_SOURCE)
    urls = [f"/v1/shape?source_id={sid}&secret=wrong" for sid in (service.service_id, "svc-no-such-service0")]
    times: dict[str, list[float]] = {url: [] for url in urls}
    for _ in range(150):
        for url in urls:
            start = time.perf_counter()
            assert (await client.get(url)).status_code == 401
            times[url].append(time.perf_counter() - start)
    known, unknown = (statistics.median(times[url]) for url in urls)
    assert 1 / 3 < known / unknown < 3


@pytest.mark.parametrize("kind", BOTH)
async def test_rotation(edge: EdgeProcess, world: World, client: httpx.AsyncClient, kind: str) -> None:
    service, _ = await served(edge, world, kind)
    new = new_service_secret(service.service_id, datetime.now(UTC))
    url = asks(service, None)[0][0]

    async def opens(secret: str) -> bool:
        return (await client.get(url, headers={"Authorization": f"Bearer {secret}"})).status_code == 200

    def hashes(old_expires: datetime) -> None:
        old = {"sha256": sha256_hex(service.secret), "expiresAt": old_expires.isoformat().replace("+00:00", "Z")}
        world.status(service, secretHashes=[{"sha256": sha256_hex(new)}, old])

    def known() -> set[str]:
        return set((edge.service(service.service_id) or {})["secretHashes"])

    hashes(datetime.now(UTC) + timedelta(hours=1))
    await until(lambda: len(known()) == 2)
    assert await opens(service.secret)
    assert await opens(new)
    hashes(datetime.now(UTC) + timedelta(seconds=1.5))  # it ends by the clock, not by an event
    await until(lambda: known() == {sha256_hex(new)})
    assert not await opens(service.secret)
    assert await opens(new)


async def test_preflight_is_open_and_allows_every_header(edge: EdgeProcess, client: httpx.AsyncClient) -> None:
    wanted = [
        "authorization",
        "content-type",
        "if-none-match",
        "stream-closed",
        "stream-ttl",
        "stream-expires-at",
        "stream-seq",
        "producer-id",
        "producer-epoch",
        "producer-seq",
        "stream-forked-from",
        "stream-fork-offset",
        "stream-fork-sub-offset",
    ]
    for path, methods in {
        "/v1/shape": "GET, POST, HEAD, DELETE, OPTIONS",
        "/v1/%73hape/": "GET, POST, HEAD, DELETE, OPTIONS",
        "/v1/stream/svc-x/a/b": "GET, POST, PUT, DELETE, HEAD, OPTIONS",
        "/v1/streams/svc-x": "GET, POST, PUT, DELETE, HEAD, OPTIONS",
    }.items():
        asked = {"Origin": "https://app.test", "Access-Control-Request-Headers": ",".join(wanted)}
        answer = await client.options(path, headers=asked)
        assert (answer.status_code, answer.content) == (204, b"")
        got = answer.headers
        assert got["access-control-allow-origin"] == "https://app.test"
        assert got["access-control-allow-methods"] == methods
        assert got["access-control-max-age"] == "86400"
        assert set(wanted) <= set(re.split(r", *", got["access-control-allow-headers"]))


async def test_every_answer_of_the_edge_has_cors(edge: EdgeProcess, client: httpx.AsyncClient) -> None:
    exposed = [
        "electric-handle",
        "electric-offset",
        "electric-schema",
        "electric-up-to-date",
        "electric-cursor",
        "electric-has-data",
        "stream-next-offset",
        "stream-up-to-date",
        "stream-closed",
        "stream-cursor",
        "producer-epoch",
        "etag",
        "location",
        "retry-after",
    ]
    for path in ("/", "/v1/health", "/nothing", "/v1/shape", "/v1/shape?secret=x", "/v1/stream/a/b"):
        got = (await client.get(path)).headers
        assert got["access-control-allow-origin"] == "*", path
        assert set(exposed) <= set(re.split(r", *", got["access-control-expose-headers"])), path
    broken = await raw(edge.port, b"NONSENSE\r\n\r\n")
    assert b"access-control-allow-origin: *\r\n" in broken
    assert broken.startswith(b"HTTP/1.1 400 ")


async def test_other_paths(edge: EdgeProcess, client: httpx.AsyncClient) -> None:
    root = await client.get("/")
    assert (root.status_code, root.content) == (200, b"")
    health = await client.get("/v1/health")
    assert (health.status_code, health.json()) == (200, {"status": "active"})
    assert (await client.head("/v1/health")).status_code == 200
    for method, path in (("GET", "/x"), ("POST", "/"), ("GET", "/v1/stream/"), ("OPTIONS", "/x"), ("GET", "/metrics")):
        answer = await client.request(method, path)
        assert answer.status_code == 404, path
        if method != "HEAD":
            assert code(answer) == "NOT_FOUND"
        assert answer.headers["cache-control"] == "no-store"


async def test_the_internal_listener(edge: EdgeProcess, world: World) -> None:
    service, _ = await served(edge, world, kinds.STREAMS_SERVICE)
    assert edge.service(service.service_id) == {
        "serviceId": service.service_id,
        "kind": service.kind,
        "namespace": service.namespace,
        "name": service.name,
        "uid": service.uid,
        "state": "active",
        "podReady": True,
        "secretHashes": [sha256_hex(service.secret)],
    }
    async with httpx.AsyncClient(base_url=edge.internal_url, trust_env=False) as client:
        path = f"/internal/services/{service.service_id}"
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            service.bearer,
            {"Authorization": "Bearer " + service.pod_key},
        ):
            answer = await client.get(path, headers=headers)
            assert (answer.status_code, code(answer)) == (401, "INVALID_KEY")
        assert edge.service("svc-unknown") is None
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/ready")).status_code == 405
    for series in ("requests_total", "connections", "routes", "watch_age_seconds", "upstream_connections"):
        assert f"switchgear_edge_{series}" in metrics
    assert service.service_id not in metrics
