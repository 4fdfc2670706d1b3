"""Values so large that a clause on them would keep the event loop: the shape ends, everything else goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from switchgear_shapes.routing import keys
from switchgear_shapes.where import cost, documents
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.parse import WhereError, parse_where
from tests.shapes.server import Client, ShapesServer, one_version
from tests.shapes.test_where_messages import ITEMS
from tests.shapes.world import World, running
from tests.support.postgres import Postgres

POSITIONS = {column.name: index for index, column in enumerate(ITEMS.columns)}


def filled(unit: str, size: int, start: str = "", end: str = "") -> bytes:
    """About `size` bytes, at most."""
    return (start + unit * ((size - len(start) - len(end)) // len(unit.encode())) + end).encode()


def text(size: int) -> bytes:
    return filled("a", size)


def array(size: int) -> bytes:
    return filled("{a},", size, "{", "{b}}")


def document(size: int) -> bytes:
    return filled("{}, ", size, '{"a": [', '1], "b": [{"c": 2}]}')


CLAUSES: dict[str, tuple[str, Callable[[int], bytes], bool | None]] = {
    "title LIKE '%a_x%'": ("title", text, False),
    "title LIKE '%a_a'": ("title", text, True),
    "title ILIKE '%A_x%'": ("title", text, False),
    "upper(title) = 'x'": ("title", text, False),
    "title || title || title || title LIKE '%x_y%'": ("title", text, False),
    "title LIKE '%' || title": ("title", text, True),
    "title::jsonb -> 'b' -> 0 = '{\"c\": 2}'": ("title", document, True),
    "tags @> '{b}'": ("tags", array, True),
    "tags && '{x}'": ("tags", array, False),
    "'b' = ANY(tags)": ("tags", array, True),
    "tags = '{x}'": ("tags", array, False),
    "array_append(tags, 'x') = '{x}'": ("tags", array, None),
    "data -> 'b' IS NULL": ("data", document, False),
    'data @> \'{"b": [{"c": 2}]}\'': ("data", document, True),
    "data ->> 'b' IN ('x', 'y')": ("data", document, False),
    "data #>> '{b,0,c}' = '2'": ("data", document, True),
    "jsonb_array_length(data -> 'b') = 1": ("data", document, True),
    "doc -> 'b' ->> 'c' = 'x'": ("doc", document, None),
    "doc::jsonb ? 'b'": ("doc", document, True),
}


@pytest.mark.parametrize("clause", CLAUSES)
def test_every_reading_operator_has_a_limit(clause: str) -> None:
    """Just below it there is an answer (a hang is the test's failure), just above it there is none."""
    column, make, wanted = CLAUSES[clause]
    expression = parse_where(clause, ITEMS).expression
    evaluate = cost.bounded(predicate(expression, POSITIONS), expression, POSITIONS)
    limit = int(cost.BUDGET / cost.weights(expression)[column])
    assert limit <= 50_000_000

    def row(value: bytes) -> list[bytes | None]:
        return [value if name == column else None for name in POSITIONS]

    assert evaluate(list(row(make(limit)))) is wanted
    with pytest.raises(TooLarge):
        evaluate(list(row(make(limit + 100))))


COMPARED = ["title = 'x'", "title LIKE 'a%'", "title IS NULL", "title <> 'x' OR title COLLATE \"C\" > 'y'"]


@pytest.mark.parametrize("clause", COMPARED)
def test_comparisons_have_none(clause: str) -> None:
    assert not {c for c in cost.weights(parse_where(clause, ITEMS).expression).values() if c > cost.CHEAP}


def test_columns_are_weighed_together() -> None:
    clause = "title LIKE '%a_x%' OR code LIKE '%a_x%'"
    expression = parse_where(clause, ITEMS).expression
    evaluate = cost.bounded(predicate(expression, POSITIONS), expression, POSITIONS)
    both = cost.BUDGET / sum(cost.weights(expression).values())
    values = {"title": text(int(both)), "code": text(int(both))}
    assert evaluate([values.get(name) for name in POSITIONS]) is False
    values = {"title": text(int(both * 1.1)), "code": text(int(both))}
    with pytest.raises(TooLarge):
        evaluate([values.get(name) for name in POSITIONS])


def test_documents_that_are_compared_each_with_each() -> None:
    """Ten thousand objects that all differ: a hundred million comparisons."""
    a = "[" + ", ".join(f'{{"a{n}": 1}}' for n in range(10_000)) + "]"
    b = "[" + ", ".join(f'{{"b{n}": 1}}' for n in range(10_000)) + "]"
    assert not documents.contains(a[:3000].rpartition(",")[0].encode() + b"]", b"[" + b[1:].encode())
    with pytest.raises(TooLarge):
        documents.contains((a[:-1] + ", " + b[1:]).encode(), b.encode())


def test_a_pattern_of_a_row() -> None:
    row = {"title": text(300_000), "code": b"%" + b"ab_" * 100_000 + b"%"}
    expression = parse_where("title LIKE code", ITEMS).expression
    assert predicate(expression, POSITIONS)([row.get(name) for name in POSITIONS]) in (False, None)


def test_constants_that_take_too_long_are_refused() -> None:
    deep = "[" * 600 + "1," * 300_000 + "1" + "]" * 600
    with pytest.raises(WhereError):
        parse_where("'x' || $1 = title OR data = $1::jsonb", ITEMS, {1: deep})


def test_an_index_looks_into_no_huge_array() -> None:
    with pytest.raises(ValueError, match="too large"):
        keys.elements(filled("a,", keys.MOST_BYTES + 10, "{", "a}"))


# -- over a running server --

TABLES = """
CREATE TABLE big (id int PRIMARY KEY, t text, tags text[], d jsonb);
CREATE TABLE small (id int PRIMARY KEY, v int);
INSERT INTO big VALUES (1, 'abx', '{b}', '{"k": "v"}');
INSERT INTO small VALUES (1, 1);
"""
MEGABYTES = 40


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("large")) as made:
        made.database.execute(TABLES)
        yield made


