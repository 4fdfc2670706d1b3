"""What a start makes of a directory: torn ends, damage in the middle, other versions, a second process, a bad disk."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from switchgear_streams import catalog, records
from tests.streams import faulty
from tests.streams.inside import Inside
from tests.streams.server import JSON, OCTETS, TEXT, StreamsServer, read_all, read_messages
from tests.support.files import total_size
from tests.support.region import wait_until


def segments(server: StreamsServer) -> list[Path]:
    return sorted(server.data.glob("wal-*.log"))


def blocks(path: Path, log_id: bytes) -> list[records.Block]:
    data, found, at = path.read_bytes(), [], 0
    while (block := records.read_block(data, at, log_id)) is not None and block.number == (
        found[-1].number + 1 if found else block.number
    ):
        found.append(block)
        at = block.end
    return found


def log_id(server: StreamsServer) -> bytes:
    return bytes.fromhex((server.data / "FORMAT").read_text().split("log ")[1].strip())


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def fill(server: StreamsServer, client: httpx.Client, names: list[str], count: int) -> None:
    for name in names:
        client.put(server.stream(name), headers=TEXT)
    for number in range(count):
        for name in names:
            assert client.post(server.stream(name), headers=TEXT, content=b"%04d," % number).status_code == 204


def wanted(count: int) -> bytes:
    return b"".join(b"%04d," % number for number in range(count))


def test_a_clean_stop_leaves_nothing_to_replay(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    fill(own, client, ["a", "b"], 20)
    assert own.stop() == 0
    own.start()
    assert "replayed 0 records" in own.log
    assert read_all(client, own.stream("a"))[0] == wanted(20)
    assert own.metric("streams_torn_bytes") == 0


def test_a_start_does_not_take_the_log_into_memory(own: StreamsServer, client: httpx.Client) -> None:
    """Segments have 64 MB each; idle, the server takes less than 30."""
    own.start()
    fill(own, client, ["a"], 20)
    wait_until(lambda: total_size(segments(own)) > 100_000_000, 60, "the spare segment, made on the side")
    own.kill()
    own.start()
    assert own.process is not None
    status = Path(f"/proc/{own.process.pid}/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    assert peak < 75_000, f"{peak} KB"
    assert read_all(client, own.stream("a"))[0] == wanted(20)


def log_of(server: StreamsServer) -> tuple[Path, list[records.Block]]:
    """The newest segment that has blocks, and those."""
    secret = log_id(server)
    return next((path, found) for path in reversed(segments(server)) if (found := blocks(path, secret)))


def test_a_torn_end_is_cut(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    fill(own, client, ["a"], 20)
    for kept in range(4):
        own.kill()
        path, found = log_of(own)
        last = found[-1]
        cut = (last.end - 1, last.begin + 3, last.begin - 2, last.offset + 1)[kept]
        overwrite(path, cut, bytes(last.end - cut))
        own.start()
        assert "damaged" not in own.log
        assert read_all(client, own.stream("a"))[0] == wanted(19) + b"keep," * kept
        assert client.post(own.stream("a"), headers=TEXT, content=b"keep,").status_code == 204
        assert client.post(own.stream("a"), headers=TEXT, content=b"tear").status_code == 204
    own.kill()
    own.start()
    assert read_all(client, own.stream("a"))[0] == wanted(19) + b"keep," * 4 + b"tear"
    assert "damaged" not in own.log


def test_a_damaged_record_quarantines_its_stream_only(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    fill(own, client, ["a", "b"], 20)
    own.kill()
    path, found = log_of(own)
    # The creations are the first block each; then a and b take turns. The 10th append of a: its payload's last byte.
    victim = found[2 + 2 * 10]
    overwrite(path, victim.end - 1, b"?")
    own.start()
    assert "data was damaged" in own.log
    assert own.metric("streams_damaged_streams") == 1
    assert read_all(client, own.stream("b"))[0] == wanted(20)
    url = own.stream("a")
    before = client.get(url)
    assert before.content == wanted(10)
    assert "stream-up-to-date" not in before.headers
    hole = client.get(url, params={"offset": before.headers["stream-next-offset"]})
    assert (hole.status_code, hole.json()["code"]) == (410, "DATA_DAMAGED")
    for live in ("sse", "long-poll"):
        query = {"offset": before.headers["stream-next-offset"], "live": live}
        assert client.get(url, params=query).status_code == 410
    space, position = before.headers["stream-next-offset"].split("_")
    after = client.get(url, params={"offset": f"{space}_{int(position) + 5:016d}"})
    assert after.content == wanted(20)[55:]
    refused = client.post(url, headers=TEXT, content=b"x")
    assert (refused.status_code, refused.json()["code"]) == (409, "STREAM_QUARANTINED")
    assert client.post(own.stream("b"), headers=TEXT, content=b"x").status_code == 204
    assert list(own.data.glob("*.damaged"))
    assert own.stop() == 0
    own.start()
    url = own.stream("a")
    assert client.get(url).content == wanted(10)
    assert client.get(url, params={"offset": before.headers["stream-next-offset"]}).status_code == 410
    assert client.delete(url).status_code == 204
    assert client.put(url, headers=TEXT, content=b"anew").status_code == 201


def test_a_lost_block_in_the_middle_is_noticed(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    fill(own, client, ["a", "b"], 20)
    own.kill()
    path, found = log_of(own)
    victim = found[2 + 2 * 10]
    overwrite(path, victim.offset, bytes(victim.end - victim.offset))
    own.start()
    assert "data was damaged" in own.log
    assert client.get(own.stream("a")).content == wanted(10)
    assert client.post(own.stream("a"), headers=TEXT, content=b"x").status_code == 409
    assert read_all(client, own.stream("b"))[0] == wanted(20)


def test_payloads_cannot_pose_as_the_log(own: StreamsServer, client: httpx.Client) -> None:
    """A block in a payload, even one with a high number, is no block: the log's id is secret."""
    forged = b"".join(
        records.encode_block(bytes(16), 10_000, 9_999, records.encode(records.DELETE, b"a", 1, 0, 0, None, (), b""))[0]
    )
    own.start()
    client.put(own.stream("a"), headers=OCTETS, content=forged * 50)
    own.kill()
    own.start()
    client.post(own.stream("a"), headers=OCTETS, content=forged)
    own.kill()
    path, found = log_of(own)
    overwrite(path, found[-1].begin + 1, b"\xff\xff")
    own.start()
    assert "damaged" not in own.log
    assert client.get(own.stream("a")).content == forged * 50


