"""Whatever bytes a value has, an index places it or says that it cannot: any other error would end the server."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchgear_shapes.routing import keys
from switchgear_shapes.routing.index import Index
from switchgear_shapes.routing.router import evaluated
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import BOOL, Call, Column, Const, Expression, Type, Where

PIECES = (
    *(b"", b"0", b"1", b"9" * 40, b".", b"-", b"+", b"e", b"_", b"NaN", b"sNaN", b"Infinity", b"1e999999999999999999"),
    *(
        b"2024-01-01",
        b" ",
        b"10:00:00",
        b"+00",
        b" BC",
        b"{",
        b"}",
        b",",
        b'"',
        b"\\",
        b"NULL",
        b"[0:1]=",
        b"\xff",
        b"t",
    ),
)
VALUES = st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join) | st.binary(max_size=12)
KINDS = [Type(name) for name in sorted({*keys._EQUAL, *keys._ORDERED})] + [Type("mood", enum=("sad",))]
TEXT, TEXTS = Type("text"), Type("text", array=True)


@settings(max_examples=400, deadline=None)
@given(st.lists(VALUES, max_size=4))
def test_keys_of_any_bytes(values: list[bytes]) -> None:
    for kind in KINDS:
        for function in (
            keys.equality(kind),
            keys.element_equality(Type(kind.name, True, kind.enum)),
            keys.order(kind),
        ):
            found = []
            for value in values:
                try:
                    found.append(function(value) if function is not None else None)
                except ValueError:
                    continue
            hash(tuple(found))
            if function is not None and function == keys.order(kind):
                sorted(found)
    for value in values:
        try:
            keys.elements(value)
        except ValueError:
            continue


class Member:
    def __init__(self, expression: Expression) -> None:
        self.where = Where(expression, repr(expression), frozenset({"a"}))


A = Column(TEXTS, "a")


@pytest.mark.parametrize(
    "expression",
    [
        Call(BOOL, "@>", (A, Const(TEXTS, "{x}"))),
        Call(BOOL, "@>", (Const(TEXTS, "{x,y}"), A)),
        Call(BOOL, "&&", (A, Const(TEXTS, "{x,z}"))),
        Call(BOOL, "= ANY", (Const(TEXT, "x"), A)),
    ],
    ids=lambda expression: expression.name,
)
def test_arrays_with_bytes_that_are_no_utf8(expression: Expression) -> None:
    """Of a SQL_ASCII database."""
    index: Index[Member] = Index(("a",), evaluated)
    index.add(Member(expression))
    test = predicate(expression, {"a": 0})
    rows: list[list[bytes | None]] = [[b"{x,\xff}"], [b'{"x\xff",x}'], [b"{\xff}"], [b"{x}"], [None]]
    assert [bool(index.match(list(row))) for row in rows] == [test(list(row)) is True for row in rows]
    assert test([b"{x}"]) is True
    assert test([b"{\xff}"]) is False
