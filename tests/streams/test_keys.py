"""Retention by key: histories of state streams against a dictionary, over checkpoints, restarts, crashes and forks."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from switchgear_streams.rules import state
from switchgear_streams.rules.state import Newest, TooMuch
from tests.streams.inside import Inside
from tests.streams.server import JSON, StreamsServer
from tests.streams.states import Rows, applied, change
from tests.support.files import total_size
from tests.support.region import wait_until

KEYED = {**JSON, "stream-retention-keys": "state"}
TOMBSTONES = 3600


def stored(*messages: Any) -> list[bytes]:
    return [json.dumps(message, separators=(",", ":")).encode() + b",\n" for message in messages]


def newest(*messages: Any) -> list[Any]:
    found = Newest()
    position = 0
    for line in stored(*messages):
        found.add(position, line)
        position += len(line)
    size, kept = found.size, list(found.drain())
    assert size == sum(len(line) for _, line in kept)
    return [json.loads(line[:-2]) for _, line in kept]


def test_what_counts() -> None:
    a1, a2, b1 = change("t", "a", "insert", 1), change("t", "a", "update", 2), change("t", "b", "upsert", 1)
    gone, other = change("t", "a", "delete"), change("u", "a", "insert", 1)
    assert newest(a1, b1, a2) == [b1, a2]
    assert newest(a1, gone) == [gone]
    assert newest(a1, gone, a2) == [a2]
    assert newest(a1, other) == [a1, other]
    reset = {"headers": {"control": "reset"}}
    start = {"headers": {"control": "snapshot-start"}}
    free = [1, "x", None, [a1], {"key": "a"}, {"type": "t", "key": 1, "headers": {"operation": "insert"}}]
    assert newest(*free, start, a1, b1, reset, a2) == [*free, start, reset, a2]


def test_a_stream_with_too_many_keys_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_KEPT", 200)
    with pytest.raises(TooMuch):
        newest(*(change("t", str(number), "insert", number) for number in range(10)))


@dataclass
class Kept:
    """A state stream as it should be. `seen`: (offset, rows of a client that is there)."""

    rows: Rows = field(default_factory=dict)
    seen: list[tuple[str, Rows]] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    source: str | None = None


class World:
    def __init__(self, inside: Inside, seed: int) -> None:
        self.inside = inside
        self.chance = random.Random(seed)
        self.streams: dict[str, Kept] = {}
        self.made = 0
        self.gone = 0

    async def step(self) -> None:
        steps = [self.create, self.fork, self.delete] + [self.append] * 20 + [self.inside.checkpoint] * 3
        steps += [self.wait, self.check]
        if self.chance.random() < 0.04:
            await self.chance.choice([self.inside.restart, self.inside.crash])()
        await self.chance.choice(steps)()

    async def create(self) -> None:
        if len(self.streams) > 5:
            return
        headers = {**KEYED, "stream-retention-tombstone-seconds": str(self.chance.choice((0, TOMBSTONES)))}
        answer = await self.inside.client.put(self.inside.url(f"s{self.made}"), headers=headers)
        assert answer.status_code == 201, answer.text
        self.streams[f"s{self.made}"] = Kept(seen=[(answer.headers["stream-next-offset"], {})])
        self.made += 1

    async def fork(self) -> None:
        if not self.streams or len(self.streams) > 5:
            return
        name = self.chance.choice(sorted(self.streams))
        source = self.streams[name]
        offset, rows = self.chance.choice(source.seen)
        headers = {"stream-forked-from": f"/v1/stream/{name}", "stream-fork-offset": offset}
        answer = await self.inside.client.put(self.inside.url(f"s{self.made}"), headers=headers)
        if answer.status_code == 400:
            assert answer.json()["code"] == "INVALID_FORK_OFFSET"
            assert offset < await self.retained(name)
            return
        assert answer.status_code == 201, answer.text
        # At an offset that is no more, it branches off a little later, with what is left of the source up to there.
        content = (await self.inside.client.get(self.inside.url(f"s{self.made}"))).json()
        made = self.streams[f"s{self.made}"] = Kept(applied({}, content), source=name)
        if offset == source.seen[-1][0]:
            assert made.rows == rows == source.rows
        made.seen = [(answer.headers["stream-next-offset"], made.rows)]
        self.made += 1

    async def delete(self) -> None:
        names = [name for name in sorted(self.streams) if all(kept.source != name for kept in self.streams.values())]
        if len(self.streams) > 3 and names:
            name = self.chance.choice(names)
            assert (await self.inside.client.delete(self.inside.url(name))).status_code == 204
            del self.streams[name]

    async def append(self) -> None:
        if not self.streams:
            return
        name = self.chance.choice(sorted(self.streams))
        kept = self.streams[name]
        batch: list[Any] = []
        for _ in range(self.chance.choice((1, 3, 20))):
            roll = self.chance.random()
            key = str(self.chance.randrange(12))
            if roll < 0.01:
                batch.append({"headers": {"control": "reset"}})
            elif roll < 0.03:
                batch.append({"note": self.chance.random()})
            elif roll < 0.25:
                batch.append(change("t", key, "delete"))
            else:
                value = "x\ny" * self.chance.choice((0, 1, 30))
                batch.append(change(self.chance.choice("tu"), key, "upsert", [self.chance.random(), value]))
        answer = await self.inside.client.post(self.inside.url(name), headers=JSON, json=batch)
        assert answer.status_code == 204, answer.text
        kept.rows = applied(kept.rows, batch)
        kept.seen.append((answer.headers["stream-next-offset"], kept.rows))
        kept.messages += batch

    async def wait(self) -> None:
        self.inside.now += self.chance.choice((1000, 600_000, 4_000_000))

    async def read(self, name: str, offset: str) -> list[Any]:
        found: list[Any] = []
        while True:
            answer = await self.inside.client.get(self.inside.url(name), params={"offset": offset})
            assert answer.status_code == 200, answer.text
            found += answer.json()
            assert answer.headers["stream-next-offset"] >= offset or offset == "-1"
            offset = answer.headers["stream-next-offset"]
            if "stream-up-to-date" in answer.headers:
                return found

    async def retained(self, name: str) -> str:
        """Offsets before it are gone."""
        return (await self.inside.client.head(self.inside.url(name))).headers.get("stream-retained-offset", "")

    async def check(self) -> None:
        await self.inside.settle()
        for name, kept in self.streams.items():
            whole = await self.read(name, "-1")
            assert applied({}, whole) == kept.rows, name
            for offset, rows in [*self.chance.sample(kept.seen, min(5, len(kept.seen))), kept.seen[-1]]:
                if offset < await self.retained(name):
                    self.gone += 1
                    answer = await self.inside.client.get(self.inside.url(name), params={"offset": offset})
                    assert (answer.status_code, answer.json()["code"]) == (410, "OFFSET_GONE")
                    continue
                rest = await self.read(name, offset)
                assert applied(rows, rest) == kept.rows, (name, offset)
            assert rest == []
        usage = (await self.inside.client.get(self.inside.url("x").split("/v1/")[0] + "/usage")).json()
        live = [self.inside.service.store.get(name.encode()) for name in self.streams]
        assert usage["retained_bytes"] == sum(stream.held for stream in live if stream is not None)
        for stream in live:
            assert stream is not None
            own = self.inside.service.store.packs.read(stream, stream.base, stream.end)
            assert len(own) == stream.held, "what is counted is what there is"


@pytest.mark.timeout(600)
def test_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MIN_NEW", 500)
    gone = []

    async def run(seed: int) -> None:
        inside = Inside(tmp_path / str(seed), "--checkpoint-bytes", "20000", "--wal-segment-bytes", "1048576")
        await inside.start()
        world = World(inside, seed)
        try:
            squeezes = last = 0
            for _ in range(250):
                await world.step()
                now = inside.service.checkpointer.squeezes
                squeezes, last = squeezes + max(0, now - last), now
            await world.check()
            before = (await inside.client.get(inside.url("x").split("/v1/")[0] + "/usage")).json()
            await inside.crash()
            await world.check()
            after = (await inside.client.get(inside.url("x").split("/v1/")[0] + "/usage")).json()
            assert after == before, "usage is exact across a crash"
            assert squeezes > 2
            gone.append(world.gone)
        finally:
            await inside.end()

    for seed in range(3):
        asyncio.run(run(seed))
    assert sum(gone) > 0, "no deletion went while somebody might have missed it"


def test_space_and_tombstones(tmp_path: Path) -> None:
    """20 MB of changes to 100 keys come to 100 messages; deletions go when their time is over."""

    async def run() -> None:
        inside = Inside(tmp_path, "--checkpoint-bytes", "1000000", "--wal-segment-bytes", "4194304")
        await inside.start()
        client = inside.client
        headers = {**KEYED, "stream-retention-tombstone-seconds": "100"}
        try:
            answer = await client.put(inside.url("s"), headers=headers)
            assert answer.headers["stream-retention-keys"] == "state"
            assert answer.headers["stream-retention-tombstone-seconds"] == "100"

            async def through(rounds: int, operation: str) -> None:
                for number in range(rounds):
                    batch = [change("t", str(key), operation, [number, "x" * 900]) for key in range(100)]
                    assert (await client.post(inside.url("s"), headers=JSON, json=batch)).status_code == 204
                await inside.checkpoint()

            async def messages() -> list[Any]:
                found: list[Any] = (await client.get(inside.url("s"))).json()
                return found

            for _ in range(10):
                await through(20, "upsert")
            assert len(await messages()) < 300
            assert total_size(inside.data.glob("pack-*")) < 3_000_000
            # Nothing that was ever handed out is refused, not even within what has moved.
            start = answer.headers["stream-next-offset"]
            assert len((await client.get(inside.url("s"), params={"offset": start})).json()) == len(await messages())
            await through(1, "delete")
            filler = [change("t", "new", "upsert", "y" * 900) for _ in range(400)]
            waited = []
            for _ in range(5):  # they stay for 100 s at least, and are looked for as often
                await client.post(inside.url("s"), headers=JSON, json=filler)
                await inside.checkpoint()
                waited.append(sum(one["headers"]["operation"] == "delete" for one in await messages()))
                inside.now += 60_000
            assert waited[:2] == [100, 100]
            assert waited[-1] == 0
            await inside.crash()
            assert [one["key"] for one in await messages()] == ["new"]
            assert inside.service.store.packs.sizes()
        finally:
            await inside.end()

    asyncio.run(run())


def test_what_a_put_may_ask_for(client: httpx.Client, url: str) -> None:
    for bad in (
        {"stream-retention-keys": "all"},
        {"stream-retention-tombstone-seconds": "5"},
        {"stream-retention-keys": "state", "stream-retention-tombstone-seconds": "-1"},
        {"stream-retention-keys": "state", "stream-retention-bytes": "5"},
        {"stream-retention-keys": "state", "stream-retention-seconds": "5"},
        {"stream-retention-keys": "state", "content-type": "text/plain"},
    ):
        answer = client.put(url, headers={**JSON, **bad})
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_RETENTION"), bad
    assert client.put(url, headers=KEYED).status_code == 201
    assert client.put(url, headers=KEYED).status_code == 200
    assert client.put(url, headers=JSON).status_code == 409


@pytest.fixture
def often(tmp_path: Path) -> Iterator[StreamsServer]:
    """A server that makes many checkpoints."""
    made = StreamsServer(tmp_path / "often", "--checkpoint-bytes", "200000")
    yield made.start()
    made.end()


def test_readers_go_on(often: StreamsServer, client: httpx.Client) -> None:
    """One that tails sees every change once, while a killed server and checkpoints come in between."""
    own, url = often, often.stream("k")
    assert client.put(url, headers=KEYED).status_code == 201
    squeezes = 0.0
    offset = "-1"
    seen: list[int] = []
    for number in range(300):
        batch = [change("t", str(key), "upsert", [number, "x" * 300]) for key in range(10)]
        assert client.post(url, headers=JSON, json=batch).status_code == 204
        answer = client.get(url, params={"offset": offset})
        seen += [message["value"][0] for message in answer.json()]
        offset = answer.headers["stream-next-offset"]
        if number == 150:
            squeezes += own.metric("streams_squeezes_total")
            own.kill()
            url = own.start().stream("k")
    assert seen == [number for number in range(300) for _ in range(10)]
    # The last checkpoint may be at work.
    wait_until(lambda: squeezes + own.metric("streams_squeezes_total") >= 2, 60, "hardly anything was squeezed")
    wait_until(lambda: len(client.get(url).json()) < 1500, 60, "much was not squeezed")
