"""Retention by key, its costs: bounded for each checkpoint, for each byte, and for those who wait meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import tracemalloc
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from switchgear_streams import store as store_module
from switchgear_streams.packing import Job
from switchgear_streams.rules import state
from switchgear_streams.rules.state import Newest, lines
from switchgear_streams.stream import Stream
from tests.streams.inside import Inside
from tests.streams.server import JSON, OCTETS
from tests.streams.states import RESET, applied, change

KEYED = {**JSON, "stream-retention-keys": "state"}
BIG = ("--checkpoint-bytes", "200000000", "--wal-segment-bytes", "67108864")


def run(folder: Path, course: Any, *flags: str) -> None:
    async def whole() -> None:
        inside = Inside(folder, *(flags or BIG))
        await inside.start()
        try:
            await course(inside)
        finally:
            await inside.end()

    asyncio.run(whole())


def found(inside: Inside, name: str) -> Stream:
    stream = inside.service.store.get(name.encode())
    assert stream is not None
    return stream


async def post(inside: Inside, name: str, messages: list[Any]) -> None:
    answer = await inside.client.post(inside.url(name), headers=JSON, json=messages)
    assert answer.status_code == 204, answer.text


async def rows(inside: Inside, name: str) -> dict[str, Any]:
    return applied({}, (await inside.client.get(inside.url(name))).json())


def test_lines_are_found_over_any_pieces() -> None:
    chance = random.Random(1)
    for _ in range(300):
        messages = [b"x" * chance.choice((1, 2, 7, 300)) + b"\n" for _ in range(chance.randrange(1, 12))]
        whole = b"".join(messages)
        cuts = sorted({0, len(whole), *(chance.randrange(len(whole)) for _ in range(chance.randrange(12)))})
        pieces = [(100 + a, whole[a:b]) for a, b in itertools.pairwise(cuts)]
        starts = [100 + sum(map(len, messages[:index])) for index in range(len(messages))]
        assert list(lines(pieces)) == list(zip(starts, messages, strict=True))


def test_only_the_last_reset_is_kept_and_it_goes_like_a_deletion() -> None:
    newest, position = Newest(), 0
    sent = [change("t", "a", "insert", 1), RESET, change("t", "a", "insert", 2), RESET, {"note": 1}]
    for message in [*sent, change("t", "a", "insert", 3)]:
        line = json.dumps(message, separators=(",", ":")).encode() + b",\n"
        newest.add(position, line)
        position += len(line)
    assert len(newest) == 3
    assert newest.forget_deletions(position)
    assert [json.loads(line[:-2]) for _, line in newest.drain()] == [{"note": 1}, change("t", "a", "insert", 3)]


def test_resets_go_when_their_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MIN_NEW", 500)

    async def course(inside: Inside) -> None:
        headers = {**KEYED, "stream-retention-tombstone-seconds": "100"}
        answer = await inside.client.put(inside.url("s"), headers=headers)
        start = answer.headers["stream-next-offset"]
        resets = []
        for number in range(8):
            if number < 4:
                await post(inside, "s", [RESET])
            await post(inside, "s", [change("t", "a", "upsert", [number, "x" * 900])] * 3)
            await inside.checkpoint()
            resets.append((await inside.client.get(inside.url("s"))).json().count(RESET))
            inside.now += 60_000
        assert resets[:4] == [1] * 4, "only the last one counts"
        assert resets[-1] == 0
        assert await rows(inside, "s") == {"t/a": [7, "x" * 900]}
        answer = await inside.client.get(inside.url("s"), params={"offset": start})
        assert (answer.status_code, answer.json()["code"]) == (410, "OFFSET_GONE"), "it would have missed a reset"

    run(tmp_path, course)


def test_one_with_too_many_keys_is_looked_at_again_when_it_has_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "MAX_KEPT", 30_000)
    monkeypatch.setattr(state, "MIN_NEW", 1000)

    async def course(inside: Inside) -> None:
        await inside.client.put(inside.url("s"), headers=KEYED)
        expected = {}
        for number in range(40):
            await post(inside, "s", [change("t", f"{number}-{key}", "upsert", "x" * 100) for key in range(10)])
            expected |= {f"t/{number}-{key}": "x" * 100 for key in range(10)}
            await inside.checkpoint()
            if number == 30:
                await inside.restart()
        assert await rows(inside, "s") == expected

    run(tmp_path, course)
    assert 1 <= sum("too many keys" in record.message for record in caplog.records) <= 5


def test_one_that_is_damaged_is_not_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state, "MIN_NEW", 60_000)

    async def course(inside: Inside) -> None:
        await inside.client.put(inside.url("s"), headers=KEYED)
        await post(inside, "s", [change("t", str(key), "upsert", "x" * 1000) for key in range(50)])
        await inside.checkpoint()
        [pack] = inside.data.glob("pack-*")
        content = bytearray(pack.read_bytes())
        content[-100] ^= 1
        pack.write_bytes(content)
        for _ in range(12):
            await post(inside, "s", [change("t", "a", "upsert", "x" * 2000)] * 6)
            await inside.checkpoint()

    run(tmp_path, course)
    reports = [one.message for one in caplog.records if "is damaged" in one.message]
    assert 1 <= sum("twice" in report for report in reports) <= 2
    assert len(reports) <= 6, "nor to be joined with what comes after it"


def test_a_checkpoint_looks_at_so_much_and_the_rest_follows(tmp_path: Path) -> None:
    async def course(inside: Inside) -> None:
        names = [f"s{number}" for number in range(8)]
        inside.service.checkpointer.squeeze_room = 400_000
        for name in names:
            await inside.client.put(inside.url(name), headers=KEYED)
            await post(inside, name, [change("t", "a", "upsert", [at, "x" * 1000]) for at in range(150)])
        await inside.checkpoint()
        assert inside.service.checkpointer.squeezes == 3
        for _ in range(1000):  # nobody comes any more, and between two checkpoints is a rest
            await inside.sweep()
            if inside.service.checkpointer.squeezes == 8:
                break
            await asyncio.sleep(0.05)
        assert inside.service.checkpointer.squeezes == 8
        for name in names:
            assert (await inside.client.get(inside.url(name))).json() == [change("t", "a", "upsert", [149, "x" * 1000])]
        assert not inside.service.store.deadlines.overdue
        checkpoints = inside.service.checkpointer.count
        await inside.sweep()
        assert inside.service.checkpointer.count == checkpoints, "and then it rests"

    run(tmp_path, course)


def test_a_large_idle_stream_is_squeezed_piece_by_piece_once_nothing_forbids_it(tmp_path: Path) -> None:
    """Its fork forbade it. It goes on after a restart, too."""

    async def course(inside: Inside) -> None:
        client = inside.client
        inside.service.checkpointer.squeeze_room = 500_000
        await client.put(inside.url("s"), headers=KEYED)
        await client.put(inside.url("f"), headers={"stream-forked-from": "/v1/stream/s"})
        for number in range(20):
            batch = [change("t", str(key), "upsert", [number, "x" * 1000]) for key in range(100)]
            await post(inside, "s", batch + [change("t", "once", "upsert", number)] * (number == 3))
            await inside.checkpoint()
        assert found(inside, "s").held > 2_000_000
        expected = await rows(inside, "s")
        middle = f"{found(inside, 's').space:016d}_{found(inside, 's').runs[1].start:016d}"
        before = await rows(inside, "s")
        assert (await client.delete(inside.url("f"))).status_code == 204
        sizes = []
        for turn in range(12):
            inside.service.checkpointer.squeeze_room = 500_000
            inside.service.checkpointer._rest_until = 0
            inside.service.upkeep.sweep()
            await inside.idle()
            sizes.append(found(inside, "s").held)
            assert await rows(inside, "s") == expected
            rest = await client.get(inside.url("s"), params={"offset": middle})
            assert applied(before, rest.json()) == expected
            if turn == 1:
                await inside.crash()
        assert 2_000_000 > sizes[0] > sizes[-1], "a part at a time"
        assert sizes[-1] < 150_000
        assert sizes == sorted(sizes, reverse=True)
        await inside.settle()
        usage = (await client.get(inside.url("x").split("/v1/")[0] + "/usage")).json()
        assert usage["retained_bytes"] == found(inside, "s").held

    run(tmp_path, course)


def test_a_large_run_takes_little_memory(tmp_path: Path) -> None:
    """So no step of it is long, either: what is done at once is done while all others wait."""

    async def course(inside: Inside) -> None:
        await inside.client.put(inside.url("s"), headers=KEYED)
        for number in range(8):
            await post(inside, "s", [change("t", str(key % 10), "upsert", [number, "x" * 2000]) for key in range(1000)])
        await inside.idle()
        assert found(inside, "s").end > 16_000_000
        tracemalloc.start()
        await inside.checkpoint()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found(inside, "s").held < 30_000
        assert peak < 6_000_000

    run(tmp_path, course)


class Gate:
    """The checkpoint's thread stops before it writes, until it is let through."""

    def __init__(self, inside: Inside) -> None:
        packer = inside.service.checkpointer._packer
        self._real = packer.write
        self._open = threading.Event()
        self._there = threading.Event()
        packer.write = self._write  # type: ignore[method-assign]

    def _write(self, job: Job) -> None:
        self._there.set()
        self._open.wait()
        self._real(job)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._there.wait, 60)


