"""The replication stream as Postgres sent it, and then damaged: a typed error or whole lines, nothing else, no growth.

What is captured has inserts, updates with values out of line, moves of keys, deletes and a truncate.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from switchgear_shapes.delivery import ProtocolViolation
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.replication import pgoutput
from switchgear_shapes.replication.pgoutput import MalformedMessage
from switchgear_shapes.routing.router import Router
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.where.expression import BOOL, Call, Column, Const, Type
from tests.shapes.server import one_version
from tests.shapes.test_routing_ingest import definition, equal, where
from tests.support.postgres import Database

pytestmark = [pytest.mark.pg, one_version]

TEXT = Type("text")
ROUNDS = 1500
CAPTURE = """
CREATE TABLE items (id int PRIMARY KEY, field int, name text);
ALTER TABLE items REPLICA IDENTITY FULL; ALTER TABLE items ALTER name SET STORAGE EXTERNAL;
CREATE TABLE other (id int PRIMARY KEY); ALTER TABLE other REPLICA IDENTITY FULL;
CREATE PUBLICATION p FOR TABLE items, other;
"""
STATEMENTS = """
INSERT INTO items SELECT g, g % 3, 'n' || g FROM generate_series(1, 6) g
INSERT INTO items VALUES (7, NULL, repeat('z', 9000)), (8, 1, E'a"b\\\\c\\n\\u00fc'); INSERT INTO other VALUES (1)
UPDATE items SET field = 2 WHERE id IN (1, 7)
UPDATE items SET id = id + 100 WHERE id IN (2, 7)
UPDATE items SET name = NULL WHERE id = 3; DELETE FROM items WHERE id = 4
UPDATE other SET id = 2; DELETE FROM other
INSERT INTO items SELECT g, 1, 'x' FROM generate_series(200, 230) g; DELETE FROM items WHERE id > 210
TRUNCATE other
"""


@pytest.fixture
def frames(database: Database) -> list[bytes]:
    with database.connect() as connection:
        connection.execute(CAPTURE)
        connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        for statements in STATEMENTS.strip().splitlines():
            with connection.transaction():
                connection.execute(statements.encode())
        query = (
            "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'p')"
        )
        found = [bytes(row[0]) for row in connection.execute(query)]
        connection.execute("SELECT pg_drop_replication_slot('s')")
    return found


class Target:
    """A store with shapes of the captured table, and what reads the stream."""

    def __init__(self, folder: Path, oid: int) -> None:
        self.store = Store.open(folder, 10 * 1024 * 1024)
        self.router: Router[Shape] = Router()
        self.ingest = Ingest(self.store, self.router, Hub(self.store, 1000), folder)
        less = where(Call(BOOL, "<", (Column(Type("int4"), "field"), Const(Type("int4"), "2"))))
        like = where(Call(BOOL, "~~", (Column(TEXT, "name"), Const(TEXT, "n%"))))
        self.oid = oid
        self.definitions = [replace(definition(clause), oid=oid) for clause in (None, equal(1), less, like)]
        self.definitions += [replace(made, full_replica=True) for made in self.definitions]
        self.refresh()

    def refresh(self) -> None:
        """Shapes that a damaged message ended are made again."""
        for made in self.definitions:
            if made.identity not in self.store.by_identity:
                shape = self.store.create(made)
                shape.filter = None
                self.router.add(shape)

    def feed(self, frames: list[bytes]) -> bool:
        """Whether all of it was taken. What may be raised is an error of the stream, nothing else."""
        self.ingest.restart(0)
        try:
            for frame in frames:
                self.ingest.message(frame, 0)
        except (MalformedMessage, ProtocolViolation):
            return False
        finally:
            self.ingest.flush()
        return True


@pytest.fixture
async def target(tmp_path: Path, frames: list[bytes]) -> AsyncIterator[Target]:
    described = [found for found in map(pgoutput.decode, frames) if isinstance(found, pgoutput.RelationMessage)]
    made = Target(tmp_path, next(found.oid for found in described if found.name == "items"))
    made.store.on_drop = made.ingest.unregister
    yield made
    await made.store.close()


def damaged(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    made = list(frames)
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(made))
        frame = bytearray(made[at])
        place = rng.randrange(len(frame) + 1)
        match rng.randrange(8):
            case 0:
                frame[min(place, len(frame) - 1) if frame else 0 : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del frame[place : place + rng.choice([1, 2, 50])]
            case 2:
                frame[place:place] = rng.randbytes(rng.choice([1, 3, 40]))
            case 3:
                frame[place : place + 4] = b"\xff\xff\xff\xff"
            case 4:
                made.insert(at, made[rng.randrange(len(made))])
                continue
            case 5:
                del made[at]
                if not made:
                    return [b""]
                continue
            case 6:
                other = rng.randrange(len(made))
                made[at], made[other] = made[other], made[at]
                continue
            case _:
                frame[place : place + 1] = bytes([frame[place - 1] ^ (1 << rng.randrange(8))]) if frame else b"I"
        made[at] = bytes(frame)
    return made


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def later(frames: list[bytes], distance: int) -> list[bytes]:
    """The same transactions again, further on in the stream: those that were seen already are skipped."""
    made = []
    for frame in frames:
        if frame[:1] == b"B":
            frame = frame[:1] + (int.from_bytes(frame[1:9], "big") + distance).to_bytes(8, "big") + frame[9:]
        elif frame[:1] == b"C":
            places = b"".join((int.from_bytes(frame[i : i + 8], "big") + distance).to_bytes(8, "big") for i in (2, 10))
            frame = frame[:2] + places + frame[18:]
        made.append(frame)
    return made


async def test_a_damaged_stream_is_refused_or_taken_whole(target: Target, frames: list[bytes]) -> None:
    rng = random.Random(4)
    assert target.feed(frames)
    taken = 0
    memory = 0
    for number in range(ROUNDS):
        # A damaged position may be far ahead, and all that follows before it: begin anew, as on another stream.
        target.ingest.start_anew()
        target.store.commit_lsn = 0
        taken += target.feed(damaged(rng, later(frames, 0)))
        if number % 50 == 49:
            await target.store.settle()
            for shape in list(target.store.by_id.values()):
                data = shape.log.slice(0, shape.log.visible, target.store.files).read()
                for line in orjson.loads(b"[" + data[:-2] + b"]"):
                    assert line["headers"]["operation"] in ("insert", "update", "delete")
                target.store.drop(shape, "the next round")
            target.refresh()
        if number == ROUNDS // 3:
            memory = resident()
    assert 0.05 * ROUNDS < taken < 0.95 * ROUNDS
    assert resident() - memory < 40_000_000
