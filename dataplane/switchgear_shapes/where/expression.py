"""A where clause as typed values: what parsing makes, and what routing, evaluation and rendering read. Pure.

Invariants: nodes are immutable and hashable, and equal nodes mean the same; every node knows its type; constants are
folded and literals have their column's type, so that routing can compare a constant with the text of the stream.
`IN` lists of constants are one `InList`, whatever their length; `IS NOT NULL`, `NOT IN`, `<>` and their like are made
of `Not` only where three-valued logic allows it. Nodes become JSON and back without loss (`to_json`, `from_json`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Type:
    """A Postgres type by its `typname`; for arrays the element's name and `array`. Enums have `enum`, their labels, and
    `schema`, as two of them may have the same name."""

    name: str
    array: bool = False
    enum: tuple[str, ...] | None = None
    schema: str = ""

    @property
    def element(self) -> Type:
        """Of an array."""
        return Type(self.name, enum=self.enum, schema=self.schema)


BOOL = Type("bool")


@dataclass(frozen=True, slots=True)
class Const:
    """A constant as the type's output function prints it (the text of the stream); None is NULL."""

    type: Type
    text: str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the shape's (or the subquery's) table."""

    type: Type
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function by its SQL name (`=`, `<`, `~~` for LIKE, `@>`, `lower`), with coerced arguments.

    A cast is a `Call` of `cast` with one argument. What is strict gives NULL for a NULL argument. `<>` and NOT LIKE
    are `Not` of their opposites; NOT of `<` is `>=`. A comparison with a constant has it on the right; text compares in
    byte order. `rule` says how letters' case is folded, where that matters (see `collations`).
    """

    type: Type
    name: str
    args: tuple[Expression, ...]
    rule: str = ""


@dataclass(frozen=True, slots=True)
class InList:
    """`arg IN (…)`: whether the argument equals one of the constants, which have its type and are sorted by text."""

    arg: Expression
    values: tuple[Const, ...]

    @property
    def type(self) -> Type:
        return BOOL


@dataclass(frozen=True, slots=True)
class And:
    args: tuple[Expression, ...]

    @property
    def type(self) -> Type:
        return BOOL


@dataclass(frozen=True, slots=True)
class Or:
    args: tuple[Expression, ...]

    @property
    def type(self) -> Type:
        return BOOL


@dataclass(frozen=True, slots=True)
class Not:
    arg: Expression

    @property
    def type(self) -> Type:
        return BOOL


@dataclass(frozen=True, slots=True)
class IsNull:
    """`arg IS NULL`; never NULL itself."""

    arg: Expression

    @property
    def type(self) -> Type:
        return BOOL


@dataclass(frozen=True, slots=True)
class InSubquery:
    """`(columns) IN (SELECT …)`; `query` is an index into `Where.subqueries`. NOT IN is `Not` of it."""

    columns: tuple[Column, ...]
    query: int

    @property
    def type(self) -> Type:
        return BOOL


Expression: TypeAlias = Const | Column | Call | InList | And | Or | Not | IsNull | InSubquery


@dataclass(frozen=True, slots=True)
class Subquery:
    """`SELECT columns FROM table WHERE …`: plain columns of one table. `oid` is the table's."""

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]
    where: Where | None


@dataclass(frozen=True, slots=True)
class Where:
    """A checked clause. `sql` is its canonical text (quoted names, typed literals), never parenthesised as a whole.

    Two clauses with equal `sql` are one clause: shapes are told apart by it. `columns` are the table's columns that the
    clause reads, subqueries' left sides included (not what subqueries read of their own tables).
    """

    expression: Expression
    sql: str
    columns: frozenset[str]
    subqueries: tuple[Subquery, ...] = ()

    @property
    def tables(self) -> set[int]:
        """OIDs of the tables that the subqueries read, those within them included."""
        found = {query.oid for query in self.subqueries}
        return found.union(*(query.where.tables for query in self.subqueries if query.where is not None))


_COMPARED = frozenset({"=", "<", "<=", ">", ">=", "IS TRUE", "IS FALSE", "IS DISTINCT FROM"})


