"""Large appends: a checkpoint leaves them where the log has them, and everything else is as with small ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from switchgear_streams import adoption, checksums, records, stream, wal
from tests.streams.inside import Inside
from tests.streams.server import OCTETS, StreamsServer, read_all
from tests.support.files import total_size
from tests.support.region import wait_until

MIB = 1_048_576


def adopted(data: Path) -> list[Path]:
    """Packs that were segments of the log."""
    found = []
    for path in sorted(data.glob("pack-*")):
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            if path.read_bytes()[:4] == records.MAGIC:
                found.append(path)
    return found


def test_checksums_of_much_are_those_of_zlib() -> None:
    chance = random.Random(2)
    data = chance.randbytes(1_000_000)
    for length in (0, 1, 2047, 2048, 2049, 65_537, 1_000_000):
        start = chance.getrandbits(32)
        wanted = zlib.crc32(data[:length], start)
        assert checksums.crc32(data[:length], start) == checksums.crc32(memoryview(data)[:length], start) == wanted
        assert checksums.crc32_of_much(bytearray(data[:length]), start) == wanted


@pytest.mark.parametrize("there", [True, False])
def test_checksums_with_and_without_the_library(there: bool) -> None:
    """Where there is no wheel for the machine, zlib does it."""
    block = "" if there else "import sys; sys.modules['isal'] = None; "
    program = f"{block}from switchgear_streams import checksums; print(checksums.crc32_of_much.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ("isal.isal_zlib" if there else "zlib")


def test_checksums_in_a_row() -> None:
    chance = random.Random(3)
    for length in (0, 1, 9, 255, 256, 70_000, 1_000_000):
        first, second = chance.randbytes(chance.randrange(200)), chance.randbytes(length)
        assert checksums.joined(zlib.crc32(first), zlib.crc32(second), length) == zlib.crc32(first + second)


def test_written_once_and_there_after_every_end(own: StreamsServer, client: httpx.Client) -> None:
    server = StreamsServer(own.folder, "--checkpoint-bytes", str(6 * MIB), "--wal-segment-bytes", str(16 * MIB))
    chance = random.Random(5)
    wanted: dict[str, bytes] = {"a": b"", "b": b""}
    try:
        server.start()
        for name in wanted:
            first = chance.randbytes(600_000)
            assert client.put(server.stream(name), headers=OCTETS, content=first).status_code == 201
            wanted[name] = first
        for number in range(24):
            name = chance.choice("ab")
            for size in (chance.randrange(1000), 700_000 + number):
                body = chance.randbytes(size)
                assert client.post(server.stream(name), headers=OCTETS, content=body or b"x").status_code == 204
                wanted[name] += body or b"x"
            assert read_all(client, server.stream(name))[0] == wanted[name]
        wait_until(lambda: bool(adopted(server.data)), 60, "no checkpoint left a segment as a pack")
        server.kill()
        for end in (server.stop, server.stop, server.kill):
            server.start()
            assert "damaged" not in server.log
            for name, content in wanted.items():
                assert read_all(client, server.stream(name))[0] == content
            end()
    finally:
        server.end()


def test_a_volume_without_hard_links(own: StreamsServer, client: httpx.Client) -> None:
    faults = own.folder / "faults"
    faults.mkdir(parents=True)
    (faults / "unlinkable").touch()
    server = StreamsServer(
        own.folder,
        "--checkpoint-bytes",
        str(6 * MIB),
        module="tests.streams.faulty",
        environment={"FAULTS": str(faults)},
    )
    try:
        server.start()
        client.put(server.stream("a"), headers=OCTETS)
        bodies = [random.Random(number).randbytes(MIB) for number in range(8)]
        for body in bodies:
            assert client.post(server.stream("a"), headers=OCTETS, content=body).status_code == 204
        assert server.stop() == 0
        assert "is copied" in server.log
        assert not adopted(server.data)
        server.start()
        assert read_all(client, server.stream("a"))[0] == b"".join(bodies)
    finally:
        server.end()


def test_space_of_an_adopted_segment_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Most of its streams go, a fork pins one of them: what is left moves, the file goes."""
    monkeypatch.setattr(stream, "LARGE", 50_000)
    monkeypatch.setattr(adoption, "MIN_LARGE", 500_000)

    async def run() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        client = inside.client
        bodies = {f"s{number}": random.Random(number).randbytes(400_000 + number) for number in range(12)}
        for name, body in bodies.items():
            assert (await client.put(inside.url(name), headers=OCTETS, content=b"small")).status_code == 201
            for part in (body[:100_000], body[100_000:]):
                assert (await client.post(inside.url(name), headers=OCTETS, content=part)).status_code == 204
        fork = {"stream-forked-from": "/v1/stream/s3"}
        assert (await client.put(inside.url("fork"), headers=fork)).status_code == 201
        await inside.checkpoint()
        assert len(adopted(inside.data)) == 1
        [before] = adopted(inside.data)
        with before.open("ab") as file:  # as if the cut had not reached the disk: a block of the segment's earlier life
            file.write(before.read_bytes()[:1_000_000])
        assert before.stat().st_nlink == 1, "the log still has it"
        for number in range(10):
            assert (await client.delete(inside.url(f"s{number}"))).status_code == 204
        await inside.checkpoint()
        assert before not in adopted(inside.data)
        assert "damaged" not in caplog.text
        for _ in range(2):
            for name in ("s10", "s11"):
                assert (await client.get(inside.url(name))).content == b"small" + bodies[name]
            assert (await client.get(inside.url("fork"))).content == b"small" + bodies["s3"]
            await inside.crash()
        await inside.end()

    asyncio.run(run())


