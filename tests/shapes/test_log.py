"""The log on disk: positions and chunks against a plain list, frames against damage, the store against crashes."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_shapes.definition import Definition
from switchgear_shapes.errors import CorruptStorage, FatalError
from switchgear_shapes.log import frames, registry, store, store_files, wal
from switchgear_shapes.log.files import FileCache
from switchgear_shapes.log.follower import Follower
from switchgear_shapes.log.frames import Batch, Entry
from switchgear_shapes.log.registry import Registry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.shape_log import ShapeLog
from switchgear_shapes.log.store import StorageLocked, Store
from switchgear_shapes.offsets import END_OF_SNAPSHOT, INFINITY, parse, render
from switchgear_shapes.snapshot import SnapshotMark
from tests.support.files import total_size


def line(tx: int, op: int, padding: int = 0) -> bytes:
    text = '{"key":"k\\"lsn\\":\\"1\\"%s","headers":{"operation":"insert","txids":[1],"lsn":"%d","op_position":%d}},\n'
    return (text % ("x" * padding, tx, op)).encode()


# Transactions: how many lines each has, how long they are, whether the tail is flushed behind it.
TRANSACTIONS = st.lists(
    st.tuples(st.lists(st.sampled_from([0, 10, 300, 9000, 40_000]), min_size=1, max_size=5), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(TRANSACTIONS, st.sampled_from([1, 400, 5_000, 10**9]), st.randoms())
def test_positions_and_chunks_agree_with_a_list(
    transactions: list[tuple[list[int], bool]], threshold: int, rng: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = FileCache(2)
        log = ShapeLog(folder + "/log", threshold)
        lines: list[tuple[tuple[int, int], bytes]] = []
        tx = 0
        for paddings, flush in transactions:
            tx += rng.randrange(1, 5)
            made = [((tx, 2 * index), line(tx, 2 * index, padding)) for index, padding in enumerate(paddings)]
            lines += made
            log.append(tx, made[-1][0][1], b"".join(data for _, data in made))
            if rng.random() < 0.3:
                continue  # published with the next one
            log.publish()
            if flush:
                log.flush()
            # Whoever had everything, or all but the last one or two, reads on from there.
            for (at, op), _ in lines[-3:]:
                for probe in [(at, op), (at, INFINITY), (at - 1, INFINITY)]:
                    assert log.position_of(probe, files) == sum(len(data) for o, data in lines if o <= probe)
        log.publish()
        whole = b"".join(data for _, data in lines)
        assert log.visible == len(whole)
        assert log.latest == lines[-1][0]
        # Chunks: each ends with the line that reaches the threshold.
        expected, size = [], 0
        for index, (offset, data) in enumerate(lines):
            size += len(data)
            if size >= threshold:
                expected.append((sum(len(d) for _, d in lines[: index + 1]), *offset))
                size = 0
        assert log.chunk_ends == expected
        # Positions: for every line's offset, and for offsets that no line has.
        for probe in [(0, 3), END_OF_SNAPSHOT, *(o for o, _ in lines), *((t, o + 1) for (t, o), _ in lines)]:
            want = sum(len(data) for offset, data in lines if offset <= probe)
            assert log.position_of(probe, files) == want, probe
            end, end_offset = log.chunk_after(want)
            assert end_offset == (log.latest if end == log.visible else next(e[1:] for e in expected if e[0] == end))
            assert log.slice(want, end, files).read() == whole[want:end]


@given(st.integers(0, 2**64 - 1), st.one_of(st.integers(0, 2**64 - 1), st.just(2**64)))
def test_offsets_round_trip(tx: int, op: int) -> None:
    assert parse(render((tx, op))) == (tx, op)


def test_offsets_in_order() -> None:
    texts = ["-1", "0_0", "0_1", "0_10", "0_inf", "1_0", "1_2", "2_0"]
    parsed = [parse(text) for text in texts]
    assert None not in parsed
    assert parsed == sorted(parsed, key=lambda offset: offset or (0, 0))


# -- frames and segments --


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_frames_end_where_they_are_cut(payloads: list[bytes]) -> None:
    data = b"".join(frames.frame(number, payload) for number, payload in enumerate(payloads))
    at, found = 0, []
    while at < len(data):
        sequence, payload, at = frames.read_frame(data, at)
        found.append((sequence, payload))
    assert found == list(enumerate(payloads))
    for cut in range(len(frames.frame(0, payloads[0]))):
        with pytest.raises(frames.TornFrame):
            frames.read_frame(data[:cut], 0)


def test_batches_round_trip() -> None:
    batch = Batch([Entry(1, 2, 3, b"data"), Entry(4, 5, 6, b"")], 7, 8, final=False)
    ((kind, body),) = frames.records(frames.batch_record(batch))
    assert kind == frames.BATCH
    read = frames.read_batch(body)
    assert list(read.entries) == list(batch.entries)
    assert (read.commit_lsn, read.end_lsn, read.final) == (7, 8, False)


DEFINITION = Definition(
    oid=1,
    schema="public",
    table="t",
    pk=("id",),
    columns=("id",),
    selects_all=True,
    full_replica=False,
    changes_only=False,
    signature=(("id", 23),),
)
MARK = SnapshotMark(5, 7, (6,), 1000)


async def durable(opened: Store) -> None:
    """Wait until everything submitted so far is durable."""
    done = asyncio.get_running_loop().create_future()
    opened.progress(opened.durable_lsn, lambda: done.set_result(None))
    await asyncio.wait_for(done, 60)


async def complete(opened: Store, definition: Definition = DEFINITION) -> Shape:
    """A shape with a small snapshot, which has no file yet."""
    shape = opened.create(definition)
    data = MARK.control_line()
    shape.snapshot.mark = MARK
    opened.keep_snapshot(shape, data)
    shape.snapshot.advance(len(data), [len(data)], complete=True)
    done = asyncio.get_running_loop().create_future()
    opened.complete_snapshot(shape, data, lambda: done.set_result(None))
    await done
    return shape


async def crash(opened: Store) -> None:
    """What a kill leaves behind: the files as they are, the lock gone.

    A kill would end what the store still does in threads: here it goes on, and must not meet the next one.
    """
    under_way = {task for task in (opened._checkpoint, opened._moving) if task is not None} | opened._deleting
    await asyncio.gather(*under_way, return_exceptions=True)
    await asyncio.gather(*opened._deleting, return_exceptions=True)
    os.close(opened._lock_fd)


def content(opened: Registry, shape: Shape) -> bytes:
    return shape.log.slice(0, shape.log.visible, opened.files).read()


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    yield lambda: Store.open(tmp_path / "storage", 1000)


async def test_a_store_finds_everything_again(open_store: Callable[[], Store]) -> None:
    opened = open_store()
    with pytest.raises(StorageLocked):
        open_store()
    opened.set_system("sys", 3, 10)
    shape = await complete(opened)
    half = opened.create(Definition.from_json(DEFINITION.to_json() | {"oid": 2}))
    dropped = await complete(opened, Definition.from_json(DEFINITION.to_json() | {"oid": 3}))
    opened.submit(Batch([Entry(shape.id, 20, 0, line(20, 0))], 20, 28), lambda: None)
    opened.submit(
        Batch([Entry(half.id, 30, 0, line(30, 0)), Entry(shape.id, 30, 2, line(30, 2))], 30, 38), lambda: None
    )
    opened.drop(dropped, "test")
    await durable(opened)
    for _ in range(3):  # recovery of a recovered store, too
        await crash(opened)
        opened = open_store()
        assert list(opened.by_handle) == [shape.handle]
        found = opened.by_handle[shape.handle]
        assert found.definition == DEFINITION
        assert found.snapshot.complete
        assert found.snapshot.mark == MARK
        assert found.snapshot.kept == MARK.control_line()
        assert content(opened, found) == line(20, 0) + line(30, 2)
        assert found.log.latest == (30, 2)
        assert opened.system == ("sys", 3)
        assert opened.commit_lsn >= 30
        assert opened.durable_lsn == 38
    opened.submit(Batch([Entry(shape.id, 40, 0, line(40, 0))], 40, 48), lambda: None)
    await durable(opened)
    await opened.close()
    opened = open_store()
    found = opened.by_handle[shape.handle]
    assert content(opened, found).endswith(line(40, 0))
    assert found.snapshot.kept is None  # the checkpoint has moved it
    assert Path(found.snapshot.path).read_bytes() == MARK.control_line()
    newer = opened.create(Definition.from_json(DEFINITION.to_json() | {"oid": 9}))
    assert newer.id > dropped.id
    await opened.close()


async def test_small_snapshots_move_into_files_when_they_are_many(
    open_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the writer, for one that reads along, and again after a crash."""
    size = len(MARK.control_line())
    monkeypatch.setattr(registry, "KEPT_LIMIT", 2 * size)
    opened = open_store()
    shapes = [await complete(opened, Definition.from_json(DEFINITION.to_json() | {"oid": n})) for n in range(1, 6)]
    assert sum(len(shape.snapshot.kept or b"") for shape in shapes) <= 4 * size, "they wait in memory without a bound"
    async with asyncio.timeout(60):
        while sum(len(shape.snapshot.kept or b"") for shape in shapes) > 2 * size:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    reading = Follower.open(tmp_path / "storage", 1000)
    try:
        for known in (opened, reading):
            found = [known.by_handle[shape.handle].snapshot for shape in shapes]
            assert sum(len(snapshot.kept or b"") for snapshot in found) <= 2 * size
            for snapshot in found:
                assert (snapshot.kept or Path(snapshot.path).read_bytes()) == MARK.control_line()
        opened.drop(shapes[4], "test")
        await durable(opened)
        assert shapes[4].snapshot.kept is None
    finally:
        reading.close()
    await crash(opened)
    opened = open_store()
    for shape in shapes[:4]:
        snapshot = opened.by_handle[shape.handle].snapshot
        assert (snapshot.kept or Path(snapshot.path).read_bytes()) == MARK.control_line()
    opened.begin_checkpoint()
    await opened.close()
    assert not any(shape.snapshot.kept for shape in opened.by_id.values())


