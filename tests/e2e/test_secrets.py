"""Who gets in: every kind of credential against both services, and the pods spoken to directly."""

from __future__ import annotations

import httpx

from tests.e2e.conftest import Place
from tests.support.region import Region, wait_until

UNKNOWN = "svc-nobody-nowhere-0000000000"


def comparable(response: httpx.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """All that a caller can see but for the clock and the request's own id."""
    return (
        response.status_code,
        response.content,
        [(k, v) for k, v in response.headers.items() if k not in ("date", "x-request-id")],
    )


def test_only_the_services_own_secret_opens_it(region: Region, running: Place) -> None:
    namespace = running.namespace
    sync = region.endpoint(running.sync[0], namespace, running.sync[1])
    streams = region.endpoint(running.streams[0], namespace, running.streams[1])
    shape = {"table": "items", "offset": "-1"}

    def get_shape(**params: str) -> httpx.Response:
        return httpx.get(sync.url, params=shape | params, timeout=30)

    def put_stream(service_id: str, secret: str | None) -> httpx.Response:
        url = streams.url.replace(streams.service_id, service_id) + "/chat"
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {secret}"} if secret else {})
        return httpx.put(url, headers=headers, timeout=30)

    for name in ("secret", "source_secret", "token"):
        good = get_shape(source_id=sync.service_id, **{name: sync.secret})
        assert good.status_code == 200, good.text
    assert put_stream(streams.service_id, streams.secret).status_code == 201

    missing = [get_shape(source_id=sync.service_id), put_stream(streams.service_id, None)]
    assert [(r.status_code, r.json()["code"]) for r in missing] == [(401, "MISSING_SECRET")] * 2
    wrong_shapes = [
        get_shape(source_id=sync.service_id, secret="wrong"),
        get_shape(source_id=UNKNOWN, secret="wrong"),
        get_shape(source_id=UNKNOWN, secret=sync.secret),
        get_shape(source_id=sync.service_id, secret=streams.secret),
        get_shape(source_id=streams.service_id, secret=sync.secret),
    ]
    wrong_streams = [
        put_stream(streams.service_id, "wrong"),
        put_stream(UNKNOWN, "wrong"),
        put_stream(UNKNOWN, streams.secret),
        put_stream(streams.service_id, sync.secret),
    ]
    for group in (wrong_shapes, wrong_streams):
        assert {(r.status_code, r.json()["code"]) for r in group} == {(401, "INVALID_SECRET")}
        assert len({repr(comparable(r)) for r in group}) == 1, [comparable(r) for r in group]
        assert group[0].headers["cache-control"] == "no-store"
        assert group[0].headers["access-control-allow-origin"] == "*"

    for service_id in (sync.service_id, streams.service_id):
        pod = region.get("pod", namespace, f"sg-{service_id}-0")
        address = pod["status"]["podIP"]
        port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
        kind = "shape?table=items&offset=-1" if service_id == sync.service_id else f"stream/{service_id}/chat"
        for secret in (None, "wrong", sync.secret, streams.secret):
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            direct = httpx.get(f"http://{address}:{port}/v1/{kind}", headers=headers, timeout=30)
            assert direct.status_code == 401, f"the pod of {service_id} answered {direct.status_code}"


def test_a_services_secret_survives_the_operators_reconciling(region: Region, running: Place) -> None:
    kind, name = running.streams
    before = region.endpoint(kind, running.namespace, name)
    pod = f"sg-{before.service_id}-0"
    uid = region.get("pod", running.namespace, pod)["metadata"]["uid"]
    region.kubectl("annotate", kind, name, "-n", running.namespace, "touched=yes")
    region.kubectl("delete", "pod", pod, "-n", running.namespace, "--wait=false")
    wait_until(lambda: region.get("pod", running.namespace, pod)["metadata"]["uid"] != uid, 60, "the pod is made again")
    region.wait_active(running.namespace, running.streams)
    assert region.endpoint(kind, running.namespace, name) == before
