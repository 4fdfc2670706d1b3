"""Retention by age and size: histories against a model, forks that need what is gone, space given back, errors."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.streams.inside import Inside
from tests.streams.server import JSON, OCTETS, StreamsServer, events
from tests.support.files import total_size

AGE = 640  # seconds: bytes may live a 64th, 10 s, longer
SIZE = 6000


@dataclass
class Append:
    """`at`: the offset before it."""

    at: str
    data: bytes
    time: int


@dataclass
class Kept:
    """A stream as it should be: everything that was ever appended, and what a fork began with."""

    headers: dict[str, str]
    age: int | None
    size: int | None
    inherited: bytes = b""
    appends: list[Append] = field(default_factory=list)
    tail: str = ""
    dropped: int = 0
    source: str | None = None
    forks: int = 0


class World:
    def __init__(self, inside: Inside, seed: int, default_age: int | None) -> None:
        self.inside = inside
        self.chance = random.Random(seed)
        self.default_age = default_age
        self.streams: dict[str, Kept] = {}
        self.made = 0
        self.cuts = 0
        self.gone = 0
        self.graves: dict[str, Kept] = {}
        self.units = 0
        self.bytes = 0
        self.integral = 0
        """Kept bytes times milliseconds, by the clock that only `wait` moves."""

    def wrote(self, data: bytes) -> None:
        self.units += max(1, math.ceil(len(data) / 10_000))
        self.bytes += len(data)

    async def usage(self) -> dict[str, int]:
        found: dict[str, int] = (await self.inside.client.get(self.inside.url("x").split("/v1/")[0] + "/usage")).json()
        return found

    @staticmethod
    def own(kept: Kept) -> int:
        """What it keeps of its own bytes."""
        whole = sum(len(append.data) for append in kept.appends)
        return whole - max(kept.dropped, len(kept.inherited))

    async def step(self) -> None:
        steps = [self.create] * 2 + [self.append] * 20 + [self.wait] * 3 + [self.fork, self.delete]
        steps += [self.inside.sweep] * 4 + [self.inside.checkpoint] * 2
        if self.chance.random() < 0.04:
            await self.chance.choice([self.inside.restart, self.inside.crash])()
        await self.chance.choice(steps)()

    async def create(self) -> None:
        if len(self.streams) > 8:
            return
        headers: dict[str, str] = {}
        age, size = self.default_age, None
        if self.chance.random() < 0.6:
            size = self.chance.choice((1, 500, SIZE))
            headers["stream-retention-bytes"] = str(size)
        if self.chance.random() < 0.5:
            age = AGE
            headers["stream-retention-seconds"] = str(age)
        data = self.chance.randbytes(self.chance.choice((0, 10, 3000)))
        name = f"r{self.made}"
        self.made += 1
        answer = await self.inside.client.put(self.inside.url(name), headers={**OCTETS, **headers}, content=data)
        assert answer.status_code == 201
        kept = self.streams[name] = Kept(headers, age, size, tail=answer.headers["stream-next-offset"])
        if data:
            self.wrote(data)
            start = kept.tail.split("_")[0] + "_" + "0" * 16
            kept.appends.append(Append(start, data, self.inside.now))

    async def append(self) -> None:
        if not self.streams:
            return
        kept = self.streams[name := self.chance.choice(sorted(self.streams))]
        for _ in range(self.chance.choice((1, 1, 10))):
            data = self.chance.randbytes(self.chance.choice((1, 30, 200, 1500)))
            answer = await self.inside.client.post(self.inside.url(name), headers=OCTETS, content=data)
            assert answer.status_code == 204
            self.wrote(data)
            kept.appends.append(Append(kept.tail, data, self.inside.now))
            kept.tail = answer.headers["stream-next-offset"]

    async def wait(self) -> None:
        passed = self.chance.choice((1, 500, 5_000, 60_000, 300_000))
        # An answer says what was kept when it was counted. Before it is here, the server may have trimmed on its own.
        while (kept := (await self.usage())["retained_bytes"]) != self.inside.service.store.usage.held:
            pass
        self.integral += kept * passed
        self.inside.now += passed

    async def fork(self) -> None:
        if not self.streams or len(self.streams) > 8:
            return
        source_name = self.chance.choice(sorted(self.streams))
        source = self.streams[source_name]
        content = (await self.inside.client.get(self.inside.url(source_name))).content
        own_age = self.chance.random() < 0.5
        headers = {"stream-forked-from": f"/v1/stream/{source_name}"}
        age, size = (source.age, source.size)
        if own_age:  # replaces all of the source's bounds
            headers["stream-retention-seconds"] = str(10 * AGE)
            age, size = 10 * AGE, None
        name = f"r{self.made}"
        self.made += 1
        answer = await self.inside.client.put(self.inside.url(name), headers=headers)
        assert answer.status_code == 201, answer.text
        made = Kept(headers, age, size, content, tail=answer.headers["stream-next-offset"])
        if content:
            made.appends.append(Append("-1", content, self.inside.now))
        made.source = source_name
        source.forks += 1
        self.streams[name] = made

    async def delete(self) -> None:
        if len(self.streams) > 3:
            name = self.chance.choice(sorted(self.streams))
            await self.check()
            assert (await self.inside.client.delete(self.inside.url(name))).status_code == 204
            kept: Kept | None = self.streams.pop(name)
            if kept is not None and kept.forks:
                self.graves[name] = kept
                return
            while kept is not None and kept.source is not None:
                source = kept.source
                kept = self.graves.get(source)
                if kept is None:
                    self.streams[source].forks -= 1
                    return
                kept.forks -= 1
                if kept.forks:
                    return
                del self.graves[source]

    async def check(self) -> None:
        await self.inside.sweep()
        for name, kept in self.streams.items():
            answer = await self.inside.client.get(self.inside.url(name))
            assert answer.status_code == 200
            self.compare(kept, answer.content)
            await self.offsets(name, kept)
        usage = await self.usage()
        assert (usage["write_units"], usage["written_bytes"]) == (self.units, self.bytes)
        assert usage["retained_bytes"] == sum(
            self.own(kept) for kept in (*self.streams.values(), *self.graves.values())
        )
        assert usage["retained_byte_seconds"] == self.integral // 1000

    def compare(self, kept: Kept, content: bytes) -> None:
        whole = b"".join(append.data for append in kept.appends)
        assert whole.endswith(content)
        dropped = len(whole) - len(content)
        assert dropped >= kept.dropped, "what was gone is back"
        self.cuts += dropped > kept.dropped
        kept.dropped = dropped
        position, held = 0, len(content)
        for append in kept.appends:
            end = position + len(append.data)
            if kept.inherited and append is kept.appends[0]:  # a fork's inherited bytes go as one, or bit by bit
                position = end
                continue
            assert end <= dropped or position >= dropped, "a part of an append is gone"
            age = self.inside.now - append.time
            if kept.age is not None and age > kept.age * 1000 * 65 // 64 + 2000:
                assert end <= dropped, "too old"
            if end == dropped and (kept.age is None or age < kept.age * 1000):  # the last one that went
                assert kept.size is not None, "dropped without a reason"
                assert held + len(append.data) > kept.size, "dropped too early"
            position = end
        if kept.size is not None and not kept.inherited and kept.appends:
            assert held <= kept.size * 9 // 8 or content == kept.appends[-1].data

    async def offsets(self, name: str, kept: Kept) -> None:
        url = self.inside.url(name)
        index = self.chance.randrange(len(kept.appends) + 1)
        if index == len(kept.appends):
            assert (await self.inside.client.get(url, params={"offset": kept.tail})).content == b""
            return
        append = kept.appends[index]
        rest = b"".join(one.data for one in kept.appends[index:])
        before = sum(len(one.data) for one in kept.appends[:index])
        got = await self.inside.client.get(url, params={"offset": append.at})
        if append.at == "-1":
            return
        if before < kept.dropped:
            assert (got.status_code, got.json()["code"]) == (410, "OFFSET_GONE")
            assert got.headers["stream-retained-offset"] > append.at
            self.gone += 1
        else:
            assert got.status_code == 200, got.text
            assert got.content == rest


@pytest.mark.parametrize("seed", range(3))
def test_histories(tmp_path: Path, seed: int) -> None:
    async def run() -> None:
        flags = ("--retention-seconds", str(AGE)) if seed % 2 else ()
        inside = Inside(tmp_path, "--checkpoint-bytes", "20000", "--wal-segment-bytes", "1048576", *flags)
        await inside.start()
        world = World(inside, seed, AGE if seed % 2 else None)
        try:
            for number in range(180):
                await world.step()
                if number % 20 == 19:
                    await world.check()
            await world.inside.crash()
            await world.check()
            print(f"seed {seed}: {world.cuts} cuts seen, {world.gone} offsets gone, {inside.number} crashes")
            assert world.cuts > 10
            assert world.gone > 2
        finally:
            await inside.end()

    asyncio.run(run())


def test_space_comes_back(tmp_path: Path) -> None:
    """1 MB kept of 40 MB that go through, also while a fork pins a part of it; after the fork's end that goes, too."""

    async def run() -> None:
        inside = Inside(tmp_path, "--checkpoint-bytes", "1000000", "--wal-segment-bytes", "4194304")
        await inside.start()
        client, block = inside.client, bytes(range(256)) * 400

        def used() -> int:
            return total_size(inside.data.glob("pack-*"))

        async def through(count: int) -> None:
            for number in range(count):
                assert (await client.post(inside.url("s"), headers=OCTETS, content=block)).status_code == 204
                if number % 4 == 3:
                    await inside.sweep()
            for _ in range(3):
                await inside.sweep()
                await inside.checkpoint()

        try:
            headers = {**OCTETS, "stream-retention-bytes": "1000000"}
            await client.put(inside.url("s"), headers=headers)
            await through(200)
            assert used() < 4_000_000
            fork = await client.put(inside.url("f"), headers={"stream-forked-from": "/v1/stream/s"})
            assert fork.headers["stream-retention-bytes"] == "1000000"
            free = {"stream-forked-from": "/v1/stream/s", "stream-retention-seconds": "1000000"}
            await client.put(inside.url("g"), headers=free)
            inherited = (await client.get(inside.url("g"))).content
            assert len(inherited) > 800_000
            await through(200)
            assert used() < 6_000_000
            assert (await client.get(inside.url("g"))).content == inherited
            await inside.crash()
            assert (await client.get(inside.url("g"))).content == inherited
            for name in ("f", "g"):
                assert (await client.delete(inside.url(name))).status_code == 204
            await through(20)
            assert used() < 4_000_000
            assert inside.service.store.streams.keys() == {b"s"}
        finally:
            await inside.end()

    asyncio.run(run())


