"""Snapshot chunks as they are read while they grow, and as events: whole lines, wherever the pieces are cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchgear_shapes import reading
from switchgear_shapes.log.snapshot_file import SnapshotFile
from tests.shapes.server import ShapesServer, one_version
from tests.support.postgres import Database


class Taken:
    """A Writer that keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self.end = ""

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def finish(self) -> None:
        self.end += "finished"

    def abort(self) -> None:
        self.end += "aborted"


lines = st.lists(st.text(st.sampled_from('a,"\\'), min_size=1, max_size=12), min_size=1, max_size=8)


@given(chunk=lines, block=st.integers(2, 40), steps=st.lists(st.integers(1, 3), max_size=8), events=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_lines_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: list[str], block: int, steps: list[int], events: bool
) -> None:
    """Lines have commas of their own; blocks and growth cut anywhere between and within them."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", block)
    written = [json.dumps(line).encode() + b",\n" for line in chunk]
    path = tmp_path / "snapshot"
    path.write_bytes(b"".join(written))
    snapshot = SnapshotFile(str(path))
    shape = cast("Any", SimpleNamespace(snapshot=snapshot, alive=True))

    async def read() -> Taken:
        taken = Taken()
        with path.open("rb") as file:
            form = reading._EVENTS if events else reading._ARRAY
            following = asyncio.ensure_future(reading._follow(cast("Any", taken), shape, 0, 0, file.fileno(), form))
            done = 0
            for step in steps:
                done = min(done + step, len(written))
                snapshot.advance(sum(map(len, written[:done])), [])
                await asyncio.sleep(0)
            end = path.stat().st_size
            snapshot.advance(end, [end], complete=True)
            await following
        return taken

    taken = asyncio.run(read())
    assert taken.end == "finished"
    if events:
        assert taken.data.endswith(b"\n\n")
        blocks = taken.data.decode().removesuffix("\n\n").split("\n\n")
        assert [json.loads(text.removeprefix("data: ")) for text in blocks] == chunk
    else:
        assert json.loads(taken.data) == chunk


@pytest.mark.pg
@one_version
@pytest.mark.parametrize("rows", [20, 2000], ids=["kept in memory", "in a file"])
def test_events_from_within_a_snapshot(database: Database, make_server: Callable[..., ShapesServer], rows: int) -> None:
    """A client that reads only events gets the rest of the snapshot as such, and then the log."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    database.execute(f"INSERT INTO items SELECT g, repeat('x', 100) FROM generate_series(1, {rows}) g")
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD=str(rows * 50)).start()
    first = server.get(table="items", offset="-1")
    server.get(table="items", offset="0_99", handle=first.headers["electric-handle"])  # after the snapshot's end
    got = [message["value"]["id"] for message in first.json() if "value" in message]
    offset, params = first.headers["electric-offset"], {"table": "items", "handle": first.headers["electric-handle"]}
    chunks = 0
    while len(got) < rows:
        query = params | {"offset": offset, "live": "true", "live_sse": "true"}
        response = server.http.get(server.shape_url, params=query, headers={"if-none-match": "x"})
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert "etag" not in response.headers
        blocks = response.text.removesuffix("\n\n").split("\n\n")
        messages = [json.loads(block.removeprefix("data: ")) for block in blocks]
        got += [message["value"]["id"] for message in messages if "value" in message]
        offset = response.headers["electric-offset"]
        chunks += 1
    assert chunks >= 2
    assert got == [str(number) for number in range(1, rows + 1)]


@pytest.mark.pg
@one_version
def test_a_slow_reader_of_a_snapshot_that_ends_meanwhile(
    database: Database, make_server: Callable[..., ShapesServer]
) -> None:
    """It has not taken what there was when the last rows came: nothing more will come, and it is not to wait for it."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    database.execute("INSERT INTO items SELECT g, repeat('x', 200) FROM generate_series(1, 100000) g")
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="1GB").start()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head = sock.recv(100)
        assert head.startswith(b"HTTP/1.1 200")
        server.wait(lambda: server.metric("switchgear_snapshots_total") == 1, 60, "the whole snapshot")
        taken = [head]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while part := sock.recv(1 << 20):
            taken.append(part)
    answer = b"".join(taken)
    assert b"transfer-encoding: chunked" in answer[:2000], "it began while the snapshot grew"
    assert answer.endswith(b"]\r\n0\r\n\r\n")


@pytest.mark.pg
@one_version
def test_who_left_before_a_snapshot_began_keeps_no_file_open(
    database: Database, make_server: Callable[..., ShapesServer]
) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    database.execute("INSERT INTO items SELECT g, repeat('x', 200) FROM generate_series(1, 300000) g")
    server = make_server(ELECTRIC_ENABLE_INTEGRATION_TESTING="true").start()
    assert server.get(table="items", offset="now", log="changes_only").status_code == 200  # it is published
    connections = server.metric("switchgear_http_connections")
    with database.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
            sock.sendall(b"GET /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\n\r\n")
            server.wait(lambda: server.metric("switchgear_snapshots_running") == 1, 60, "the request to wait")
        server.wait(lambda: server.metric("switchgear_http_connections") <= connections, 60, "its connection's end")
        holder.rollback()
    server.wait(lambda: server.metric("switchgear_snapshots_running") == 0, 60, "the snapshot")
    assert server.http.delete(server.shape_url, params={"table": "items"}).status_code == 202
    server.wait(lambda: not deleted_files(server), 60, "no file that is open though it is deleted")
    assert httpx.get(f"{server.url}/live").status_code == 200


def deleted_files(server: ShapesServer) -> list[str]:
    assert server.process is not None
    found = []
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [path for path in found if path.endswith(" (deleted)") and ".snapshot" in path]
