"""Typing of functions: the few that are known, by name. Pure. All others are refused."""

from __future__ import annotations

import dataclasses
import re

from switchgear_shapes.where import moments, operators, resolve_arrays, resolve_json
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Resolving, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Type
from switchgear_shapes.where.grammar import Tree, names_of
from switchgear_shapes.where.operators import Signature

_PLAIN_CALL = frozenset({"funcname", "args", "funcformat", "location"})
_OFFSET = re.compile(r"([+-])(\d|0\d|1[0-5])(?::([0-5]\d)(?::([0-5]\d))?)?", re.ASCII)
_UTC = frozenset({"utc", "gmt", "etc/utc"})
_JUSTIFY = frozenset({"justify_days", "justify_hours", "justify_interval"})


def function(typing: Resolving, node: Tree, location: int) -> Term:
    names = names_of(node.get("funcname", []))
    trees = node.get("args", [])
    if node.keys() & {"agg_star", "agg_distinct", "agg_filter", "agg_order", "agg_within_group", "over"}:
        raise at(location, "aggregation is not supported in this context")
    if node.get("func_variadic"):
        raise at(location, "explicit VARIADIC function calls are not currently supported")
    if not node.keys() <= _PLAIN_CALL or any("NamedArgExpr" in tree for tree in trees):
        raise at(location, "this form of call is not supported in this context")
    qualified = len(names) == 2 and names[0] == "pg_catalog"
    name = names[-1] if len(names) == 1 or qualified else ".".join(names)
    args = [typing.resolve(tree) for tree in trees]
    made = _known(typing, name, args, location)
    if made is None:
        raise at(location, f"unknown or unsupported function {name}/{len(args)}")
    return made


def _known(typing: Resolving, name: str, args: list[Term], location: int) -> Term | None:
    kind = t.SYNONYMS.get(name, name)
    match name, len(args):
        case (("lower" | "upper"), 1):
            arg = _as_text(typing, args[0], location)
            call = Call(t.TEXT, name, (arg.expression,), typing.case_rule(location, arg))
            return dataclasses.replace(arg, expression=typing.fold(call, location))
        case "like", 2:
            return typing.binary("~~", args[0], args[1], location)
        case "ilike", 2:
            return None
        case "like_escape", 2:
            pattern = [typing.coerce(arg, t.TEXT) for arg in args]
            if not isinstance(pattern[1].expression, Const) and not typing.by_database:
                raise at(location, "the escape of LIKE must be a constant")
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
            item = typing.coerce(args[1], args[0].type.element)
            expression = resolve_arrays.operation(typing, "||", args[0], item, location)
            return dataclasses.replace(args[0], expression=expression)
        case "array_prepend", 2 if args[1].type.array:
            item = typing.coerce(args[0], args[1].type.element)
            expression = resolve_arrays.operation(typing, "||", item, args[1], location)
            return dataclasses.replace(args[1], expression=expression)
        case name, 1 if name in _JUSTIFY:
            arg = typing.coerce(args[0], t.INTERVAL)
            return Term(typing.fold(Call(t.INTERVAL, name, (arg.expression,)), location), location)
        case _, 1 if kind in t.CASTABLE:
            return typing.explicit_cast(args[0], Type(kind), location)
        case _, count if count > 0:
            return resolve_json.function(typing, name, args, location)
        case _:
            return None


def _as_text(typing: Coercion, arg: Term, location: int) -> Term:
    if arg.type not in (t.UNKNOWN, t.TEXT, t.VARCHAR, t.BPCHAR, t.NAME):
        raise at(location, resolve_arrays.NO_OVERLOAD)
    return typing.coerce(arg, t.TEXT)


def _at_time_zone(typing: Coercion, args: list[Term], location: int) -> Term:
    zone, moment = _zone(typing, args[0], location), args[1]
    if moment.type == t.UNKNOWN:
        moment = typing.coerce(moment, t.TIMESTAMPTZ)
    if moment.type not in (t.TIMESTAMP, t.TIMESTAMPTZ):
        raise at(location, resolve_arrays.NO_OVERLOAD)
    result = t.TIMESTAMP if moment.type == t.TIMESTAMPTZ else t.TIMESTAMPTZ
    call = Call(result, "timezone", (zone, moment.expression))
    return Term(typing.fold(call, location), location)


