"""Routing alone: changes as the replication connection delivers them → the shape logs, without Postgres and HTTP.

`python -m bench.sync_routing [--profile] [names…]`. Figures are changes a second of CPU time of the whole process, the
write-ahead log's thread included; `--profile` shows where the event loop's thread spends it.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

from switchgear_shapes.definition import Definition
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.routing.router import Router
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import BOOL, And, Call, Column, Const, Expression, InList, Type, Where

OID = 20_000
INT4, TEXT = Type("int4"), Type("text")
COLUMNS = (("id", 23), ("field", 23), ("n", 23), ("name", 25), ("pad", 25))
SLICE = 256
"""Messages between two passes of the event loop."""

Row = list[bytes]


def where(expression: Expression, *columns: str) -> Where:
    return Where(expression, repr(expression), frozenset(columns))


def equal(column: str, value: int) -> Expression:
    return Call(BOOL, "=", (Column(INT4, column), Const(INT4, str(value))))


def definition(clause: Where | None) -> Definition:
    return Definition(
        oid=OID,
        schema="public",
        table="items",
        pk=("id",),
        columns=tuple(sorted(name for name, _ in COLUMNS)),
        selects_all=True,
        full_replica=False,
        changes_only=True,
        signature=COLUMNS,
        where=clause,
    )


# -- what Postgres would send --


def tuple_of(row: Row) -> bytes:
    return struct.pack("!H", len(row)) + b"".join(b"t" + struct.pack("!I", len(value)) + value for value in row)


def relation() -> bytes:
    head = b"R" + struct.pack("!I", OID) + b"public\0items\0f" + struct.pack("!H", len(COLUMNS))
    return head + b"".join(b"\1" + name.encode() + b"\0" + struct.pack("!Ii", oid, -1) for name, oid in COLUMNS)


def row(number: int, field: int, n: int) -> Row:
    return [b"%d" % number, b"%d" % field, b"%d" % n, b"item number E%dX" % number, b"p" * 60]


def transactions(count: int, size: int, fields: Callable[[int], int]) -> list[list[bytes]]:
    """Updates of `n`, `size` in a transaction, as pgoutput messages."""
    found = []
    number = 0
    for index in range(count):
        lsn = 1_000_000 + index * 1000
        messages = [b"B" + struct.pack("!QqI", lsn, 0, 700 + index)]
        for _ in range(size):
            number += 1
            field = fields(number)
            old, new = row(number % 10_000, field, number), row(number % 10_000, field, number + 1)
            messages.append(b"U" + struct.pack("!I", OID) + b"O" + tuple_of(old) + b"N" + tuple_of(new))
        messages.append(b"C" + struct.pack("!BQQq", 0, lsn, lsn + 100, 0))
        found.append(messages)
    return found


# -- measuring --


class Bench:
    """A store, an ingest, and shapes with the given clauses that are past their snapshots."""

    def __init__(self, folder: Path, clauses: Iterator[Where | None]) -> None:
        self.store = Store.open(folder, 10 * 1024 * 1024)
        self.router: Router[Shape] = Router(lambda expression, positions, _: predicate(expression, positions))
        self.ingest = Ingest(self.store, self.router, Hub(self.store, 1000), folder)
        self.shapes = []
        for clause in clauses:
            shape = self.store.create(definition(clause))
            shape.filter = None
            self.router.add(shape)
            self.shapes.append(shape)
        self.ingest.message(relation(), 0)

    async def run(self, batches: list[list[bytes]]) -> tuple[float, float]:
        """(seconds of CPU, seconds on the clock) until everything is durable and visible."""
        await self.store.settle()
        cpu, clock = time.process_time(), time.perf_counter()
        message = self.ingest.message
        taken = 0
        for messages in batches:
            for data in messages:
                message(data, 0)
            taken += len(messages)
            if taken >= SLICE:
                taken = 0
                self.ingest.flush()
                await asyncio.sleep(0)
                if self.store.pending_bytes > 32 * 1024 * 1024:
                    await self.store.settle()
        self.ingest.flush()
        await self.store.settle()
        return time.process_time() - cpu, time.perf_counter() - clock

    async def report(self, name: str, batches: list[list[bytes]], rounds: int = 5) -> None:
        """The best of some rounds: others use the machine too."""
        step = len(batches) // rounds
        runs = [await self.run(batches[start : start + step]) for start in range(0, step * rounds, step)]
        changes = sum(len(messages) - 2 for messages in batches[:step])
        cpu, clock = (min(times) / changes for times in zip(*runs, strict=True))
        print(f"{name}: {1 / cpu:,.0f}/s ({cpu * 1e6:.2f} µs of CPU, {clock * 1e6:.2f} µs by the clock)", flush=True)


async def matching(folder: Path) -> None:
    """10,000 `field = const`, each change in one."""
    bench = Bench(folder, (where(equal("field", number), "field") for number in range(10_000)))
    batches = transactions(1000, 100, lambda number: number * 7919 % 10_000)
    await bench.report("10,000 equalities, each change in 1", batches)
    assert bench.ingest.routed == 100_000
    await bench.store.close()


async def unmatched(folder: Path) -> None:
    bench = Bench(folder, (where(equal("field", number), "field") for number in range(10_000)))
    batches = transactions(1000, 100, lambda number: 1_000_000 + number)
    await bench.report("10,000 equalities, no change in any", batches)
    await bench.store.close()


async def unrouted(folder: Path) -> None:
    bench = Bench(folder, iter(()))
    batches = transactions(1000, 100, lambda number: number)
    await bench.report("a table without shapes", batches)
    await bench.store.close()


async def ranges(folder: Path) -> None:
    """10,000 intervals of ten values, each change in one."""

    def clause(number: int) -> Where:
        column = Column(INT4, "field")
        low = Call(BOOL, ">=", (column, Const(INT4, str(number * 10))))
        return where(And((low, Call(BOOL, "<", (column, Const(INT4, str(number * 10 + 10)))))), "field")

    bench = Bench(folder, map(clause, range(10_000)))
    batches = transactions(300, 100, lambda number: number * 7919 % 100_000)
    await bench.report("10,000 ranges, each change in 1", batches)
    assert bench.ingest.routed == 30_000
    await bench.store.close()


async def ilike(folder: Path) -> None:
    column = Column(TEXT, "name")
    patterns = (Call(BOOL, "~~*", (column, Const(TEXT, f"%e{number}x%")), "simple") for number in range(10_000))
    bench = Bench(folder, (where(pattern, "name") for pattern in patterns))
    await bench.run(transactions(1, 1, lambda number: number))
    batches = transactions(20, 1, lambda number: number)
    for index, messages in enumerate(batches):
        messages[0] = b"B" + struct.pack("!QqI", 9_000_000 + index, 0, 9000)
    await bench.report("10,000 ILIKE, each change in 1", batches)
    assert bench.ingest.routed == 21
    await bench.store.close()


async def everyone(folder: Path) -> None:
    """1,500 shapes of different clauses that all have the row: one change, durable and visible in all."""
    column = Column(INT4, "field")
    clauses = (InList(column, (Const(INT4, "1"), Const(INT4, str(2 + number)))) for number in range(1500))
    bench = Bench(folder, (where(clause, "field") for clause in clauses))
    times = []
    for messages in transactions(30, 1, lambda _: 1):
        times.append((await bench.run([messages]))[1])
    print(f"one change in 1,500 shapes: {sorted(times)[15] * 1000:.1f} ms until visible in all (median of 30)")
    await bench.store.close()


async def memory(folder: Path) -> None:
    tracemalloc.start()
    for count in (10_000, 100_000):
        router: Router[Target] = Router(lambda expression, positions, _: predicate(expression, positions))
        targets = [Target(definition(where(equal("field", number), "field"))) for number in range(count)]
        before = tracemalloc.get_traced_memory()[0]
        began = time.process_time()
        for target in targets:
            router.add(target)
        size = tracemalloc.get_traced_memory()[0] - before
        seconds = time.process_time() - began
        micros = seconds / count * 1e6
        print(f"index of {count:,} equalities: {size / count:,.0f} bytes a shape ({micros:.0f} µs to add, traced)")
    tracemalloc.stop()


class Target:
    """As much of a shape as the router reads."""

    def __init__(self, made: Definition) -> None:
        self.definition = made


MEASUREMENTS = {
    "matching": matching,
    "unmatched": unmatched,
    "unrouted": unrouted,
    "ranges": ranges,
    "ilike": ilike,
    "everyone": everyone,
    "memory": memory,
}


def main() -> None:
    gc.set_threshold(50_000, 20, 100)  # as the server has it
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for name, measure in MEASUREMENTS.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="sg-bench-") as folder:
            if "--profile" in sys.argv:
                profile = cProfile.Profile()
                profile.runcall(asyncio.run, measure(Path(folder)))
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            else:
                asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
