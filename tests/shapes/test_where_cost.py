"""Clauses and rows that are made to be expensive: refused, or answered right in little time. No database.

What these were like before took minutes or gigabytes, so that a hang of the test is its failure.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_shapes.routing.conditions import conditions
from switchgear_shapes.where import like
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Const
from switchgear_shapes.where.parse import WhereError, parse_where
from tests.shapes.test_where_messages import ITEMS

POSITIONS = {column.name: index for index, column in enumerate(ITEMS.columns)}


def matches(text: str, **values: str) -> bool | None:
    row = [values[column.name].encode() if column.name in values else None for column in ITEMS.columns]
    return predicate(parse_where(text, ITEMS).expression, POSITIONS)(list(row))


def naive(pattern: str, text: str) -> bool:
    parts = {"%": ".*", "_": "."}
    return re.fullmatch("".join(parts.get(char) or re.escape(char) for char in pattern), text, re.DOTALL) is not None


@pytest.mark.parametrize("bits", [False, True])
def test_patterns_match_what_a_regular_expression_does(bits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if bits:
        monkeypatch.setattr(like, "_MANY_COMPARISONS", 0)

    @given(st.text("ab%%__é\n", max_size=9), st.text("abé\n", max_size=12))
    def check(pattern: str, text: str) -> None:
        assert like.matcher(pattern.encode())(text.encode()) == naive(pattern, text)

    check()


@pytest.mark.parametrize("piece", ["_" * 20_000, "a_" * 10_000, "aa_" * 7_000, "_é" * 10_000])
def test_a_pattern_costs_no_multiple_of_its_length(piece: str) -> None:
    text = "a" * 500_000
    assert matches(f"title LIKE '%{piece}x%'", title=text) is False
    assert matches(f"title LIKE '%{piece}x%'", title=piece.replace("_", "z") + "x") is True


def test_arrays_are_not_compared_each_with_each() -> None:
    many = "{" + ",".join(map(str, range(60_000))) + "}"
    assert matches("tags @> tags AND tags && '{59999}'", tags=many) is True
    assert matches("tags && '{x}'", tags=many) is False


def test_quotients_may_be_longer_than_python_turns_into_text() -> None:
    assert matches("price / 2 = price * 0.5", price="1" + "0" * 5_000) is True
    assert matches("price / 7 > 1", price="9" * 131_072) is True


@pytest.mark.parametrize("digits", ["0x" + "f" * 5_000, "0o" + "7" * 60_000, "0b" + "1" * 60_000])
def test_numbers_with_a_base_have_a_limit(digits: str) -> None:
    with pytest.raises(WhereError, match="the number is too long"):
        parse_where(f"price = {digits}", ITEMS)


def test_what_constants_become_has_a_limit() -> None:
    with pytest.raises(WhereError, match="1000000 characters when written out"):
        parse_where(f"price IN ({','.join(['1e131071'] * 5_000)})", ITEMS)
    with pytest.raises(WhereError, match="1000000 characters when written out"):
        parse_where(" OR ".join(["title = $1"] * 4_000), ITEMS, {1: "x" * 200_000})


@pytest.mark.parametrize(
    "clause", ["id IN ({})", "(id IN ({}) AND big IN ({})) OR small = 1", "(id IN ({}) OR big IN ({})) AND small > 1"]
)
def test_a_list_is_indexed_in_time_that_is_linear(clause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, for a list of 900 cost a third of a second on the event loop, and one of 12,000 eight."""
    numbers = ",".join(map(str, range(900)))
    where = parse_where(clause.replace("{}", numbers), ITEMS)
    counted = 0
    plain = Const.__hash__

    def count(const: Const) -> int:
        nonlocal counted
        counted += 1
        return plain(const)

    monkeypatch.setattr(Const, "__hash__", count)
    assert conditions(where.expression)[0].paths is not None
    assert counted < 20 * 900
