"""Typing of what has to do with arrays: ARRAY[…], ANY and ALL, subscripts, and the operators between arrays. Pure."""

from __future__ import annotations

import dataclasses

from switchgear_shapes.where import arrays, canonical, operators, values
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Resolving, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Expression, Type
from switchgear_shapes.where.grammar import Tree, node_of, operator_of

_OPERATORS = frozenset({"=", "<>", "@>", "<@", "&&", "||"})
NO_OVERLOAD = "Could not select an operator overload"


def element_type(kind: Type) -> Type:
    return Type(kind.name, enum=kind.enum)


def array_type(kind: Type) -> Type:
    return Type(kind.name, True, kind.enum)


def constructor(typing: Resolving, node: Tree, location: int) -> Term:
    """ARRAY[items]: constants as one constant, otherwise one dimension."""
    items = [typing.resolve(item) for item in node.get("elements", [])]
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


def any_or_all(typing: Resolving, node: Tree, location: int) -> Term:
    """`left name ANY (array)` or ALL: over a constant array as OR or AND of its elements."""
    name, every = operator_of(node, location), node["kind"].endswith("ALL")
    left, right = typing.resolve(node["lexpr"]), typing.resolve(node["rexpr"])
    if right.type == t.UNKNOWN:
        if left.type == t.UNKNOWN or left.type.array:
            raise at(location, "argument of ANY must be an array")
        right = typing.coerce(right, array_type(t.TEXT if left.type == t.VARCHAR else left.type))
    if not right.type.array:
        raise at(location, "argument of ANY must be an array")
    item = element_type(right.type)
    array = right.expression
    if isinstance(array, Const):
        if array.text is None:
            return Term(canonical.NULL, location)
        parts = []
        for value in values.read(right.type, array.text).items:
            constant = Const(item, None if value is None else values.to_text(item, value))
            element = dataclasses.replace(right, expression=constant)
            parts.append(typing.binary(name, left, element, location).expression)
        return Term(canonical.conjunction(parts) if every else canonical.disjunction(parts), location)
    return Term(_over_column(typing, name, every, left, right, location), location)


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


def subscript(typing: Resolving, node: Tree, location: int) -> Term:
    """`array[i]`, `array[i][j]`, `array[a:b]`, and `document['key']`."""
    base = typing.resolve(node["arg"])
    place = max(base.location, 0)
    parts = [_indices(part, place) for part in node["indirection"]]
    if base.type == t.JSONB:
        return _member(typing, base, parts, place)
    if not base.type.array:
        raise at(location, f"cannot subscript type {t.shown(base.type)}")
    if any(part.get("is_slice") for part in parts):
        return _slice(typing, base, parts, place)
    indexes = [_index(typing, part["uidx"], place) for part in parts]
    call = Call(element_type(base.type), "[]", (base.expression, *indexes))
    return dataclasses.replace(base, expression=typing.fold(call, place))


def _indices(part: Tree, location: int) -> Tree:
    kind, fields = node_of(part)
    if kind != "A_Indices":
        raise at(location, "fields of values are not supported in this context")
    return fields


def _index(typing: Resolving, tree: Tree, location: int) -> Expression:
    index = typing.resolve(tree)
    if index.type not in (t.UNKNOWN, t.INT2, t.INT4):
        raise at(location, "array subscript must have type integer")
    return typing.coerce(index, t.INT4).expression


def _slice(typing: Resolving, base: Term, parts: list[Tree], location: int) -> Term:
    """With a lower and an upper end for each dimension; where there is one slice, `[i]` is `[1:i]`."""
    ends: list[Expression] = []
    for part in parts:
        first = "1" if not part.get("is_slice") else None
        for name, otherwise in (("lidx", first), ("uidx", None)):
            end = _index(typing, part[name], location) if name in part else Const(t.INT4, otherwise)
            if name in part and isinstance(end, Const) and end.text is None:
                return dataclasses.replace(base, expression=Const(base.type, None))
            ends.append(end)
    call = Call(base.type, "[:]", (base.expression, *ends))
    return dataclasses.replace(base, expression=typing.fold(call, location))


def _member(typing: Resolving, base: Term, parts: list[Tree], location: int) -> Term:
    """A path into a jsonb, as with `#>`: a number is an index or the key of that name."""
    steps = []
    for part in parts:
        if part.get("is_slice"):
            raise at(location, "jsonb subscript does not support slices")
        step = typing.resolve(part["uidx"])
        if step.type == t.INT2:
            step = typing.coerce(step, t.INT4)
        if step.type not in (t.UNKNOWN, t.TEXT, t.VARCHAR, t.INT4):
            raise at(location, "a subscript of jsonb must be text or an integer")
        steps.append(typing.coerce(step, t.TEXT, explicit=True).expression)
    path = typing.fold(Call(array_type(t.TEXT), "ARRAY", tuple(steps)), location)
    call = typing.fold(Call(t.JSONB, "#>", (base.expression, path)), location)
    return Term(call, base.location)
