"""Typing of what has to do with arrays: ARRAY[…], ANY and ALL, subscripts, and the operators between arrays. Pure."""

from __future__ import annotations

import dataclasses

from switchgear_shapes.where import arrays, canonical, operators, values
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Resolving, Term
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Expression, Type
from switchgear_shapes.where.grammar import OFFSET, Tree, node_of, operator_of

_OPERATORS = frozenset({"=", "<>", "@>", "<@", "&&", "||"})
_TEXTS = ("text", "varchar")
NO_OVERLOAD = "Could not select an operator overload"


def array_type(kind: Type) -> Type:
    return dataclasses.replace(kind, array=True)


def sides(typing: Resolving, left: Tree, right: Tree) -> tuple[Term, Term]:
    """Both sides of an operator. ARRAY[…] of literals alone has the type of the array beside it, as a literal has:
    Postgres takes such for text[], and clients write them with parameters."""
    if _has_literals_alone(left) == _has_literals_alone(right):
        return typing.resolve(left), typing.resolve(right)
    made, other = (left, right) if _has_literals_alone(left) else (right, left)
    known = typing.resolve(other)
    if not known.type.array or known.type.name in _TEXTS:
        literals = typing.resolve(made)
    else:
        _, node = node_of(made)
        literals = constructor(typing, node, node.get("location", OFFSET) - OFFSET, known.type.element)
    return (literals, known) if made is left else (known, literals)


def _has_literals_alone(tree: Tree) -> bool:
    kind, node = node_of(tree)
    if kind != "A_ArrayExpr" or not node.get("elements"):
        return False
    items = [node_of(item) for item in node["elements"]]
    return all(k == "ParamRef" or (k == "A_Const" and bool(n.keys() & {"sval", "isnull"})) for k, n in items)


def constructor(typing: Resolving, node: Tree, location: int, wanted: Type | None = None) -> Term:
    """ARRAY[items]: constants as one constant, otherwise one dimension. Literals become `wanted`."""
    items = [typing.resolve(item) for item in node.get("elements", [])]
    if not items:
        raise at(location, "cannot determine type of empty array")
    inner = [item for item in items if item.type.array]
    if inner:
        return _nested_constructor(items, location)
    known = [item for item in items if item.type != t.UNKNOWN]
    enum = next((item.type for item in known if item.type.enum is not None), None)
    common = enum or typing.common_type(items) or (None if known else wanted or t.TEXT)
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
    if left.type.name in _TEXTS and right.type.name in _TEXTS:  # the first one says which of the two, as in Postgres
        kind = dataclasses.replace(left.type, array=True)
    if name == "||" and (left.type.array != right.type.array) and t.UNKNOWN not in (left.type, right.type):
        item = kind.element
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
    if name != "||":
        first, second = _of_one_type(typing, first, second)
    args = (first.expression, second.expression)
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
    return first == second or (first.array == second.array and first.name in _TEXTS and second.name in _TEXTS)


def _of_one_type(typing: Coercion, first: Term, second: Term) -> tuple[Term, Term]:
    """Postgres' operators between arrays have none for text[] and varchar[]: what is written takes the other's type."""
    if first.type == second.type:
        return first, second
    if _is_written(second.expression):
        return first, dataclasses.replace(second, expression=_retyped(second.expression, first.type))
    if _is_written(first.expression):
        return dataclasses.replace(first, expression=_retyped(first.expression, second.type)), second
    return first, typing.coerce(second, first.type, explicit=True)  # refused: nothing casts the one to the other


def _is_written(expression: Expression) -> bool:
    return isinstance(expression, Const) or (isinstance(expression, Call) and expression.name == "ARRAY")


def _retyped(expression: Expression, kind: Type) -> Expression:
    """A constant, or ARRAY[…], of text[] beside a column of varchar[], and the reverse."""
    if isinstance(expression, Const):
        return Const(kind, expression.text)
    return dataclasses.replace(expression, type=kind) if isinstance(expression, Call) else expression


def _check_collation(typing: Coercion, left: Term, right: Term, kind: Type, location: int) -> None:
    if kind.name in t.STRINGS:
        typing.check_comparable("=", left, right, kind.element, location)


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
    item = right.type.element
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
    item = right.type.element
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
    call = Call(base.type.element, "[]", (base.expression, *indexes))
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
