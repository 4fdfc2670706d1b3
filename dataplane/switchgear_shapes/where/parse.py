"""A where clause's text → a checked `Where`, and the tables that its subqueries need. Pure.

    names = tables_of(text)                      # look these up first
    where = parse_where(text, relation, params, relations)

Every refusal is a WhereError whose text is for the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from switchgear_shapes.identifiers import quote_relation
from switchgear_shapes.relations import Relation
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Term, column_type
from switchgear_shapes.where.errors import TooLarge, WhereError, at
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Column, Expression, InSubquery, Subquery, Type, Where, computed
from switchgear_shapes.where.grammar import Tree, names_of, node_of, parse_condition
from switchgear_shapes.where.render import render
from switchgear_shapes.where.resolve import Resolver

__all__ = ["WhereError", "is_quick", "parse_where", "tables_of"]

MAX_SUBQUERIES = 100
MAX_COMPUTED = 1_000
"""How many values a clause may compute for each row, besides comparing columns with constants."""
QUICK_CHARACTERS = 1_000
_LONG_WHEN_WRITTEN_OUT = re.compile(r"[eE][+-]?_?[0-9]_?[0-9]_?[0-9]|[0-9]{4}\s*[,)]")
_INNER_CLAUSES = frozenset({"targetList", "fromClause", "whereClause", "limitOption", "op"})


def tables_of(text: str) -> set[tuple[str, str]]:
    """The (schema, table) names that the clause's subqueries select from, nested ones too. Raises WhereError."""
    found: set[tuple[str, str]] = set()
    stack: list[Any] = [parse_condition(text)]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            table = node.get("RangeVar")
            if isinstance(table, dict):
                found.add(_table_name(table))
            stack.extend(node.values())
    return found


def is_quick(texts: Iterable[str]) -> bool:
    """Whether a clause and its parameters are parsed within a few milliseconds: the longest ones take half a second.

    `1e131071` and `char(1000000)` are short only to write.
    """
    joined = " ".join(texts)
    return len(joined) < QUICK_CHARACTERS and _LONG_WHEN_WRITTEN_OUT.search(joined) is None


def _table_name(node: Tree) -> tuple[str, str]:
    return node.get("schemaname", "public"), node.get("relname", "")


def parse_where(
    text: str,
    relation: Relation,
    params: Mapping[int, str] | None = None,
    relations: Mapping[tuple[str, str], Relation] | None = None,
    *,
    stored_generated: bool = False,
) -> Where:
    """The clause, checked against the table and those of `relations` (what `tables_of` named). Raises WhereError.

    `stored_generated`: whether the publication carries stored generated columns.
    """
    tree = parse_condition(text)
    return _Clause(params or {}, relations or {}, stored_generated).build(tree, relation)


class _Clause:
    """What the levels of one clause share: its parameters, and the tables of its subqueries."""

    def __init__(
        self, params: Mapping[int, str], relations: Mapping[tuple[str, str], Relation], stored_generated: bool
    ) -> None:
        self._params = params
        self._param_types: dict[int, Type] = {}
        self._relations = relations
        self._stored_generated = stored_generated
        self._count = 0
        self._computed = 0

    def build(self, tree: Tree, relation: Relation) -> Where:
        subqueries: dict[Subquery, int] = {}

        def subquery(resolver: Resolver, select: Tree, left: tuple[Term, ...], location: int) -> InSubquery:
            made = self._subquery(select, left, location)
            columns = tuple(term.expression for term in left if isinstance(term.expression, Column))
            return InSubquery(columns, subqueries.setdefault(made, len(subqueries)))

        resolver = Resolver(
            relation,
            self._params,
            self._param_types,
            stored_generated=self._stored_generated,
            subquery=subquery,
        )
        expression = resolver.clause(tree)
        self._computed += computed(expression)
        if self._computed > MAX_COMPUTED:
            raise WhereError(f"the clause computes more than {MAX_COMPUTED} values for each row; compare columns")
        _check_evaluable(expression, frozenset(resolver.columns))
        known = tuple(subqueries)
        return Where(expression, render(expression, known), frozenset(resolver.columns), known)

    def _subquery(self, select: Tree, left: tuple[Term, ...], location: int) -> Subquery:
        self._count += 1
        if self._count > MAX_SUBQUERIES:
            raise at(location, f"a where clause can have at most {MAX_SUBQUERIES} subqueries")
        if not select.keys() <= _INNER_CLAUSES or select.get("op") != "SETOP_NONE":
            raise at(location, "SELECT statement must not contain any clauses")
        relation = self._inner_relation(select, location)
        columns = tuple(self._inner_column(target, relation) for target in select.get("targetList", []))
        if len(columns) != len(left):
            raise at(
                location, f"left side of `IN (SELECT ...)` has {len(left)} columns but subquery has {len(columns)}"
            )
        for term, column in zip(left, columns, strict=True):
            if term.type != column.type:
                raise at(
                    location,
                    f"left side of `IN (SELECT ...)` has type {_row([x.type for x in left])}"
                    f" but subquery returns {_row([c.type for c in columns])}",
                )
            if not t.usable(column.type) or t.is_domain_over_enum(column.type):
                raise at(location, f"columns of type {t.shown(column.type)} cannot be compared")
        where = self.build(select["whereClause"], relation) if "whereClause" in select else None
        return Subquery(relation.oid, relation.schema, relation.name, columns, where)

    def _inner_relation(self, select: Tree, location: int) -> Relation:
        sources = select.get("fromClause", [])
        kind, source = node_of(sources[0]) if len(sources) == 1 else ("", {})
        if kind != "RangeVar" or "alias" in source or "catalogname" in source:
            raise at(location, "Expected a single table reference")
        name = _table_name(source)
        relation = self._relations.get(name)
        if relation is None:
            raise at(
                source.get("location", 15) - 15,
                f"Table {quote_relation(*name)} does not exist."
                " If the table name contains capitals or special characters you must quote it.",
            )
        return relation

    def _inner_column(self, target: Tree, relation: Relation) -> Column:
        _, node = node_of(target)
        kind, value = node_of(node.get("val", {}))
        names = names_of(value.get("fields", [])) if kind == "ColumnRef" else []
        location = node.get("location", 15) - 15
        if len(names) != 1 or names == ["*"] or "name" in node or "indirection" in node:
            raise at(location, "Expected a plain column reference")
        for column in relation.columns:
            if column.name == names[0]:
                if column.generated and not (column.generated == "s" and self._stored_generated):
                    raise at(location, f"column {column.name} is generated and not replicated")
                return Column(column_type(column), column.name)
        raise at(location, f"unknown reference {names[0]}")


def _check_evaluable(expression: Expression, columns: frozenset[str]) -> None:
    """The evaluator is made when the first row comes: an error then would end the server, not the request."""
    try:
        predicate(expression, {name: index for index, name in enumerate(columns)}, lambda _, __: None)
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, TooLarge):
        raise WhereError("the clause cannot be evaluated on rows of the table") from None


def _row(kinds: list[Type]) -> str:
    names = ", ".join(t.shown(kind) for kind in kinds)
    return names if len(kinds) == 1 else f"({names})"
