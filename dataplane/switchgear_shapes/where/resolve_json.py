"""Typing of the operators and functions of jsonb and json. Pure.

Text from a document collates as its key does, as in Postgres: as the database's default, unless the key is a column.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from switchgear_shapes.where import canonical, json_text, operators, values
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


_FUNCTIONS: Final = frozenset({"typeof", "array_length", "extract_path", "extract_path_text"})
_OF_JSON: Final = {
    name: [Signature((t.JSON, *s.args[1:]), t.JSON if s.result == t.JSONB else s.result) for s in _SIGNATURES[name]]
    for name in ("->", "->>", "#>", "#>>")
}


def is_operation(name: str, left: Term, right: Term) -> bool:
    return t.JSONB in (left.type, right.type) or (left.type == t.JSON and name in _OF_JSON)


def operation(typing: Coercion, name: str, left: Term, right: Term, location: int) -> Term:
    """An operator with a jsonb on at least one side, or one that takes a json apart."""
    signatures = _OF_JSON if left.type == t.JSON else _SIGNATURES
    if name in operators.COMPARISONS and name not in _SIGNATURES:
        raise at(location, f"jsonb is not compared with {name}; compare what ->> gives, cast if need be")
    chosen = operators.select(signatures.get(name, []), (left.type, right.type))
    if chosen is None:
        raise at(location, _no_operator(name, left, right))
    first, second = typing.coerce(left, chosen.args[0]), typing.coerce(right, chosen.args[1])
    args = (first.expression, second.expression)
    if left.type == t.JSON and name.startswith("#"):
        _check_path(second, location)
    made = typing.fold(_called(name, chosen.result, args), location)
    if chosen.result == t.TEXT and chosen.args[1] != t.INT4:
        return dataclasses.replace(typing.merged(second), expression=made, location=location)
    return Term(made, location)


def _check_path(path: Term, location: int) -> None:
    """Postgres counts an index from the end by the first array of that depth, wherever in a json it is."""
    constant = path.expression
    if not isinstance(constant, Const):
        raise at(location, "a path into json must be a constant; make the column jsonb, or cast it")
    steps = () if constant.text is None else values.read(_TEXTS, constant.text).items
    if any(step is not None and b"-" in step and json_text.INDEX.fullmatch(step.decode()) for step in steps):
        raise at(location, "a path into json cannot count from the end; use ->, make the column jsonb, or cast it")


def function(typing: Coercion, name: str, args: list[Term], location: int) -> Term | None:
    """The functions that ask what a document is; None for what is none of them."""
    prefix, _, rest = name.partition("_")
    kind = {"jsonb": t.JSONB, "json": t.JSON}.get(prefix)
    if kind is None or rest not in _FUNCTIONS:
        return None
    document = args[0] if args[0].type == kind else typing.coerce(args[0], kind) if kind == t.JSONB else None
    if document is None:
        return None
    match rest, len(args):
        case "typeof", 1:
            return Term(typing.fold(Call(t.TEXT, name, (document.expression,)), location), location)
        case "array_length", 1:
            return Term(typing.fold(Call(t.INT4, name, (document.expression,)), location), location)
        case (("extract_path" | "extract_path_text"), count) if count > 1:
            steps = [typing.coerce(arg, t.TEXT) for arg in args[1:]]
            array = typing.fold(Call(_TEXTS, "ARRAY", tuple(step.expression for step in steps)), location)
            path = dataclasses.replace(typing.merged(*steps), expression=array)
            return operation(typing, "#>>" if rest.endswith("text") else "#>", document, path, location)
        case _:
            return None


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