def _zone(typing: Coercion, term: Term, location: int) -> Const:
    """UTC by its name, others as the interval that they are east of it."""
    zone = term.expression if term.type == t.INTERVAL else typing.coerce(term, t.TEXT).expression
    if isinstance(zone, Const) and zone.text is not None:
        offset = _OFFSET.fullmatch(zone.text)
        if zone.type == t.INTERVAL:
            span = moments.read_interval(zone.text)
            if span.months == span.days == 0:
                seconds = abs(span.micros) // 1_000_000
                return _east(seconds if span.micros > 0 else -seconds)
        elif zone.text.lower() in _UTC:
            return Const(t.TEXT, "UTC")
        elif offset is not None:  # POSIX counts them to the west
            sign, hours, minutes, seconds_ = offset.groups()
            seconds = (int(hours) * 60 + int(minutes or 0)) * 60 + int(seconds_ or 0)
            return _east(seconds if sign == "-" else -seconds)
    raise at(
        location,
        "AT TIME ZONE takes 'UTC', an offset such as '-05:30' (which Postgres counts to the west) or INTERVAL '05:30'"
        " (to the east): the rules of named zones depend on the database's time zone files",
    )


def _east(seconds: int) -> Const:
    return Const(t.INTERVAL, moments.print_interval(moments.Interval(0, 0, seconds * 1_000_000)))


def coalesce(typing: Resolving, node: Tree, location: int) -> Term:
    terms = _unified(typing, [typing.resolve(arg) for arg in node["args"]], location)
    merged = typing.merged(*terms)
    kind = terms[0].type
    call = Call(kind, "coalesce", tuple(term.expression for term in terms))
    return dataclasses.replace(merged, expression=typing.fold(call, location), location=location)


def extreme(typing: Resolving, node: Tree, location: int) -> Term:
    """greatest and least."""
    name = "least" if node.get("op") == "IS_LEAST" else "greatest"
    terms = _unified(typing, [typing.resolve(arg) for arg in node["args"]], location)
    kind = terms[0].type
    if kind.array or kind.enum is not None or kind.name == "jsonb":
        raise at(location, f"{name} of type {t.shown(kind)} is not supported in this context")
    args = tuple(term.expression for term in terms)
    if kind.name not in t.STRINGS:
        return Term(typing.fold(Call(kind, name, args), location), location)
    call = Call(kind, name, args, typing.check_ordered(name, terms, location))
    return dataclasses.replace(typing.merged(*terms), expression=typing.fold(call, location), location=location)


def nullif(typing: Resolving, node: Tree, location: int) -> Term:
    """Its result has the type that `=` takes on its left."""
    left, right = typing.resolve(node["lexpr"]), typing.resolve(node["rexpr"])
    if left.type.array or right.type.array or left.type.enum is not None or right.type.enum is not None:
        raise at(location, f"NULLIF of type {t.shown(left.type)} is not supported in this context")
    chosen = operators.choose("=", (left.type, right.type))
    if t.JSONB in (left.type, right.type):
        chosen = Signature((t.JSONB, t.JSONB), t.BOOL)
    if chosen is None:
        raise at(location, resolve_arrays.NO_OVERLOAD)
    first, second = typing.coerce(left, chosen.args[0]), typing.coerce(right, chosen.args[1])
    typing.check_comparable("=", first, second, chosen.args[0], location)
    call = Call(first.type, "nullif", (first.expression, second.expression))
    return dataclasses.replace(first, expression=typing.fold(call, location), location=location)


def _unified(typing: Coercion, args: list[Term], location: int) -> list[Term]:
    kinds = {arg.type for arg in args if arg.type != t.UNKNOWN}
    common = next(iter(kinds)) if len(kinds) == 1 else typing.common_type(args) if kinds else t.TEXT
    if common is None or not t.usable(common):
        raise at(location, "the arguments must have one type")
    return [typing.coerce(arg, common) for arg in args]
