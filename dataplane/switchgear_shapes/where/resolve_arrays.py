"""Typing of what has to do with arrays: ARRAY[…], ANY and ALL, subscripts, and the operators between arrays. Pure."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from switchgear_shapes.where import arrays, canonical, operators, values
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Expression, Type
from switchgear_shapes.where.grammar import Tree, node_of

_OPERATORS = frozenset({"=", "<>", "@>", "<@", "&&", "||"})
NO_OVERLOAD = "Could not select an operator overload"


class Resolving(Protocol):
    """What these functions need of the resolver."""

    def resolve(self, tree: Tree) -> Term: ...

    def binary(self, name: str, left: Term, right: Term, location: int) -> Term: ...


def element_type(kind: Type) -> Type:
    return Type(kind.name, enum=kind.enum)


def array_type(kind: Type) -> Type:
    return Type(kind.name, True, kind.enum)


def constructor(typing: Coercion, items: list[Term], location: int) -> Term:
    """ARRAY[items]: constants as one constant, otherwise one dimension."""
    if not items:
        raise at(location, "cannot determine type of empty array")
    inner = [item for item in items if item.type.array]
    if inner:
        return _nested_constructor(items, location)
    known = [item for item in items if item.type != t.UNKNOWN]
    enum = next((item.type for item in known if item.type.enum is not None), None)
    common = enum or typing.common_type(items) or (None if known else t.TEXT)
    if common is None:
        raise at(location, "the elements of an array must have one type")
    made = [typing.coerce(item, common).expression for item in items]
    kind = array_type(common)
    return dataclasses.replace(items[0], expression=typing.fold(Call(kind, "ARRAY", tuple(made)), location))


def of_type(typing: Coercion, items: list[Term], kind: Type, location: int) -> Term:
    """ARRAY[items]::kind, the items cast already."""
    if not items:
        return Term(Const(kind, "{}"), location)
    call = Call(kind, "ARRAY", tuple(item.expression for item in items))
    return dataclasses.replace(items[0], expression=typing.fold(call, location))


def _nested_constructor(items: list[Term], location: int) -> Term:
    expressions = [item.expression for item in items]
    kind = items[0].type
    if any(not isinstance(e, Const) or e.text is None or e.type != kind for e in expressions):
        raise at(location, "an array of arrays must have constants of one type")
    found = [values.read(kind, e.text) for e in expressions if isinstance(e, Const) and e.text is not None]
    if len({(array.lengths, array.bounds) for array in found}) != 1 or not found[0].lengths:
        raise at(location, "sub-arrays must have matching dimensions")
    lengths = (len(found), *found[0].lengths)
    if len(lengths) > arrays.MAX_DIMENSIONS:
        raise at(location, "the array has too many dimensions")
    joined = arrays.ArrayValue(lengths, (1,) * len(lengths), tuple(x for array in found for x in array.items))
    return dataclasses.replace(items[0], expression=Const(kind, values.to_text(kind, joined)))


def operation(typing: Coercion, name: str, left: Term, right: Term, location: int) -> Expression:
    """An operator with an array on at least one side."""
    if name not in _OPERATORS:
        raise at(location, NO_OVERLOAD)
    kind = left.type if left.type.array else right.type
    if name == "||" and (left.type.array != right.type.array) and t.UNKNOWN not in (left.type, right.type):
        item = element_type(kind)
        if left.type.array:
            args = (left.expression, typing.coerce(right, item).expression)
            return typing.fold(Call(kind, "array_append", args), location)
        return typing.fold(
            Call(kind, "array_prepend", (typing.coerce(left, item).expression, right.expression)), location
        )
    first, second = (side if side.type != t.UNKNOWN else typing.coerce(side, kind) for side in (left, right))
    if not _same(first.type, second.type):
        raise at(location, NO_OVERLOAD)
    _check_collation(typing, first, second, kind, location)
    args = (first.expression, _retyped(second.expression, first.type))
    if name in ("=", "<>"):
        return typing.fold(canonical.comparison(name, *args), location)
    if name == "||":
        return typing.fold(Call(kind, "array_cat", args), location)
    if any(isinstance(arg, Const) and arg.text is None for arg in args):
        return canonical.NULL
    if name == "<@":
        name, args = "@>", (args[1], args[0])
    if name == "&&" and isinstance(args[0], Const):
        args = (args[1], args[0])
    return typing.fold(Call(t.BOOL, name, args), location)


def _same(first: Type, second: Type) -> bool:
    texts = ("text", "varchar")
    return first == second or (first.array == second.array and first.name in texts and second.name in texts)


def _retyped(expression: Expression, kind: Type) -> Expression:
    """A constant of text[] beside a column of varchar[], and the reverse."""
    return Const(kind, expression.text) if isinstance(expression, Const) else expression


def _check_collation(typing: Coercion, left: Term, right: Term, kind: Type, location: int) -> None:
    if kind.name in t.STRINGS:
        typing.check_comparable("=", left, right, element_type(kind), location)


def any_or_all(
    resolver: Resolving, typing: Coercion, name: str, every: bool, sides: tuple[Term, Term], at_: int
) -> Term:
    """`left name ANY (array)` or ALL: over a constant array as OR or AND of its elements."""
    left, right = sides
    if right.type == t.UNKNOWN:
        if left.type == t.UNKNOWN or left.type.array:
            raise at(at_, "argument of ANY must be an array")
        right = typing.coerce(right, array_type(t.TEXT if left.type == t.VARCHAR else left.type))
    if not right.type.array:
        raise at(at_, "argument of ANY must be an array")
    item = element_type(right.type)
    array = right.expression
    if isinstance(array, Const):
        if array.text is None:
            return Term(canonical.NULL, at_)
        parts = []
        for value in values.read(right.type, array.text).items:
            constant = Const(item, None if value is None else values.to_text(item, value))
            parts.append(resolver.binary(name, left, dataclasses.replace(right, expression=constant), at_).expression)
        return Term(canonical.conjunction(parts) if every else canonical.disjunction(parts), at_)
    return Term(_over_column(typing, name, every, left, right, at_), at_)


def _over_column(typing: Coercion, name: str, every: bool, left: Term, right: Term, location: int) -> Expression:
    item = element_type(right.type)
    if name not in operators.COMPARISONS:
        raise at(location, NO_OVERLOAD)
    if item.enum is not None:
        chosen: tuple[Type, Type] | None = (item, item) if name in ("=", "<>") else None
    else:
        found = operators.choose(name, (left.type, item))
        chosen = None if found is None else (found.args[0], found.args[1])
    if chosen is None or not _same(chosen[1], item):
        raise at(location, NO_OVERLOAD)
    first = typing.coerce(left, chosen[0])
    if item.name in t.STRINGS:
        rule = typing.check_comparable(name, first, right, item, location)
        if rule:
            raise at(location, 'text is not compared in an array by this collation; use COLLATE "C"')
    expression = first.expression
    if isinstance(expression, Const) and expression.text is None and name == "=":
        expression = Const(item, None)
    if isinstance(expression, Const) and _same(expression.type, item):
        expression = Const(item, expression.text)
    return Call(t.BOOL, f"{name} {'ALL' if every else 'ANY'}", (expression, right.expression))


def subscript(resolver: Resolving, typing: Coercion, node: Tree, location: int) -> Term:
    """`array[i]`, `array[i][j]`; slices are not taken."""
    base = resolver.resolve(node["arg"])
    if not base.type.array:
        raise at(location, f"cannot subscript type {t.shown(base.type)}")
    indexes = []
    for part in node["indirection"]:
        kind, fields = node_of(part)
        if kind != "A_Indices" or fields.get("is_slice"):
            raise at(max(base.location, 0), "slices and fields are not supported in this context")
        index = resolver.resolve(fields["uidx"])
        if index.type not in (t.UNKNOWN, t.INT2, t.INT4):
            raise at(max(base.location, 0), "array subscript must have type integer")
        indexes.append(typing.coerce(index, t.INT4).expression)
    call = Call(element_type(base.type), "[]", (base.expression, *indexes))
    return dataclasses.replace(base, expression=typing.fold(call, max(base.location, 0)))
