"""The pgoutput decoder: against frames built by hand, against truncation and noise, and against a real walsender."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_shapes.replication import pgoutput
from switchgear_shapes.replication.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Ignored,
    Insert,
    MalformedMessage,
    RelationColumn,
    RelationMessage,
    Truncate,
    Update,
    Values,
    decode,
)
from tests.support.postgres import Database

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
VALUES = st.lists(st.one_of(st.none(), st.just(UNCHANGED), st.binary(max_size=40)), max_size=8)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def row(values: Values) -> bytes:
    parts = [struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, bytes):
            parts.append(b"t" + struct.pack("!I", len(value)) + value)
        else:
            parts.append(b"u")
    return b"".join(parts)


def encode(message: pgoutput.Message) -> bytes:
    match message:
        case Begin(lsn, at, xid):
            return b"B" + struct.pack("!QqI", lsn, at, xid)
        case Commit(lsn, end):
            return b"C" + struct.pack("!BQQq", 0, lsn, end, 0)
        case RelationMessage(oid, schema, name, identity, columns):
            head = b"R" + struct.pack("!I", oid) + schema.encode() + b"\0" + name.encode() + b"\0" + identity.encode()
            body = b"".join(
                bytes([c.in_identity]) + c.name.encode() + b"\0" + struct.pack("!Ii", c.type_oid, c.type_modifier)
                for c in columns
            )
            return head + struct.pack("!H", len(columns)) + body
        case Insert(oid, new):
            return b"I" + struct.pack("!I", oid) + b"N" + row(new)
        case Update(oid, old, old_is_key, new):
            before = b"" if old is None else (b"K" if old_is_key else b"O") + row(old)
            return b"U" + struct.pack("!I", oid) + before + b"N" + row(new)
        case Delete(oid, old, old_is_key):
            return b"D" + struct.pack("!I", oid) + (b"K" if old_is_key else b"O") + row(old)
        case Truncate(oids):
            return b"T" + struct.pack("!IB", len(oids), 0) + b"".join(struct.pack("!I", oid) for oid in oids)
    raise AssertionError(message)


COLUMNS = st.builds(RelationColumn, NAMES, U32, st.integers(-(2**31), 2**31 - 1), st.booleans())
TABLES = st.lists(COLUMNS, max_size=5).map(tuple)
MESSAGES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Begin, U64, st.integers(-(2**63), 2**63 - 1), U32),
    st.builds(Commit, U64, U64),
    st.builds(
        RelationMessage,
        U32,
        NAMES.filter(bool),
        NAMES,
        st.sampled_from("dnfi"),
        st.lists(COLUMNS, max_size=5).map(tuple),
    ),
    st.builds(Insert, U32, VALUES),
    st.builds(Update, U32, st.none(), st.just(False), VALUES),
    st.builds(Update, U32, VALUES, st.booleans(), VALUES),
    st.builds(Delete, U32, VALUES, st.booleans()),
    st.builds(Truncate, st.lists(U32, max_size=5).map(tuple)),
)


@given(MESSAGES, st.binary(max_size=30))
def test_decodes_what_was_encoded(message: Any, prefix: bytes) -> None:
    assert decode(prefix + encode(message), len(prefix)) == message


@settings(max_examples=60)
@given(MESSAGES)
def test_every_truncation_is_a_typed_error(message: Any) -> None:
    data = encode(message)
    for end in range(len(data)):
        with pytest.raises(MalformedMessage):
            decode(data[:end])
    with pytest.raises(MalformedMessage):
        decode(data + b"\0")


@settings(max_examples=500)
@given(st.binary(max_size=120), st.sampled_from(b"BCRIUDTOYM"))
def test_noise_is_decoded_or_refused(noise: bytes, kind: int) -> None:
    for data in (noise, bytes([kind]) + noise):
        try:
            decode(data)
        except MalformedMessage:
            continue


def test_a_huge_count_allocates_nothing() -> None:
    for data in (
        b"I" + struct.pack("!I", 1) + b"N" + b"\xff\xff",
        b"T" + b"\xff\xff\xff\xff\0",
        b"I" + struct.pack("!I", 1) + b"N\0\x01t\xff\xff\xff\xff",
    ):
        with pytest.raises(MalformedMessage):
            decode(data)


def test_other_messages_are_ignored() -> None:
    assert decode(b"O" + b"x" * 20) == Ignored(ord("O"))


@pytest.mark.pg
def test_real_frames(database: Database) -> None:
    """What Postgres itself sends, fetched by SQL: every message decodes, and the rows are the written ones."""
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text, b bytea, big text)")
        connection.execute("ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
        connection.execute("CREATE PUBLICATION p FOR TABLE t")
        connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        connection.execute("INSERT INTO t VALUES (1, 'ünï\n', '\\x0001', repeat('z', 9000)), (2, NULL, NULL, NULL)")
        connection.execute("UPDATE t SET v = 'w' WHERE id = 1")
        connection.execute("DELETE FROM t WHERE id = 2")
        connection.execute("TRUNCATE t")
        frames = [
            bytes(r[0])
            for r in connection.execute(
                "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL,"
                " 'proto_version', '1', 'publication_names', 'p')"
            )
        ]
        connection.execute("SELECT pg_drop_replication_slot('s')")
    messages = [decode(frame) for frame in frames]
    kinds = [type(message).__name__ for message in messages]
    assert kinds.count("Begin") == kinds.count("Commit") == 4
    relation = next(m for m in messages if isinstance(m, RelationMessage))
    assert (relation.schema, relation.name, relation.replica_identity) == ("public", "t", "f")
    assert [column.name for column in relation.columns] == ["id", "v", "b", "big"]
    inserts = [m.new for m in messages if isinstance(m, Insert)]
    assert inserts == [[b"1", "ünï\n".encode(), b"\\x0001", b"z" * 9000], [b"2", None, None, None]]
    (update,) = (m for m in messages if isinstance(m, Update))
    assert update.new == [b"1", b"w", b"\\x0001", UNCHANGED]
    assert update.old is not None
    assert update.old[3] == b"z" * 9000
    (delete,) = (m for m in messages if isinstance(m, Delete))
    assert delete.old == [b"2", None, None, None]
    assert [m.oids for m in messages if isinstance(m, Truncate)] == [(relation.oid,)]
