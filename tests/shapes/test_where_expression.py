"""Expressions become JSON and back without loss."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_shapes.where.expression import (
    BOOL,
    And,
    Call,
    Column,
    Const,
    Expression,
    InList,
    InSubquery,
    IsNull,
    Not,
    Or,
    Subquery,
    Type,
    Where,
    from_json,
    to_json,
)

TYPES = st.builds(Type, st.sampled_from(["int4", "text", "mood"]), st.booleans(), st.none() | st.just(("a", "b")))
CONSTANTS = st.builds(Const, TYPES, st.none() | st.text(max_size=4))
COLUMNS = st.builds(Column, TYPES, st.text(min_size=1, max_size=4))
IN_LISTS = st.builds(
    lambda arg, kind, texts: InList(arg, tuple(Const(kind, text) for text in texts)),
    COLUMNS,
    TYPES,
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
)
LEAVES = CONSTANTS | COLUMNS | IN_LISTS | st.builds(InSubquery, st.tuples(COLUMNS), st.integers(0, 3))


def _larger(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return (
        st.builds(And, several)
        | st.builds(Or, several)
        | st.builds(Not, inner)
        | st.builds(IsNull, inner)
        | st.builds(Call, TYPES, st.sampled_from(["=", "lower"]), several)
    )


@given(st.recursive(LEAVES, _larger, max_leaves=12))
def test_an_expression_survives_the_storage(expression: Expression) -> None:
    inner = Where(expression, "true", frozenset({"a"}))
    subquery = Subquery(7, "public", "t", (Column(BOOL, "b"),), inner)
    where = Where(expression, "a", frozenset({"b", "c"}), (subquery,))
    assert from_json(orjson.loads(orjson.dumps(to_json(where)))) == where


def test_an_enum_that_was_stored_without_its_schema_is_read() -> None:
    data = [["null", ["column", ["mood", True, ["sad", "ok"]], "m"]], "m IS NULL", ["m"], []]
    assert from_json(data).expression == IsNull(Column(Type("mood", array=True, enum=("sad", "ok")), "m"))


DAMAGED = [None, [], ["const"], [["what"], "", [], []], [["subquery", [["null", 1]], 0], "", [], []]]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_other_data_is_refused(damaged: object) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)):
        from_json(damaged)
