"""Typing of casts: type names, their modifiers, and the few types of which a cast may be asked for. Pure.

`varchar(3)`, `numeric(10, 2)` and the like are two steps, as in Postgres: the cast to the type, and a `sized` call that
cuts, pads or rounds what it gives.
"""

from __future__ import annotations

import dataclasses

from switchgear_shapes.where import resolve_arrays
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Resolving, Term, column_type
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Type
from switchgear_shapes.where.grammar import OFFSET, Tree, names_of, node_of

MAX_LENGTH = 10_485_760
"""Of a varchar and a char."""
MAX_PRECISION = 1_000
"""Of a numeric."""
Modifiers = tuple[int, ...]


def cast(typing: Resolving, node: Tree, location: int) -> Term:
    target, modifiers = _named(typing, node["typeName"])
    kind, array = node_of(node["arg"])
    if (
        kind == "A_ArrayExpr"
        and target.array
        and all(node_of(e)[0] != "A_ArrayExpr" for e in array.get("elements", []))
    ):
        item = target.element
        items = [typing.explicit_cast(typing.resolve(e), item, location) for e in array.get("elements", [])]
        return resolve_arrays.of_type(typing, items, target, location)
    made = typing.explicit_cast(typing.resolve(node["arg"]), target, location)
    if not modifiers:
        return made
    sizes = tuple(Const(t.INT4, str(size)) for size in modifiers)
    sized = typing.fold(Call(target, "sized", (made.expression, *sizes)), location)
    return dataclasses.replace(made, expression=sized)


def _named(typing: Coercion, node: Tree) -> tuple[Type, Modifiers]:
    names = names_of(node.get("names", []))
    location = node.get("location", OFFSET) - OFFSET
    name = names[-1] if names else ""
    array = bool(node.get("arrayBounds"))
    if node.get("setof") or node.get("pct_type") or len(names) > 2:
        raise at(location, f"unsupported type {'.'.join(names)}")
    if len(names) == 1 or names[0] == "pg_catalog":
        known = t.SYNONYMS.get(name, name)
        if known in t.CASTABLE:
            kind = Type(known, array)
            return kind, _modifiers(kind, node.get("typmods", []), location)
    enums = {
        dataclasses.replace(kind, array=array)
        for kind in map(column_type, typing.relation.columns)
        if kind.enum is not None and t.shown(kind.element) == name and names[:-1] in ([], [kind.schema])
    }
    if len(enums) > 1:
        raise at(location, f"more than one enum is called {name}; write the one that is meant with its schema")
    if enums:
        return enums.pop(), ()
    raise at(location, f"unsupported type {name}")


def _modifiers(kind: Type, trees: list[Tree], location: int) -> Modifiers:
    if not trees:
        return ()
    found = []
    for tree in trees:
        _, node = node_of(tree)
        if "ival" not in node:
            raise at(location, f"type modifiers of {kind.name} must be numbers")
        found.append(node["ival"].get("ival", 0))
    match kind.name, found:
        case _ if kind.array:
            pass
        case (("varchar" | "bpchar"), [length]) if 1 <= length <= MAX_LENGTH:
            return (length,)
        case "numeric", [precision] if 1 <= precision <= MAX_PRECISION:
            return precision, 0
        case "numeric", [precision, scale] if 0 <= scale <= precision and 1 <= precision <= MAX_PRECISION:
            return precision, scale
        case (("time" | "timestamp" | "timestamptz"), [digits]) if 0 <= digits <= 6:
            return (digits,)
    written = ",".join(map(str, found))
    raise at(location, f"unsupported type {t.shown(kind)} with the modifier ({written})")