async def soon(what: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(what, 30)


def test_only_what_moves_waits(tmp_path: Path) -> None:
    """While a checkpoint moves a stream's messages, others can be deleted and forked."""

    async def course(inside: Inside) -> None:
        client, url = inside.client, inside.url
        for name in ("moves", "stays", "other"):
            await client.put(url(name), headers=KEYED)
            await post(inside, name, [change("t", "a", "upsert", 1)])
        await post(inside, "moves", [change("t", "a", "upsert", ["x" * 1000])] * 100)
        with Gate(inside) as gate:
            inside.service.checkpointer.request()
            await gate.reached()
            assert (await soon(client.delete(url("stays")))).status_code == 204
            forked = await soon(client.put(url("f1"), headers={"stream-forked-from": "/v1/stream/other"}))
            assert forked.status_code == 201
            waiting = [
                asyncio.ensure_future(client.put(url("f2"), headers={"stream-forked-from": "/v1/stream/moves"})),
                asyncio.ensure_future(client.delete(url("moves"))),
            ]
            await soon(client.get(url("moves")))
            await post(inside, "moves", [change("t", "b", "upsert", 2)])
            assert not any(one.done() for one in waiting)
        await inside.idle()
        assert [(await soon(one)).status_code for one in waiting] == [201, 204]  # type: ignore[arg-type]
        assert await rows(inside, "f2") == {"t/a": ["x" * 1000], "t/b": 2}
        await inside.crash()
        assert await rows(inside, "f2") == {"t/a": ["x" * 1000], "t/b": 2}
        assert (await client.get(url("stays"))).status_code == 404

    run(tmp_path, course)


def test_a_stream_in_a_checkpoint_is_not_packed_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the checkpoint took it for deleted, and removed the pack to which the catalogue already points."""
    monkeypatch.setattr(store_module, "MAX_IDLE_HYDRATED", 0)

    async def course(inside: Inside) -> None:
        client, url = inside.client, inside.url
        for name, size in (("kept", 100_000), ("deleted", 3_000_000)):
            await client.put(url(name), headers=OCTETS)
            await client.post(url(name), headers=OCTETS, content=b"x" * size)
        await inside.checkpoint()
        await client.delete(url("deleted"))
        with Gate(inside) as gate:
            inside.service.checkpointer.tidy()
            await gate.reached()
            inside.service.store.pack_idle()
        await inside.idle()
        await inside.crash()
        assert (await client.get(url("kept"))).content == b"x" * 100_000

    run(tmp_path, course)