def test_headers_and_repeated_creation(client: httpx.Client, url: str) -> None:
    for bad in (
        {"stream-retention-seconds": "0"},
        {"stream-retention-seconds": "+1"},
        {"stream-retention-bytes": "-1"},
        {"stream-retention-bytes": "1e3"},
        {"stream-retention-keys": "all"},
        {"stream-retention-tombstone-seconds": "5"},
        {**OCTETS, "stream-retention-keys": "state"},
    ):
        answer = client.put(url, headers={**JSON, **bad})
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_RETENTION"), bad
    assert client.head(url).status_code == 404
    mine = {**JSON, "stream-retention-seconds": "60", "stream-retention-bytes": "1000"}
    assert client.put(url, headers=mine).status_code == 201
    again = client.put(url, headers=mine)
    assert (again.status_code, again.headers["stream-retention-seconds"]) == (200, "60")
    assert client.head(url).headers["stream-retention-bytes"] == "1000"
    for other in (JSON, {**mine, "stream-retention-bytes": "1001"}):
        assert client.put(url, headers=other).status_code == 409


def test_producers_and_readers_go_on(own: StreamsServer, client: httpx.Client) -> None:
    """Producer state outlives the bytes; SSE at the tail goes on; one at a dropped offset is told so."""
    own.start()
    url = own.stream("p")
    head = client.put(url, headers={**JSON, "stream-retention-bytes": "2000"})
    start = head.headers["stream-next-offset"]

    def batch(seq: int) -> httpx.Response:
        producer = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}
        return client.post(url, headers={**JSON, **producer}, json={"n": seq, "pad": "x" * 300})

    with client.stream("GET", url, params={"offset": "now", "live": "sse"}) as live:
        lines = live.iter_text()
        for seq in range(30):
            assert batch(seq).status_code == 200
        seen = ""
        while '"n":29' not in seen:
            seen += next(lines)
        assert sum(data.count('"n"') for name, data in events(seen + "\n\n") if name == "data") == 30
    assert batch(29).status_code == 204
    assert batch(31).headers["producer-expected-seq"] == "30"
    deadline = time.monotonic() + 60
    while len(client.get(url).json()) > 7:  # cut once more if it was cut in the midst of the appends
        assert time.monotonic() < deadline
        time.sleep(0.05)
    retained = client.head(url).headers["stream-retained-offset"]
    for live_mode in ({}, {"live": "long-poll"}, {"live": "sse"}):
        answer = client.get(url, params={"offset": start, **live_mode})
        assert (answer.status_code, answer.json()["code"]) == (410, "OFFSET_GONE")
        assert answer.headers["stream-retained-offset"] == retained
    kept = client.get(url).json()
    assert [message["n"] for message in kept] == list(range(30 - len(kept), 30))
    assert client.get(url, params={"offset": retained}).json() == kept
    again = client.put(own.stream("fork"), headers={"stream-forked-from": "/v1/stream/p", "stream-fork-offset": start})
    assert (again.status_code, again.json()["code"]) == (400, "INVALID_FORK_OFFSET")


def test_a_bound_that_is_set_later_counts_from_then(tmp_path: Path) -> None:
    """Also where something else looks at the stream at once, and however often the deadlines are collected."""

    async def scenario() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        try:
            for name, more in (("a", {}), ("b", {"stream-ttl": "1000000"})):
                await inside.client.put(inside.url(name), headers=OCTETS | more)
                for _ in range(20):
                    await inside.client.post(inside.url(name), headers=OCTETS, content=b"x" * 100)
            await inside.checkpoint()
            inside.now += 5000
            await inside.client.get(inside.url("b"))
            inside.service.store.flush_touches()  # so that the next start looks at it
            inside.flags = ("--retention-seconds", "3600", "--retention-bytes", "1000")
            await inside.crash()

            async def held(name: str) -> int:
                return len((await inside.client.get(inside.url(name))).content)

            await inside.sweep()
            assert await held("b") == 1000
            inside.now += 3_000_000
            inside.service.store.deadlines.collect()
            await inside.client.get(inside.url("b"))
            await inside.sweep()
            assert await held("b") == 1000
            inside.now += 600_001
            await inside.sweep()
            assert (await held("a"), await held("b")) == (0, 0)
        finally:
            await inside.end()

    asyncio.run(scenario())
