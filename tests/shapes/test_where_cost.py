"""Clauses and rows that are made to be expensive: refused, or answered right in little time. No database.

What these were like before took minutes or gigabytes, so that a hang of the test is its failure.
"""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_shapes import resolving
from switchgear_shapes.routing.conditions import conditions
from switchgear_shapes.where import like
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Const, Where
from switchgear_shapes.where.parse import WhereError, is_quick, parse_where
from tests.shapes.test_where_messages import ITEMS, TABLES

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


def test_a_bad_pattern_costs_no_more_than_a_good_one() -> None:
    """Of a row: `%_a` a hundred thousand times, and where its end is reached an escape of nothing."""
    assert matches("title LIKE code", title="a" * 300_000, code="%_a" * 100_000 + "\\") is None
    assert matches("title LIKE code", title="a" * 3_000, code="%_" * 300_000 + "\\") is False
    assert matches("title LIKE code", title="a" * 600_000, code="a" * 300_000 + "%" + "a" * 300_000) is True


def test_documents_of_rows_are_read_in_time_that_is_linear() -> None:
    deep = "[" * 180_000 + "]" * 180_000
    assert matches("title::jsonb ->> 'a' = 'x'", title=deep) is None
    with pytest.raises(TooLarge):
        matches("title::jsonb ->> 'a' = 'x'", title=deep * 3)
    assert matches("doc -> 'a' ->> 'b' IS NULL", doc='{"a":' * 100_000 + "1" + "}" * 100_000) is True
    wide = '{"a": "x", "b": [' + '{"a":1},' * 50_000 + '"\\u0062"]}'
    assert matches("title::jsonb ->> 'a' = 'x' AND doc ->> 'a' = 'x'", title=wide, doc=wide) is True
    assert matches("title::jsonb ->> 'a' = 'x'", title='"' * 200_001) is None


def test_elements_in_quotes_are_read_in_time_that_is_linear() -> None:
    assert matches("tags[200000] = 'a b'", tags="{" + ",".join(['"a b"'] * 200_000) + "}") is True
    assert matches("tags[1] = 'a'", tags='{"' + "\\\\" * 500_000) is None


@pytest.mark.parametrize(
    "clause",
    [
        " OR ".join(f"price / {number} = 1" for number in range(2, 600)),
        " OR ".join(f"title LIKE '%{number}'" for number in range(600)),
        f"title = concat({','.join(['title'] * 5_000)})",
        f"id IN (SELECT uid FROM users WHERE {' OR '.join(f'uid + {n} = uid' for n in range(600))})",
    ],
    ids=["quotients", "patterns", "arguments", "within a subquery"],
)
def test_what_is_computed_for_a_row_has_a_limit(clause: str) -> None:
    with pytest.raises(WhereError, match="computes more than 1000 values for each row"):
        parse_where(clause, ITEMS, {}, TABLES)


def test_comparisons_with_constants_are_not_counted() -> None:
    assert parse_where(" OR ".join(f"id = {n} AND big > {n}" for n in range(2_000)), ITEMS)
    assert parse_where(f"id IN ({','.join(map(str, range(10_000)))}) AND lower(title COLLATE \"C\") = 'x'", ITEMS)


SLOW = ["id = 1 OR " * 150 + "done", "price = 1e131071 / 3", "price = 1E1_000", "title = 'x'::char(1000000)"]


@pytest.mark.parametrize("text", SLOW)
def test_what_may_take_long_is_parsed_beside_the_event_loop(text: str) -> None:
    assert not is_quick([text])
    assert not is_quick(["title = $1", text])
    assert is_quick(["id = $1 AND at > '2024-01-01' AND key = $2", "1", "0b1e4a5c-1111-2222-3333-444455556666"])

    async def where_parsed(texts: tuple[str, ...]) -> int:
        found: list[int] = []

        def parse() -> Where:
            found.append(threading.get_ident())
            return parse_where("done", ITEMS)

        await resolving._aside(texts, parse)
        return found[0]

    assert asyncio.run(where_parsed((text,))) != threading.get_ident()
    assert asyncio.run(where_parsed(("done",))) == threading.get_ident()
