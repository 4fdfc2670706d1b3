"""Enums whose name is not theirs alone: another schema's, or that of one of Postgres' types."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shapes.server import Client, one_version
from tests.shapes.world import World, errors_of, running
from tests.support.postgres import Postgres

pytestmark = pytest.mark.pg

SCHEMA = """
CREATE SCHEMA one; CREATE SCHEMA two;
CREATE TYPE one.phase AS ENUM ('new', 'old'); CREATE TYPE two.phase AS ENUM ('new', 'old');
CREATE TYPE two.grade AS ENUM ('good', 'bad'); CREATE TYPE public."interval" AS ENUM ('short', 'long');
CREATE DOMAIN felt AS two.grade;
CREATE TABLE phases (id int PRIMARY KEY, f felt, a one.phase, b two.phase, c one.phase, aa one.phase[], bb two.phase[],
  cc one.phase[], g two.grade, i public."interval");
INSERT INTO phases VALUES (1, 'good', 'new', 'new', 'new', '{new}', '{new}', '{new}', 'good', 'long'),
  (2, 'bad', 'new', 'old', 'old', '{new}', '{old}', '{old}', 'bad', 'short');
CREATE TABLE named (id int PRIMARY KEY, b two.phase); INSERT INTO named VALUES (1, 'new')
"""


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(postgres, tmp_path_factory.mktemp("enums"), ELECTRIC_LONG_POLL_TIMEOUT="2000") as made:
        made.database.execute(SCHEMA)
        yield made


@one_version
@pytest.mark.parametrize(
    ("where", "message"),
    [
        *((f"{test}", "Could not select an operator overload") for test in ("a = b", "a <> b", "b IN (a)")),
        ("a = 'new'::two.phase", "Could not select an operator overload"),
        ("a = 'new'::phase", "more than one enum is called phase; write the one that is meant with its schema"),
        ("g = 'good'::one.grade", "unsupported type grade"),
        ("f IN (SELECT f FROM phases)", "columns of type felt cannot be compared"),
        ("f = 'good'", "felt, a domain over an enum, has no comparisons; cast it to text"),
        ("i < 'short'", "enum interval is only compared with = and <>; list the labels with IN"),
        ("i > ALL('{short}')", "enum interval is only compared with = and <>; list the labels with IN"),
        ("i = 'endless'", 'invalid input value for enum interval: "endless"'),
    ],
)
def test_refused(world: World, where: str, message: str) -> None:
    (found,) = errors_of(world.get("phases", where=where))["where"]
    assert found.endswith(message)


@one_version
@pytest.mark.parametrize(
    "where", ["aa = bb", "a = ANY(bb)", "bb @> ARRAY[a]", "a IN (SELECT b FROM named)", "coalesce(a, b) = 'new'"]
)
def test_of_two_types_is_refused(world: World, where: str) -> None:
    """Postgres has no operator for two types, whatever they are called."""
    assert set(errors_of(world.get("phases", where=where))) == {"where"}


@one_version
def test_taken(world: World) -> None:
    clauses = {
        "a = c": {"1", "3"},
        "aa = cc AND a = ANY(cc)": {"1", "3"},
        "a = 'new'::one.phase AND b <> 'old'::two.phase": {"1", "3"},
        "b IN (SELECT b FROM named)": {"1", "3"},
        "g = 'bad'::grade": {"2"},
        "g = 'bad'::two.grade": {"2"},
        "f::text = 'bad'": {"2"},
        "i = 'long'": {"1", "3"},
    }
    clients = {clause: Client(world.server, table="phases", where=clause) for clause in clauses}
    for clause, client in clients.items():
        client.sync()
        assert {row["id"] for row in client.rows.values()} == clauses[clause] - {"3"}, clause
    world.database.execute("INSERT INTO phases SELECT 3, f, a, b, c, aa, bb, cc, g, i FROM phases WHERE id = 1")
    for clause, client in clients.items():

        def told(clause: str = clause, client: Client = client) -> bool:
            client.sync()
            return {row["id"] for row in client.rows.values()} == clauses[clause]

        world.server.wait(told, 30, clause)
        assert client.restarts == 0
