"""Parameters of requests, without a server: nesting, numbered values, subsets in queries and bodies; hostile ones."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_shapes.errors import ShapeError
from switchgear_shapes.parameters import Query, numbered
from switchgear_shapes.request import ShapeRequest, parse
from switchgear_shapes.subset_request import Subset, from_body, from_query
from switchgear_wire.query import parse_query

BASE = {"table": "items", "offset": "-1"}


def query(**params: str) -> Query:
    return Query(list(params.items()))


def parsed(extra: dict[str, str]) -> ShapeRequest:
    return parse(query(**BASE, **extra))


def refusal(extra: dict[str, str]) -> Any:
    with pytest.raises(ShapeError) as caught:
        parsed(extra)
    assert caught.value.status == 400
    return orjson.loads(caught.value.body)["errors"]


def test_brackets_form_maps() -> None:
    made = Query(
        parse_query(b"params[2]=b&params%5B1%5D=a&subset__params[1]=x&subset[params][2]=y&subset[where]=w&a[b]=c")
    )
    assert made.maps == {"params": {"2": "b", "1": "a"}, "subset__params": {"1": "x", "2": "y"}}
    assert made.values == {"subset__where": "w"}
    assert made.subset_names == {"params", "where"}
    assert made.nested == {"a"}


@pytest.mark.parametrize(
    ("given_params", "expected"),
    [
        ({}, ()),
        ({"1": "a"}, ("a",)),
        ({"2": "b", "1": "a", "3": ""}, ("a", "b", "")),
        ({"10": "j", **{str(n): str(n) for n in range(1, 10)}}, (*map(str, range(1, 10)), "j")),
        ({"a": "x"}, "Parameters can only use numbers as keys"),
        ({"1": "x", "-1": "x"}, "Parameters can only use numbers as keys"),
        ({"1.0": "x"}, "Parameters can only use numbers as keys"),
        ({"²": "x"}, "Parameters can only use numbers as keys"),
        ({"1": "x\0"}, "Parameters cannot have NUL characters"),
        ({"0": "x"}, "Parameters must be numbered sequentially, starting from 1"),
        ({"2": "x"}, "Parameters must be numbered sequentially, starting from 1"),
        ({"1": "x", "3": "y"}, "Parameters must be numbered sequentially, starting from 1"),
        ({"1": "x", "01": "y"}, "Parameters must be numbered sequentially, starting from 1"),
    ],
)
def test_numbered(given_params: dict[str, str], expected: tuple[str, ...] | str) -> None:
    if isinstance(expected, tuple):
        assert numbered(given_params) == expected
        return
    with pytest.raises(ValueError, match=expected):
        numbered(given_params)
    extra = {f"params[{key}]": value for key, value in given_params.items()}
    assert refusal(extra) == {"params": [expected]}


@pytest.mark.parametrize("name", ["table", "where", "handle", "params[1]", "subset__where", "subset[params][1]"])
def test_what_is_no_utf8_is_named(name: str) -> None:
    """And only that: U+FFFD, which it would be shown as, is a character like any other."""
    field = name.partition("[")[0].removesuffix("__where")
    given = BASE | {name: "a"}
    raw = urlencode(given).encode().replace(b"=a", b"=%EF%BF%BD")
    assert not Query(parse_query(raw, "surrogateescape")).broken
    for wrong in (b"=%ff", b"=%c3(", b"=%ed%a0%80"):
        with pytest.raises(ShapeError) as caught:
            parse(Query(parse_query(raw.replace(b"=%EF%BF%BD", wrong), "surrogateescape")))
        errors = orjson.loads(caught.value.body)["errors"]
        assert list(errors) == [field]
        assert "is not valid UTF-8" in str(errors)


INVALID = ["is invalid"]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"params": '{"1": "x"}'}, {"params": INVALID}),
        ({"params[]": "x"}, {"params": INVALID}),
        ({"params[1][2]": "x"}, {"params": INVALID}),
        ({"table[]": "x"}, {"table": INVALID}),
        ({"where[a]": "x", "columns[0]": "id"}, {"where": INVALID, "columns": INVALID}),
        ({"experimental_compaction": "yes"}, {"experimental_compaction": INVALID}),
        ({"replica": "x", "log": "y", "params": "z"}, {"replica": INVALID, "log": INVALID, "params": INVALID}),
        ({"subset": "x"}, {"subset": INVALID}),
        ({"subset__limit": "1"}, {"subset": {"order_by": ["order_by is required when limit or offset is present"]}}),
        ({"subset__offset": "0"}, {"subset": {"order_by": ["order_by is required when limit or offset is present"]}}),
        ({"subset__limit": "0", "subset__order_by": "id"}, {"subset": {"limit": ["must be greater than 0"]}}),
        (
            {"subset__limit": "-5", "subset__offset": "-1"},
            {"subset": {"limit": ["must be greater than 0"], "offset": ["must be greater than or equal to 0"]}},
        ),
        ({"subset__limit": "ten"}, {"subset": {"limit": INVALID}}),
        ({"subset__limit": "1.5"}, {"subset": {"limit": INVALID}}),
        ({"subset__limit": "9" * 25}, {"subset": {"limit": INVALID}}),
        ({"subset__params": "[1]"}, {"subset": {"params": INVALID}}),
        ({"subset__params": "{"}, {"subset": {"params": INVALID}}),
        ({"subset__params": '{"1": null}'}, {"subset": {"params": INVALID}}),
        ({"subset__params": '{"1": {"a": 1}}'}, {"subset": {"params": INVALID}}),
        ({"subset__params": '{"a": "x"}'}, {"subset": {"params": ["Parameters can only use numbers as keys"]}}),
        ({"subset[where][x]": "1"}, {"subset": {"where": INVALID}}),
        ({"subset__params": "{}", "subset__params[1]": "x"}, {"subset": {"params": INVALID}}),
    ],
)
def test_refused(extra: dict[str, str], expected: Any) -> None:
    assert refusal(extra) == expected


def test_where_and_params() -> None:
    request = parsed({"where": "a = $1", "params[1]": "x", "experimental_compaction": "true"})
    assert (request.params.where, request.params.values, request.params.compaction) == ("a = $1", ("x",), True)
    assert parsed({"where": "  "}).params.where is None
    assert parsed({"replica": "", "log": "", "experimental_compaction": ""}).params == parsed({}).params
    assert parsed({"experimental_compaction": "0"}).params == parsed({}).params


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"subset__where": "id = 1"}, Subset(where="id = 1")),
        ({"subset__where": ""}, Subset()),
        ({"subset__where_expr": "{}", "subset__order_by_expr": "[]"}, Subset()),
        ({"subset__unheard_of": "1"}, Subset()),
        (
            {"subset__order_by": "id", "subset__limit": "10", "subset__offset": "0"},
            Subset(order_by="id", limit=10, offset=0),
        ),
        ({"subset[order_by]": "id", "subset[limit]": "2"}, Subset(order_by="id", limit=2)),
        ({"subset__params": '{"1":"a","2":5,"3":true}', "subset__where": "w"}, Subset("w", params=("a", "5", "true"))),
        ({"subset__params[1]": "a", "subset[params][2]": "b"}, Subset(params=("a", "b"))),
    ],
)
def test_subset_in_a_query(extra: dict[str, str], expected: Subset) -> None:
    assert parsed(extra).subset == expected
    assert parsed({}).subset is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", None),
        (b" \n", None),
        (b"{}", None),
        (b'{"subset":{}}', Subset()),
        (b'{"where":null}', Subset()),
        (b'{"where":"a = $1","params":{"1":"x"}}', Subset("a = $1", params=("x",))),
        (b'{"subset":{"order_by":"id","limit":3,"offset":"2"}}', Subset(order_by="id", limit=3, offset=2)),
        (b'{"where":"a = 1","where_expr":{"type":"func"},"order_by_expr":[]}', Subset("a = 1")),
    ],
)
def test_subset_in_a_body(body: bytes, expected: Subset | None) -> None:
    assert from_body(body) == expected


NOT_ALLOWED = ["is not allowed in the request body; only subset keys are"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1]", {"error": "Request body must be a JSON object"}),
        (b'"x"', {"error": "Request body must be a JSON object"}),
        (b"null", {"error": "Request body must be a JSON object"}),
        (b'{"subset":{},"table":"secrets"}', {"table": NOT_ALLOWED}),
        (b'{"columns":"a","replica":"full","where":"true"}', {"columns": NOT_ALLOWED, "replica": NOT_ALLOWED}),
        (b'{"subset":[]}', {"subset": INVALID}),
        (b'{"subset":null}', {"subset": INVALID}),
        (b'{"subset":{},"limit":1}', {"subset": ["is given both as an object and by keys beside it"]}),
        (b'{"subset":{"table":"x"}}', {"subset": {"table": ["is not a subset parameter"]}}),
        (b'{"where":5}', {"subset": {"where": INVALID}}),
        (b'{"limit":true}', {"subset": {"limit": INVALID}}),
        (b'{"limit":1e3}', {"subset": {"limit": INVALID}}),
        (b'{"limit":18446744073709551615}', {"subset": {"limit": INVALID}}),
        (b'{"params":["x"]}', {"subset": {"params": INVALID}}),
    ],
)
def test_bodies_that_are_refused(body: bytes, expected: Any) -> None:
    with pytest.raises(ShapeError) as caught:
        from_body(body)
    made = orjson.loads(caught.value.body)
    assert (made if "error" in made else made["errors"]) == expected


def test_bodies_that_are_no_json() -> None:
    for body in (b"{nope", b"\xff", b"[" * 100_000, b'{"a":1}x'):
        with pytest.raises(ShapeError) as caught:
            from_body(body)
        assert orjson.loads(caught.value.body)["error"] == "Invalid JSON in request body"


NAMES = [
    *("table", "offset", "handle", "live", "live_sse", "cursor", "where", "params", "params[1]", "params[x]", "log"),
    *("columns", "queryable_columns", "replica", "experimental_compaction", "subset", "subset[where]", "subset__limit"),
    *(
        "subset__offset",
        "subset__order_by",
        "subset__params",
        "subset[params][1]",
        "params[",
        "params]",
        "[",
        "a[b][c]",
    ),
]
texts = st.one_of(st.sampled_from(["", "-1", "now", "0_0", "true", "1", "items", "{}", "[1]"]), st.text(max_size=30))


@given(st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), st.text(max_size=12)), texts), max_size=12))
def test_any_query_is_parsed_or_refused(pairs: list[tuple[str, str]]) -> None:
    encoded = urlencode(pairs, errors="surrogatepass").encode()
    try:
        request = parse(Query(parse_query(encoded)))
    except ShapeError as error:
        assert error.status == 400
        orjson.loads(error.body)
        return
    assert request.params.table
    assert (request.subset is not None) == any(
        name.startswith(("subset__", "subset[")) for name, _ in parse_query(encoded)
    )


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=10)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.sampled_from(["1", "2", "where", "limit"])), inner, max_size=3
        ),
    ),
    max_leaves=8,
)
bodies = st.one_of(
    st.dictionaries(
        st.sampled_from(["where", "order_by", "limit", "offset", "params", "subset", "where_expr", "table"]),
        json_values,
        max_size=4,
    ),
    json_values,
)


@given(st.one_of(st.binary(max_size=50), bodies.map(lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))))
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    try:
        subset = from_body(body)
    except ShapeError as error:
        assert error.status == 400
        return
    if subset is not None:
        assert subset.limit is None or subset.limit > 0
        assert subset.order_by is not None or (subset.limit is None and subset.offset is None)
        assert from_query(Query([])) is None
