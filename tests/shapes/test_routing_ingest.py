"""The change path without Postgres: reading a little of a row agrees with reading all; noise is a typed error."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_shapes.definition import Definition
from switchgear_shapes.delivery import ProtocolViolation
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.replication import pgoutput
from switchgear_shapes.replication.pgoutput import UNCHANGED, Delete, Insert, MalformedMessage, Update, Values
from switchgear_shapes.routing.router import Router
from switchgear_shapes.snapshot import SnapshotMark
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.where.expression import BOOL, Call, Column, Const, Expression, InList, Type, Where
from tests.shapes.test_pgoutput import encode

OID = 20_000
INT4 = Type("int4")
COLUMNS = (("id", 23), ("field", 23), ("name", 25))


def where(expression: Expression) -> Where:
    return Where(expression, repr(expression), frozenset(["field"]))


def equal(value: int) -> Where:
    return where(Call(BOOL, "=", (Column(INT4, "field"), Const(INT4, str(value)))))


def definition(clause: Where | None) -> Definition:
    return Definition(
        oid=OID,
        schema="public",
        table="items",
        pk=("id",),
        columns=("field", "id", "name"),
        selects_all=True,
        full_replica=False,
        changes_only=True,
        signature=COLUMNS,
        where=clause,
    )


RELATION = pgoutput.RelationMessage(
    OID, "public", "items", "f", tuple(pgoutput.RelationColumn(name, oid, -1, True) for name, oid in COLUMNS)
)


class Changes:
    """A store, an ingest and shapes that are past their snapshots."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder, 10 * 1024 * 1024)
        self.router: Router[Shape] = Router()
        self.ingest = Ingest(self.store, self.router, Hub(self.store, 1000), folder)
        self.ingest.message(encode(RELATION), 0)
        self.lsn = 1000

    def shape(self, clause: Where | None) -> Shape:
        shape = self.store.create(definition(clause))
        shape.filter = None
        self.router.add(shape)
        return shape

    def transaction(self, *changes: pgoutput.Message) -> None:
        self.lsn += 100
        self.ingest.message(encode(pgoutput.Begin(self.lsn, 0, 7)), 0)
        for change in changes:
            self.ingest.message(encode(change), 0)
        self.ingest.message(encode(pgoutput.Commit(self.lsn, self.lsn + 10)), 0)

    async def lines(self, shape: Shape) -> list[tuple[str, str]]:
        """(operation, key) of everything in the shape's log."""
        self.ingest.flush()
        await self.store.settle()
        data = shape.log.slice(0, shape.log.visible, self.store.files).read()
        found = orjson.loads(b"[" + data[:-2] + b"]")
        return [(line["headers"]["operation"], line["key"].rpartition("/")[2].strip('"')) for line in found]


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Changes]:
    made = Changes(tmp_path)
    yield made
    await made.store.close()


def row(number: int, field: int | None, name: str = "x") -> Values:
    return [b"%d" % number, None if field is None else b"%d" % field, name.encode()]


async def test_rows_that_come_and_go(path: Changes) -> None:
    one, two, whole = path.shape(equal(1)), path.shape(equal(2)), path.shape(None)
    both = path.shape(where(InList(Column(INT4, "field"), (Const(INT4, "1"), Const(INT4, "2")))))
    path.transaction(
        Insert(OID, row(1, 1)),
        Update(OID, row(1, 1), False, row(1, 2)),
        Update(OID, row(1, 2), False, row(1, 2)),
        Update(OID, row(1, 2), False, row(1, None)),
        Update(OID, row(1, None), False, row(1, 1, "back")),
        Delete(OID, row(1, 1, "back"), False),
    )
    assert await path.lines(one) == [("insert", "1"), ("delete", "1"), ("insert", "1"), ("delete", "1")]
    assert await path.lines(two) == [("insert", "1"), ("delete", "1")]
    assert [op for op, _ in await path.lines(both)] == ["insert", "update", "delete", "insert", "delete"]
    assert [op for op, _ in await path.lines(whole)] == ["insert", "update", "update", "update", "delete"]


