"""kill -9 under load: every acknowledged record is there once, in order; nobody saw what was lost."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.streams.server import JSON, OCTETS, TEXT, StreamsServer, read_all, read_messages
from tests.streams.states import applied, change

WRITERS = 6
STREAMS = 3


@dataclass
class Writer:
    """Appends numbered messages to one stream until the server dies; never repeats one whose answer it did not see."""

    name: str
    url: str = ""
    number: int = 0
    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)

    def run(self, url: str) -> None:
        with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
            while True:
                number, self.number = self.number, self.number + 1
                try:
                    pad = "x" * (number % 97)
                    answer = client.post(url, headers=JSON, content=json.dumps([self.name, number, pad]).join("[]"))
                except httpx.TransportError:
                    self.unknown.append(number)
                    return
                assert answer.status_code == 204, answer.text
                self.acknowledged.append(number)


@dataclass
class Churner:
    """Creates streams with data and deletes most of them, while checkpoints move everything about."""

    kept: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    number: int = 0

    def run(self, server: StreamsServer) -> None:
        chance = random.Random(self.number)
        with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
            while True:
                self.number += 1
                name = f"churn-{self.number}"
                try:
                    self.one(client, server, name, chance)
                except httpx.TransportError:
                    self.unknown.add(name)
                    return

    def one(self, client: httpx.Client, server: StreamsServer, name: str, chance: random.Random) -> None:
        body = chance.randbytes(chance.randrange(1, 3000))
        assert client.put(server.stream(name), headers=OCTETS, content=body).status_code == 201
        self.kept[name] = body
        if chance.random() < 0.3:
            self.kept.pop(name)  # until the answer is there, it may be either
            more = client.post(server.stream(name), headers=OCTETS, content=body)
            assert more.status_code == 204
            self.kept[name] = body + body
        if chance.random() < 0.7:
            gone = chance.choice(sorted(self.kept))
            self.kept.pop(gone)
            try:
                assert client.delete(server.stream(gone)).status_code == 204
            except httpx.TransportError:
                self.unknown.add(gone)
                raise
            self.deleted.add(gone)

    def check(self, client: httpx.Client, server: StreamsServer) -> None:
        for name, body in self.kept.items():
            if name not in self.unknown:
                assert read_all(client, server.stream(name))[0] == body, name
        for name in self.deleted:
            assert client.head(server.stream(name)).status_code == 404, name


@dataclass
class Follower:
    """Reads a stream live and remembers what it saw, across deaths of the server."""

    offset: str = "-1"
    seen: list[list[object]] = field(default_factory=list)

    def run(self, url: str, stop: threading.Event) -> None:
        with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
            while not stop.is_set():
                try:
                    answer = client.get(url, params={"offset": self.offset, "live": "long-poll"})
                except httpx.TransportError:
                    return
                assert answer.status_code in (200, 204), answer.text
                if answer.status_code == 200:
                    self.seen += answer.json()
                self.offset = answer.headers["stream-next-offset"]


@dataclass
class Table:
    """A state stream kept by key: the last value of each key that was acknowledged, or one whose answer nobody saw."""

    name: str
    rows: dict[str, set[int | None]] = field(default_factory=dict)
    number: int = 0

    def run(self, url: str) -> None:
        chance = random.Random(f"{self.name}-{self.number}")
        with httpx.Client(trust_env=False, timeout=60, verify=False) as client:
            while True:
                self.number += 1
                key, gone = f"k{chance.randrange(40)}", chance.random() < 0.2
                value = None if gone else self.number
                message = change("t", key, "delete" if gone else "upsert", value)
                before = self.rows.get(key, {None})
                self.rows[key] = before | {value}
                try:
                    answer = client.post(url, headers=JSON, json=message)
                except httpx.TransportError:
                    return
                assert answer.status_code == 204, answer.text
                self.rows[key] = {value}

    def check(self, client: httpx.Client, url: str) -> None:
        rows = applied({}, list(read_messages(client, url)))
        for key, values in self.rows.items():
            found = rows.get(f"t/{key}")
            assert found in values, (key, found, values)
            self.rows[key] = {found}


class Load:
    """Everything that is written to one set of streams, and who follows them."""

    def __init__(self, server: StreamsServer, number: int) -> None:
        self.server = server
        self.names = [f"s{number}-{s}" for s in range(STREAMS)]
        self.writers = [[Writer(f"{s}-{w}") for w in range(WRITERS // STREAMS)] for s in range(STREAMS)]
        self.followers = [Follower() for _ in range(STREAMS)]
        self.churners = [Churner(number=(number * 2 + k) * 1_000_000) for k in range(2)]
        self.tables = [Table(f"table{number}-{k}") for k in range(2)]

    def create(self, client: httpx.Client) -> None:
        for name in self.names:
            assert client.put(self.server.stream(name), headers=JSON).status_code == 201
        keyed = {**JSON, "stream-retention-keys": "state"}
        for table in self.tables:
            assert client.put(self.server.stream(table.name), headers=keyed).status_code == 201

    def threads(self, stop: threading.Event) -> list[threading.Thread]:
        server = self.server
        urls = [server.stream(name) for name in self.names]
        work: list[tuple[Callable[..., None], tuple[object, ...]]] = [
            (writer.run, (url,)) for url, writers in zip(urls, self.writers, strict=True) for writer in writers
        ]
        work += [(follower.run, (url, stop)) for url, follower in zip(urls, self.followers, strict=True)]
        work += [(churner.run, (server,)) for churner in self.churners]
        work += [(table.run, (server.stream(table.name),)) for table in self.tables]
        return [threading.Thread(target=run, args=arguments) for run, arguments in work]

    def check(self, client: httpx.Client) -> None:
        for name, writers, follower in zip(self.names, self.writers, self.followers, strict=True):
            check(client, self.server.stream(name), writers, follower)
        for churner in self.churners:
            churner.check(client, self.server)
        for table in self.tables:
            table.check(client, self.server.stream(table.name))

    def delete(self, client: httpx.Client) -> None:
        kept = [name for churner in self.churners for name in churner.kept]
        for name in [*self.names, *(table.name for table in self.tables), *kept]:
            assert client.delete(self.server.stream(name)).status_code in (204, 404)

    @property
    def records(self) -> int:
        return sum(len(writer.acknowledged) for writers in self.writers for writer in writers)


@pytest.mark.crash
@pytest.mark.parametrize(
    ("checkpoint", "workers", "rounds"),
    [
        ("30000", 1, 6),
        ("33554432", 1, 5),
        ("30000", 3, 4),
        pytest.param("30000", 1, 700, marks=pytest.mark.long),
        pytest.param("200000", 3, 400, marks=pytest.mark.long),
    ],
)
def test_kill_9_under_load(tmp_path: Path, client: httpx.Client, checkpoint: str, workers: int, rounds: int) -> None:
    chance = random.Random(checkpoint)
    flags = ("--checkpoint-bytes", checkpoint, "--wal-segment-bytes", "1048576")
    server = StreamsServer(tmp_path, *flags, *(() if workers == 1 else ("--workers", str(workers))))
    records = 0
    try:
        server.start()
        load = Load(server, 0)
        load.create(client)
        for number in range(1, rounds + 1):
            stop = threading.Event()
            threads = load.threads(stop)
            for thread in threads:
                thread.start()
            wanted, limit = load.records + chance.randrange(20, 200), time.monotonic() + 20
            while load.records < wanted and time.monotonic() < limit:
                time.sleep(0.01)
            server.kill(chance)
            stop.set()
            for thread in threads:
                thread.join(30)
            server.start()
            load.check(client)
            assert "damaged" not in server.log, server.log
            if number % 20 == 0 or number == rounds:
                records += load.records
                print(f"{number} of {rounds} rounds: {records} records acknowledged, all there once", flush=True)
            if number % 20 == 0:
                load.delete(client)
                load = Load(server, number)
                load.create(client)
        assert server.stop() == 0
        server.start()
        load.check(client)
    finally:
        server.end()


def check(client: httpx.Client, url: str, writers: list[Writer], follower: Follower) -> None:
    messages = read_messages(client, url)
    for writer in writers:
        got = [message[1] for message in messages if message[0] == writer.name]
        assert got == sorted(set(got)), "out of order or twice"
        assert not set(writer.acknowledged) - set(got), "an acknowledged record is lost"
        assert not set(got) - set(writer.acknowledged) - set(writer.unknown), "a record that nobody wrote"
    assert messages[: len(follower.seen)] == follower.seen, "a reader saw what is not there any more"


@pytest.mark.crash
def test_producers_closes_and_deletions_survive_kill_9(tmp_path: Path, client: httpx.Client) -> None:
    """One record holds data and state: a repeated batch is a duplicate exactly if its bytes are there."""
    server = StreamsServer(tmp_path, "--checkpoint-bytes", "4000", "--wal-segment-bytes", "1048576")
    chance = random.Random(3)

    def batch(seq: int) -> httpx.Response:
        head = {**TEXT, "producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq), "stream-seq": f"{seq:06d}"}
        return client.post(server.stream("p"), headers=head, content=f"{seq:06d},".encode())

    try:
        server.start()
        client.put(server.stream("p"), headers=TEXT)
        seq = deleted = 0
        for number in range(6):
            for _ in range(chance.randrange(20, 60)):
                assert batch(seq).status_code == 200
                seq += 1
            names = [f"d{number}-{n}" for n in range(6)]
            for name in names:
                client.put(server.stream(name), headers=TEXT, content=b"x" * 600)
            for name in names[::2]:
                assert client.delete(server.stream(name)).status_code == 204
                deleted += 1
            assert client.post(server.stream(names[1]), headers={"stream-closed": "true"}).status_code == 204
            server.kill()
            server.start()
            again = batch(seq - 1)
            assert (again.status_code, again.headers["producer-seq"]) == (204, str(seq - 1))
            assert batch(seq + 1).headers["producer-expected-seq"] == str(seq)
            assert read_all(client, server.stream("p"))[0] == b"".join(b"%06d," % n for n in range(seq))
            for position, name in enumerate(names):
                assert client.head(server.stream(name)).status_code == (404 if position % 2 == 0 else 200)
            assert client.head(server.stream(names[1])).headers["stream-closed"] == "true"
        print(f"6 rounds, {seq} batches, {deleted} deletions")
        assert server.metric("streams_streams") == 1 + 6 * 3
    finally:
        server.end()


@pytest.mark.crash
def test_a_creation_is_whole_or_absent(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--checkpoint-bytes", "20000")
    body = json.dumps([{"n": n} for n in range(200)])
    made: list[str] = []
    tried: list[str] = []

    def create(worker: int, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=60) as own:
            for n in range(100_000):
                name = f"c{number}-{worker}-{n}"
                tried.append(name)
                try:
                    answer = own.put(server.stream(name), headers={**JSON, "stream-closed": "true"}, content=body)
                except httpx.TransportError:
                    return
                assert answer.status_code == 201
                made.append(name)

    try:
        for number in range(4):
            server.start()
            threads = [threading.Thread(target=create, args=(worker, number)) for worker in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            server.kill()
            for thread in threads:
                thread.join(30)
        server.start()
        for name in tried:
            head = client.head(server.stream(name))
            assert head.status_code == 200 or name not in made
            if head.status_code == 200:
                assert head.headers["stream-closed"] == "true"
        for name in random.Random(1).sample(made, min(30, len(made))):
            assert len(read_messages(client, server.stream(name))) == 200
        print(f"4 rounds, {len(made)} of {len(tried)} creations acknowledged")
    finally:
        server.end()
