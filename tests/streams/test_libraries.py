"""Other people's libraries as clients: PyPI `durable-streams` (with our retention) and npm `@durable-streams/state`."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import durable_streams
import httpx
import pytest

from tests.streams.server import JSON, StreamsServer
from tests.support import nodejs
from tests.support.region import wait_until

HERE = Path(__file__).parent / "node"


def test_the_python_client(own: StreamsServer) -> None:
    """Creates, appends, reads, tails; and meets retention as the error that it has for it."""
    own.start()
    url = own.stream("py/log")
    made = durable_streams.DurableStream.create(
        url, content_type="application/json", headers={"stream-retention-bytes": "1000"}
    )
    first = made.append({"n": 0}).next_offset
    with made.stream(offset="-1", live=False) as response:
        assert response.read_json() == [{"n": 0}]
    with pytest.raises(durable_streams.SeqConflictError):
        for seq in ("2", "1"):
            made.append({"n": "seq"}, seq=seq)
    for number in range(1, 60):
        made.append({"n": number, "pad": "x" * 50})
    deadline = time.monotonic() + 60
    while True:  # about a second until it is looked at, perhaps in the midst of the appends and once more after them
        retained = httpx.head(url, trust_env=False).headers.get("stream-retained-offset", "")
        with made.stream(offset="-1", live=False) as response:
            # 16 are a little more than a thousand bytes; with 17 it would cut once more.
            if retained > first and len(response.read_json()) < 17:
                break
        assert time.monotonic() < deadline, retained
        time.sleep(0.05)
    with pytest.raises(durable_streams.RetentionGoneError), made.stream(offset=first, live=False) as response:
        response.read_json()
    with made.stream(offset="-1", live=False) as response:
        left = [message["n"] for message in response.read_json()]
    assert left == list(range(60 - len(left), 60))
    assert 5 < len(left) < 17
    with made.stream(offset="-1", live="long-poll") as response:
        for number, message in enumerate(response.iter_json()):
            assert message["n"] == left[number]
            if number == len(left) - 1:
                break
    made.delete()
    with pytest.raises(durable_streams.StreamNotFoundError):
        made.head()
    assert own.stop() == 0


@pytest.mark.node
@pytest.mark.parametrize("retention", [{}, {"stream-retention-keys": "state"}], ids=["whole", "by key"])
def test_stream_db(tmp_path: Path, client: httpx.Client, retention: dict[str, str]) -> None:
    """Random changes, before and while StreamDB looks: its collection is what they add up to."""
    own = StreamsServer(tmp_path / "own", "--checkpoint-bytes", "200000").start()
    try:
        follow_state(own, client, retention)
    finally:
        own.end()


def follow_state(own: StreamsServer, client: httpx.Client, retention: dict[str, str]) -> None:
    url = own.stream("state")
    assert client.put(url, headers={**JSON, **retention}).status_code == 201
    chance = random.Random(1)
    expected: dict[str, int] = {}

    def change(count: int) -> None:
        events = []
        for _ in range(count):
            key, n = f"u{chance.randrange(30)}", chance.randrange(1000)
            event: dict[str, object] = {"type": "user", "key": key, "headers": {"operation": "insert"}}
            if key in expected and chance.random() < 0.3:
                del expected[key]
                event["headers"] = {"operation": "delete"}
            else:
                event["value"] = {"id": key, "n": n, "pad": "x" * 900}
                if key in expected:
                    event["headers"] = {"operation": "update"}
                expected[key] = n
            events.append(event)
        for at in range(0, count, 7):
            assert client.post(url, headers=JSON, json=events[at : at + 7]).status_code == 204

    def shown() -> list[list[object]]:
        return [list(pair) for pair in sorted(expected.items())]

    change(600)
    wait_until(lambda: not retention or own.metric("streams_squeezes_total") >= 1, 30, "nothing was squeezed")
    process = nodejs.start(HERE / "state.js", url)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == shown()
    change(300)
    done = {"type": "user", "key": "done", "value": {"id": "done", "n": 1}, "headers": {"operation": "insert"}}
    assert client.post(url, headers=JSON, json=done).status_code == 204
    expected["done"] = 1
    out, _ = process.communicate(timeout=60)
    assert json.loads(out) == shown()
    assert own.stop() == 0
