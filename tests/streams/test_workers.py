"""Several workers behind one port: what holds of one server holds of them together."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from switchgear_local.processes import free_port
from switchgear_streams.settings import SettingsError, load
from switchgear_streams.workers import placing
from switchgear_wire.descriptors import TABLE
from tests.streams.receiver import Receiver
from tests.streams.server import HOST, JSON, OCTETS, TEXT, StreamsServer, events, read_all, read_messages, serving
from tests.streams.test_clients import conformance

COUNT = 3


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamsServer]:
    folder = tmp_path_factory.mktemp("several")
    with serving(folder, "--workers", str(COUNT), "--checkpoint-bytes", "20000") as running:
        yield running


def names(prefix: str, worker: int | None = None) -> Iterator[str]:
    """Names of streams, of one worker if it is given."""
    number = 0
    while True:
        name = f"{prefix}/{number}"
        number += 1
        if worker is None or placing.home(name.encode(), COUNT) == worker:
            yield name


def one_of_each(prefix: str) -> list[str]:
    return [next(names(prefix, worker)) for worker in range(COUNT)]


# -- placing --


def test_names_spread_evenly() -> None:
    for pattern in ("stream-%d", "agents/%d/log", "a/%08x"):
        for count in (2, 3, 4, 8):
            found = [placing.home((pattern % number).encode(), count) for number in range(20_000)]
            shares = [found.count(worker) for worker in range(count)]
            assert min(shares) > 0.9 * max(shares), (pattern, count, shares)


def test_a_document_is_in_one_place_and_subscriptions_at_the_desk() -> None:
    for number in range(50):
        document = b"\0yjs/svc/docs/d%d" % number
        parts = (b"\0updates", b"\0snapshot-a", b"\0awareness/3/cursors")
        assert {placing.home(document + part, 5) for part in parts} == {placing.home(document, 5)}
        assert placing.home(b"\0subscription/s%d/1" % number, 5) == placing.DESK


@pytest.mark.parametrize(
    ("found", "workers", "fits"),
    [
        ([], 4, True),
        (["lost+found", "LOCK"], 4, True),
        (["worker.0.of.4", "worker.3.of.4", "LOCK"], 4, True),
        (["worker.0.of.4"], 2, False),
        (["worker.0.of.4", "LOCK"], 1, False),
        (["LOCK", "wal-1"], 1, True),
        (["LOCK", "wal-1"], 2, False),
    ],
)
def test_data_of_another_number_of_workers_is_known(found: list[str], workers: int, fits: bool) -> None:
    assert (placing.problem(found, workers) is None) == fits


def test_the_number_is_checked() -> None:
    for bad in ("0", "65", "two"):
        with pytest.raises(SettingsError, match="--workers must be a whole number from 1 to 64"):
            load(["--data-dir", "x", "--insecure", "--workers", bad], {})


# -- the processes --


def test_no_worker_goes_on_alone_and_nothing_is_lost(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT))
    kept = one_of_each("kept")
    try:
        server.start()
        for name in kept:
            assert client.put(server.stream(name), headers=TEXT, content=name.encode()).status_code == 201
        for victim in range(COUNT + 1):
            assert server.process is not None
            everyone = [server.process.pid, *server.workers]
            assert len(everyone) == COUNT + 1
            assert all(has_room(pid) for pid in everyone)
            os.kill(everyone[victim], signal.SIGKILL)
            status = server.process.wait(60)
            assert status == (-signal.SIGKILL if victim == 0 else 70)
            deadline = time.monotonic() + 60
            while any(alive(pid) for pid in everyone):
                assert time.monotonic() < deadline, "a worker goes on alone"
                time.sleep(0.02)
            server.start()
            for name in kept:
                assert client.get(server.stream(name)).content == name.encode()
        assert server.stop() == 0
        other = StreamsServer(tmp_path, "--workers", str(COUNT + 1))
        other.started = server.started
        with pytest.raises(AssertionError, match=f"written with --workers {COUNT}"):
            other.start()
        alone = StreamsServer(tmp_path)
        alone.started = server.started + 1
        with pytest.raises(AssertionError, match=f"written with --workers {COUNT}"):
            alone.start()
    finally:
        server.end()


def has_room(pid: int) -> bool:
    """Whether the kernel's table has a place for each descriptor, so that it need not grow."""
    size = re.search(r"FDSize:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return size is not None and int(size[1]) >= min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], TABLE)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_port_in_use_is_an_error(tmp_path: Path, several: StreamsServer) -> None:
    server = StreamsServer(tmp_path, "--workers", "2")
    try:
        with pytest.raises(AssertionError, match="Address already in use"):
            server.start(port=several.port)
    finally:
        server.end()


@pytest.mark.timeout(900)
def test_conformance_of_several(tmp_path: Path) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT), "--allow-loopback-webhooks")
    try:
        conformance(server.start().url, "several")
        assert server.stop() == 0
        assert "Traceback" not in server.log
    finally:
        server.end()


