"""An expression → its canonical SQL text. Pure.

Every name is quoted and every constant has its type, so that Postgres chooses the same operators that we did, whatever
the names of the database. The text is safe within parentheses; equal expressions give equal texts.
"""

from __future__ import annotations

from switchgear_shapes.identifiers import literal, quote, quote_relation
from switchgear_shapes.where import arithmetic, collations, documents
from switchgear_shapes.where.expression import (
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
)
from switchgear_shapes.where.types import shown

_INFIX = (
    frozenset({"=", "<", "<=", ">", ">=", "IS DISTINCT FROM", "@>", "&&", "||"})
    | arithmetic.NAMES
    | frozenset(documents.OPERATORS)
)
_ORDERED = frozenset({"<", "<=", ">", ">="})
_TEXT = frozenset({"text", "varchar", "bpchar"})
_LIKE = {"~~": "LIKE", "~~*": "ILIKE"}


def render(node: Expression, subqueries: tuple[Subquery, ...] = ()) -> str:
    return _Renderer(subqueries).condition(node)


class _Renderer:
    def __init__(self, subqueries: tuple[Subquery, ...]) -> None:
        self._subqueries = subqueries

    def condition(self, node: Expression) -> str:
        match node:
            case And(args):
                return " AND ".join(f"({self.condition(a)})" if isinstance(a, Or) else self.condition(a) for a in args)
            case Or(args):
                return " OR ".join(f"({self.condition(a)})" if isinstance(a, And) else self.condition(a) for a in args)
            case Not(IsNull(arg)):
                return f"{self.operand(arg)} IS NOT NULL"
            case Not(arg):
                return f"NOT ({self.condition(arg)})"
            case IsNull(arg):
                return f"{self.operand(arg)} IS NULL"
            case InList(arg, values):
                return f"{self.operand(arg)} IN ({', '.join(self.constant(value) for value in values)})"
            case InSubquery(columns, query):
                names = ", ".join(quote(column.name) for column in columns)
                left = names if len(columns) == 1 else f"({names})"
                return f"{left} IN ({self.subquery(self._subqueries[query])})"
            case Const():
                return self.constant(node)
            case Column(_, name):
                return quote(name)
            case Call():
                return self.call(node)

    def operand(self, node: Expression) -> str:
        text = self.condition(node)
        simple = isinstance(node, Column | Const) or (isinstance(node, Call) and not _is_operator(node))
        return text if simple else f"({text})"

    def constant(self, node: Const) -> str:
        kind = node.type
        if node.text is None:
            return "NULL" if kind.enum is not None else f"NULL::{_type(kind)}"
        if kind.name == "bool" and not kind.array:
            return "true" if node.text == "t" else "false"
        text = literal(node.text).lstrip()
        return text if kind.enum is not None else f"{text}::{_type(kind)}"

    def call(self, node: Call) -> str:
        name, args = node.name, node.args
        if name == "cast":
            return f"CAST({self.condition(args[0])} AS {_type(node.type)})"
        if name == "collate":
            return f'({self.operand(args[0])} COLLATE "C")'
        if name in ("IS TRUE", "IS FALSE"):
            return f"{self.operand(args[0])} {name}"
        if name == "ARRAY":
            kind = f"::{_type(node.type)}" if node.type.enum is None else ""
            return f"(ARRAY[{', '.join(self.condition(arg) for arg in args)}]{kind})"
        if name == "sized":
            sizes = ", ".join(arg.text or "" for arg in args[1:] if isinstance(arg, Const))
            return f"CAST({self.condition(args[0])} AS {_type(node.type)}({sizes}))"
        if name == "[:]":
            ends = ["" if isinstance(arg, Const) and arg.text is None else self.operand(arg) for arg in args[1:]]
            return f"({self.operand(args[0])})" + "".join(
                f"[{low}:{high}]" for low, high in zip(ends[::2], ends[1::2], strict=True)
            )
        if name.startswith("unary "):
            return f"{name[6:]} ({self.condition(args[0])})"
        operands = [self.operand(arg) for arg in args]
        if name == "[]":
            return f"({operands[0]})" + "".join(f"[{operand}]" for operand in operands[1:])
        if name.endswith((" ANY", " ALL")):
            left = f'({operands[0]} COLLATE "C")' if _is_bytewise(node) else operands[0]
            return f"{left} {name} ({operands[1]})"
        if _is_bytewise(node):
            operands[0] = f'({operands[0]} COLLATE "C")'
        if name in _INFIX or name in _LIKE:
            return f"{operands[0]} {_LIKE.get(name, name)} {operands[1]}"
        return f"{name}({', '.join(operands)})"

    def subquery(self, query: Subquery) -> str:
        names = ", ".join(quote(column.name) for column in query.columns)
        text = f"SELECT {names} FROM ONLY {quote_relation(query.schema, query.table)}"  # noqa: S608 - names are quoted
        return text if query.where is None else f"{text} WHERE {query.where.sql}"


def _is_operator(node: Call) -> bool:
    if node.name in _INFIX or node.name in _LIKE or node.name in ("IS TRUE", "IS FALSE"):
        return True
    return node.name.endswith((" ANY", " ALL")) or node.name.startswith("unary ")


def _is_bytewise(node: Call) -> bool:
    """Whether the order or the case of text is to be that of bytes, whatever the column's collation."""
    if node.rule in (collations.ASCII, collations.DATABASE):
        return node.rule == collations.ASCII
    return node.name.split(" ")[0] in _ORDERED and node.args[0].type.name in _TEXT and not node.args[0].type.array


def _type(kind: Type) -> str:
    return "text" if kind.enum is not None else shown(kind)
