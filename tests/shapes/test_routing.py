"""The index of where clauses finds what evaluating each finds, for any clauses and rows, as members come and go.

The oracle evaluates each whole clause; arrays have a model of their own here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchgear_shapes.replication.pgoutput import Values
from switchgear_shapes.routing import keys
from switchgear_shapes.routing.index import BURST, Index
from switchgear_shapes.routing.intervals import Intervals
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import (
    BOOL,
    And,
    Call,
    Column,
    Const,
    Expression,
    InList,
    IsNull,
    Not,
    Or,
    Type,
    Where,
)

COLUMNS = ("i", "k", "n", "f", "t", "v", "c", "d", "ts", "tz", "b", "m", "ints", "texts")
INT4, INT8, NUMERIC, FLOAT8, TEXT = Type("int4"), Type("int8"), Type("numeric"), Type("float8"), Type("text")
MOOD = Type("mood", enum=("sad", "ok"))
INTS, TEXTS = Type("int4", array=True), Type("text", array=True)

# Few and equal-looking values, so that clauses and rows meet.
POOLS: dict[str, tuple[Type, list[str]]] = {
    "i": (INT4, ["-1", "0", "1", "2", "3", "7", "10"]),
    "k": (INT8, ["1", "2", "9223372036854775807"]),
    "n": (NUMERIC, ["0", "0.00", "1", "1.0", "1.50", "1.5", "-2.5", "100", "100.00", "NaN", "Infinity"]),
    "f": (FLOAT8, ["0", "-0", "1", "1.5", "1e+20", "-Infinity", "NaN"]),
    "t": (TEXT, ["", "a", "ab", "abc", "abd", "b", "ü", "üb", "a%", "a\\", "zz"]),
    "v": (Type("varchar"), ["a", "ab", "b"]),
    "c": (Type("bpchar"), ["a   ", "ab  ", "    ", "b"]),
    "d": (Type("date"), ["2024-01-01", "2024-02-29", "infinity", "-infinity", "0044-03-15 BC", "12024-01-01"]),
    "ts": (Type("timestamp"), ["2024-01-01 00:00:00", "2024-01-01 00:00:00.5", "2024-01-01 00:00:00.25", "infinity"]),
    "tz": (Type("timestamptz"), ["2024-01-01 00:00:00+00", "2024-01-01 00:00:00.5+00", "-infinity"]),
    "b": (BOOL, ["t", "f"]),
    "m": (MOOD, ["sad", "ok"]),
    "ints": (INTS, ["{}", "{1}", "{1,2}", "{2,1,NULL}", "{NULL}", "{{1,2},{3,4}}", "[0:1]={7,1}"]),
    "texts": (TEXTS, ["{}", "{a}", '{a,"b c"}', '{"NULL",NULL}', '{"a\\"b","\\\\"}', '{"{x}",""}']),
}
LIKES = ["a%", "ab%", "a", "%b", "a_%", "%", "", "a\\%", "a\\\\%", "_", "ü%", "%b%"]


def column(name: str) -> Column:
    return Column(POOLS[name][0], name)


@st.composite
def leaf(draw: st.DrawFn) -> Expression:
    name = draw(st.sampled_from(COLUMNS))
    kind, pool = POOLS[name]
    if draw(st.integers(0, 7)) == 0:
        return IsNull(column(name))
    const = st.sampled_from(pool).map(lambda text: Const(kind, text))
    if kind.array:
        operator = draw(st.sampled_from(["@>", "<@", "&&"]))
        args = (column(name), draw(const))
        return Call(BOOL, operator, args if draw(st.booleans()) else args[::-1])
    if kind == BOOL and draw(st.booleans()):
        return column(name)
    if draw(st.integers(0, 3)) == 0:
        values = draw(st.sets(st.sampled_from(pool), min_size=1))
        return InList(column(name), tuple(Const(kind, text) for text in sorted(values)))
    if kind == TEXT and draw(st.booleans()):
        pattern = draw(st.sampled_from(LIKES))
        if draw(st.booleans()):
            return Call(BOOL, "~~*", (column(name), Const(TEXT, pattern)), "simple")
        return Call(BOOL, "~~", (column(name), Const(TEXT, pattern)))
    ordered = kind != BOOL and kind.enum is None
    operator = draw(st.sampled_from(["=", "<", "<=", ">", ">="] if ordered else ["="]))
    left: Expression = column(name)
    other = draw(const)
    if name == "i" and draw(st.booleans()):
        other = draw(st.sampled_from([Const(INT8, "1"), Const(INT8, "2147483648")]))
    elif name == "i" and draw(st.booleans()):
        left, other = (
            Call(NUMERIC, "cast", (left,)),
            draw(st.sampled_from([Const(NUMERIC, "1"), Const(NUMERIC, "1.5")])),
        )
    elif name == "m" and draw(st.booleans()):
        left, other = Call(TEXT, "cast", (left,)), Const(TEXT, "ok")
    return Call(BOOL, operator, (left, other))


def clauses() -> st.SearchStrategy[Expression]:
    def combined(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        several = st.lists(inner, min_size=2, max_size=3).map(tuple)
        return st.one_of(
            several.map(And),
            several.map(Or),
            inner.map(Not),
            inner.map(lambda arg: Call(BOOL, "IS TRUE", (arg,))),
            inner.map(lambda arg: Call(BOOL, "IS FALSE", (arg,))),
        )

    constants = st.sampled_from([Const(BOOL, "t"), Const(BOOL, "f"), Const(BOOL, None)])
    return st.recursive(st.one_of(*[leaf()] * 12, constants), combined, max_leaves=6)


ROWS: st.SearchStrategy[Values] = st.tuples(
    *(st.sampled_from([None, *(text.encode() for text in POOLS[name][1])]) for name in COLUMNS)
).map(list)


class Member:
    """A shape, as the index sees it."""

    def __init__(self, expression: Expression | None) -> None:
        self.where = None if expression is None else Where(expression, repr(expression), frozenset(COLUMNS))


# -- the oracle --


def truth(node: Expression, row: Mapping[str, bytes | None]) -> bool | None:
    """Three-valued logic, with arrays as sets of elements."""
    match node:
        case And(args):
            found = [truth(arg, row) for arg in args]
            return False if False in found else None if None in found else True
        case Or(args):
            found = [truth(arg, row) for arg in args]
            return True if True in found else None if None in found else False
        case Not(arg):
            value = truth(arg, row)
            return None if value is None else not value
        case Call(name="IS TRUE", args=(arg,)):
            return truth(arg, row) is True
        case Call(name="IS FALSE", args=(arg,)):
            return truth(arg, row) is False
        case Call(name=("@>" | "<@" | "&&") as operator, args=(left, right)):
            a, b = array(left, row), array(right, row)
            if a is None or b is None:
                return None
            if operator == "&&":
                return bool((a & b) - {None})
            inner, outer = (b, a) if operator == "@>" else (a, b)
            return inner <= outer and None not in inner
        case _:
            return predicate(node, {name: index for index, name in enumerate(COLUMNS)})([row[name] for name in COLUMNS])


def array(node: Expression, row: Mapping[str, bytes | None]) -> set[bytes | None] | None:
    if isinstance(node, Const):
        assert node.text is not None
        return set(keys.elements(node.text.encode()))
    assert isinstance(node, Column)
    value = row[node.name]
    return None if value is None else set(ELEMENTS[value.decode()])


ELEMENTS: dict[str, list[bytes | None]] = {
    "{}": [],
    "{1}": [b"1"],
    "{1,2}": [b"1", b"2"],
    "{2,1,NULL}": [b"2", b"1", None],
    "{NULL}": [None],
    "{{1,2},{3,4}}": [b"1", b"2", b"3", b"4"],
    "[0:1]={7,1}": [b"7", b"1"],
    "{a}": [b"a"],
    '{a,"b c"}': [b"a", b"b c"],
    '{"NULL",NULL}': [b"NULL", None],
    '{"a\\"b","\\\\"}': [b'a"b', b"\\"],
    '{"{x}",""}': [b"{x}", b""],
}


@pytest.mark.parametrize("text", ELEMENTS)
def test_elements_of_arrays(text: str) -> None:
    assert keys.elements(text.encode()) == ELEMENTS[text]


def compiled(expression: Expression, positions: Mapping[str, int], _: Where) -> Any:
    names = sorted(positions, key=lambda name: positions[name])
    return lambda row: truth(expression, dict(zip(names, row, strict=True)))


def check(index: Index[Member], members: list[Member], rows: list[Values]) -> None:
    for row in rows:
        named = dict(zip(COLUMNS, row, strict=True))
        wanted = {m for m in members if m.where is None or truth(m.where.expression, named) is True}
        found = index.match(row)
        assert len(found) == len(set(found)), "a member was found twice"
        assert set(found) == wanted
        depth = index.depth
        if depth is not None and wanted:
            assert index.find(row[:depth])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(clauses(), st.none()), min_size=1, max_size=20),
    st.lists(ROWS, min_size=4, max_size=12),
    st.randoms(use_true_random=False),
)
def test_index_finds_what_evaluating_every_clause_finds(
    expressions: list[Expression | None], rows: list[Values], random: Any
) -> None:
    index: Index[Member] = Index(COLUMNS, compiled)
    members = [Member(expression) for expression in expressions]
    for member in members:
        index.add(member)
    check(index, members, rows)
    random.shuffle(members)
    gone = [members.pop() for _ in range(len(members) // 2)]
    for member in gone:
        index.remove(member)
    check(index, members, rows)
    for member in gone[::2]:
        index.add(member)
        members.append(member)
    check(index, members, rows)
    for member in members:
        index.remove(member)
    assert list(index) == []
    assert index.unindexed == 0
    assert index.depth == 0, "something is left behind"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(leaf(), leaf()), min_size=2 * BURST, max_size=40), st.lists(ROWS, min_size=1, max_size=6))
def test_members_below_one_constant_are_indexed_again(
    pairs: list[tuple[Expression, Expression]], rows: list[Values]
) -> None:
    """All share one equality, so that everything happens in the node below it."""
    common = Call(BOOL, "=", (column("i"), Const(INT4, "1")))
    index: Index[Member] = Index(COLUMNS, compiled)
    members = [Member(And((common, first, second))) for first, second in pairs]
    members += [Member(And((InList(column("i"), (Const(INT4, "1"), Const(INT4, "2"))), Or(pair)))) for pair in pairs]
    for member in members:
        index.add(member)
    rows = [[b"1", *row[1:]] for row in rows]
    check(index, members, rows)
    for member in members[::2]:
        index.remove(member)
    check(index, members[1::2], rows)
    for member in members[1::2]:
        index.remove(member)
    assert list(index) == []


def test_cost_grows_with_matches() -> None:
    """No clause is evaluated for a row that an index can tell apart, however many clauses there are."""
    evaluated = 0

    def counting(expression: Expression, positions: Mapping[str, int], where: Where) -> Any:
        inner = compiled(expression, positions, where)

        def count(row: Values) -> Any:
            nonlocal evaluated
            evaluated += 1
            return inner(row)

        return count

    index: Index[Member] = Index(COLUMNS, counting)
    ilike = Call(BOOL, "~~*", (column("t"), Const(TEXT, "%x_y%")), "simple")
    for number in range(200):
        const = Const(INT4, str(number))
        low, high = Const(INT4, str(10 * number)), Const(INT4, str(10 * number + 10))
        index.add(Member(Call(BOOL, "=", (column("i"), const))))
        index.add(
            Member(
                And((Call(BOOL, "=", (column("i"), Const(INT4, "5"))), Call(BOOL, "=", (column("k"), const)), ilike))
            )
        )
        index.add(Member(And((Call(BOOL, ">=", (column("i"), low)), Call(BOOL, "<", (column("i"), high)), ilike))))
        index.add(Member(Call(BOOL, "@>", (column("ints"), Const(INTS, f"{{{number}}}")))))
        index.add(Member(Call(BOOL, "~~", (column("t"), Const(TEXT, f"p{number}-%")))))
    row: Values = [None] * len(COLUMNS)
    row[0], row[1], row[4], row[12] = b"5", b"17", b"p3-x", b"{9,11}"
    assert len(index.match(row)) == 4
    assert evaluated <= 2
    assert index.unindexed == 0


def test_equal_remainders_are_evaluated_once() -> None:
    evaluated = 0

    def counting(expression: Expression, positions: Mapping[str, int], where: Where) -> Any:
        inner = compiled(expression, positions, where)

        def count(row: Values) -> Any:
            nonlocal evaluated
            evaluated += 1
            return inner(row)

        return count

    index: Index[Member] = Index(COLUMNS, counting)
    ilike = Call(BOOL, "~~*", (column("t"), Const(TEXT, "%_B_%")), "simple")
    for _ in range(50):
        index.add(Member(ilike))
    assert index.unindexed == 50
    row: Values = [None] * len(COLUMNS)
    row[4] = b"abc"
    assert len(index.match(row)) == 50
    assert evaluated == 1


def test_a_new_layout_moves_columns() -> None:
    index: Index[Member] = Index(("a", "b"), compiled)
    member = Member(Call(BOOL, "=", (Column(INT4, "b"), Const(INT4, "1"))))
    index.add(member)
    assert index.match([b"0", b"1"]) == [member]
    index.set_layout(("b", "new", "a"))
    assert index.match([b"1", b"x", b"0"]) == [member]
    assert index.match([b"0", b"x", b"1"]) == []


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60), st.data())
def test_intervals(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    tree: Intervals[tuple[int, int]] = Intervals()
    there = {(low, high) for low, high in pairs if low < high}
    for low, high in there:
        tree.add(low, high, (low, high))
    gone = data.draw(st.sets(st.sampled_from(sorted(there)))) if there else set()
    for low, high in gone:
        tree.remove(low, high)
    there -= gone
    assert sorted(tree) == sorted(there)
    for value in itertools.chain(range(-1, 22), (0.5, 7.5)):
        found: list[tuple[int, int]] = []
        tree.find(value, found)
        assert sorted(found) == sorted((low, high) for low, high in there if low < value < high)