# -- connections that move --


class Raw:
    """A connection on which everything is said byte by byte."""

    def __init__(self, server: StreamsServer) -> None:
        self.socket = socket.create_connection((HOST, server.port), timeout=30)
        self.rest = b""

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)
            time.sleep(0.01)

    def answer(self) -> tuple[int, bytes]:
        """The next answer with a content-length, or without a body."""
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = next((int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), 0)
        while len(self.rest) < length:
            self._more()
        body, self.rest = self.rest[:length], self.rest[length:]
        return status, body

    def _more(self) -> None:
        data = self.socket.recv(262_144)
        assert data, "the connection was closed"
        self.rest += data

    def close(self) -> None:
        self.socket.close()


def request(method: str, name: str, body: bytes | None = None, *lines: str) -> bytes:
    head = [f"{method} /v1/stream/{name} HTTP/1.1", "host: x", "content-type: text/plain", *lines]
    if body is not None:
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (body or b"")


@pytest.fixture
def raw(several: StreamsServer) -> Iterator[Raw]:
    made = Raw(several)
    yield made
    made.close()


def test_a_pipeline_over_all_workers_is_answered_in_order(
    several: StreamsServer, raw: Raw, client: httpx.Client
) -> None:
    chance = random.Random(7)
    streams = one_of_each("pipeline")
    for name in streams:
        client.put(several.stream(name), headers=TEXT)
    expected: dict[str, bytes] = dict.fromkeys(streams, b"")
    asked: list[tuple[str, bytes | None]] = []
    sent = b""
    for number in range(120):
        name = chance.choice(streams)
        if chance.random() < 0.7:
            body = b"<%d>" % number
            sent += request("POST", name, body)
            expected[name] += body
            asked.append((name, None))
        else:
            sent += request("GET", name)
            asked.append((name, expected[name]))
    at = 0
    while at < len(sent):  # in pieces that end anywhere
        size = chance.choice((1, 7, 60, 300, 2000))
        raw.socket.sendall(sent[at : at + size])
        at += size
    for _, content in asked:
        status, body = raw.answer()
        assert (status, body) == ((204, b"") if content is None else (200, content))
    for name in streams:
        assert client.get(several.stream(name)).content == expected[name]


def test_bodies_that_are_still_coming_when_the_connection_moves(several: StreamsServer, client: httpx.Client) -> None:
    for name in one_of_each("bodies"):
        for _ in range(4):  # whoever accepts it
            client.delete(several.stream(name))
            raw = Raw(several)
            raw.send(request("PUT", name))
            assert raw.answer()[0] == 201
            raw.close()
            raw = Raw(several)
            chunked = request("POST", name, None, "transfer-encoding: chunked")
            raw.send(chunked[:40], chunked[40:], b"5\r\nhel", b"lo\r\n6\r", b"\n world\r\n0\r\n", b"\r\n")
            assert raw.answer()[0] == 204
            raw.close()
            raw = Raw(several)
            raw.send(request("POST", name, None, "content-length: 3", "expect: 100-continue"))
            assert raw.answer()[0] == 100
            raw.send(b"abc")
            assert raw.answer()[0] == 204
            raw.close()
            raw = Raw(several)
            large = random.Random(3).randbytes(3_000_000)
            raw.send(request("POST", name, large) + request("GET", name, None, "x-y: z"))
            assert raw.answer()[0] == 204
            assert raw.answer() == (200, b"hello worldabc" + large)
            raw.close()


