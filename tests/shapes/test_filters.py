"""Filters and parameters over HTTP: which rows, which shape, which refusal; DELETE by the whole definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.shapes.server import one_version
from tests.shapes.world import World, errors_of, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg]


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(
        postgres,
        tmp_path_factory.mktemp("filters"),
        ELECTRIC_ENABLE_INTEGRATION_TESTING="true",
        ELECTRIC_MAX_SHAPES="900",
    ) as made:
        yield made


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return sorted(message["value"]["id"] for message in response.json() if "value" in message)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("id <= 3", "123"),
        ("n = 0", "369"),
        ("n = 0 AND id > 3", "69"),
        ("id = 1 OR id = 2 AND n = 0", "1"),
        ("title LIKE '%7'", "7"),
        ("title IN ('title 1', 'title 9')", "19"),
        ("id BETWEEN 4 AND 6", "456"),
        ("NOT (n = 1) AND n IS NOT NULL", "235689"),
        ("mood::text = 'happy'", "258"),
        ("secret = 'hidden 5'", "5"),
        ("true", "123456789"),
        ("id < 0", ""),
    ],
)
def test_rows(world: World, where: str, expected: str) -> None:
    assert ids(world.get(where=where)) == list(expected)


def test_parameters(world: World) -> None:
    assert ids(world.get(where="n = $1 AND id > $2", **{"params[1]": "0", "params[2]": "3"})) == ["6", "9"]
    assert ids(world.get(where="title = $1", **{"params[1]": "title 1"})) == ["1"]
    hostile = "x' OR true --"
    assert ids(world.get(where="title = $1", **{"params[1]": hostile})) == []
    assert ids(world.get(**{"params[1]": "not used"})) == list("123456789")


def test_one_shape_for_one_meaning(world: World) -> None:
    """However it is spelled; and other filters are other shapes."""
    base = world.get(where="n = 1").headers["electric-handle"]
    for same in ("n=1", "  N =\n1 ", '"n" = 1', "(n = 1)"):
        assert world.get(where=same).headers["electric-handle"] == base, same
    assert world.get(where="n = $1", **{"params[1]": "1"}).headers["electric-handle"] == base
    others = [
        world.get(**params).headers["electric-handle"]
        for params in (
            {},
            {"where": "n = 2"},
            {"where": "n = 1", "columns": "id,n"},
            {"where": "n = 1", "replica": "full"},
            {"where": "n = 1", "log": "changes_only"},
            {"where": "n = $1", "params[1]": "2", "replica": "full"},
        )
    ]
    assert len({base, *others}) == 7
    assert world.get(where="n = 1", experimental_compaction="true").headers["electric-handle"] == base
    assert world.get(where=" ").headers["electric-handle"] == world.get().headers["electric-handle"]


def test_a_handle_is_of_one_filter(world: World) -> None:
    first = world.get(where="id = 1").headers["electric-handle"]
    second = world.get(where="id = 2").headers["electric-handle"]
    response = world.get(where="id = 2", offset="0_0", handle=first)
    assert response.status_code == 409
    assert response.headers["electric-handle"] == second
    assert world.get(where="id = 1", offset="0_0", handle=first).status_code == 200


PARAMETERS = "Parameters must be numbered sequentially, starting from 1"


@pytest.mark.parametrize(
    ("params", "field", "fragment"),
    [
        ({"where": "1 x 1"}, "where", 'At location 17: syntax error at or near "x"'),
        ({"where": "id = 1; DROP TABLE items"}, "where", 'unescaped ";" causing statement split'),
        ({"where": "id = 1 ORDER BY id"}, "where", "malformed query ending with SQL clauses"),
        ({"where": "id"}, "where", "WHERE clause must return a boolean"),
        ({"where": "nope = 1"}, "where", "unknown reference nope"),
        ({"where": "id = 'x'"}, "where", "invalid syntax for type"),
        ({"where": "id = $1"}, "where", "parameter $1 was not provided"),
        ({"where": "id = $2", "params[2]": "1"}, "params", PARAMETERS),
        ({"where": "id = $1", "params[x]": "1"}, "params", "Parameters can only use numbers as keys"),
    ],
)
def test_refused(world: World, params: dict[str, str], field: str, fragment: str) -> None:
    (text,) = errors_of(world.get(**params))[field]
    assert fragment in text
    assert fragment in errors_of(world.post({"subset": {}}, **params))[field][0]


@one_version
def test_long_filters(world: World) -> None:
    """As long as the protocol allows, by GET and by POST; and what is longer is refused."""
    long = "id IN (" + ", ".join(map(str, range(1, 10_800))) + ")"
    assert 60_000 < len(long) < 65_000
    for method in ("GET", "POST"):
        status, headers, body = world.raw(method, table="items", offset="-1", where=long)
        assert status == 200
        assert [message["value"]["id"] for message in body if "value" in message] == list("123456789")
        assert (headers["cache-control"] == "no-cache") == (method == "POST")
        status, _, body = world.raw(method, table="items", offset="-1", where=long + " OR " + long)
        assert status == 400
        assert "bigger than maximum size" in body["errors"]["where"][0]
        status, _, body = world.raw(method, table="items", offset="-1", where="(" * 30_000)
        assert status == 400


def test_evaluation_errors_are_no_500(world: World) -> None:
    table = world.table("id int PRIMARY KEY, d int", "VALUES (1, 70000), (2, 1)")
    (text,) = errors_of(world.get(table, where="d::int2 = 1"))["where"]
    assert "SQLSTATE 22003" in text


# -- subsets of filtered shapes --


def subset(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["value"]["id"] for row in response.json()["data"]]


def test_a_subset_only_narrows(world: World) -> None:
    """An OR in either filter cannot open the other."""
    shape = {"where": "n = 0 OR id = 1"}
    assert subset(world.get(**shape, subset__where="id > 7", subset__order_by="id")) == ["9"]
    assert subset(world.get(**shape, subset__where="id = 3 OR true", subset__order_by="id DESC")) == list("9631")
    assert subset(world.post({"where": "id = 2 OR n = 0 OR n = 1", "order_by": "id"}, **shape)) == list("1369")


def test_subset_filters(world: World) -> None:
    assert subset(world.get(subset__where="n = $1", subset__params='{"1": "2"}', subset__order_by="id")) == list("258")
    assert subset(world.get(subset__where="n = $1", **{"subset__params[1]": "2"}, subset__order_by="id")) == list("258")
    assert subset(world.post({"where": "id = $1", "params": {"1": 5}})) == ["5"]
    assert subset(world.post({"where": "mood = 'happy'", "order_by": "id"})) == list("258")
    assert subset(world.post({"where": "true = true", "order_by": "n DESC, id ASC NULLS LAST", "limit": 4})) == list(
        "2581"
    )
    # The shape's own parameters are not the subset's.
    both = world.get(
        where="n = $1", **{"params[1]": "1"}, subset__where="id > $1", subset__params='{"1":"4"}', subset__order_by="id"
    )
    assert subset(both) == ["7"]


@pytest.mark.parametrize(
    ("body", "field", "fragment"),
    [
        ({"where": "nope = 1"}, "where", "unknown reference nope"),
        ({"where": "id = $1"}, "where", "parameter $1 was not provided"),
        ({"where": "id"}, "where", "must return a boolean"),
        ({"where": "id IN (SELECT id FROM empty)"}, "where", "Subqueries are not allowed in subsets"),
        ({"where": "1 x 1"}, "where", "syntax error"),
        ({"order_by": "id + 1"}, "order_by", "expressions are not allowed in ORDER BY clauses"),
        ({"order_by": "id; DROP TABLE items"}, "order_by", ""),
        ({"order_by": "(SELECT secret FROM items LIMIT 1)"}, "order_by", "not allowed in ORDER BY"),
        ({"order_by": "pg_sleep(10)"}, "order_by", "not allowed in ORDER BY"),
        ({"order_by": "nope"}, "order_by", "nope"),
        ({"order_by": "id", "limit": 0}, "limit", "must be greater than 0"),
    ],
)
def test_subsets_refused(world: World, body: dict[str, Any], field: str, fragment: str) -> None:
    errors = errors_of(world.post(body))
    assert list(errors) == ["subset"]
    assert fragment in errors["subset"][field][0]


def test_an_enum_value_that_does_not_exist(world: World) -> None:
    """Postgres' own word, as the bare string that clients know."""
    errors = errors_of(world.post({"where": "mood = 'angry'"}))
    assert errors == {"subset": {"where": 'invalid input value for enum mood: "angry"'}}


