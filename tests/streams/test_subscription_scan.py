"""A subscription is made while there are many streams, and while they change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from switchgear_streams.request import Append, Create
from switchgear_streams.rules import media
from switchgear_streams.rules.offsets import mint
from switchgear_streams.subscriptions import scan, views
from switchgear_streams.subscriptions.state import Link, Subscription, restore
from switchgear_wire.response import Response
from tests.streams.inside import Inside
from tests.streams.server import JSON, OCTETS

COUNT = 2000


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    made = Inside(tmp_path, "--checkpoint-bytes", "300000")
    await made.start()
    yield made
    await made.end()


async def put(inside: Inside, name: str, body: bytes = b"old") -> str:
    answer = await inside.client.put(inside.url(name), headers=OCTETS, content=body)
    assert answer.status_code == 201
    return answer.headers["stream-next-offset"]


async def fill(inside: Inside, names: list[str]) -> dict[str, str | None]:
    """Many streams at once, without a request for each. Name → tail."""
    plain = Create(None, False, None, None, None, None, None, 0)
    made = [inside.service.writes.create(name.encode(), plain, b"old", b"") for name in names]
    for one in made:
        assert not isinstance(one, Response)
        assert (await one).status == 201
    found = {name: inside.service.store.get(name.encode()) for name in names}
    return {name: mint(one.space, one.visible).decode() for name, one in found.items() if one is not None}


async def subscribe(inside: Inside, pattern: str, name: str = "s", **more: Any) -> dict[str, Any]:
    body = {"type": "pull-wake", "wake_stream": "wakes", "pattern": pattern, **more}
    answer = await inside.client.put(inside.url(f"__ds/subscriptions/{name}"), json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_others_get_their_turn_while_all_streams_are_looked_at(inside: Inside) -> None:
    await fill(inside, [f"e/{number}/x" for number in range(COUNT)])
    turns, done = 0, False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    found = [key async for keys in scan.wanted(inside.service.store, lambda key: key.endswith(b"/x")) for key in keys]
    assert len(found) == COUNT
    assert turns >= COUNT / 200
    done = True
    await task


async def test_others_get_their_turn_while_a_subscription_is_shown(inside: Inside) -> None:
    """And what goes meanwhile is left out."""
    await fill(inside, [f"e/{number}" for number in range(COUNT)])
    await subscribe(inside, "e/*")
    engine = inside.service.engine
    subscription, turns = engine.subscriptions["s"], 0

    async def other() -> None:
        nonlocal turns
        while subscription.links:
            turns += 1
            if turns == 4:
                subscription.links.clear()
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    shown = await views.shown(engine, subscription, "")
    assert turns == 4
    assert 0 < len(shown["streams"]) < COUNT
    await task


@pytest.mark.parametrize("seed", range(2))
async def test_what_changes_meanwhile_is_neither_lost_nor_told_from_the_start(inside: Inside, seed: int) -> None:
    chance = random.Random(seed)
    await inside.client.put(inside.url("wakes"), headers=JSON)
    tails = await fill(inside, [f"e/{number}" for number in range(COUNT)])
    before = dict(tails)
    told = asyncio.Event()
    after: set[str] = set()

    async def change(worker: int) -> None:
        """Of names of its own: append, delete, make anew, make new ones."""
        mine = [name for number, name in enumerate(before) if number % 8 == worker]
        new = 0
        while not told.is_set() or new < 3:
            name = chance.choice(mine)
            done = told.is_set()
            what = chance.random()
            if tails[name] is None or what < 0.2:
                if what < 0.2:
                    new += 1
                    name = f"e/new-{worker}-{new}"
                    mine.append(name)
                tails[name] = await put(inside, name)
            elif what < 0.4:
                assert (await inside.client.delete(inside.url(name))).status_code == 204
                tails[name] = None
            else:
                answer = await inside.client.post(inside.url(name), headers=OCTETS, content=b"more")
                assert answer.status_code == 204
                tails[name] = answer.headers["stream-next-offset"]
            if done:
                after.add(name)

    made_durable: dict[bytes, Link] = {}
    made_links: dict[bytes, Link] = {}
    create = inside.service.engine.journal.create

    def noted(subscription: Subscription, whole: bytes) -> asyncio.Future[Any]:
        again = restore([whole], 1)
        assert again is not None
        made_durable.update(again.links)
        made_links.update({key: replace(link) for key, link in subscription.links.items()})
        return create(subscription, whole)

    inside.service.engine.journal.create = noted  # type: ignore[method-assign]

    async def make() -> None:
        await asyncio.sleep(0.05)
        await subscribe(inside, "e/*", streams=["e/0", "e/missing"])
        told.set()

    await asyncio.gather(make(), *(change(worker) for worker in range(8)))
    engine = inside.service.engine
    await engine.settled()
    engine.catch_up()
    subscription = engine.subscriptions["s"]
    there = {name for name, tail in tails.items() if tail is not None}
    assert made_durable == made_links, "what was written bit by bit is what was linked"
    assert {key.decode() for key in subscription.links} - {"e/0", "e/missing"} == there - {"e/0"}
    for name in there:
        link, stream = subscription.links[name.encode()], engine.stream(name.encode())
        assert stream is not None
        assert link.generation == stream.generation
        if before.get(name) == tails[name]:
            assert link.position == stream.visible == 3, "what was there before is not told"
        pending = name.encode() in subscription.pending
        assert pending == (link.position < stream.visible)
        if name in after:
            assert pending, f"{name} changed after the answer"
        if name in before and link.generation == int(str(before[name]).split("_")[0]):
            assert link.position >= 3, "from the tail on, not from the start"


async def test_others_get_their_turn_while_a_subscription_is_written_anew(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many links it takes a hundred milliseconds and more. What changes meanwhile is in the new stream, too."""
    await inside.client.put(inside.url("wakes"), headers=JSON)
    await fill(inside, [f"e/{number}" for number in range(COUNT)])
    await subscribe(inside, "e/*")
    engine = inside.service.engine
    subscription, journal = engine.subscriptions["s"], engine.journal
    chance, turns, acked = random.Random(1), 0, 0
    under_way: list[Any] = []

    def change() -> None:
        """One stream: a deletion, a link, an end of one, an append, or what was appended is acknowledged."""
        nonlocal acked
        key, writes = b"e/%d" % chance.randrange(200), inside.service.writes
        stream, what = engine.stream(key), chance.randrange(5)
        if what == 0 and chance.random() < 0.2:
            under_way.append(writes.delete(key))
        elif what == 1:
            under_way.append(engine.link(subscription, [key]))
        elif what == 2:
            under_way.append(engine.unlink(subscription, key))
        elif what == 3 and stream is not None:
            under_way.append(writes.append(key, Append(media.OCTETS, False, None, None), b"more"))
        elif stream is not None:
            engine.catch_up()
            changed = engine.acknowledge(subscription, {key: (stream.generation, stream.visible)})
            acked += len(changed)
            under_way.append(journal.save(subscription, changed))

    number = subscription.number
    monkeypatch.setattr("switchgear_streams.subscriptions.journal._SLACK", -200_000)
    monkeypatch.setattr("switchgear_streams.subscriptions.journal._AT_ONCE", 1)
    under_way.append(journal.save(subscription, []))
    while subscription.number == number:
        turns += 1
        change()
        await asyncio.sleep(0)
    assert turns > COUNT / 4
    assert acked > 20
    monkeypatch.undo()
    for _ in range(20):
        change()
    for one in under_way:
        if isinstance(one, Awaitable):
            await one
    await engine.settled()
    engine.catch_up()
    links = {key: replace(link) for key, link in subscription.links.items()}
    await inside.crash()
    assert inside.service.engine.subscriptions["s"].number == number + 1
    assert inside.service.engine.subscriptions["s"].links == links