def test_a_large_request_cannot_take_another_worker_along(several: StreamsServer, client: httpx.Client) -> None:
    """What comes behind more than is kept, and belongs elsewhere, is refused in a way that can be tried again."""
    first, second, third = one_of_each("large")
    for name in (first, second, third):
        client.put(several.stream(name), headers=TEXT)
    raw = Raw(several)
    raw.send(request("POST", first, bytes(4_000_000)) + request("POST", second, b"x") + request("POST", third, b"x"))
    assert raw.answer()[0] == 204
    status, body = raw.answer()
    if status == 503:  # (if it was all read before the first answer, it may go)
        assert json.loads(body)["code"] == "ANOTHER_PROCESS"
        assert not client.get(several.stream(second)).content
    raw.close()


def test_live_reads_move_and_hear_everything(several: StreamsServer, client: httpx.Client) -> None:
    streams = [*one_of_each("live"), next(names("live2"))]
    for name in streams:
        client.put(several.stream(name), headers=TEXT)
    heard: dict[str, list[str]] = {}

    def follow(name: str) -> None:
        with (
            httpx.Client(trust_env=False, timeout=30) as own,
            own.stream("GET", several.stream(name), params={"offset": "-1", "live": "sse"}) as answer,
        ):
            text = ""
            for piece in answer.iter_text():
                text += piece
                heard[name] = [data for kind, data in events(text) if kind == "data"]
                if "".join(heard[name]).count(";") == 20:
                    return

    with ThreadPoolExecutor(len(streams)) as pool:
        waiting = [pool.submit(follow, name) for name in streams]
        for number in range(20):
            for name in streams:
                assert client.post(several.stream(name), headers=TEXT, content=b"%d;" % number).status_code == 204
        for one in waiting:
            one.result(60)
    expected = "".join(f"{number};" for number in range(20))
    assert {name: "".join(parts) for name, parts in heard.items()} == dict.fromkeys(streams, expected)


# -- forks --


def test_forks_lie_with_their_source_and_are_found_by_their_name(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT), "--checkpoint-bytes", "2000")
    try:
        server.start()
        roots = one_of_each("root")
        forks: dict[str, bytes] = {}
        for root in roots:
            client.put(server.stream(root), headers=TEXT, content=root.encode())
            source, content = root, root.encode()
            for worker in range(COUNT):  # a chain over the names of all workers
                name = next(names(f"fork/{root}/{worker}", worker))
                made = client.put(
                    server.stream(name), headers={"stream-forked-from": f"/v1/stream/{source}"}, content=b""
                )
                assert made.status_code == 201, made.text
                content += b"+%d" % worker
                assert client.post(server.stream(name), headers=TEXT, content=b"+%d" % worker).status_code == 204
                forks[name] = content
                source = name
        for again in range(2):
            for name, content in forks.items():
                assert client.get(server.stream(name)).content == content
            if not again:
                server.kill()
                server.start()
        gone = list(forks)
        for name in gone:
            assert client.delete(server.stream(name)).status_code == 204
        for root in roots:
            last = [name for name in forks if f"/{root}/" in name][-1]
            assert client.get(server.stream(last)).status_code == 404
            plain = client.put(server.stream(last), headers=OCTETS, content=b"new")
            assert plain.status_code == 201
            assert client.get(server.stream(last)).content == b"new"
    finally:
        server.end()


def test_a_fork_that_is_refused_leaves_its_name_free(several: StreamsServer, client: httpx.Client) -> None:
    for worker, source in enumerate(one_of_each("refused")):
        client.put(several.stream(source), headers=TEXT, content=b"abc")
        for other in range(COUNT):
            url = several.stream(next(names(f"free/{worker}", other)))
            head = {"stream-forked-from": f"/v1/stream/{source}"}
            for more in ({"stream-fork-offset": "0000000000000009_0000000000000001"}, {"stream-fork-sub-offset": "99"}):
                assert client.put(url, headers={**head, **more}).status_code == 400
            assert client.put(url, headers={"stream-forked-from": "/v1/stream/nothing"}).status_code == 404
            assert client.put(url, headers={"stream-forked-from": "elsewhere"}).status_code in (400, 404)
            assert client.put(url, headers={**head, **JSON}).status_code == 409
            assert client.head(url).status_code == 404
            assert client.put(url, headers=head).status_code == 201
            assert client.delete(url).status_code == 204


