"""A compacted log tells the same story from wherever one begins to read, and survives a crash at any moment."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_shapes.definition import Definition
from switchgear_shapes.log import compaction
from switchgear_shapes.log.files import FileCache
from switchgear_shapes.log.follower import Follower
from switchgear_shapes.log.frames import Batch, Entry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.shape_log import ShapeLog
from switchgear_shapes.log.store import Store
from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.test_log import DEFINITION, complete, content, crash, durable
from tests.support.postgres import Database

Rows = dict[str, dict[str, Any]]
KEYS = 5


def change(rng: random.Random, rows: Rows, tx: int, op: int, *, full: bool) -> bytes:
    """A line that fits the rows as they are, and changes them."""
    key = f"k{rng.randrange(KEYS)}"
    columns = [f"c{number}" for number in range(3)]
    headers: dict[str, Any] = {"relation": ["public", "t"], "txids": [1], "lsn": str(tx), "op_position": op}
    if key not in rows:
        value = {column: str(rng.randrange(100)) for column in columns} | {"id": key}
        rows[key] = dict(value)
        message = {"key": key, "value": value, "headers": {"operation": "insert"} | headers}
    elif rng.random() < 0.15:
        del rows[key]
        message = {"key": key, "value": {"id": key}, "headers": {"operation": "delete"} | headers}
    else:
        changed = {column: str(rng.randrange(100)) for column in rng.sample(columns, rng.randrange(1, 4))}
        old = {column: rows[key][column] for column in changed}
        rows[key] |= changed
        value = rows[key] if full else changed | {"id": key}
        message = {"key": key, "value": dict(value)} | ({"old_value": old} if full else {})
        message["headers"] = {"operation": "update"} | headers
    return json.dumps(message, separators=(",", ":")).encode() + b",\n"


def applied(rows: Rows, lines: bytes) -> Rows:
    """Rows after the lines, by a reader that finds nothing strange in them."""
    made = {key: dict(row) for key, row in rows.items()}
    for message in json.loads(b"[" + lines[:-2] + b"]") if lines else []:
        operation, key = message["headers"]["operation"], message["key"]
        if operation == "insert":
            assert key not in made
            made[key] = dict(message["value"])
        elif operation == "delete":
            del made[key]
        else:
            made[key] |= message["value"]
    return made


def read_from(log: ShapeLog, offset: tuple[int, int], files: FileCache) -> tuple[list[tuple[int, int]], bytes]:
    """Everything behind an offset, chunk by chunk: the offsets at which answers ended, and the lines."""
    ends, data = [], b""
    while True:
        position = log.position_of(offset, files)
        end, offset = log.chunk_after(position)
        if position == end:
            return ends, data
        data += log.slice(position, end, files).read()
        ends.append(offset)


@settings(max_examples=30, deadline=None)
@given(st.randoms(), st.sampled_from([300, 1000, 4000]), st.booleans(), st.sampled_from([700, 10**9]))
def test_a_compacted_log_tells_the_same(rng: random.Random, threshold: int, full: bool, window: int) -> None:
    files = FileCache(2)
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "WINDOW_BYTES", window)
        patch.setattr(compaction, "_BLOCK", 501)
        log = ShapeLog(folder + "/log", threshold)
        states: list[tuple[tuple[int, int], Rows]] = [((0, 0), {})]
        for tx in range(1, rng.randrange(20, 80)):
            lines = []
            for op in range(0, 2 * rng.randrange(1, 4), 2):
                lines.append(change(rng, rows, tx, op, full=full))
                states.append(((tx, op), {key: dict(row) for key, row in rows.items()}))
            log.append(tx, 2 * len(lines) - 2, b"".join(lines))
            log.publish()
        log.flush()
        if len(log.chunk_ends) <= compaction.KEPT_CHUNKS:
            return
        ends = [end[1:] for end in log.chunk_ends]
        size = log.visible
        made = compaction.compact(log.path, folder + "/new", log.chunk_ends, log.flushed)
        if made is None:
            return
        log.append(1000, 0, change(rng, rows, 1000, 0, full=full))
        log.publish()
        log.replace(folder + "/new", made.cut, made.length, made.chunk_ends, files)
        assert log.visible < size + 400
        assert [end[1:] for end in log.chunk_ends][: len(ends)] == ends, "chunks end where they ended"
        for offset, state in states:
            seen, lines_behind = read_from(log, offset, files)
            assert applied(state, lines_behind) == rows, offset
            assert seen == [end for end in [*ends, (1000, 0)] if end > offset] or seen[-1] == (1000, 0)


def updates(rng: random.Random, shape: Shape, rows: Rows, first: int, count: int) -> list[Batch]:
    return [
        Batch([Entry(shape.id, tx, 0, change(rng, rows, tx, 0, full=False))], tx, tx + 1)
        for tx in range(first, first + count)
    ]


async def checkpoint(opened: Store) -> None:
    opened.begin_checkpoint()
    assert opened._checkpoint is not None
    await asyncio.wait([opened._checkpoint])


@pytest.mark.parametrize("moment", ["before", "after", "checkpointed", "unlogged"])
async def test_a_crash_around_a_compaction(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(moment)
    opened = Store.open(tmp_path / "storage", 2000)
    shape = await complete(opened, Definition.from_json(DEFINITION.to_json() | {"compaction": True}))
    rows: Rows = {}
    for batch in updates(rng, shape, rows, 20, 200):
        opened.submit(batch, lambda: None)
    await durable(opened)
    await checkpoint(opened)
    for batch in updates(rng, shape, rows, 300, 50):
        opened.submit(batch, lambda: None)
    await durable(opened)
    follower = Follower.open(tmp_path / "storage", 2000)
    old = shape.log.path
    if moment == "unlogged":  # the new file is there, its record is not

        async def lost(*_: object) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch, pytest.raises(asyncio.CancelledError):
            patch.setattr(Store, "_log_compacted", lost)
            await opened.compact(shape)
    elif moment != "before":
        assert await opened.compact(shape)
        assert shape.log.path != old
    for batch in updates(rng, shape, rows, 400, 50):
        opened.submit(batch, lambda: None)
    await durable(opened)
    if moment == "checkpointed":
        await checkpoint(opened)
    expected = content(opened, shape)
    assert applied({}, expected) == rows
    follower.refresh()
    assert content(opened, shape) == content(follower, follower.by_handle[shape.handle])
    follower.close()
    for _ in range(2):
        await crash(opened)
        opened = Store.open(tmp_path / "storage", 2000)
        found = opened.by_handle[shape.handle]
        assert content(opened, found) == expected
    await asyncio.gather(*opened._deleting)
    names = {path.name for path in Path(found.log.path).parent.iterdir()}
    assert names <= {Path(found.log.path).name, Path(found.snapshot.path).name}
    assert await opened.compact(found) or moment in ("after", "checkpointed")
    assert applied({}, content(opened, found)) == rows
    await opened.close()


@pytest.mark.pg
@one_version
def test_a_shape_made_for_it_is_compacted(database: Database, make_server: Callable[..., ShapesServer]) -> None:
    database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a')")
    server = make_server(ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD="3000", SWITCHGEAR_COMPACTION_PERIOD="400ms").start()
    early = Client(server, table="items", experimental_compaction="true")
    early.sync()
    with database.connect() as connection:
        for number in range(200):
            connection.execute("UPDATE items SET v = %s WHERE id = 1", [str(number)])

    def compacted() -> bool:
        """All has arrived, in fewer messages: before all has arrived there are few of them anyway."""
        fresh = Client(server, table="items", experimental_compaction="true")
        fresh.sync()
        return fresh.rows['"public"."items"/"1"']["v"] == "199" and len(fresh.messages) < 150

    server.wait(compacted, 60, "the compaction")
    server.kill()
    server.start()
    late = Client(server, table="items", experimental_compaction="true")
    for client in (early, late):
        server.wait(lambda c=client: bool(c.sync() or c.rows['"public"."items"/"1"']["v"] == "199"), 60, "the end")
        assert client.restarts == 0
    assert len(late.messages) < 150