async def test_postgres_says_only_once_how_far_it_has_sent(path: Changes) -> None:
    """It does not wait for what came before to be on the disk; who reads along waits for it to be told."""
    path.shape(None)
    path.transaction(Insert(OID, row(1, 1)))
    path.ingest.flush()
    assert not path.ingest.idle
    path.ingest.keepalive(path.lsn + 5000)
    path.ingest.write_progress()
    await path.store.settle()
    assert path.store.durable_lsn == path.lsn + 10
    path.ingest.write_progress()
    await path.store.settle()
    assert path.store.durable_lsn == path.lsn + 5000


async def test_after_misses_hits_are_found_and_the_other_way_round(path: Changes) -> None:
    """How much of a row is read depends on the rows before; what comes out does not."""
    shape = path.shape(equal(7))
    fields = [7, 1, 1, 7, 7, 2, 7, 3, 3, 3, 7]
    for number, field in enumerate(fields):
        path.transaction(Insert(OID, row(number, field)))
        path.transaction(Update(OID, row(number, field), False, [b"%d" % number, UNCHANGED, b"y"]))
    wanted = [(op, str(n)) for n, field in enumerate(fields) if field == 7 for op in ("insert", "update")]
    assert await path.lines(shape) == wanted


async def test_shapes_that_get_the_same_lines_share_them(path: Changes) -> None:
    shapes = [
        path.shape(where(InList(Column(INT4, "field"), (Const(INT4, "1"), Const(INT4, str(n)))))) for n in range(2, 30)
    ]
    path.transaction(*(Insert(OID, row(number, 1)) for number in range(5)), Insert(OID, row(9, 2)))
    lines = [await path.lines(shape) for shape in shapes]
    assert lines[0] == [("insert", str(n)) for n in (0, 1, 2, 3, 4, 9)]
    assert all(found == lines[0][:5] for found in lines[1:])
    held = {id(data) for shape in shapes for _, _, data in shape.log._tail}
    assert len(held) == 2


async def test_a_shape_that_does_not_outlive_the_table_ends_even_if_no_row_is_its_own(path: Changes) -> None:
    shape = path.shape(equal(7))
    path.transaction(Insert(OID, row(1, 1)))
    wider = pgoutput.RelationMessage(
        OID, "public", "items", "f", (*RELATION.columns, pgoutput.RelationColumn("more", 25, -1, True))
    )
    path.ingest.message(encode(wider), 0)
    path.transaction(Insert(OID, [*row(2, 1), b"z"]))
    assert not shape.alive


async def test_a_shape_whose_snapshot_never_begins_ends_alone(path: Changes) -> None:
    """What it would have to hold back is bounded; the transaction that is too much goes on for the others."""
    path.store.on_drop = path.ingest.unregister
    held = path.store.create(definition(None))
    path.router.add(held)
    others = [path.shape(equal(number)) for number in (1, 1)]
    for number in range(10):
        path.transaction(Insert(OID, row(number, 1, "x" * 7_000_000)))
    assert not held.alive
    for shape in others:
        assert await path.lines(shape) == [("insert", str(number)) for number in range(10)]


@pytest.mark.parametrize("over", [False, True])
async def test_a_shape_that_comes_within_a_transaction_has_all_of_it(path: Changes, over: bool) -> None:
    """It missed the first row, so that a snapshot which does not see the transaction is not taken."""
    shape = path.store.create(definition(None))
    path.ingest.message(encode(pgoutput.Begin(5_000, 0, 50)), 0)
    path.ingest.message(encode(Insert(OID, row(1, 1))), 0)
    registered = path.ingest.register(shape)
    path.ingest.message(encode(Insert(OID, row(2, 1))), 0)
    if over:
        path.ingest.message(encode(pgoutput.Commit(5_000, 5_010)), 0)
    assert not path.ingest.open(shape, SnapshotMark(50, 51, (50,), 6_000), registered)
    assert path.ingest.open(shape, SnapshotMark(51, 51, (), 6_000), registered)
    if not over:
        path.ingest.message(encode(pgoutput.Commit(5_000, 5_010)), 0)
    path.ingest.message(encode(pgoutput.Begin(7_000, 0, 51)), 0)
    path.ingest.message(encode(Insert(OID, row(3, 1))), 0)
    path.ingest.message(encode(pgoutput.Commit(7_000, 7_010)), 0)
    assert await path.lines(shape) == [("insert", "3")]


