"""The bound on the connections of a service: who counts, from when until when, and what the one too many is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from switchgear_streams.settings import SettingsError, load
from tests.streams.server import HOST, StreamsServer

Headers = dict[str, str]


@contextlib.contextmanager
def connections(server: StreamsServer, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    made = [http.client.HTTPConnection(HOST, server.port, timeout=60) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, headers: Headers, body: bytes | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def wait_for(server: StreamsServer, name: str, value: float) -> None:
    deadline = time.monotonic() + 60
    while (seen := server.metric(name)) != value:
        assert time.monotonic() < deadline, f"{name} is {seen}, not {value}"
        time.sleep(0.02)


def test_one_too_many_is_told_and_closed(tmp_path: Path) -> None:
    server = StreamsServer(tmp_path, "--max-connections", "2", secret="s3")
    right, wrong = {"authorization": "Bearer s3"}, {"authorization": "Bearer s4"}
    try:
        server.start()
        with connections(server, 6) as (one, two, three, four, stranger, system):
            assert ask(one, "PUT", "/v1/stream/a", right)[0] == 201
            # Neither strangers, nor preflights, nor probes take a seat.
            assert ask(stranger, "GET", "/v1/stream/a", wrong)[0] == 401
            assert ask(stranger, "OPTIONS", "/v1/stream/a", {})[0] == 204
            assert ask(system, "GET", "/health", {})[0] == 200
            assert server.metric("streams_connections") == 1
            assert ask(two, "GET", "/v1/stream/a", right)[0] == 200
            # A connection that has a seat keeps it for all its requests.
            for _ in range(3):
                assert (
                    ask(one, "POST", "/v1/stream/a", right | {"content-type": "application/octet-stream"}, b"x")[0]
                    == 204
                )
            assert server.metric("streams_connections") == 2

            for method, body in (("GET", None), ("POST", b"y" * 1000), ("PUT", None), ("DELETE", None)):
                status, said, headers = ask(three, method, "/v1/stream/a", right, body)
                assert (status, json.loads(said)["code"]) == (429, "TOO_MANY_SERVICE_CONNECTIONS")
                assert (headers["retry-after"], headers["connection"]) == ("1", "close")
                assert headers["access-control-allow-origin"] == "*"
                assert headers["x-content-type-options"] == "nosniff"
            status, said, headers = ask(three, "HEAD", "/v1/stream/a", right)
            assert (status, said) == (429, b"")
            status, said, _ = ask(three, "GET", "/v1/yjs/docs/d", right)
            assert (status, json.loads(said)["error"]["code"]) == (429, "RATE_LIMITED")
            # At the bound, strangers still learn nothing, and probes are answered.
            assert ask(stranger, "GET", "/v1/stream/a", wrong)[0] == 401
            assert ask(system, "GET", "/ready", {})[0] == 200
            assert ask(one, "GET", "/v1/stream/a", right)[1] == b"xxx"

            two.close()
            wait_for(server, "streams_connections", 1)
            assert ask(four, "GET", "/v1/stream/a", right)[0] == 200
        wait_for(server, "streams_connections", 0)
        assert server.metric("streams_limited_total") == 6
        assert server.stop() == 0
        assert "Traceback" not in server.log
    finally:
        server.end()


def test_live_readers_hold_their_seats_and_give_them_back(tmp_path: Path) -> None:
    server = StreamsServer(tmp_path, "--max-connections", "2", long_poll_ms=60_000)
    try:
        server.start()
        for _ in range(3):
            with connections(server, 3) as (writer, reader, third):
                assert ask(writer, "PUT", "/v1/stream/a", {"content-type": "text/plain"})[0] in (200, 201)
                for live in ("sse", "long-poll"):
                    reader.request("GET", f"/v1/stream/a?offset=now&live={live}")
                    if live == "sse":
                        assert reader.getresponse().status == 200
                    else:
                        wait_for(server, "streams_long_polls", 1)
                    assert ask(third, "GET", "/v1/stream/a", {})[0] == 429
                    reader.close()  # in the middle of the answer
                    wait_for(server, "streams_connections", 1)
            wait_for(server, "streams_connections", 0)
    finally:
        server.end()


def test_services_have_bounds_of_their_own(tmp_path: Path) -> None:
    services = [{"id": "a", "insecure": True, "max_connections": 1}, {"id": "b", "insecure": True}]
    (tmp_path / "services.json").write_text(json.dumps({"services": services}))
    flags = ("--services", str(tmp_path / "services.json"), "--max-connections", "2")
    server = StreamsServer(tmp_path, *flags, flags_only=True)
    taken = 'streams_connections{{service="{}"}}'.format
    try:
        server.start()
        with connections(server, 3) as (one, two, three):
            assert ask(one, "PUT", "/v1/stream/a/s", {})[0] == 201
            assert ask(two, "PUT", "/v1/stream/b/s", {})[0] == 201
            assert ask(three, "GET", "/v1/stream/a/s", {})[0] == 429
            assert ask(three, "GET", "/v1/stream/b/s", {})[0] == 200
            assert (server.metric(taken("a")), server.metric(taken("b"))) == (1, 2)
            # To another service that is full: refused, and its seat at the first one goes with the connection.
            assert ask(one, "GET", "/v1/stream/b/s", {})[0] == 429
            wait_for(server, taken("a"), 0)
            # To another that is not: the seat is given back at once.
            assert ask(two, "GET", "/v1/stream/a/s", {})[0] == 200
            assert (server.metric(taken("a")), server.metric(taken("b"))) == (1, 1)
        for name in ("a", "b"):
            wait_for(server, taken(name), 0)
    finally:
        server.end()


@pytest.mark.parametrize("given", ["0", "20001", "-1", "many"])
def test_bad_bounds_are_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="--max-connections must be a whole number from 1 to 20000"):
        load(["--data-dir", str(tmp_path), "--insecure", "--max-connections", given], {})
