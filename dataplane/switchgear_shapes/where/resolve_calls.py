"""Typing of functions: the few that are known, by name. Pure. All others are refused."""

from __future__ import annotations

import dataclasses

from switchgear_shapes.where import resolve_arrays
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Type
from switchgear_shapes.where.grammar import Tree, names_of

_PLAIN_CALL = frozenset({"funcname", "args", "funcformat", "location"})
_UTC = frozenset({"utc", "gmt", "etc/utc"})
_JUSTIFY = frozenset({"justify_days", "justify_hours"})


def function(resolver: resolve_arrays.Resolving, typing: Coercion, node: Tree, location: int) -> Term:
    names = names_of(node.get("funcname", []))
    trees = node.get("args", [])
    if node.keys() & {"agg_star", "agg_distinct", "agg_filter", "agg_order", "agg_within_group", "over"}:
        raise at(location, "aggregation is not supported in this context")
    if node.get("func_variadic"):
        raise at(location, "explicit VARIADIC is not supported in this context")
    if not node.keys() <= _PLAIN_CALL or any("NamedArgExpr" in tree for tree in trees):
        raise at(location, "this form of call is not supported in this context")
    qualified = len(names) == 2 and names[0] == "pg_catalog"
    name = names[-1] if len(names) == 1 or qualified else ".".join(names)
    args = [resolver.resolve(tree) for tree in trees]
    made = _known(resolver, typing, name, args, location)
    if made is None:
        raise at(location, f"unknown or unsupported function {name}/{len(args)}")
    return made


def _known(
    resolver: resolve_arrays.Resolving, typing: Coercion, name: str, args: list[Term], location: int
) -> Term | None:
    kind = t.SYNONYMS.get(name, name)
    match name, len(args):
        case (("lower" | "upper"), 1):
            arg = _as_text(typing, args[0], location)
            call = Call(t.TEXT, name, (arg.expression,), typing.case_rule(location, arg))
            return dataclasses.replace(arg, expression=typing.fold(call, location))
        case "like", 2:
            return resolver.binary("~~", args[0], args[1], location)
        case "ilike", 2:
            return None
        case "like_escape", 2:
            pattern = [typing.coerce(arg, t.TEXT) for arg in args]
            if not all(isinstance(arg.expression, Const) for arg in pattern):
                raise at(location, "the pattern of LIKE and its escape must be constants")
            call = Call(t.TEXT, name, tuple(arg.expression for arg in pattern))
            return dataclasses.replace(pattern[0], expression=typing.fold(call, location))
        case "concat", count if count > 0:
            texts = [typing.coerce(arg, t.TEXT) if arg.type == t.UNKNOWN else arg for arg in args]
            if not all(t.usable(arg.type) for arg in texts):
                raise at(location, "concat of such a type is not supported")
            call = Call(t.TEXT, name, tuple(arg.expression for arg in texts))
            return dataclasses.replace(typing.merged(*texts), expression=typing.fold(call, location), location=location)
        case "timezone", 2:
            return _at_time_zone(typing, args, location)
        case "array_ndims", 1 if args[0].type.array:
            return Term(typing.fold(Call(t.INT4, name, (args[0].expression,)), location), location)
        case "array_cat", 2 if args[0].type.array or args[1].type.array:
            expression = resolve_arrays.operation(typing, "||", args[0], args[1], location)
            return dataclasses.replace(args[0], expression=expression) if expression.type.array else None
        case "array_append", 2 if args[0].type.array:
            item = typing.coerce(args[1], resolve_arrays.element_type(args[0].type))
            expression = resolve_arrays.operation(typing, "||", args[0], item, location)
            return dataclasses.replace(args[0], expression=expression)
        case "array_prepend", 2 if args[1].type.array:
            item = typing.coerce(args[0], resolve_arrays.element_type(args[1].type))
            expression = resolve_arrays.operation(typing, "||", item, args[1], location)
            return dataclasses.replace(args[1], expression=expression)
        case name, 1 if name in _JUSTIFY:
            arg = typing.coerce(args[0], t.INTERVAL)
            return Term(typing.fold(Call(t.INTERVAL, name, (arg.expression,)), location), location)
        case _, 1 if kind in t.CASTABLE:
            return typing.explicit_cast(args[0], Type(kind), location)
        case _:
            return None


def _as_text(typing: Coercion, arg: Term, location: int) -> Term:
    if arg.type not in (t.UNKNOWN, t.TEXT, t.VARCHAR, t.BPCHAR, t.NAME):
        raise at(location, resolve_arrays.NO_OVERLOAD)
    return typing.coerce(arg, t.TEXT)


def _at_time_zone(typing: Coercion, args: list[Term], location: int) -> Term:
    zone, moment = typing.coerce(args[0], t.TEXT), args[1]
    written = zone.expression
    if not isinstance(written, Const) or (written.text or "").lower() not in _UTC:
        raise at(location, "AT TIME ZONE takes only 'UTC': other zones' rules depend on the database's time zone files")
    if moment.type == t.UNKNOWN:
        moment = typing.coerce(moment, t.TIMESTAMPTZ)
    if moment.type not in (t.TIMESTAMP, t.TIMESTAMPTZ):
        raise at(location, resolve_arrays.NO_OVERLOAD)
    result = t.TIMESTAMP if moment.type == t.TIMESTAMPTZ else t.TIMESTAMPTZ
    call = Call(result, "timezone", (Const(t.TEXT, "UTC"), moment.expression))
    return Term(typing.fold(call, location), location)


def coalesce(typing: Coercion, args: list[Term], location: int) -> Term:
    terms = _unified(typing, args, location)
    merged = typing.merged(*terms)
    kind = terms[0].type
    call = Call(kind, "coalesce", tuple(term.expression for term in terms))
    return dataclasses.replace(merged, expression=typing.fold(call, location), location=location)


def extreme(typing: Coercion, name: str, args: list[Term], location: int) -> Term:
    """greatest and least."""
    terms = _unified(typing, args, location)
    kind = terms[0].type
    if kind.array or kind.enum is not None or kind.name in t.STRINGS or kind.name == "jsonb":
        raise at(location, f"{name} of type {t.shown(kind)} is not supported in this context")
    call = Call(kind, name, tuple(term.expression for term in terms))
    return Term(typing.fold(call, location), location)


def _unified(typing: Coercion, args: list[Term], location: int) -> list[Term]:
    kinds = {arg.type for arg in args if arg.type != t.UNKNOWN}
    common = next(iter(kinds)) if len(kinds) == 1 else typing.common_type(args) if kinds else t.TEXT
    if common is None or not t.usable(common):
        raise at(location, "the arguments must have one type")
    return [typing.coerce(arg, common) for arg in args]