def test_retention_takes_large_appends_out_of_memory_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LARGE", 50_000)
    monkeypatch.setattr(adoption, "MIN_LARGE", 200_000)

    async def run() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        client, chance = inside.client, random.Random(8)
        headers = {**OCTETS, "stream-retention-bytes": "300000"}
        assert (await client.put(inside.url("s"), headers=headers)).status_code == 201
        content = b""
        for number in range(40):
            body = chance.randbytes(chance.choice((300, 60_000, 120_000)))
            assert (await client.post(inside.url("s"), headers=OCTETS, content=body)).status_code == 204
            content += body
            if number % 4 == 3:
                await inside.sweep()
            if number % 10 == 9:
                await (inside.crash if number % 20 == 9 else inside.checkpoint)()
            kept = (await client.get(inside.url("s"))).content
            assert content.endswith(kept)
            assert len(kept) >= min(180_000, len(content))
        await inside.settle()
        assert len((await client.get(inside.url("s"))).content) < 600_000
        assert total_size(inside.data.glob("pack-*")) < 1_500_000
        await inside.end()

    asyncio.run(run())


def test_bodies_in_any_pieces_with_requests_right_behind_them(tmp_path: Path) -> None:
    async def run() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        chance = random.Random(21)
        for media, letters in (("application/octet-stream", None), ("text/plain", b"ab\n"), ("application/json", b"x")):
            name = media.replace("/", "-")
            head = f"POST /v1/stream/{name} HTTP/1.1\r\nhost: t\r\ncontent-type: {media}\r\n".encode()
            await inside.client.put(inside.url(name), headers={"content-type": media})
            sent, wanted = b"", b""
            for size in (300_000, 5, 1_100_000, 700_000, 262_145):
                text = chance.randbytes(size) if letters is None else (letters * size)[:size]
                body = b'"%b"' % text if letters == b"x" else text
                sent += head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
                wanted += body
            reader, writer = await asyncio.open_connection("127.0.0.1", inside.port)
            while sent:
                cut = chance.choice((1, 900, 30_000, 400_000))
                writer.write(sent[:cut])
                sent = sent[cut:]
                await writer.drain()
                if chance.random() < 0.3:
                    await asyncio.sleep(0.002)
            for _ in range(5):
                assert b" 204 " in (await reader.readuntil(b"\r\n\r\n"))[:20]
            writer.close()
            got = (await inside.client.get(inside.url(name))).content
            if letters == b"x":
                got, wanted = got.replace(b",\n", b","), b"[%b]" % wanted.replace(b'""', b'","')
            assert got == wanted
        assert inside.service._bodies._held == 0
        await inside.end()

    asyncio.run(run())