def test_errors_tell_nothing_of_hidden_rows(world: World) -> None:
    """Neither by their text, nor by happening: the subset's filter is only asked of the shape's rows.

    Postgres evaluates the cheaper side of an AND first, which here is the subset's.
    """
    table = world.table("id int PRIMARY KEY, owner text, d int", "VALUES (1, 'me', 2), (2, 'you', 70000)")
    mine = "owner LIKE 'm%' OR owner LIKE '%me' OR owner LIKE 'me%x' OR owner LIKE '%mm%'"
    assert subset(world.post({"where": "d::int2 = 2"}, table, where=mine)) == ["1"]
    errors = errors_of(world.post({"where": "d::int2 = 2"}, table))
    assert "SQLSTATE 22003" in errors["subset"]["where"][0]


def test_queryable_columns(world: World) -> None:
    """They bind the subset's filter and order, and not the shape's own filter."""
    shape = {"where": "secret <> 'hidden 1'", "queryable_columns": "id,n", "columns": "id"}
    assert subset(world.get(**shape, subset__where="n = 1", subset__order_by="n, id")) == ["4", "7"]
    for extra in ({"subset__where": "secret = 'x'"}, {"subset__order_by": "secret"}, {"subset__where": "title = 'x'"}):
        errors = errors_of(world.get(**shape, **extra))["subset"]
        assert list(errors) == [next(iter(extra))[8:]]
    assert subset(world.get(columns="id", subset__where="secret = 'hidden 4'")) == ["4"]


