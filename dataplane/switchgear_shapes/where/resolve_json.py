"""Typing of the operators of jsonb. Pure.

Text from a document collates as its key does, as in Postgres: as the database's default, unless the key is a column.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from switchgear_shapes.where import canonical, operators
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Expression, Type
from switchgear_shapes.where.operators import Signature

_TEXTS: Final = Type("text", array=True)


def _takes(right: Type, result: Type) -> Signature:
    return Signature((t.JSONB, right), result)


_SIGNATURES: Final = {
    "->": [_takes(t.TEXT, t.JSONB), _takes(t.INT4, t.JSONB)],
    "->>": [_takes(t.TEXT, t.TEXT), _takes(t.INT4, t.TEXT)],
    "#>": [_takes(_TEXTS, t.JSONB)],
    "#>>": [_takes(_TEXTS, t.TEXT)],
    "?": [_takes(t.TEXT, t.BOOL)],
    "?|": [_takes(_TEXTS, t.BOOL)],
    "?&": [_takes(_TEXTS, t.BOOL)],
    **{name: [_takes(t.JSONB, t.BOOL)] for name in ("@>", "<@", "=", "<>")},
}


def is_operation(left: Term, right: Term) -> bool:
    return t.JSONB in (left.type, right.type)


def operation(typing: Coercion, name: str, left: Term, right: Term, location: int) -> Term:
    """An operator with a jsonb on at least one side."""
    if name in operators.COMPARISONS and name not in _SIGNATURES:
        raise at(location, f"jsonb is not compared with {name}; compare what ->> gives, cast if need be")
    chosen = operators.select(_SIGNATURES.get(name, []), (left.type, right.type))
    if chosen is None:
        raise at(location, _no_operator(name, left, right))
    first, second = typing.coerce(left, chosen.args[0]), typing.coerce(right, chosen.args[1])
    args = (first.expression, second.expression)
    made = typing.fold(_called(name, chosen.result, args), location)
    if chosen.result == t.TEXT and chosen.args[1] != t.INT4:
        return dataclasses.replace(typing.merged(second), expression=made, location=location)
    return Term(made, location)


def _called(name: str, result: Type, args: tuple[Expression, Expression]) -> Expression:
    if name in operators.COMPARISONS:
        return canonical.comparison(name, *args)
    if any(isinstance(arg, Const) and arg.text is None for arg in args):
        return Const(result, None)
    if name == "<@":
        return Call(result, "@>", (args[1], args[0]))
    return Call(result, name, args)


def _no_operator(name: str, left: Term, right: Term) -> str:
    if name in operators.COMPARISONS:
        other = left.type if right.type == t.JSONB else right.type
        return f"jsonb is not compared with {t.shown(other)}; take text with ->> and cast it, or write '…'::jsonb"
    if name not in _SIGNATURES:
        return f"operator {name} of jsonb is not supported"
    return "Could not select an operator overload"