def test_half_a_body_leaves_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        await inside.client.put(inside.url("s"), headers=OCTETS, content=b"before")
        _, writer = await asyncio.open_connection("127.0.0.1", inside.port)
        head = b"POST /v1/stream/s HTTP/1.1\r\nhost: t\r\ncontent-type: application/octet-stream\r\n"
        writer.write(head + b"content-length: 1000000\r\n\r\n" + bytes(900_000))
        await writer.drain()
        bodies = inside.service._bodies
        while not bodies._held:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        writer.close()
        while bodies._held:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert (await inside.client.get(inside.url("s"))).content == b"before"
        await inside.end()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_large_append_reaches_live_readers(tmp_path: Path) -> None:
    """In pieces, to each at its own pace: who waits gets the first and asks for the next."""

    async def run() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        text = b"line\n" * 120_000
        for media in ("text/plain", "application/octet-stream"):
            url = inside.url(media.replace("/", "-"))
            await inside.client.put(url, headers={"content-type": media})
            params = {"offset": "now", "live": "long-poll"}
            poll = asyncio.ensure_future(inside.client.get(url, params=params))
            async with inside.client.stream("GET", url, params={"offset": "now", "live": "sse"}) as events:
                lines = events.aiter_lines()
                assert await anext(lines) == "event: control"
                assert (await inside.client.post(url, headers={"content-type": media}, content=text)).status_code == 204
                assert await told(lines, len(text), media) == text
            answer = await poll
            got = answer.content
            while len(got) < len(text):
                answer = await inside.client.get(
                    url, params={"offset": answer.headers["stream-next-offset"], "live": "long-poll"}
                )
                assert answer.content
                got += answer.content
            assert got == text
        await inside.end()

    asyncio.run(asyncio.wait_for(run(), 60))


async def told(lines: AsyncIterator[str], size: int, media: str) -> bytes:
    """What the data events carry, until it is as much as `size`."""
    found, event, data = b"", "control", list[str]()
    async for line in lines:
        if line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:])
        elif not line:
            if event == "data":
                body = "\n".join(data).encode()
                found += body if media == "text/plain" else base64.b64decode(body)
            data = []
            if len(found) >= size:
                break
    return found


@pytest.mark.parametrize("size", [wal.MAX_BLOCK - 4096, wal.MAX_BLOCK - 64, wal.MAX_BLOCK, 9 * MIB + 7])
def test_an_append_that_is_a_block_by_itself_outlives_a_kill(
    own: StreamsServer, client: httpx.Client, size: int
) -> None:
    """With its producer's number; who waits for it gets it."""
    own.start()
    body = random.Random(size).randbytes(size)
    assert client.put(own.stream("s"), headers=OCTETS).status_code == 201
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, own.stream("s"), params={"offset": "now", "live": "long-poll"})
        wait_until(lambda: own.metric("streams_long_polls") == 1, 60, "the reader")
        once = {**OCTETS, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
        assert client.post(own.stream("s"), headers=once, content=body).status_code == 200
        assert body.startswith(waiting.result(60).content or b"nothing")
    own.kill()
    own.start()
    assert read_all(client, own.stream("s"))[0] == body
    assert client.post(own.stream("s"), headers=once, content=body).status_code == 204
    assert read_all(client, own.stream("s"))[0] == body


def test_what_fills_a_block_within_one_turn_is_whole(tmp_path: Path) -> None:
    """Appends to many streams: the one that closes a block, and what joins it afterwards."""

    async def run() -> None:
        inside = Inside(tmp_path)
        await inside.start()
        wanted = {f"s{number}": random.Random(number).randbytes(MIB + number) for number in range(11)}
        for name in wanted:
            assert (await inside.client.put(inside.url(name), headers=OCTETS)).status_code == 201
        store = inside.service.store
        for name, body in wanted.items():
            stream = store.get(name.encode())
            assert stream is not None
            store.append(stream, body, close=False, extra=None)
            store.append(stream, b"more", close=True, extra=None)
            assert stream.last_block == store.log.pending_number
        await inside.crash()
        for name, body in wanted.items():
            answer = await inside.client.get(inside.url(name))
            assert answer.content == body + b"more", name
            assert answer.headers["stream-closed"] == "true"
        await inside.end()

    asyncio.run(run())
