"""Several services in one process: each has its secret, streams, subscriptions, limits and usage, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from switchgear_streams.settings import SettingsError, load
from tests.streams.server import JSON, TEXT, StreamsServer


@pytest.fixture
def house(tmp_path: Path) -> StreamsServer:
    (tmp_path / "a.secret").write_text("alpha\n")
    (tmp_path / "b.secret").write_text("beta\n")
    (tmp_path / "c.secret").write_text("gamma\n")
    services = [
        {"id": "svc-a", "secret_file": "a.secret"},
        {"id": "svc-b", "secret_file": "b.secret", "max_streams": 2, "max_bytes": 100, "retention_bytes": 1000},
        {"id": "svc-c", "secret_file": "c.secret", "host": "c.example.com"},
        {"id": "svc-open", "insecure": True},
    ]
    (tmp_path / "services.json").write_text(json.dumps({"services": services}))
    return StreamsServer(tmp_path, "--services", str(tmp_path / "services.json"), flags_only=True)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_services_are_apart(house: StreamsServer, client: httpx.Client) -> None:
    a, b, c = bearer("alpha"), bearer("beta"), bearer("gamma") | {"host": "c.example.com:80"}
    try:
        house.start()
        one, other = house.stream("svc-a/s"), house.stream("svc-b/s")
        assert client.put(one, headers=a | TEXT, content=b"of a").status_code == 201
        assert client.head(other, headers=b).status_code == 404
        made = client.put(other, headers=b | TEXT, content=b"of b")
        assert made.headers["location"].endswith("/v1/stream/svc-b/s")
        assert client.put(house.stream("s"), headers=c | TEXT, content=b"of c").status_code == 201
        assert client.get(house.stream("s"), headers=c | {"host": "C.example.com."}).content == b"of c"
        assert client.put(house.stream("svc-open/s"), headers=TEXT, content=b"of all").status_code == 201

        # The same answer for a wrong secret, another's secret, no secret, and a service that is not there.
        wrong = [client.get(one, headers=h) for h in (b, bearer("gamma"), bearer("x"), {})]
        wrong += [
            client.get(house.stream(path), headers=a) for path in ("svc-b/s", "svc-x/s", "svc-c/s", "svc-ab/s", "")
        ]
        wrong += [client.get(f"{house.url}/usage/{name}", headers=a) for name in ("svc-b", "svc-x")]
        assert {(answer.status_code, answer.content) for answer in wrong} == {(401, wrong[0].content)}

        for source in ("/v1/stream/svc-b/s", "/v1/stream/s"):
            fork = client.put(house.stream("svc-a/f"), headers=a | {"stream-forked-from": source})
            assert (fork.status_code, fork.json()["code"]) == (400, "INVALID_FORK_SOURCE")
        fork = client.put(house.stream("svc-a/f"), headers=a | {"stream-forked-from": "/v1/stream/svc-a/s"})
        assert fork.status_code == 201
        climb = client.put(house.stream("svc-a/g"), headers=a | {"stream-forked-from": "/v1/stream/svc-a/../svc-b/s"})
        assert climb.status_code == 400

        big = client.post(other, headers=b | TEXT, content=bytes(97))
        assert (big.status_code, big.json()["code"]) == (507, "QUOTA_EXCEEDED")
        assert client.put(house.stream("svc-b/2"), headers=b).status_code == 201
        assert client.put(house.stream("svc-b/3"), headers=b).json()["code"] == "TOO_MANY_STREAMS"

        wake = {"type": "pull-wake", "pattern": "**", "wake_stream": "wake"}
        assert client.put(house.stream("svc-a/wake"), headers=a | JSON).status_code == 201
        assert client.put(house.stream("svc-a/__ds/subscriptions/x"), headers=a, json=wake).status_code == 201
        assert client.get(house.stream("svc-b/__ds/subscriptions/x"), headers=b).status_code == 404
        shown = client.get(house.stream("svc-a/__ds/subscriptions/x"), headers=a).json()
        assert {stream["path"] for stream in shown["streams"]} == {"s", "f"}

        for _ in range(2):
            house.kill()
            house.start()
            assert client.get(house.stream("svc-a/s"), headers=a).content == b"of a"
            assert client.get(house.stream("svc-b/s"), headers=b).content == b"of b"
            assert client.get(house.stream("s"), headers=c).content == b"of c"
            assert client.get(house.stream("svc-open/s")).content == b"of all"
            assert client.get(house.stream("svc-a/__ds/subscriptions/x"), headers=a).status_code == 200
            usage = {
                name: client.get(f"{house.url}/usage/{name}", headers=h).json()["written_bytes"]
                for name, h in (("svc-b", b), ("svc-open", {}))
            }
            assert usage == {"svc-b": 4, "svc-open": 6}
            assert client.get(f"{house.url}/usage", headers=c).json()["written_bytes"] == 4
        assert house.metric('streams_usage_written_bytes_total{service="svc-open"}') == 6
        text = client.get(f"{house.url}/metrics").text
        assert text.count("# TYPE streams_usage_written_bytes_total") == 1
        assert not any(secret in text for secret in ("alpha", "beta", "gamma"))
        assert client.get(f"{house.url}/health").status_code == 200
        assert house.stop() == 0
        assert "Traceback" not in house.log
    finally:
        house.end()


def test_a_bad_file_says_everything_that_is_wrong(tmp_path: Path) -> None:
    services = [
        {"id": "a", "insecure": True, "host": "X"},
        {"id": "a", "secret_file": "missing"},
        {"id": "../b", "insecure": True},
        {"id": "c"},
        {"id": "d", "insecure": True, "max_bytes": 0, "color": "red"},
    ]
    file = tmp_path / "services.json"
    file.write_text(json.dumps({"services": services}))
    with pytest.raises(SettingsError) as caught:
        load(["--services", str(file), "--data-dir", str(tmp_path), "--insecure"], {})
    told = "\n".join(caught.value.problems)
    for part in ("same id", "host must be", "cannot be read", "service 3 needs an id", "c: give a secret_file"):
        assert part in told, part
    for part in ("max_bytes must be", "color", "no --secret-file"):
        assert part in told, part
    for content in ("{", "[]", '{"services": []}'):
        file.write_text(content)
        with pytest.raises(SettingsError):
            load(["--services", str(file), "--data-dir", str(tmp_path)], {})