VALUES = st.one_of(st.none(), st.just(UNCHANGED), st.binary(max_size=6))
ROWS = st.lists(VALUES, min_size=4, max_size=4)
MESSAGES = st.one_of(
    st.builds(Insert, st.just(OID), ROWS),
    st.builds(Update, st.just(OID), ROWS, st.just(False), ROWS),
    st.builds(Delete, st.just(OID), ROWS, st.just(False)),
)


@given(MESSAGES, st.integers(0, 4), st.binary(max_size=3))
def test_leading_values_are_those_of_the_row(message: Insert | Update | Delete, depth: int, prefix: bytes) -> None:
    data = prefix + encode(message)
    old, new, old_is_key, lacking = pgoutput.rows(data, len(prefix))
    assert not old_is_key
    assert lacking == (new is not None and UNCHANGED in new)
    found = pgoutput.leading(data, len(prefix), depth, 4)
    if found is None:  # allowed at a message's end
        return
    if old is not None and new is not None:
        new = [before if value is UNCHANGED else value for before, value in zip(old, new, strict=True)]
    assert found == (None if old is None else old[:depth], None if new is None else new[:depth])


@given(MESSAGES, st.integers(0, 4), st.data())
def test_damaged_rows_are_read_or_refused(message: Insert | Update | Delete, depth: int, data: st.DataObject) -> None:
    whole = encode(message)
    damaged = bytearray(whole[: data.draw(st.integers(6, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(1, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    pgoutput.leading(bytes(damaged), 0, depth, 4)
    with contextlib.suppress(MalformedMessage):
        pgoutput.rows(bytes(damaged))


def noise() -> st.SearchStrategy[list[bytes]]:
    kinds = st.sampled_from(b"BCRIUDTOYM\x00")
    wild = st.builds(lambda kind, rest: bytes([kind]) + rest, kinds, st.binary(max_size=60))
    rows = st.builds(lambda m, cut: encode(m)[:cut], MESSAGES, st.integers(1, 80))
    sound = st.sampled_from(
        [encode(RELATION), encode(pgoutput.Begin(5_000, 0, 9)), encode(pgoutput.Commit(5_000, 5_010))]
    )
    return st.lists(st.one_of(wild, rows, sound, st.just(b"")), max_size=12)


async def test_noise_is_a_typed_error(path: Changes) -> None:
    """Whatever comes, the ingest raises nothing but what the connection is ended for, and goes on after a new one."""
    path.shape(equal(7))
    path.shape(None)

    @settings(max_examples=200, deadline=None)
    @given(noise())
    def feed(messages: list[bytes]) -> None:
        for data in messages:
            try:
                path.ingest.message(data, 0)
            except (MalformedMessage, ProtocolViolation):
                path.ingest.restart(0)

    feed()
    path.ingest.restart(0)
    path.ingest.message(encode(RELATION), 0)
    path.lsn = 10**19
    shape = path.shape(equal(8))
    path.transaction(Insert(OID, row(1, 8)))
    assert await path.lines(shape) == [("insert", "1")]


def test_a_row_message_that_is_too_short() -> None:
    for data in (b"I", b"U" + struct.pack("!I", OID), b"D" + struct.pack("!I", OID) + b"O"):
        with pytest.raises(MalformedMessage):
            pgoutput.rows(data)
