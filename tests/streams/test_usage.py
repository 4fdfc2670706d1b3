"""Usage is exact across kill -9 under load, and limits refuse before anything is taken.

The sums over time are checked against a model in test_retention, with a clock that the test moves.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.streams.server import OCTETS, StreamsServer, read_all


@pytest.mark.crash
def test_usage_is_what_the_streams_hold_after_kill_9(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--checkpoint-bytes", "200000", "--wal-segment-bytes", "1048576")
    chance = random.Random(5)
    names = [f"u{number}" for number in range(4)]
    acknowledged = dict.fromkeys(names, 0)
    shown: list[dict[str, int]] = []

    def write(name: str, seed: int) -> None:
        own_chance = random.Random(seed)
        with httpx.Client(trust_env=False, timeout=60) as own:
            try:
                for _ in range(100_000):
                    # One byte stands for a unit: each append ends with the number of units it counts.
                    size = own_chance.choice((1, 100, 9_999, 10_000, 10_001, 45_000))
                    body = bytes(size - 1) + bytes((-(-size // 10_000),))
                    assert own.post(server.stream(name), headers=OCTETS, content=body).status_code == 204
                    acknowledged[name] += size
            except httpx.TransportError:
                return

    def look() -> None:
        with httpx.Client(trust_env=False, timeout=60) as own:
            try:
                while True:
                    shown.append(own.get(server.url + "/usage").json())
            except httpx.TransportError:
                return

    try:
        server.start()
        for name in names:
            assert client.put(server.stream(name), headers=OCTETS).status_code == 201
        for number in range(5):
            threads = [threading.Thread(target=write, args=(name, number * 10 + k)) for k, name in enumerate(names)]
            threads.append(threading.Thread(target=look))
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.2, 0.5))
            server.kill()
            for thread in threads:
                thread.join(30)
            server.start()
            contents = [read_all(client, server.stream(name))[0] for name in names]
            usage = client.get(server.url + "/usage").json()
            assert usage["written_bytes"] == usage["retained_bytes"] == sum(map(len, contents))
            assert usage["write_units"] == sum(sum(content) for content in contents)
            assert all(len(content) >= acknowledged[name] for name, content in zip(names, contents, strict=True))
            for field in ("write_units", "written_bytes", "retained_byte_seconds"):
                series = [one[field] for one in (*shown, usage)]
                assert series == sorted(series), "what was shown was taken back"
        print(f"5 rounds, {usage}, {len(shown)} looks")
        assert server.metric("streams_usage_written_bytes_total") == usage["written_bytes"]
    finally:
        server.end()


def test_limits(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(
        tmp_path, "--max-bytes", "1000", "--max-append-rate", "5", "--max-live-reads", "2", "--max-streams", "2",
        long_poll_ms=60_000, secret="s3",
    )  # fmt: skip
    secret = {"authorization": "Bearer s3"}
    try:
        server.start()
        url = server.stream("a")
        with httpx.Client(trust_env=False, timeout=60, headers={**secret, **OCTETS}) as own:
            assert own.put(url).status_code == 201
            big = own.put(server.stream("b"), content=bytes(1001))
            assert (big.status_code, big.json()["code"]) == (507, "QUOTA_EXCEEDED")
            assert own.head(server.stream("b")).status_code == 404
            assert own.put(server.stream("b"), content=bytes(600)).status_code == 201
            assert own.post(url, content=bytes(401)).status_code == 507
            assert own.post(url, content=bytes(400)).status_code == 204
            assert own.put(server.stream("c")).json()["code"] == "TOO_MANY_STREAMS"
            assert own.delete(server.stream("b")).status_code == 204
            taken = 0
            while (answer := own.post(url, content=b"x")).status_code == 204:
                taken += 1
                assert taken < 500
            assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
            assert answer.headers["retry-after"] == "1"
            assert len(own.get(url).content) == 400 + taken
            with (
                own.stream("GET", url, params={"offset": "now", "live": "sse"}) as one,
                own.stream("GET", url, params={"offset": "now", "live": "sse"}) as two,
            ):
                assert (one.status_code, two.status_code) == (200, 200)
                third = own.get(url, params={"offset": "now", "live": "long-poll"})
                assert (third.status_code, third.json()["code"]) == (429, "TOO_MANY_LIVE_READS")
                assert own.get(url).status_code == 200
            usage = own.get(server.url + "/usage").json()
            assert usage["written_bytes"] == 1000 + taken
            assert usage["retained_bytes"] == 400 + taken
        assert client.get(server.url + "/usage").status_code == 401
        assert server.stop() == 0
    finally:
        server.end()
