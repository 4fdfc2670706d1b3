"""What operators and functions do with their values. Pure.

`strict` functions get values that are not NULL; `lazy` ones get their arguments unevaluated; `fixed` ones are compiled
for a constant second argument (patterns).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from switchgear_shapes.replication.pgoutput import Values
from switchgear_shapes.where import arithmetic, arrays, casts, collations, documents, json_text, like, moments, sizes
from switchgear_shapes.where.comparing import comparison, value_key
from switchgear_shapes.where.expression import Call, Const, Type
from switchgear_shapes.where.types import JSON, TEXT, TIMESTAMP
from switchgear_shapes.where.values import to_text

Evaluate = Callable[[Values], Any]


def fixed(node: Call) -> Callable[[Evaluate], Evaluate] | None:
    """For LIKE and ILIKE with a constant pattern: what makes the function of the left side's."""
    if node.name not in ("~~", "~~*"):
        return None
    pattern = node.args[1]
    if not isinstance(pattern, Const) or pattern.text is None:
        return None
    if node.name == "~~":
        return _matching(like.matcher(pattern.text.encode()), None)
    rule = node.rule
    return _matching(like.matcher(collations.lower(pattern.text.encode(), rule)), rule)


def _matching(match: like.Matcher, rule: str | None) -> Callable[[Evaluate], Evaluate]:
    def make(arg: Evaluate) -> Evaluate:
        if rule is None:

            def matches(row: Values) -> bool | None:
                value = arg(row)
                return None if value is None else match(value)

            return matches
        ascii_only = rule == collations.ASCII

        def matches_folded(row: Values) -> bool | None:
            value = arg(row)
            if value is None:
                return None
            if ascii_only or value.isascii():
                return match(value.lower())
            return match(collations.lower(value, rule))

        return matches_folded

    return make


def lazy(node: Call) -> Callable[[list[Evaluate]], Evaluate] | None:
    """For what is not strict."""
    match node.name:
        case "ARRAY":
            return lambda args: lambda row: arrays.one_dimensional(tuple(arg(row) for arg in args))
        case "array_cat":
            return lambda args: lambda row: arrays.concatenated(args[0](row), args[1](row))
        case "array_append":
            return lambda args: lambda row: arrays.appended(args[0](row), args[1](row))
        case "array_prepend":
            return lambda args: lambda row: arrays.prepended(args[0](row), args[1](row))
        case name if name.endswith((" ANY", " ALL")):
            over = arrays.any_of if name.endswith("ANY") else arrays.all_of
            compare = comparison(name[:-4], node.args[0].type, node.args[1].type.element)
            return lambda args: lambda row: over(compare, args[0](row), args[1](row))
        case "coalesce":
            return _coalesce
        case "nullif":
            equal = comparison("=", node.args[0].type, node.args[1].type)
            return lambda args: _nullif(equal, *args)
        case "[:]":
            omitted = [isinstance(arg, Const) and arg.text is None for arg in node.args[1:]]
            return lambda args: _slice(omitted, *args)
        case "greatest" | "least":
            return lambda args: _extreme(
                comparison(">" if node.name == "greatest" else "<", node.type, node.type), args
            )
        case "concat":
            shows = [_shower(arg.type) for arg in node.args]
            return lambda args: lambda row: _joined(shows, [arg(row) for arg in args])
        case "IS TRUE":
            return lambda args: lambda row: args[0](row) is True
        case "IS FALSE":
            return lambda args: lambda row: args[0](row) is False
        case "IS DISTINCT FROM":
            equal = comparison("=", node.args[0].type, node.args[1].type)
            return lambda args: _distinct(equal, args[0], args[1])
        case _:
            return None


def _coalesce(args: list[Evaluate]) -> Evaluate:
    return lambda row: next((value for value in (arg(row) for arg in args) if value is not None), None)


def _extreme(better: Callable[[Any, Any], bool], args: list[Evaluate]) -> Evaluate:
    def extreme(row: Values) -> Any:
        best = None
        for arg in args:
            value = arg(row)
            if value is not None and (best is None or better(value, best)):
                best = value
        return best

    return extreme


def _nullif(equal: Callable[[Any, Any], bool], left: Evaluate, right: Evaluate) -> Evaluate:
    def nullif(row: Values) -> Any:
        a, b = left(row), right(row)
        return None if a is not None and b is not None and equal(a, b) else a

    return nullif


def _slice(omitted: list[bool], array: Evaluate, *ends: Evaluate) -> Evaluate:
    def slice_(row: Values) -> Any:
        value, found = array(row), [end(row) for end in ends]
        if value is None or any(end is None and not left_out for end, left_out in zip(found, omitted, strict=True)):
            return None
        return arrays.part(value, list(zip(found[::2], found[1::2], strict=True)))

    return slice_


def _zoned(node: Call) -> Callable[[Any, int], int]:
    """`AT TIME ZONE 'UTC'`, or an interval east of it."""
    if node.args[0].type == TEXT:
        return lambda zone, moment: moment
    if node.type == TIMESTAMP:
        return lambda zone, moment: moments.shifted(moment, zone.micros)
    return lambda zone, moment: moments.shifted(moment, -zone.micros)


def _shower(kind: Type) -> Callable[[Any], bytes]:
    return lambda value: to_text(kind, value).encode()


def _joined(shows: list[Callable[[Any], bytes]], found: list[Any]) -> bytes:
    return b"".join(show(value) for show, value in zip(shows, found, strict=True) if value is not None)


def _distinct(equal: Callable[[Any, Any], bool], left: Evaluate, right: Evaluate) -> Evaluate:
    def distinct(row: Values) -> bool:
        a, b = left(row), right(row)
        if a is None or b is None:
            return (a is None) != (b is None)
        return not equal(a, b)

    return distinct


def strict(node: Call) -> Callable[..., Any]:
    """For all others. Raises ValueError if there is none: the parser makes no such node."""
    rule = node.rule
    match node.name:
        case "cast":
            function = casts.cast(node.args[0].type, node.type)
            if function is not None:
                return function
        case "~~":
            return like.matches
        case "~~*":
            return lambda text, pattern: like.matches(collations.lower(text, rule), collations.lower(pattern, rule))
        case "@>" if not node.args[0].type.array:
            return documents.contains
        case name if name in documents.OPERATORS:
            operators = json_text.OPERATORS if node.args[0].type == JSON else documents.OPERATORS
            return operators[name]
        case "jsonb_typeof":
            return documents.kind
        case "json_typeof":
            return json_text.kind
        case "jsonb_array_length":
            return documents.length
        case "json_array_length":
            return json_text.length
        case "@>" | "&&":
            key = value_key(node.args[0].type.element)
            meets = arrays.contains if node.name == "@>" else arrays.overlaps
            return lambda a, b: meets(key, a, b)
        case "||":
            return operator.add
        case "timezone":
            return _zoned(node)
        case "sized":
            return sizes.sized(node.type)
        case "array_ndims":
            return lambda array: len(array.lengths) or None
        case "justify_days" | "justify_hours" | "justify_interval":
            return getattr(moments, node.name)  # type: ignore[no-any-return]
        case name if name in arithmetic.NAMES:
            return arithmetic.function(name, tuple(arg.type for arg in node.args), node.type, rule)
        case "[]":
            return arrays.element
        case "lower":
            return lambda text: collations.lower(text, rule)
        case "upper":
            return lambda text: collations.upper(text, rule)
        case "collate":
            return lambda text: text
        case "like_escape":
            return like.escaped
    raise ValueError(f"no function {node.name}")
