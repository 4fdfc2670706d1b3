"""Arbitrary parameters and bodies over HTTP: an answer of the protocol, never a 500, a hang, or memory that grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shapes.server import one_version
from tests.shapes.world import World, running
from tests.support.postgres import Postgres

pytestmark = [pytest.mark.pg]
ANSWERS = (200, 304, 400, 405, 409, 413)
EXAMPLES = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def world(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("fuzz")
    with running(postgres, folder, ELECTRIC_LONG_POLL_TIMEOUT="50", ELECTRIC_MAX_SHAPES="200") as made:
        yield made


WORDS = (
    *("id", "n", "title", "mood", "tags", "=", "<", "<>", "AND", "OR", "NOT", "(", ")", "1", "'x'", "NULL", "IS"),
    *("IN", "LIKE", "BETWEEN", "$1", "$2", "::int4", "::text", "ANY", "ARRAY[1]", "lower", ",", "+", "/", ";"),
)
clauses = st.one_of(
    st.sampled_from(
        [
            "id = 1",
            "n = $1",
            "title = $1",
            "title LIKE $1 OR mood = $2",
            "id > 2 OR n = 0",
            "mood = 'sad'",
            "true",
            "id IN (SELECT id FROM empty)",
            "d",
        ]
    ),
    st.lists(
        st.sampled_from(WORDS),
        max_size=9,
    ).map(" ".join),
    st.text(max_size=20),
)
orders = st.one_of(
    st.sampled_from(["id", "id DESC", "n, id ASC NULLS FIRST", "1", "id + 1", "nope"]), st.text(max_size=12)
)
numbers = st.sampled_from(["0", "1", "3", "-1", "x", "9223372036854775807", "9223372036854775808", ""])
hostile = st.one_of(
    st.text(max_size=8), st.sampled_from(["\0", "x\0", "\\", "%\\", "'", "''", "$1", "\x01\x02", "x" * 3000])
)
values = {
    "table": st.sampled_from(["items", "empty", "nope", '"items"', "public.items", "pg_class", "", "a.b.c"]),
    "offset": st.sampled_from(["-1", "now", "0_0", "0_inf", "1_0", "x", "18446744073709551615_0"]),
    "handle": st.sampled_from(["1-1", "", "x", "-"]),
    "live": st.sampled_from(["true", "false", ""]),
    "live_sse": st.sampled_from(["false", "true"]),
    "cursor": st.text(max_size=5),
    "where": clauses,
    "params[1]": hostile,
    "params[2]": st.text(max_size=8),
    "columns": st.sampled_from(["id", "id,n", "n", "id,nope", "", '"', "id,id", "id,mood"]),
    "queryable_columns": st.sampled_from(["id", "id,n", "n", ""]),
    "replica": st.sampled_from(["full", "default", "x"]),
    "log": st.sampled_from(["full", "changes_only", "x"]),
    "experimental_compaction": st.sampled_from(["true", "x"]),
    "subset__where": clauses,
    "subset__order_by": orders,
    "subset__limit": numbers,
    "subset__offset": numbers,
    "subset__params": st.sampled_from(['{"1":"1"}', "{}", "[", '{"1":null}', '{"2":"x"}']),
    "subset__params[1]": hostile,
}
usual = {"table": "items", "offset": "-1"}
queries = st.fixed_dictionaries({}, optional=values).map(lambda query: usual | query)


def check(response: Any) -> None:
    assert response.status_code in ANSWERS, response.text
    if response.status_code == 400:
        assert response.json()
    if response.status_code == 200 and response.headers.get("electric-snapshot") == "true":
        assert set(response.json()) == {"metadata", "data"}


@one_version
@EXAMPLES
@given(query=queries)
def test_any_query(world: World, query: dict[str, str]) -> None:
    params = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    check(world.server.http.get(world.server.shape_url, params=params))


body_values = st.one_of(
    clauses, orders, st.integers(), st.none(), st.dictionaries(st.sampled_from(["1", "2", "x"]), clauses)
)
keys = st.sampled_from(["where", "order_by", "limit", "offset", "params", "where_expr", "table", "secret"])
bodies = st.one_of(
    st.binary(max_size=30),
    st.dictionaries(keys, body_values, max_size=4).map(lambda body: json.dumps(body).encode()),
    st.dictionaries(keys, body_values, max_size=4).map(lambda body: json.dumps({"subset": body}).encode()),
    st.tuples(clauses, hostile).map(
        lambda parts: json.dumps({"order_by": "id", "limit": 3, "where": parts[0], "params": {"1": parts[1]}}).encode()
    ),
)


@one_version
@EXAMPLES
@given(body=bodies, where=st.one_of(st.none(), st.sampled_from(["n = 0", "id > 3"])))
def test_any_body(world: World, body: bytes, where: str | None) -> None:
    params = {"table": "items", "offset": "-1"} | ({} if where is None else {"where": where})
    response = world.server.http.post(world.server.shape_url, params=params, content=body)
    check(response)
    if response.status_code == 200 and where is not None and response.headers.get("electric-snapshot") == "true":
        wanted = {"3", "6", "9"} if where == "n = 0" else set("456789")
        assert {row["value"]["id"] for row in response.json()["data"]} <= wanted


@one_version
@EXAMPLES
@given(where=st.sampled_from(["title = $1", "title LIKE $1", "title IN ($1, 'x')", "mood::text <> $1"]), value=hostile)
def test_any_value(world: World, where: str, value: str) -> None:
    """No value leaves its place, and a subset with it has the rows that a shape has."""
    params = {"where": where, "params[1]": value.encode("utf-8", "replace").decode()}
    shape = world.get(**params)
    subset = world.post({"where": where, "params": {"1": params["params[1]"]}})
    check(shape)
    assert subset.status_code == shape.status_code, subset.text
    if shape.status_code == 200:
        rows = [message["value"] for message in shape.json() if "value" in message]
        assert sorted(row["value"]["id"] for row in subset.json()["data"]) == sorted(row["id"] for row in rows)


ODD = """
CREATE SCHEMA "s.t";
CREATE TABLE "s.t"."u""v" (id int PRIMARY KEY, "x,y" text, "q""q" text, "%41" text);
INSERT INTO "s.t"."u""v" VALUES (1, 'a', 'b', 'c');
CREATE TABLE "é/ü" ("Ä" text PRIMARY KEY);
INSERT INTO "é/ü" VALUES ('a/b"c.d');
CREATE TABLE हिन्दी (id int PRIMARY KEY, cafe\u0301 text);
INSERT INTO हिन्दी VALUES (1, 'marks');
"""
ODD_TABLE = b"offset=-1&table=%22s.t%22.%22u%22%22v%22"
ITEMS = b"offset=-1&table=items"
RAW: dict[bytes, Any] = {
    ODD_TABLE + b"&columns=id,%22x,y%22": {"id": "1", "x,y": "a"},
    ODD_TABLE + b"&columns=+id+,%22q%22%22q%22": {"id": "1", 'q"q': "b"},
    ODD_TABLE + b"&columns=id,%22%2541%22": {"id": "1", "%41": "c"},
    ODD_TABLE + b"&where=%22x,y%22='a'&columns=id": {"id": "1"},
    ODD_TABLE + b"&where=%22q%22%22q%22=$1&params[1]=b&columns=id": {"id": "1"},
    b"offset=-1&table=%22%C3%A9%2F%C3%BC%22": {"Ä": 'a/b"c.d'},
    b"offset=-1&table=%E0%A4%B9%E0%A4%BF%E0%A4%A8%E0%A5%8D%E0%A4%A6%E0%A5%80&columns=id,Cafe%CC%81": {
        "id": "1",
        "cafe\u0301": "marks",
    },
    b"offset=-1&%74able=%69tems&where=id%3d1&columns=id": {"id": "1"},
    b"&&=x&" + ITEMS + b"&where=id=1&columns=id&": {"id": "1"},
    b"offset=now&offset=-1&table=empty&table=items&where=id=1&columns=id": {"id": "1"},
    ITEMS + b"&columns=id&where=id=$1&params[1]=2&params[1]=1": {"id": "1"},
    ITEMS + b"&columns=id&where=id=1&" + b"&".join(b"x%d=1" % n for n in range(20_000)): {"id": "1"},
    ITEMS + b"&columns=id&where=" + b"(" * 4_000 + b"id=1" + b")" * 4_000: {"id": "1"},
    ITEMS + b"&columns=id&where=id=1&%ff=%ff&unknown=%ff": {"id": "1"},
    ODD_TABLE.replace(b"%22%22v", b"v"): "table",
    ITEMS + b"%00": "table",
    b"offset=-1&table=%CC%81items": "table",
    ITEMS + b"%": "table",
    ITEMS + b"%ff": "table",
    ITEMS + b"%ed%a0%80": "table",
    b"offset=-1&table=%22items%00%22": "table",
    b"offset=-1&table=%22a%22b%22": "table",
    b"offset=-1&table[]=items": "table",
    b"offset=-1&TABLE=items": "table",
    b"table=items&offset=-1%23x": "offset",
    b"table=items&offset=%D9%A3_0": "offset",
    b"table=items&offset=%ff": "offset",
    b"table=items&offset=0_0&handle=%ff": "handle",
    ITEMS + b"&columns=id,%22": "columns",
    ITEMS + b"&columns=id%00": "columns",
    ITEMS + b"&columns=id,%ff": "columns",
    ITEMS + b"&queryable_columns=%c3%28": "queryable_columns",
    ITEMS + b"&where=title='%ff'": "where",
    ITEMS + b"&where=title='%00'": "where",
    ITEMS + b"&where=" + b"NOT%20" * 5_000 + b"true": "where",
    ITEMS + b"&where=" + b"-" * 5_000 + b"1=1": "where",
    ITEMS + b"&where=title=$1&params[1]=%ff": "params",
    ITEMS + b"&where=title=$1&params[1]=%00": "params",
    ITEMS + b"&params[%ff]=1": "params",
    ITEMS + b"&params[1][2]=x": "params",
    ITEMS + b"&replica=%ff": "replica",
    ITEMS + b"&subset__where=title='%ff'": "subset",
    ITEMS + b"&subset[where]=title='%ff'": "subset",
    ITEMS + b"&subset__where=title=$1&subset__params[1]=%ff": "subset",
    ITEMS + b"&subset__order_by=id%00": "subset",
    ITEMS + b"&subset__params=" + b"[" * 5_000: "subset",
}


@one_version
def test_raw_queries(world: World) -> None:
    """Byte for byte, what no client library would send. Expected: the only row, or the field that is at fault."""
    world.database.execute(ODD)
    for query, wanted in RAW.items():
        connection = HTTPConnection("127.0.0.1", world.server.port, timeout=60)
        connection.request("GET", "/v1/shape?" + query.decode("latin-1"))
        response = connection.getresponse()
        found = json.loads(response.read())
        connection.close()
        if isinstance(wanted, str):
            assert (response.status, list(found["errors"])) == (400, [wanted]), (query[:200], found)
        else:
            assert response.status == 200, (query[:200], found)
            assert [message["value"] for message in found if "value" in message] == [wanted], query[:200]
    assert "Traceback" not in world.server.log()


@one_version
def test_nothing_was_left_behind(world: World) -> None:
    """After all of the above: it serves, holds no permit or query, and has no more memory than a server has."""
    assert len(world.get().json()) == 10
    text = world.server.http.get(f"{world.server.url}/metrics").text
    for line in text.splitlines():
        if line.startswith(("electric_admission_control_acquire_current", "switchgear_subsets_running")):
            assert line.endswith(" 0"), line
        assert 'status="5' not in line, line
    assert world.server.metric("process_resident_memory_bytes") < 250e6
    assert "Traceback" not in world.server.log()
