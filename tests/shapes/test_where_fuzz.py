"""Whatever the text, there is a Where or a WhereError. No database."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import from_json, to_json
from switchgear_shapes.where.parse import WhereError, parse_where, tables_of
from switchgear_shapes.where.subset import parse_order_by, parse_subset_where
from tests.shapes.test_where_messages import ITEMS, TABLES

TOKEN_TEXT = r"""
id small big title code price ratio done key at doc mood tags pair items users = <> < >= + - * / % ^ || && @> <@ ~~
AND OR NOT IN BETWEEN IS NULL TRUE LIKE ILIKE ESCAPE ANY ALL ARRAY [ ] ( ) , ; :: . 1 0 -1 1.5 1e400 'x' '' '{1}' $1 $2
NULL true lower( coalesce( greatest( concat( int4 text numeric[] interval timestamptz COLLATE "C" SELECT FROM WHERE CASE
WHEN THEN END DISTINCT ROW( now() AT TIME ZONE 'UTC' E'\' '\' B'1' X'1' 0x1F 1_000 -- /* */ " ' é
data -> ->> #> #>> ? ?| '{"a":[1.0]}' jsonb json jsonb_typeof( NULLIF( varchar(2) char(3) numeric(4,1) interval '+02'
'1' * ^ title LIKE [1:2] ['a'] justify_interval( bpchar timestamp(0)
"""
TOKENS = TOKEN_TEXT.split()
texts = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=14).map(" ".join),
    st.text(max_size=30),
    st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=10).map("".join),
)
ROW: list[bytes | None] = [b"x" for _ in ITEMS.columns]


def attempt(text: str) -> None:
    try:
        tables_of(text)
        where = parse_where(text, ITEMS, {1: "1", 2: "x"}, TABLES, stored_generated=True)
    except WhereError:
        pass
    else:
        assert from_json(to_json(where)) == where
        positions = {column.name: index for index, column in enumerate(ITEMS.columns)}
        # No value of these rows is of its column's type, and still nothing is raised.
        assert predicate(where.expression, positions, lambda query, key: None)(list(ROW)) in (True, False, None)
        again = parse_where(where.sql, ITEMS, {}, TABLES, stored_generated=True)
        assert again.sql == where.sql
    for parse in (lambda: parse_subset_where(text, ITEMS, {1: "1"}), lambda: parse_order_by(text, ITEMS)):
        try:
            parse()
        except WhereError:
            continue


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=texts)
def test_any_text(text: str) -> None:
    attempt(text)


@pytest.mark.long
@settings(
    max_examples=int(os.environ.get("SHAPES_SOAK_TEXTS", "200000")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(text=texts)
@pytest.mark.timeout(3600)
def test_any_text_for_long(text: str) -> None:
    attempt(text)
