"""Yjs documents over HTTP: errors, limits, snapshots and their crashes; two real npm providers that edit together."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pycrdt
import pytest

from switchgear_local.processes import free_port
from switchgear_streams.yjs import frames
from tests.streams.server import OCTETS, TEXT, StreamsServer
from tests.support import nodejs

HERE = Path(__file__).parent / "node"


def framed(*updates: bytes) -> bytes:
    made = bytearray()
    for update in updates:
        length = len(update)
        while length >= 0x80:
            made.append(length & 0x7F | 0x80)
            length >>= 7
        made.append(length)
        made += update
    return bytes(made)


class Editor:
    """A peer that makes updates."""

    def __init__(self, seed: int) -> None:
        self.doc: pycrdt.Doc[Any] = pycrdt.Doc()
        self.updates: list[bytes] = []
        self._chance = random.Random(seed)
        self.text = self.doc.get("text", type=pycrdt.Text)
        self._subscription = self.doc.observe(lambda event: self.updates.append(event.update))

    def edit(self, size: int = 10) -> bytes:
        """One random change as an update."""
        self.text += "".join(self._chance.choices("abcdef", k=size))
        if self._chance.random() < 0.4:
            start = self._chance.randrange(len(self.text))
            del self.text[start : min(len(self.text), start + size // 2)]
        update = pycrdt.merge_updates(*self.updates)
        self.updates.clear()
        return update


def text_of(*updates: bytes) -> str:
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    for update in updates:
        doc.apply_update(update)
    return str(doc.get("text", type=pycrdt.Text))


def load(client: httpx.Client, url: str) -> tuple[str, int, str]:
    """As a new client does: (text, position of the snapshot or 0, tail)."""
    found = client.get(url, params={"offset": "snapshot"})
    assert found.status_code == 307, found.text
    offset = dict(pair.split("=") for pair in urlsplit(found.headers["location"]).query.split("&"))["offset"]
    updates, position = [], 0
    if offset.endswith("_snapshot"):
        snapshot = client.get(url, params={"offset": offset})
        if snapshot.status_code == 404:  # the next one has just replaced it
            return load(client, url)
        assert snapshot.status_code == 200, snapshot.text
        updates.append(snapshot.content)
        offset = snapshot.headers["stream-next-offset"]
        position = int(offset.split("_")[1])
    rest, tail = read_from(client, url, offset)
    return text_of(*updates, *(rest[a:b] for a, b in frames.split(rest))), position, tail


def snapshot_at(position: int, tail: str) -> str:
    return f"{tail.split('_')[0]}_{position:016d}_snapshot"


def read_from(client: httpx.Client, url: str, offset: str) -> tuple[bytes, str]:
    parts = []
    while True:
        answer = client.get(url, params={"offset": offset})
        assert answer.status_code == 200, answer.text
        parts.append(answer.content)
        offset = answer.headers["stream-next-offset"]
        if "stream-up-to-date" in answer.headers:
            return b"".join(parts), offset


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def wait_for_snapshot(client: httpx.Client, url: str, beyond: int = 0) -> None:
    wait(lambda: load(client, url)[1] > beyond)


def wait_for_metric(server: StreamsServer, name: str, least: float) -> None:
    wait(lambda: server.metric(name) >= least)


def failure(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamsServer]:
    """Documents get a snapshot after 4,000 bytes and may have 40,000."""
    flags = ("--yjs-compaction-bytes", "4000", "--max-document-bytes", "40000", "--checkpoint-bytes", "20000")
    running = StreamsServer(tmp_path_factory.mktemp("yjs"), *flags).start()
    try:
        yield running
        assert running.stop() == 0
    finally:
        running.end()
    assert "Traceback" not in running.log, running.log


@pytest.fixture
def document(documents: StreamsServer, request: pytest.FixtureRequest) -> str:
    """The address of a document that does not exist yet."""
    return f"{documents.url}/v1/yjs/svc/docs/{request.node.originalname}/{random.randrange(10**9)}"


def test_life_of_a_document(client: httpx.Client, document: str) -> None:
    made = client.put(document, headers=OCTETS)
    assert (made.status_code, made.headers["location"]) == (201, document)
    assert client.put(document).status_code == 200
    found = client.get(document, params={"offset": "snapshot", "x": "ä&"})
    assert (found.status_code, found.headers["cache-control"]) == (307, "private, max-age=5")
    assert found.headers["location"] == urlsplit(document).path + "?offset=-1&x=%C3%A4%26"
    editor = Editor(1)
    first, second = editor.edit(), editor.edit()
    assert client.post(document, content=framed(first)).status_code == 204
    head = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
    assert client.post(document, headers=head, content=framed(second)).status_code == 200
    assert client.post(document, headers=head, content=framed(second)).status_code == 204
    assert failure(client.post(document, headers={**head, "producer-seq": "5"}, content=framed(second)))[0] == 409
    got = client.get(document)
    assert (got.content, got.headers["content-type"]) == (framed(first, second), "application/octet-stream")
    assert client.head(document).headers["stream-next-offset"] == got.headers["stream-next-offset"]
    assert client.get(document, params={"offset": "now", "live": "true"}).status_code == 204
    assert load(client, document)[0] == str(editor.text)
    assert client.post(document, headers={"stream-closed": "true"}, content=framed(first)).status_code == 204
    assert "stream-closed" not in client.head(document).headers
    assert client.delete(document).status_code == 204
    for method in ("GET", "HEAD", "DELETE", "POST"):
        assert client.request(method, document, content=framed(first)).status_code == 404
    assert client.put(document).status_code == 201
    gone = client.get(document, params={"offset": got.headers["stream-next-offset"]})
    assert failure(gone) == (410, "OFFSET_EXPIRED")


def test_errors_are_json(client: httpx.Client, document: str) -> None:
    missing = {**OCTETS}
    for query in ("", "?offset=snapshot", "?awareness=default", "?offset=1_snapshot"):
        assert failure(client.get(document + query)) == (404, "DOCUMENT_NOT_FOUND"), query
    assert failure(client.post(document, content=framed(b"abc"), headers=missing)) == (404, "DOCUMENT_NOT_FOUND")
    assert failure(client.post(document + "?awareness=a", content=framed(b"abc"))) == (404, "DOCUMENT_NOT_FOUND")
    assert failure(client.put(document, headers=TEXT)) == (400, "INVALID_REQUEST")
    for name in ("stream-ttl", "stream-expires-at", "stream-forked-from", "stream-closed"):
        assert failure(client.put(document, headers={name: "1"})) == (400, "INVALID_REQUEST"), name
    client.put(document)
    for body in (b"", b"\x05abc", b"\x80", b"\x01a", b"\x00", b"\xff" * 9 + b"\x01", framed(b"abc") + b"\x02"):
        assert failure(client.post(document, content=body)) == (400, "INVALID_REQUEST"), body
    assert client.head(document).headers["stream-next-offset"].endswith("_0000000000000000")
    for query in (
        "offset=x",
        "offset=x_snapshot",
        "offset=",
        "live=sse",
        "offset=-1&live=x",
        "awareness=",
        "awareness=%FF",
    ):
        assert failure(client.get(f"{document}?{query}")) == (400, "INVALID_REQUEST"), query
    assert failure(client.get(f"{document}?offset=0000000000000009_0000000000000001_snapshot")) == (
        404,
        "SNAPSHOT_NOT_FOUND",
    )
    assert failure(client.get(f"{document}?awareness=other&offset=now")) == (404, "STREAM_NOT_FOUND")
    assert failure(client.patch(document)) == (405, "INVALID_REQUEST")
    assert failure(client.patch(document + "?awareness=a")) == (405, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "path", ["a%2F..%2Fb", "%2e", "%2e%2e/b", "a.b", "%C3%A4", "%FF", "a%20b", "a%00", "", "/", "x" * 257]
)
def test_paths_that_no_document_has(client: httpx.Client, documents: StreamsServer, path: str) -> None:
    target = f"/v1/yjs/svc/docs/{path}".encode()
    answer = client.request("PUT", httpx.URL(documents.url).copy_with(raw_path=target))
    assert failure(answer) == (400, "INVALID_REQUEST")


def test_paths_of_nothing(client: httpx.Client, documents: StreamsServer) -> None:
    for path in (
        "/v1/yjs/",
        "/v1/yjs/svc",
        "/v1/yjs/svc/",
        "/v1/yjs/svc/docs",
        "/v1/yjs//docs/a",
        "/v1/yjs/s%2F/docs/a",
    ):
        assert failure(client.put(documents.url + path)) == (404, "NOT_FOUND"), path
    assert client.put(documents.url + "/v1/yjs").status_code == 404


def test_slashes_collapse_and_services_are_apart(client: httpx.Client, documents: StreamsServer) -> None:
    base = f"{documents.url}/v1/yjs"
    assert client.put(f"{base}/one/docs/x/y").status_code == 201
    assert client.put(f"{base}/one/docs/x%2F/y").status_code == 200
    assert client.put(f"{base}/two/docs/x/y").status_code == 201


def test_documents_are_no_streams(client: httpx.Client, documents: StreamsServer, document: str) -> None:
    """Nobody reaches a document's streams by a stream's path, nor forks from them."""
    client.put(document)
    name = "yjs/svc/docs" + urlsplit(document).path.removeprefix("/v1/yjs/svc/docs")
    for path in (f"%00{name}%00updates", f"{name}/.updates", f"__ds/{name}"):
        assert client.get(f"{documents.url}/v1/stream/{path}").status_code in (400, 404)
        fork = {"stream-forked-from": f"/v1/stream/{path}"}
        assert client.put(f"{documents.url}/v1/stream/fork", headers=fork).status_code in (400, 404)


def test_the_secret_is_needed(tmp_path: Path, client: httpx.Client) -> None:
    server = StreamsServer(tmp_path, "--root-path", "/v1/stream/svc-a", secret="a-secret")
    try:
        server.start()
        url = f"{server.url}/v1/yjs/svc-a/docs/a"
        answer = client.put(url)
        assert failure(answer) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.put(url, headers={"authorization": "Bearer a-secret"}).status_code == 201
        assert client.put(f"{server.url}/v1/yjs/svc-b/docs/a").status_code == 404
        assert client.options(url).status_code == 204
    finally:
        server.end()


def test_snapshots(client: httpx.Client, documents: StreamsServer, document: str) -> None:
    client.put(document)
    editor, position, old = Editor(2), 0, ""
    for number in range(400):
        answer = client.post(document, content=framed(editor.edit(), editor.edit()))
        assert answer.status_code == 204, answer.text
        if number % 100 == 99:
            wait_for_snapshot(client, document, position)
            text, position, tail = load(client, document)
            assert text == str(editor.text)
            if old:
                assert failure(client.get(document, params={"offset": old})) == (404, "SNAPSHOT_NOT_FOUND")
            old = snapshot_at(position, tail)
    whole, _ = read_from(client, document, "-1")
    assert text_of(*(whole[a:b] for a, b in frames.split(whole))) == str(editor.text)
    newest = old
    while (head := client.head(document, params={"offset": newest})).status_code == 404:
        text, position, tail = load(client, document)  # the next one has replaced it: it was begun before the last edit
        assert text == str(editor.text)
        newest = snapshot_at(position, tail)
    assert (head.status_code, head.headers["stream-next-offset"]) == (200, newest.removesuffix("_snapshot"))
    assert documents.process is not None
    assert "pycrdt" not in Path(f"/proc/{documents.process.pid}/maps").read_text(), "documents are decoded elsewhere"


def test_what_waits_for_earlier_updates_is_in_the_snapshot(client: httpx.Client, document: str) -> None:
    client.put(document)
    editor = Editor(3)
    updates = [editor.edit(60) for _ in range(100)]
    client.post(document, content=framed(*updates[1:]))
    wait(lambda: load(client, document)[1] > 0)
    assert load(client, document)[0] == ""
    client.post(document, content=framed(updates[0]))
    text, position, _ = load(client, document)
    assert (text, position > 0) == (str(editor.text), True)


def test_a_document_that_is_too_large(client: httpx.Client, documents: StreamsServer, document: str) -> None:
    client.put(document)
    editor, answer = Editor(4), httpx.Response(204)
    while answer.status_code in (204, 503):
        answer = client.post(document, content=framed(editor.edit(3000)))
        if answer.status_code == 503:
            assert failure(answer) == (503, "COMPACTING")
            assert answer.headers["retry-after"] == "1"
            time.sleep(0.05)
    assert failure(answer) == (413, "DOCUMENT_TOO_LARGE")
    assert failure(client.post(document, content=b"x" * 40_001)) == (413, "BODY_TOO_LARGE")
    assert failure(client.post(document + "?awareness=a", content=b"x" * 262_145)) == (413, "BODY_TOO_LARGE")
    assert client.get(document).status_code == 200


def test_an_update_that_is_none_costs_only_the_snapshot(
    client: httpx.Client, documents: StreamsServer, document: str
) -> None:
    client.put(document)
    before = documents.metric("streams_yjs_failed_compactions_total")
    for body in (b"\x01\xff\xff\xff\xff\x0f\x00\x01", b"no update at all", b"\xff" * 60):
        assert client.post(document, content=framed(body * (5000 // len(body)))).status_code == 204
        before += 1
        wait_for_metric(documents, "streams_yjs_failed_compactions_total", before)
        assert client.get(document, params={"offset": "snapshot"}).headers["location"].endswith("?offset=-1")
    good = document + "-good"
    client.put(good)
    editor = Editor(5)
    client.post(good, content=framed(*(editor.edit(50) for _ in range(100))))
    wait(lambda: load(client, good)[1] > 0)


def test_awareness(client: httpx.Client, documents: StreamsServer, document: str) -> None:
    client.put(document)
    for name in ("default", "cursors", "a%2Fb%C3%A4"):
        url = f"{document}?awareness={name}"
        assert client.put(url).status_code == (200 if name == "default" else 201)
        assert client.post(url, content=framed(b"hello")).status_code == 204
        assert client.get(url).content == framed(b"hello")
        assert client.head(url).headers["stream-ttl"] == "3600"
        assert failure(client.post(url, content=b"\x09x")) == (400, "INVALID_REQUEST")
        with client.stream("GET", f"{url}&offset=-1&live=true") as events:
            assert events.headers["content-type"] == "text/event-stream"
            assert events.headers["stream-sse-data-encoding"] == "base64"
        assert client.delete(url).status_code == 204
        assert failure(client.delete(url)) == (404, "STREAM_NOT_FOUND")
    assert client.get(f"{document}?awareness=default&offset=now").status_code == 200, "made again"
    for _ in range(6):
        assert client.post(f"{document}?awareness=default", content=framed(b"x" * 250_000)).status_code == 204
    assert len(client.get(f"{document}?awareness=default").content) < 1_048_576, "presence is begun anew"
    client.post(f"{document}?awareness=other", content=framed(b"old"))
    client.delete(document)
    client.put(document)
    assert client.get(f"{document}?awareness=default").content == b""
    assert failure(client.get(f"{document}?awareness=other")) == (404, "STREAM_NOT_FOUND")


@pytest.mark.crash
def test_kill_9_around_snapshots(tmp_path: Path, client: httpx.Client) -> None:
    """Whatever a crash interrupts: every acknowledged update is there, and no snapshot is left behind."""
    flags = ("--yjs-compaction-bytes", "1500", "--checkpoint-bytes", "30000", "--wal-segment-bytes", "1048576")
    server, chance, editor = StreamsServer(tmp_path, *flags), random.Random(6), Editor(7)
    seq = snapshots = 0
    rounds = 12
    try:
        server.start()
        path = "/v1/yjs/svc/docs/a"
        client.put(server.url + path)
        for number in range(rounds):
            for _ in range(chance.randrange(60, 200)):
                head = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}
                assert client.post(server.url + path, headers=head, content=framed(editor.edit())).status_code == 200
                seq += 1
            time.sleep(chance.uniform(0, 0.02))
            if number == rounds // 3 and not snapshots:  # each was killed before its first one
                wait_for_snapshot(client, server.url + path)
            server.kill()
            server.start()
            text, position, _ = load(client, server.url + path)
            assert text == str(editor.text)
            snapshots += position > 0
        wait(lambda: server.metric("streams_yjs_waiting_documents") == 0)
        assert client.delete(server.url + path).status_code == 204
        assert server.metric("streams_streams") == 0
        print(f"{rounds} rounds, {seq} updates, {snapshots} loads from a snapshot")
        assert snapshots > rounds // 2
    finally:
        server.end()


class Peers:
    """Real providers in a node process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def do(self, action: str, name: str, **more: Any) -> dict[str, Any]:
        self.send(action, name, **more)
        return self.answer()

    def send(self, action: str, name: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": action, "name": name, **more}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "node ended"
        made: dict[str, Any] = json.loads(line)
        return made

    def same(self, *names: str) -> str:
        """Wait until all see the same; its hash."""
        wait(lambda: len({self.do("see", name)["hash"] for name in names}) == 1)
        return str(self.do("see", names[0])["hash"])


@contextmanager
def peers(url: str, document: str, secret: str = "") -> Iterator[Peers]:
    process = nodejs.start(HERE / "yjs.js", url, document, secret)
    try:
        yield Peers(process)
    finally:
        process.kill()
        process.wait()


@pytest.mark.node
def test_two_real_clients(tmp_path: Path, client: httpx.Client) -> None:
    """They edit at once, see each other, meet a snapshot after 1 MB, and a server that is killed twice."""
    server = StreamsServer(tmp_path, "--root-path", "/v1/stream/svc-a", secret="a-secret", long_poll_ms=2000)
    auth = {"authorization": "Bearer a-secret"}
    try:
        port = free_port()  # none that another server or a connection gets while it is away
        server.start(port=port)
        url = f"{server.url}/v1/yjs/svc-a"
        with peers(url, "project/chapter-1", "a-secret") as both:
            both.do("connect", "ann", live="sse")
            both.do("connect", "bob", live="long-poll")
            for name in ("ann", "bob"):
                both.do("announce", name)
            wait(lambda: both.do("see", "ann")["present"] == ["ann", "bob"] == both.do("see", "bob")["present"])
            both.send("edit_offline", "ann", seed=1, times=60, size=20)
            both.send("edit_offline", "bob", seed=2, times=60, size=20)
            both.answer(), both.answer()
            both.do("flush", "ann"), both.do("flush", "bob")
            before = both.same("ann", "bob")

            server.kill()  # (what is edited while the server is away, this client never sends)
            server.start(port=port)
            both.do("edit", "ann", seed=3, times=30, size=20)
            both.do("edit", "bob", seed=4, times=30, size=20)
            assert both.same("ann", "bob") != before

            for seed in range(10, 22):
                both.do("edit", ("ann", "bob")[seed % 2], seed=seed, times=100, size=1000)
            document = f"{url}/docs/project/chapter-1"

            def has_snapshot() -> bool:
                found = client.get(document, params={"offset": "snapshot"}, headers=auth)
                return found.headers["location"].endswith("_snapshot")

            wait(has_snapshot)
            seen = both.same("ann", "bob")
            server.kill()
            server.start(port=port)
            assert has_snapshot()
            both.do("connect", "new", live="sse")
            assert both.same("ann", "bob", "new") == seen
            both.do("edit", "new", seed=99, times=3, size=5)
            assert both.same("ann", "bob", "new") != seen
            for name in ("ann", "bob", "new"):
                assert both.do("see", name)["errors"] == []
            both.do("leave", "ann")
            wait(lambda: "ann" not in both.do("see", "new")["present"])
        assert "Traceback" not in server.log
    finally:
        server.end()