def test_a_damaged_pack_is_reported_not_copied(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    client.put(own.stream("a"), headers=OCTETS, content=b"a" * 3000)
    assert own.stop() == 0
    pack = next(own.data.glob("pack-*.dat"))
    overwrite(pack, pack.stat().st_size - 10, b"??")
    own.start()
    client.post(own.stream("a"), headers=OCTETS, content=b"b" * 9000)
    assert own.stop() == 0
    assert "is damaged" in own.log
    own.start()
    assert client.get(own.stream("a")).content.endswith(b"b" * 9000)
    pack.unlink()
    assert own.stop() == 0
    own.start()
    assert "is missing" in own.log
    assert client.get(own.stream("a")).status_code == 503
    assert client.put(own.stream("c"), headers=TEXT).status_code == 201


def test_a_stopped_checkpoint_leaves_no_trace(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    fill(own, client, ["a"], 5)
    assert own.stop() == 0
    (own.data / "pack-0000000000000099.dat").write_bytes(b"half a pack")
    catalog = max(own.data.glob("catalog-*.dat"))
    whole = catalog.read_bytes()
    catalog.write_bytes(whole + whole[: len(whole) // 2])
    own.start()
    assert read_all(client, own.stream("a"))[0] == wanted(5)
    assert not (own.data / "pack-0000000000000099.dat").exists()
    assert own.stop() == 0


def commits(path: Path) -> list[int]:
    """Where the closing entries of the catalogue's groups are."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        if data[at + 8] == catalog.COMMIT:
            found.append(at)
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return found


def openings(path: Path) -> list[int]:
    """Where the catalogue's groups begin."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        if data[at + 8] == catalog.BEGIN:
            found.append(at)
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return found


def stopped(own: StreamsServer, client: httpx.Client) -> Path:
    """The catalogue of a server with two groups in it and nothing in its log."""
    own.start()
    fill(own, client, ["a", "b"], 5)
    assert own.stop() == 0
    own.start()
    client.post(own.stream("a"), headers=TEXT, content=b"0005,")
    assert own.stop() == 0
    own.start()  # gives the log back
    assert own.stop() == 0
    path: Path = next(own.data.glob("catalog-*.dat"))
    assert len(openings(path)) == 2
    return path


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_end_of_the_catalogue_is_no_torn_one(own: StreamsServer, client: httpx.Client, cut: bool) -> None:
    """What it knew is not in the log any more: the group's beginning says what its end said."""
    path = stopped(own, client)
    whole = path.read_bytes()
    damaged = whole[:-1] + (b"" if cut else b"?")
    path.write_bytes(damaged)
    own.start()
    assert "data was damaged" in own.log
    assert path.with_name(path.name + ".damaged").read_bytes() == damaged
    assert path.read_bytes() == whole
    for _ in range(2):
        assert read_all(client, own.stream("a"))[0] == wanted(6)
        assert read_all(client, own.stream("b"))[0] == wanted(5)
        own.kill()
        own.start()
        assert "data was damaged" not in own.log


def test_a_group_of_which_nothing_is_known_is_missed(own: StreamsServer, client: httpx.Client) -> None:
    path = stopped(own, client)
    at = openings(path)[1]
    overwrite(path, at, bytes(path.stat().st_size - at))
    packs = {each.name: each.read_bytes() for each in own.data.glob("pack-*.dat")}
    own.start()
    assert "changes after block" in own.log
    assert path.with_name(path.name + ".damaged").exists()
    assert read_all(client, own.stream("b"))[0] == wanted(5)
    for _ in range(2):
        client.put(own.stream("new"), headers=TEXT, content=b"x")
        assert own.stop() == 0
        own.start()
        assert client.get(own.stream("new")).content == b"x"
        assert all((own.data / name).read_bytes() == content for name, content in packs.items())


def test_a_catalogue_of_which_nothing_is_left_is_no_empty_one(own: StreamsServer, client: httpx.Client) -> None:
    path = stopped(own, client)
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    before = {each.name: each.read_bytes() for each in own.data.iterdir()}
    own.start(wait=False)
    assert own.process is not None
    assert own.process.wait(60) == 1
    assert "nothing of it is whole" in own.log
    assert {each.name: each.read_bytes() for each in own.data.iterdir()} == before
    path.write_bytes(whole)
    own.start()
    assert read_all(client, own.stream("a"))[0] == wanted(6)


def test_the_catalogue_is_written_anew_when_it_is_mostly_history(own: StreamsServer, client: httpx.Client) -> None:
    small = StreamsServer(own.folder, "--checkpoint-bytes", "1024", module="tests.streams.small_catalog")
    try:
        small.start()
        names = [f"n{number}" for number in range(10)]
        fill(small, client, names, 60)
        deadline = time.monotonic() + 60
        while max(small.data.glob("catalog-*.dat")).name == "catalog-0000000000000001.dat":
            assert time.monotonic() < deadline
            fill(small, client, [], 0)
            client.post(small.stream("n0"), headers=TEXT, content=b"y" * 2000)
        # The old one goes once the new one is on the disk.
        wait_until(lambda: len(list(small.data.glob("catalog-*.dat"))) == 1, 60, "two catalogues")
        small.kill()
        small.start()
        for name in names[1:]:
            assert read_all(client, small.stream(name))[0] == wanted(60)
    finally:
        small.end()


def test_space_of_deleted_streams_comes_back(own: StreamsServer, client: httpx.Client) -> None:
    small = StreamsServer(own.folder, module="tests.streams.small_catalog")

    def packed() -> int:
        return total_size(small.data.glob("pack-*.dat"))

    try:
        small.start()
        chance = random.Random(4)
        bodies = {f"n{number}": chance.randbytes(60_000) for number in range(100)}
        for name, body in bodies.items():
            client.put(small.stream(name), headers=OCTETS, content=body[:30_000])
            client.post(small.stream(name), headers=OCTETS, content=body[30_000:])
        assert small.stop() == 0
        assert packed() > 6_000_000
        small.start()
        for number in range(80):
            client.delete(small.stream(f"n{number}"))
        deadline = time.monotonic() + 90
        # A pack of which little is dead, or less than 1 MiB, is left as it is: that depends on when it was looked at.
        while not 1_200_000 < packed() < 2_400_000:
            assert time.monotonic() < deadline, packed()
            time.sleep(0.1)
        for end in (lambda: None, small.kill):
            end()
            if small.process is None or small.process.poll() is not None:
                small.start()
            for number in range(80, 100):
                url = small.stream(f"n{number}")
                assert client.get(url).content == bodies[f"n{number}"]
                half = {"stream-forked-from": f"/v1/stream/n{number}", "stream-fork-sub-offset": "30001"}
                zero = "0000000000000000_0000000000000000"
                assert client.put(url + "-f", headers={**half, "stream-fork-offset": zero}).status_code == 400
        assert "Traceback" not in small.log
    finally:
        small.end()


def test_one_process_a_directory(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    client.put(own.stream("a"), headers=TEXT, content=b"x")
    second = StreamsServer(own.folder / "second")
    second.data = own.data
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(60) == 1
    assert "in use by another process" in second.log
    assert client.get(own.stream("a")).content == b"x"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("FORMAT", "switchgear-streams 99\n", "format"), ("holiday.jpg", "x", "other files")],
)
def test_foreign_directories_are_refused(own: StreamsServer, name: str, content: str, words: str) -> None:
    own.data.mkdir(parents=True)
    (own.data / name).write_text(content)
    own.start(wait=False)
    assert own.process is not None
    assert own.process.wait(60) == 1
    assert words in own.log
    assert (own.data / name).read_text() == content


def test_a_full_disk_answers_507_and_recovers(tmp_path: Path, client: httpx.Client) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    server = StreamsServer(
        tmp_path, "--wal-segment-bytes", "1000000", "--checkpoint-bytes", "200000",
        module="tests.streams.faulty", environment={"FAULTS": str(faults)},
    )  # fmt: skip
    try:
        server.start()
        url = server.stream("a")
        client.put(url, headers=OCTETS)
        client.put(server.stream("old"), headers=OCTETS, content=b"o" * 1000)
        (faults / "full").touch()
        accepted = 0
        for _ in range(400):
            answer = client.post(url, headers=OCTETS, content=b"x" * 10_000)
            if answer.status_code != 204:
                break
            accepted += 1
        assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL")
        assert answer.headers["retry-after"]
        assert client.put(server.stream("new"), headers=TEXT, content=b"x" * 10_000).status_code == 507
        assert len(read_all(client, url)[0]) == accepted * 10_000
        assert client.get(f"{server.url}/ready").status_code == 200
        assert client.delete(server.stream("old")).status_code == 204
        assert server.metric("streams_disk_full") == 1
        (faults / "full").unlink()
        deadline = time.monotonic() + 60
        while client.post(url, headers=OCTETS, content=b"y" * 10_000).status_code != 204:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.kill()
        server.start()
        assert read_all(client, server.stream("a"))[0] == b"x" * accepted * 10_000 + b"y" * 10_000
        assert client.head(server.stream("old")).status_code == 404
    finally:
        server.end()


def test_a_log_full_of_tiny_records_is_emptied(tmp_path: Path, client: httpx.Client) -> None:
    """They hardly count as new data, and yet take the room of the log."""
    server = StreamsServer(tmp_path, "--wal-segment-bytes", "262144")
    try:
        server.start()
        url = server.stream("long" * 250)
        client.put(url, headers=OCTETS)
        for number in range(1300):
            sent = {**OCTETS, "producer-id": "p", "producer-epoch": "0", "producer-seq": str(number)}
            answer = client.post(url, headers=sent, content=b"x")
            assert answer.status_code == 200, answer.text
        assert server.metric("streams_checkpoints_total") > 0
    finally:
        server.end()


async def test_many_tiny_records_bring_a_checkpoint(tmp_path: Path) -> None:
    """A start replays them one by one: how many there are counts, not only how large they are."""
    inside = Inside(tmp_path, "--checkpoint-bytes", "131072")
    await inside.start()
    try:
        await inside.client.put(inside.url("a"), headers=OCTETS)
        await inside.checkpoint()
        store, wal, before = inside.service.store, inside.service.wal, inside.service.checkpointer.count
        stream = store.get(b"a")
        assert stream is not None
        for _ in range(2000):
            store.append(stream, b"x", close=False, extra=None)
            wal.flush()
        await inside.idle()
        assert inside.service.checkpointer.count > before
    finally:
        await inside.end()


async def test_streams_that_expire_while_the_disk_is_full_go_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchgear_streams.service.Disk", faulty.FaultyDisk)
    monkeypatch.setattr(faulty, "SWITCHES", tmp_path)
    inside = Inside(tmp_path / "data", "--wal-segment-bytes", "262144")
    await inside.start()
    store, wal = inside.service.store, inside.service.wal
    try:
        for number in range(500):
            name = f"s{number}/" + "long" * 150
            made = await inside.client.put(inside.url(name), headers={**OCTETS, "stream-ttl": "60"})
            assert made.status_code == 201
        (tmp_path / "full").touch()
        while (await inside.client.put(inside.url("x"), headers=OCTETS, content=b"x" * 30_000)).status_code != 507:
            await inside.client.delete(inside.url("x"))
        inside.now += 61_000
        await inside.sweep()
        assert 0 < len(store.streams) < 500, "the last reserve is for deletions, and not endless"
        (tmp_path / "full").unlink()
        async with asyncio.timeout(60):
            while wal.full:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await inside.sweep()
        assert not [key for key in store.streams if key.startswith(b"s")]
    finally:
        (tmp_path / "full").unlink(missing_ok=True)
        await inside.end()


def test_a_failed_sync_ends_the_process_without_an_acknowledgement(tmp_path: Path, client: httpx.Client) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    server = StreamsServer(tmp_path, module="tests.streams.faulty", environment={"FAULTS": str(faults)})
    try:
        server.start()
        client.put(server.stream("a"), headers=TEXT, content=b"kept")
        (faults / "broken").touch()
        with pytest.raises(httpx.TransportError):
            client.post(server.stream("a"), headers=TEXT, content=b"lost")
        assert server.process is not None
        assert server.process.wait(60) == 70
        assert "the disk failed" in server.log
        (faults / "broken").unlink()
        server.start()
        assert client.get(server.stream("a")).content in (b"kept", b"keptlost")
    finally:
        server.end()


def test_readers_see_only_what_is_durable(tmp_path: Path, client: httpx.Client) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    server = StreamsServer(tmp_path, module="tests.streams.faulty", environment={"FAULTS": str(faults)})
    try:
        server.start()
        url = server.stream("a")
        client.put(url, headers=TEXT, content=b"one")
        appends = server.metric("streams_appends_total")
        (faults / "stuck").touch()
        answers: list[httpx.Response] = []

        def send(*requests: tuple[str, str, dict[str, str], bytes]) -> None:
            with httpx.Client(trust_env=False, timeout=60) as own:
                answers.extend(own.request(m, u, headers=h, content=c) for m, u, h, c in requests)

        threads = [
            threading.Thread(target=send, args=(("POST", url, {**TEXT, "stream-closed": "true"}, b"two"),)),
            threading.Thread(target=send, args=(("PUT", server.stream("b"), TEXT, b"new"),)),
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while server.metric("streams_appends_total") < appends + 1 or not (faults / "waits").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        late = threading.Thread(target=send, args=(("POST", url, TEXT, b"three"),))
        late.start()
        time.sleep(0.2)
        assert not answers
        seen = client.get(url)
        assert seen.content == b"one"
        assert "stream-closed" not in seen.headers
        assert "stream-closed" not in client.head(url).headers
        assert client.get(server.stream("b")).status_code == 404
        assert client.get(url, params={"offset": "now", "live": "long-poll"}).status_code == 204
        (faults / "stuck").unlink()
        for thread in (*threads, late):
            thread.join(60)
        assert sorted(answer.status_code for answer in answers) == [201, 204, 409]
        assert client.get(url).content == b"onetwo"
    finally:
        server.end()


def test_zero_byte_and_short_files(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    fill(own, client, ["a"], 3)
    own.kill()
    (own.data / "wal-0000000000000090.log").touch()
    (own.data / "wal-0000000000000091.log").write_bytes(records.MAGIC)
    own.start()
    assert read_all(client, own.stream("a"))[0] == wanted(3)
    client.post(own.stream("a"), headers=TEXT, content=b"0003,")
    own.kill()
    own.start()
    assert read_all(client, own.stream("a"))[0] == wanted(4)


def test_lifetimes_and_forks_survive(own: StreamsServer, client: httpx.Client) -> None:
    own.start()
    client.put(own.stream("short"), headers={**TEXT, "stream-ttl": "1"}, content=b"x")
    client.put(own.stream("long"), headers={**TEXT, "stream-ttl": "3600"}, content=b"x")
    client.put(own.stream("src"), headers=JSON, content=b"[1,2,3]")
    client.put(own.stream("fork"), headers={"stream-forked-from": "/v1/stream/src"})
    client.post(own.stream("fork"), headers=JSON, content=b"4")
    client.put(own.stream("fork2"), headers={"stream-forked-from": "/v1/stream/fork"})
    client.delete(own.stream("src"))
    for end in (own.kill, own.stop):
        end()
        own.start()
        assert client.head(own.stream("long")).headers["stream-ttl"] == "3600"
        assert read_messages(client, own.stream("fork")) == [1, 2, 3, 4]
        assert read_messages(client, own.stream("fork2")) == [1, 2, 3, 4]
        assert client.get(own.stream("src")).status_code == 410
        time.sleep(0.6)
    assert client.head(own.stream("short")).status_code == 404
    deadline = time.monotonic() + 60
    while own.metric("streams_streams") != 4:
        assert time.monotonic() < deadline, "the sweeper does not remove what has expired"
        time.sleep(0.1)
    client.delete(own.stream("fork"))
    client.delete(own.stream("fork2"))
    own.kill()
    own.start()
    assert client.get(own.stream("src")).status_code == 404
    assert own.metric("streams_streams") == 1
