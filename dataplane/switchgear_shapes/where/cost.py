"""What evaluating a clause costs for each byte of a row's values, and the end of it where that is too much. Pure.

Everything is evaluated on the event loop: a value of a hundred megabytes may be compared there, but not read as JSON.
Invariant: `bounded` never evaluates what would take much more than `BUDGET` by the table below; it raises TooLarge, by
which the shape ends, and Postgres evaluates the clause when the shape is fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from switchgear_shapes.replication.pgoutput import Values
from switchgear_shapes.where import collations, like
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.expression import (
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
)
from switchgear_shapes.where.operators import COMPARISONS

BUDGET = 1_000_000_000
"""Nanoseconds for one clause and one row."""
CHEAP = 1.0
"""Up to here even the largest value that Postgres can have is no matter."""

# Nanoseconds for each byte, the worst that was measured for each kind.
_COPY = 1.0
_FOLD = 110.0
_READ_ARRAY, _SHOW_ARRAY, _ELEMENTS = 1000.0, 300.0, 150.0
_READ_DOCUMENT, _SCAN_DOCUMENT, _COMPARE_DOCUMENT = 1000.0, 250.0, 150.0
_SEARCH = 5.0
_PATTERN_OF_A_ROW = 1500.0
_NUMERIC = 50.0

_UNBOUNDED = frozenset({"text", "varchar", "bpchar", "jsonb", "json", "numeric"})
_DOCUMENTS = frozenset({"jsonb", "json"})
_FREE = frozenset({"jsonb_typeof", "json_typeof", "[]", "collate", "coalesce", "IS TRUE", "IS FALSE", "array_ndims"})
_SCANS = frozenset({"->", "->>", "?", "jsonb_array_length", "json_array_length"})

Weights: TypeAlias = dict[str, float]
"""By column."""
Predicate: TypeAlias = Callable[[Values], bool | None]


def bounded(predicate: Predicate, expression: Expression, positions: Mapping[str, int]) -> Predicate:
    """The predicate of the expression, which raises TooLarge where it would take too long."""
    _, costs = _walk(expression)
    weighed = [(positions[name], cost) for name, cost in costs.items() if cost > CHEAP]
    if not weighed:
        return predicate
    if len(weighed) == 1:
        ((index, cost),) = weighed
        limit = int(BUDGET / cost)

        def of_one(row: Values) -> bool | None:
            value = row[index]
            if value is not None and len(value) > limit:  # type: ignore[arg-type]
                raise TooLarge
            return predicate(row)

        return of_one

    def of_several(row: Values) -> bool | None:
        total = 0.0
        for index, cost in weighed:
            value = row[index]
            if value is not None:
                total += len(value) * cost  # type: ignore[arg-type]
        if total > BUDGET:
            raise TooLarge
        return predicate(row)

    return of_several


def weights(expression: Expression) -> Weights:
    """Nanoseconds for each byte of a column's value."""
    return _walk(expression)[1]


def _unbounded(kind: Type) -> bool:
    return kind.array or (kind.enum is None and kind.name in _UNBOUNDED)


def _walk(node: Expression) -> tuple[Weights, Weights]:
    """How large the node's value is, in multiples of each column's value; and what it costs."""
    match node:
        case Column(kind, name):
            read = _READ_ARRAY if kind.array else _NUMERIC if kind.name == "numeric" else 0.0
            return ({name: 1.0} if _unbounded(kind) else {}), ({name: read} if read else {})
        case Call(kind, _, args):
            size, cost = _sum(map(_walk, args))
            weight = _weight(node)
            if weight:
                cost = _added(cost, {name: times * weight for name, times in size.items()})
            return (size if _unbounded(kind) else {}), cost
        case And(args) | Or(args):
            return {}, _sum(map(_walk, args))[1]
        case Not(arg) | IsNull(arg):
            return {}, _walk(arg)[1]
        case InList(arg, values):
            size, cost = _walk(arg)
            weight = _compared(arg.type) * (1 if isinstance(arg, Column) else len(values))
            return {}, _added(cost, {name: times * weight for name, times in size.items()})
        case _:
            return {}, {}


def _sum(parts: Iterable[tuple[Weights, Weights]]) -> tuple[Weights, Weights]:
    size: Weights = {}
    cost: Weights = {}
    for part_size, part_cost in parts:
        for name, value in part_size.items():
            size[name] = size.get(name, 0.0) + value
        for name, value in part_cost.items():
            cost[name] = cost.get(name, 0.0) + value
    return size, cost


def _added(a: Weights, b: Weights) -> Weights:
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in a.keys() | b.keys()}


def _compared(kind: Type) -> float:
    if kind.array:
        return _ELEMENTS
    return _COMPARE_DOCUMENT if kind.name in _DOCUMENTS else 0.0


def _weight(node: Call) -> float:
    name, first = node.name, node.args[0].type
    if name in _FREE:
        return 0.0
    if name in COMPARISONS or name in ("nullif", "IS DISTINCT FROM", "greatest", "least"):
        return _compared(first)
    if name in ("~~", "~~*"):
        return _like(node)
    if name in ("lower", "upper"):
        return _folding(node)
    if name == "cast":
        return _cast(first, node.type)
    if name == "concat":
        return _SHOW_ARRAY if any(arg.type.array for arg in node.args) else _COPY
    if name.endswith((" ANY", " ALL")) or any(arg.type.array for arg in node.args if first.name not in _DOCUMENTS):
        return _ELEMENTS
    if first.name in _DOCUMENTS:
        return _of_document(node)
    return _NUMERIC if first.name == "numeric" else _COPY


def _of_document(node: Call) -> float:
    if node.name in _SCANS:
        return _SCAN_DOCUMENT
    if node.name == "@>":
        return 2 * _SCAN_DOCUMENT
    # A path of steps or several keys: once through the document for each of them.
    given = node.args[1:]
    steps = sum(arg.text.count(",") + 1 if isinstance(arg, Const) and arg.text else 10 for arg in given)
    return 2 * _SCAN_DOCUMENT * max(steps, 1)


def _cast(source: Type, target: Type) -> float:
    if source.array:
        return _SHOW_ARRAY if not target.array else _ELEMENTS
    if target.array:
        return _READ_ARRAY
    if target.name == "jsonb" and source.name != "jsonb":
        return _READ_DOCUMENT
    return _NUMERIC if "numeric" in (source.name, target.name) else _COPY


def _folding(node: Call) -> float:
    return 2 * _COPY if node.rule == collations.ASCII else _FOLD


def _like(node: Call) -> float:
    folding = _folding(node) if node.name == "~~*" else 0.0
    pattern = node.args[1]
    if not isinstance(pattern, Const):
        return _PATTERN_OF_A_ROW + folding
    return folding + like.cost((pattern.text or "").encode(), _SEARCH)