async def test_a_shape_that_ends_while_its_file_is_made_leaves_none(
    open_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    go_on = threading.Event()

    def write(files: list[tuple[str, bytes]]) -> tuple[int, OSError | None]:
        written.set()
        go_on.wait(60)
        return original(files)

    original = store_files._write_files
    monkeypatch.setattr(registry, "KEPT_LIMIT", len(MARK.control_line()))
    monkeypatch.setattr(store_files, "_write_files", write)
    opened = open_store()
    first, second = [
        await complete(opened, Definition.from_json(DEFINITION.to_json() | {"oid": n})) for n in range(1, 3)
    ]
    assert await asyncio.to_thread(written.wait, 60)
    opened.drop(first, "test")
    await durable(opened)
    await asyncio.gather(*opened._deleting)
    go_on.set()
    opened.begin_checkpoint()
    await opened.close()
    assert not Path(first.snapshot.path).exists()
    assert Path(second.snapshot.path).read_bytes() == MARK.control_line()
    assert second.snapshot.kept is None


async def test_a_dropped_shapes_files_stay_until_its_end_is_durable(open_store: Callable[[], Store]) -> None:
    """Recovery, and whoever reads along, knows the shape until then."""
    opened = open_store()
    shapes = [await complete(opened, Definition.from_json(DEFINITION.to_json() | {"oid": n})) for n in (1, 2)]
    opened.submit(Batch([Entry(shape.id, 20, 0, line(20, 0)) for shape in shapes], 20, 28), lambda: None)
    await durable(opened)
    await opened.close()  # its checkpoint puts everything into files
    opened = open_store()
    for shape, end in zip(list(opened.by_id.values()), (opened.drop, None), strict=True):
        paths = [Path(shape.log.path), Path(shape.snapshot.path)]
        if end is not None:
            end(shape, "test")
        else:
            opened.purge("test")
        time.sleep(0.1)  # noqa: ASYNC251 - what other threads do is done; what is due when the record is durable is not
        assert all(path.exists() for path in paths)
        async with asyncio.timeout(60):
            while any(path.exists() for path in paths):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await opened.close()


@pytest.mark.parametrize("missing", ["log", "snapshot"])
async def test_a_shape_whose_file_is_gone_is_dropped_for_good(open_store: Callable[[], Store], missing: str) -> None:
    """No line is ever added behind bytes that are not there."""
    opened = open_store()
    shapes = [await complete(opened, Definition.from_json(DEFINITION.to_json() | {"oid": n})) for n in (1, 2)]
    opened.submit(Batch([Entry(shape.id, 20, 0, line(20, 0)) for shape in shapes], 20, 28), lambda: None)
    await durable(opened)
    await opened.close()
    opened = open_store()
    opened.submit(Batch([Entry(shape.id, 30, 0, line(30, 0)) for shape in shapes], 30, 38), lambda: None)
    await durable(opened)
    await crash(opened)
    Path(shapes[0].log.path if missing == "log" else shapes[0].snapshot.path).unlink()
    for tx in (40, 50):
        opened = open_store()
        assert list(opened.by_handle) == [shapes[1].handle]
        opened.submit(Batch([Entry(shape.id, tx, 0, line(tx, 0)) for shape in shapes], tx, tx + 8), lambda: None)
        await durable(opened)
        await crash(opened)
    opened = open_store()
    kept = opened.by_handle[shapes[1].handle]
    assert content(opened, kept) == b"".join(line(tx, 0) for tx in (20, 30, 40, 50))
    await opened.close()


async def test_an_unfinished_large_transaction_leaves_nothing(open_store: Callable[[], Store]) -> None:
    opened = open_store()
    shape = await complete(opened)
    opened.submit(Batch([Entry(shape.id, 20, 0, line(20, 0))], 20, 28), lambda: None)
    opened.submit(Batch([Entry(shape.id, 30, 0, line(30, 0, 2000))], 0, 0, final=False), lambda: None)
    await durable(opened)
    assert content(opened, shape) == line(20, 0)
    await crash(opened)
    opened = open_store()
    found = opened.by_handle[shape.handle]
    assert content(opened, found) == line(20, 0)
    assert found.log.chunk_ends == []
    # The same transaction comes again, whole.
    opened.submit(Batch([Entry(shape.id, 30, 0, line(30, 0, 2000))], 0, 0, final=False), lambda: None)
    opened.submit(Batch([Entry(shape.id, 30, 2, line(30, 2))], 30, 38), lambda: None)
    await durable(opened)
    expected = line(20, 0) + line(30, 0, 2000) + line(30, 2)
    assert content(opened, found) == expected
    await crash(opened)
    opened = open_store()
    assert content(opened, opened.by_handle[shape.handle]) == expected
    await opened.close()


@pytest.mark.parametrize("damage", ["cut", "flip", "append"])
async def test_a_torn_tail_is_cut(open_store: Callable[[], Store], tmp_path: Path, damage: str) -> None:
    """What the last write left unfinished was never acknowledged; all before it stays."""
    opened = open_store()
    shape = await complete(opened)
    for tx in (20, 30):
        opened.submit(Batch([Entry(shape.id, tx, 0, line(tx, 0))], tx, tx + 8), lambda: None)
        await durable(opened)
    await crash(opened)
    (segment,) = sorted((tmp_path / "storage" / "wal").glob("*.wal"))[-1:]
    data = bytearray(segment.read_bytes())
    at = 0
    starts = []
    while True:
        try:
            _, _, following = frames.read_frame(bytes(data), at)
        except frames.TornFrame:
            break
        starts.append(at)
        at = following
    if damage == "cut":
        del data[at - 3 :]
    elif damage == "flip":
        data[at - 1] ^= 1
    else:
        data[at : at + 10] = frames.MAGIC + b"\x50\0\0\0zz"
    segment.write_bytes(bytes(data))
    opened = open_store()
    found = opened.by_handle[shape.handle]
    assert content(opened, found) in (line(20, 0), line(20, 0) + line(30, 0))
    assert content(opened, found) == line(20, 0) + line(30, 0) or damage != "append"
    await opened.close()


async def test_damage_in_the_middle_drops_the_shapes(open_store: Callable[[], Store], tmp_path: Path) -> None:
    """Never half of the truth: Postgres has the rows, so everything begins anew, and the log says why."""
    opened = open_store()
    shape = await complete(opened)
    for tx in (20, 30, 40):
        opened.submit(Batch([Entry(shape.id, tx, 0, line(tx, 0))], tx, tx + 8), lambda: None)
        await durable(opened)
    await crash(opened)
    segment = sorted((tmp_path / "storage" / "wal").glob("*.wal"))[-1]
    data = bytearray(segment.read_bytes())
    data[data.index(b'"lsn":"20"')] ^= 1
    segment.write_bytes(bytes(data))
    with pytest.raises(CorruptStorage):
        list(wal.Replay(segment.parent, int(segment.stem)))
    opened = open_store()
    assert opened.by_id == {}
    again = await complete(opened)
    assert again.id > shape.id
    await opened.close()
    opened = open_store()
    assert list(opened.by_handle) == [again.handle]
    await opened.close()


async def test_a_damaged_checkpoint_drops_the_shapes(open_store: Callable[[], Store], tmp_path: Path) -> None:
    opened = open_store()
    await complete(opened)
    await opened.close()
    path = tmp_path / "storage" / "checkpoint"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    opened = open_store()
    assert opened.by_id == {}
    await opened.close()


async def test_an_unknown_format_is_refused(open_store: Callable[[], Store], tmp_path: Path) -> None:
    await open_store().close()
    (tmp_path / "storage" / "FORMAT").write_text("switchgear-shapes 2\n")
    with pytest.raises(FatalError):
        open_store()


async def test_checkpoints_bound_the_log(
    open_store: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments go once their contents are in the files; readers notice nothing."""
    monkeypatch.setattr(store, "CHECKPOINT_BYTES", 20_000)
    monkeypatch.setattr(registry, "TAIL_LIMIT", 5_000)
    opened = open_store()
    shapes = [await complete(opened, Definition.from_json(DEFINITION.to_json() | {"oid": n})) for n in range(1, 6)]
    expected = {shape.id: b"" for shape in shapes}
    for tx in range(100, 400):
        entries = []
        for shape in shapes[: tx % 5 + 1]:
            data = line(tx, 0, tx)
            expected[shape.id] += data
            entries.append(Entry(shape.id, tx, 0, data))
        opened.submit(Batch(entries, tx, tx + 1), lambda: None)
        if tx % 20 == 0:
            await durable(opened)
            assert opened.tail_bytes <= 5_000 + 3_000
    await durable(opened)
    await asyncio.sleep(0.1)
    for shape in shapes:
        assert content(opened, shape) == expected[shape.id]
    total = total_size((tmp_path / "storage" / "wal").glob("*.wal"))
    assert total <= 3 * wal.PREALLOCATE
    await crash(opened)
    opened = open_store()
    for shape in shapes:
        assert content(opened, opened.by_handle[shape.handle]) == expected[shape.id]
    await opened.close()


# -- what a snapshot sees --


@pytest.mark.parametrize("base", [100, 2**32 - 3, 2**32 + 5, 2**40 - 2])
def test_snapshot_marks_compare_wrapped_ids(base: int) -> None:
    """The snapshot has 64-bit transaction ids, the stream only their lower half."""
    mark = SnapshotMark(base, base + 6, (base + 1, base + 4), lsn=1000)
    for delta, seen in ((-5, True), (0, True), (1, False), (2, True), (4, False), (5, True), (6, False), (9, False)):
        assert mark.sees((base + delta) % 2**32, 500) is seen, delta
    # Behind the snapshot's end of log nothing is visible, however old its transaction id looks.
    assert not mark.sees((base - 5) % 2**32, 1000)