def computed(node: Expression) -> int:
    """How many values are computed for a row: arguments of calls, but for comparisons of what is there already."""
    match node:
        case Call(_, name, args):
            plain = name in _COMPARED and all(isinstance(arg, Column | Const) for arg in args)
            return sum(map(computed, args)) + (0 if plain else len(args))
        case And(args) | Or(args):
            return sum(map(computed, args))
        case Not(arg) | IsNull(arg) | InList(arg):
            return computed(arg)
        case _:
            return 0


def to_json(where: Where) -> Any:
    """Lists and strings only, for the storage."""
    return [
        _node(where.expression),
        where.sql,
        sorted(where.columns),
        [subquery_to_json(query) for query in where.subqueries],
    ]


def subquery_to_json(query: Subquery) -> Any:
    columns = [_node(column) for column in query.columns]
    return [query.oid, query.schema, query.table, columns, None if query.where is None else to_json(query.where)]


def from_json(data: Any) -> Where:
    """The inverse of `to_json`. Raises ValueError, TypeError or IndexError for anything else."""
    expression, sql, columns, subqueries = data
    return Where(
        expression=_from_node(expression),
        sql=sql,
        columns=_shared_names(tuple(columns)),
        subqueries=tuple(subquery_from_json(query) for query in subqueries),
    )


def subquery_from_json(data: Any) -> Subquery:
    """The inverse of `subquery_to_json`; raises what `from_json` raises."""
    oid, schema, table, columns, where = data
    return Subquery(
        oid=oid,
        schema=schema,
        table=table,
        columns=tuple(_column(node) for node in columns),
        where=None if where is None else from_json(where),
    )


def _type(kind: Type) -> Any:
    if kind.enum is not None:
        return [kind.name, kind.array, list(kind.enum), kind.schema]
    return [kind.name] if kind.array else kind.name


@lru_cache(maxsize=1_000)
def _plain_type(name: str) -> Type:
    return Type(name)


@lru_cache(maxsize=10_000)
def _shared_column(kind: Type, name: str) -> Column:
    return Column(kind, name)


@lru_cache(maxsize=10_000)
def _shared_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(names)


def _from_type(data: Any) -> Type:
    if isinstance(data, str):
        return _plain_type(data)
    if len(data) == 1:
        return Type(data[0], array=True)
    return Type(data[0], data[1], tuple(data[2]), *data[3:])  # without a schema in what earlier versions wrote


def _node(node: Expression) -> Any:
    match node:
        case Const(kind, text):
            return ["const", _type(kind), text]
        case Column(kind, name):
            return ["column", _type(kind), name]
        case Call(kind, name, args, rule):
            return ["call", _type(kind), name, [_node(arg) for arg in args], rule]
        case InList(arg, values):
            return ["in", _node(arg), [_type(values[0].type), [value.text for value in values]]]
        case And(args):
            return ["and", [_node(arg) for arg in args]]
        case Or(args):
            return ["or", [_node(arg) for arg in args]]
        case Not(arg):
            return ["not", _node(arg)]
        case IsNull(arg):
            return ["null", _node(arg)]
        case InSubquery(columns, query):
            return ["subquery", [_node(column) for column in columns], query]


def _from_node(data: Any) -> Expression:
    match data:
        case ["const", kind, text]:
            return Const(_from_type(kind), text)
        case ["column", kind, name]:
            return _shared_column(_from_type(kind), name)
        case ["call", kind, name, args, rule]:
            return Call(_from_type(kind), name, tuple(_from_node(arg) for arg in args), rule)
        case ["in", arg, [kind, texts]]:
            value_type = _from_type(kind)
            return InList(_from_node(arg), tuple(Const(value_type, text) for text in texts))
        case ["and", args]:
            return And(tuple(_from_node(arg) for arg in args))
        case ["or", args]:
            return Or(tuple(_from_node(arg) for arg in args))
        case ["not", arg]:
            return Not(_from_node(arg))
        case ["null", arg]:
            return IsNull(_from_node(arg))
        case ["subquery", columns, query]:
            return InSubquery(tuple(_column(node) for node in columns), query)
        case _:
            raise ValueError("no expression")


def _column(data: Any) -> Column:
    node = _from_node(data)
    if not isinstance(node, Column):
        raise ValueError("no column")  # noqa: TRY004 - the data are wrong, not the caller
    return node