# -- DELETE --


def test_delete_by_the_whole_definition(world: World) -> None:
    """Filter, parameters, columns, replica and log mode tell which one is meant."""
    table = world.table("id int PRIMARY KEY, v int", "VALUES (1, 1)")
    definition = {"where": "v = $1", "params[1]": "1", "columns": "id", "replica": "full", "log": "changes_only"}
    handle = world.get(table, **definition).headers["electric-handle"]
    others = [
        world.get(table, **extra).headers["electric-handle"]
        for extra in ({}, definition | {"params[1]": "2"}, definition | {"replica": "default"})
    ]

    def delete(**params: str) -> Any:
        return world.server.http.delete(world.server.shape_url, params=params)

    unknown = delete(table=table, **definition | {"params[1]": "3"})
    assert (unknown.status_code, unknown.json()) == (404, {"message": "No existing shape found"})
    assert unknown.headers["cache-control"] == "no-cache"
    assert delete(table=table, handle=others[0], **definition).status_code == 400
    assert errors_of(delete(table=table, where="v = ")) is not None
    assert errors_of(delete(table=table, **{"params[a]": "1"})) == {
        "params": ["Parameters can only use numbers as keys"]
    }
    assert delete(table=table, handle=handle, **definition).status_code == 202
    assert world.get(table, **definition).headers["electric-handle"] != handle
    for other, extra in zip(others, ({}, definition | {"params[1]": "2"}), strict=False):
        assert world.get(table, offset="0_0", handle=other, **extra).status_code == 200