def test_one_name_is_given_once(several: StreamsServer) -> None:
    """Forks of sources in different workers, and a plain stream, all want the same name."""
    sources = one_of_each("want")
    with httpx.Client(trust_env=False, timeout=30) as client:
        for name in sources:
            client.put(several.stream(name), headers=TEXT, content=name.encode())

    def want(arguments: tuple[int, int]) -> tuple[int, bytes]:
        number, who = arguments
        headers = {"stream-forked-from": f"/v1/stream/{sources[who]}"} if who < COUNT else OCTETS
        body = b"" if who < COUNT else b"plain"
        with httpx.Client(trust_env=False, timeout=30) as own:
            made = own.put(several.stream(f"wanted/{number}"), headers=headers, content=body)
            return made.status_code, sources[who].encode() if who < COUNT else b"plain"

    with ThreadPoolExecutor(8) as pool, httpx.Client(trust_env=False, timeout=30) as client:
        for number in range(25):
            found = list(pool.map(want, [(number, who) for who in (*range(COUNT + 1), *range(COUNT + 1))]))
            contents = {content for status, content in found if status == 201}
            assert len([one for one in found if one[0] == 201]) == 1, found
            assert {status for status, _ in found} <= {200, 201, 409}
            assert client.get(several.stream(f"wanted/{number}")).content == contents.pop()


# -- what concerns all workers --


def test_usage_is_the_sum(several: StreamsServer, client: httpx.Client) -> None:
    before = client.get(f"{several.url}/usage").json()
    for name in one_of_each("usage"):
        client.put(several.stream(name), headers=OCTETS, content=bytes(15_000))
    after = client.get(f"{several.url}/usage").json()
    assert after["written_bytes"] - before["written_bytes"] == COUNT * 15_000
    assert after["write_units"] - before["write_units"] == COUNT * 2
    text = client.get(f"{several.url}/metrics").text
    for worker in range(COUNT):
        assert f'streams_streams{{worker="{worker}"}}' in text
    assert text.count("# TYPE streams_streams gauge") == 1


