"""The filter and the order of a subset snapshot: the same grammar as where clauses, asked only of Postgres. Pure.

Invariants: what is returned is rendered from a checked tree, never the client's text; only the given columns can be
named; an order has nothing but columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from switchgear_shapes.identifiers import quote
from switchgear_shapes.relations import Relation
from switchgear_shapes.where.errors import WhereError, at
from switchgear_shapes.where.expression import And, Call, Column, Const, Expression, InList, IsNull, Not, Or, Where
from switchgear_shapes.where.grammar import ORDER_OFFSET, Tree, names_of, node_of, parse_condition, parse_order
from switchgear_shapes.where.render import render
from switchgear_shapes.where.resolve import Resolver

_TOTAL = frozenset({"=", "<", "<=", ">", ">=", "IS DISTINCT FROM"})
_DIRECTIONS = {"SORTBY_DEFAULT": "", "SORTBY_ASC": " ASC", "SORTBY_DESC": " DESC"}
_NULLS = {"SORTBY_NULLS_DEFAULT": "", "SORTBY_NULLS_FIRST": " NULLS FIRST", "SORTBY_NULLS_LAST": " NULLS LAST"}


def parse_subset_where(
    text: str, relation: Relation, params: Mapping[int, str], queryable: Iterable[str] | None = None
) -> Where:
    """The checked filter; without `queryable` any column may be used. Raises WhereError."""
    tree = parse_condition(text)
    resolver = Resolver(_visible(relation, queryable), params, {}, by_database=True)
    expression = resolver.clause(tree)
    return Where(expression, render(expression), frozenset(resolver.columns))


def parse_order_by(text: str, relation: Relation, queryable: Iterable[str] | None = None) -> str | None:
    """The canonical ORDER BY list; None when nothing of it orders. Raises WhereError."""
    names = {column.name for column in _visible(relation, queryable).columns}
    items = [_item(node, names) for node in parse_order(text)]
    return ", ".join(item for item in items if item is not None) or None


def never_fails(node: Expression) -> bool:
    """Whether Postgres can evaluate the expression for any row: such a filter cannot tell of rows by failing."""
    match node:
        case Const() | Column():
            return True
        case And(args) | Or(args):
            return all(never_fails(arg) for arg in args)
        case Not(arg) | IsNull(arg) | InList(arg):
            return never_fails(arg)
        case Call(_, name, args):
            return name in _TOTAL and all(never_fails(arg) for arg in args)
        case _:
            return False


def _visible(relation: Relation, queryable: Iterable[str] | None) -> Relation:
    if queryable is None:
        return relation
    allowed = set(queryable)
    return dataclasses.replace(relation, columns=tuple(c for c in relation.columns if c.name in allowed))


def _item(sort: Tree, names: set[str]) -> str | None:
    kind, node = node_of(sort["node"])
    location = node.get("location", ORDER_OFFSET) - ORDER_OFFSET
    if sort.get("sortby_dir") not in _DIRECTIONS:
        raise _refused(location, "ORDER BY can only have ASC, DESC and NULLS FIRST or LAST")
    if kind == "A_Const":  # a constant orders nothing; as text, Postgres would take a number for a column's place
        return None
    if kind == "ParamRef":
        raise _refused(location, f"parameter ${node.get('number', 0)} is not supported in ORDER BY clauses")
    fields = names_of(node.get("fields", [])) if kind == "ColumnRef" else []
    if len(fields) != 1 or fields == ["*"]:
        raise _refused(location, f"{kind} expressions are not allowed in ORDER BY clauses")
    if fields[0] not in names:
        raise _refused(location, f"unknown reference {fields[0]}")
    return quote(fields[0]) + _DIRECTIONS[sort["sortby_dir"]] + _NULLS[sort["sortby_nulls"]]


def _refused(location: int, message: str) -> WhereError:
    return WhereError(at(location, message).message, "order_by")