def processor_seconds(server: ShapesServer) -> float:
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.pg
@one_version
@pytest.mark.timeout(900)
def test_others_are_served_meanwhile(world: World) -> None:
    """Four filters would read all of the value. Each took 9 s of processor time before."""
    server = world.server
    ended = {
        "wildcards": "t LIKE '%a_x%'",
        "folded": "upper(t) LIKE '%A_X%'",
        "a subquery": "t LIKE '%a_x%' AND id IN (SELECT id FROM small)",
        "in a subquery": "id IN (SELECT id FROM big WHERE t LIKE '%a_x%')",
    }
    clients = {name: Client(server, table="big", columns="id", where=where) for name, where in ended.items()}
    going_on = {"t LIKE '%aa%'": 1, "t LIKE 'a%'": 2, "d ->> 'k' = 'v'": 2, "'b' = ANY(tags) AND t LIKE '%a_x%'": 1}
    cheap = {where: Client(server, table="big", columns="id", where=where) for where in going_on}
    for client in (*clients.values(), *cheap.values()):
        client.sync()
    live = Client(server, table="small")
    live.sync()
    handles = {name: client.handle for name, client in cheap.items()}
    before = processor_seconds(server)
    statuses: set[tuple[int, str]] = set()
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.05):
            statuses.add(server.health())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        world.database.execute(
            f"INSERT INTO big SELECT 2, repeat('a', {MEGABYTES}000000), '{{zz}}', '{{\"k\": \"v\"}}';"
            "INSERT INTO small VALUES (2, 2)"
        )
        server.wait(lambda: bool(live.step(live=True) and len(live.rows) == 2), 120, "the other table's row")
        for where, rows in going_on.items():
            client = cheap[where]
            server.wait(lambda c=client, n=rows: bool(c.sync() or len(c.rows) == n), 60, where)
    finally:
        done.set()
        asking.join()
    assert statuses == {(200, "active")}
    assert processor_seconds(server) - before < 12
    assert {name: client.handle for name, client in cheap.items()} == handles
    assert live.restarts == 0
    for name, client in clients.items():
        client.sync()
        assert client.restarts == 1, name
        assert [row["id"] for row in client.rows.values()] == ["1"], name
    assert "too large for its filter" in server.log()
    # What is small again is evaluated again; the value that goes has been in none of them.
    world.database.execute("UPDATE big SET t = 'aax' WHERE id = 2")
    for name, client in clients.items():
        server.wait(lambda c=client: bool(c.sync() or len(c.rows) == 2), 60, f"the row that is small again: {name}")