def test_limits_hold_for_all_together(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--workers", str(COUNT), "--max-streams", "30", "--max-bytes", "1000")
    try:
        server.start()
        made = 0
        for number in range(60):
            made += client.put(server.stream(f"s{number}"), headers=OCTETS).status_code == 201
            time.sleep(0.01)
        assert 30 <= made <= 30 + 15  # what the others make in a twentieth of a second
        time.sleep(3)  # each tells the others twenty times a second, unless it is held up
        assert client.put(server.stream("more"), headers=OCTETS).status_code == 429
        name = "s0"
        assert client.post(server.stream(name), headers=OCTETS, content=bytes(900)).status_code == 204
        time.sleep(3)
        for number in range(made):
            answer = client.post(server.stream(f"s{number}"), headers=OCTETS, content=bytes(200))
            assert answer.status_code == (507 if answer.status_code != 404 else 404)
    finally:
        server.end()


# -- subscriptions --


def test_a_webhook_hears_of_the_streams_of_all_workers_through_kill_9(tmp_path: Path, client: httpx.Client) -> None:
    receiver = Receiver()
    server = StreamsServer(tmp_path, "--workers", str(COUNT), "--allow-loopback-webhooks")
    chance = random.Random(11)
    try:
        server.start(port=free_port())  # none that another server or a connection gets while it is away
        streams = one_of_each("hook")
        for name in streams:
            client.put(server.stream(name), headers=JSON)
        body = {"type": "webhook", "pattern": "hook/**", "webhook": {"url": receiver.url}}
        made = client.put(server.stream("__ds/subscriptions/s"), json=body)
        assert made.status_code == 201, made.text
        assert sorted(one["path"] for one in made.json()["streams"]) == sorted(streams)
        for turn in range(6):
            late = next(names(f"hook/late{turn}"))
            client.put(server.stream(late), headers=JSON)
            streams.append(late)
            for name in streams:
                assert client.post(server.stream(name), headers=JSON, json={"turn": turn}).status_code == 204
            deadline = time.monotonic() + 60
            while True:
                shown = client.get(server.stream("__ds/subscriptions/s")).json()
                known = {one["path"]: one for one in shown["streams"]}
                tails = {name: client.head(server.stream(name)).headers["stream-next-offset"] for name in streams}
                if all(known.get(name, {}).get("acked_offset") == tails[name] for name in streams):
                    break
                assert time.monotonic() < deadline, (shown, receiver.log if hasattr(receiver, "log") else "")
                time.sleep(0.05)
            server.kill(chance)
            server.start(port=server.port)
    finally:
        server.end()
        receiver.close()


def test_a_claim_sees_what_was_acknowledged_just_before(several: StreamsServer, client: httpx.Client) -> None:
    """An append that was answered is in the claim that follows, though another worker has the stream."""
    client.put(several.stream("wakes"), headers=JSON)
    for number, name in enumerate(one_of_each("claimed") * 5):
        before = client.put(several.stream(name), headers=JSON).headers["stream-next-offset"]
        url = several.stream(f"__ds/subscriptions/claim{number}")
        body = {"type": "pull-wake", "streams": [name], "wake_stream": "wakes"}
        made = client.put(url, json=body)
        assert made.status_code == 201
        assert [one["tail_offset"] for one in made.json()["streams"]] == [before]
        tail = client.post(several.stream(name), headers=JSON, json={"n": number}).headers["stream-next-offset"]
        claim = client.post(f"{url}/claim", json={"worker": "w"})
        assert claim.status_code == 200, claim.text
        (found,) = claim.json()["streams"]
        assert (found["path"], found["tail_offset"], found["has_pending"]) == (name, tail, True)
        ack = {"wake_id": claim.json()["wake_id"], "generation": claim.json()["generation"], "done": True}
        ack["acks"] = [{"stream": name, "offset": tail}]
        token = {"authorization": f"Bearer {claim.json()['token']}"}
        done = client.post(f"{url}/ack", json=ack, headers=token)
        assert done.status_code == 200, done.text
        again = client.post(f"{url}/claim", json={"worker": "w"})
        assert again.status_code == 409
        assert client.delete(url).status_code == 204
    wakes = read_messages(client, several.stream("wakes"))
    assert {one["stream"] for one in wakes} == set(one_of_each("claimed"))  # type: ignore[index]


def test_several_services_with_several_workers(tmp_path: Path, client: httpx.Client) -> None:
    listed = {"services": [{"id": "a", "insecure": True}, {"id": "b", "insecure": True}]}
    (tmp_path / "services.json").write_text(json.dumps(listed))
    flags = ("--workers", "2", "--services", str(tmp_path / "services.json"))
    server = StreamsServer(tmp_path, *flags, flags_only=True)
    try:
        server.start()
        for again in range(2):
            for service in "ab":
                for number in range(8):
                    url = server.stream(f"{service}/s{number}")
                    if not again:
                        assert client.put(url, headers=TEXT, content=service.encode()).status_code == 201
                    assert client.get(url).text == service
                fork = server.stream(f"{service}/f")
                if not again:
                    source = {"stream-forked-from": f"/v1/stream/{service}/s3"}
                    assert client.put(fork, headers=source).status_code == 201
                assert client.get(fork).text == service
                usage = client.get(f"{server.url}/usage/{service}").json()
                assert usage["written_bytes"] == 8
            server.kill()
            server.start()
    finally:
        server.end()


def test_every_stream_is_read_back_in_full(several: StreamsServer, client: httpx.Client) -> None:
    """Many connections, each to many streams, all at once."""
    expected: dict[str, bytes] = {}

    def work(number: int) -> None:
        chance = random.Random(zlib.crc32(b"%d" % number))
        mine = [f"many/{number}/{k}" for k in range(6)]
        with httpx.Client(trust_env=False, timeout=60) as own:
            for name in mine:
                assert own.put(several.stream(name), headers=OCTETS).status_code == 201
                expected[name] = b""
            for _ in range(80):
                name = chance.choice(mine)
                body = chance.randbytes(chance.choice((1, 100, 5000)))
                assert own.post(several.stream(name), headers=OCTETS, content=body).status_code == 204
                expected[name] += body

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for name, content in expected.items():
        assert read_all(client, several.stream(name))[0] == content
