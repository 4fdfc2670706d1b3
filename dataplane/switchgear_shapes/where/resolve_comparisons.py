"""Typing of BETWEEN, IN and IS DISTINCT FROM: all are made of simpler comparisons. Pure."""

from __future__ import annotations

from switchgear_shapes.where import canonical
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Resolving, Term
from switchgear_shapes.where.expression import Call, Const, Expression, IsNull
from switchgear_shapes.where.grammar import Tree, operator_of


def between(typing: Resolving, node: Tree, location: int) -> Term:
    kind = node["kind"].removeprefix("AEXPR_")
    low_tree, high_tree = node["rexpr"]["List"]["items"]
    arg, low, high = typing.resolve(node["lexpr"]), typing.resolve(low_tree), typing.resolve(high_tree)
    made = _range(typing, arg, low, high, location)
    if kind.endswith("_SYM"):
        made = canonical.disjunction([made, _range(typing, arg, high, low, location)])
    return Term(canonical.negation(made) if kind.startswith("NOT") else made, location)


def _range(typing: Resolving, arg: Term, low: Term, high: Term, location: int) -> Expression:
    above = typing.binary(">=", arg, low, location).expression
    return canonical.conjunction([above, typing.binary("<=", arg, high, location).expression])


def in_list(typing: Resolving, node: Tree, location: int) -> Term:
    left = typing.resolve(node["lexpr"])
    items = [typing.resolve(item) for item in node["rexpr"]["List"]["items"]]
    common = typing.common_type([left, *items]) if len(items) > 1 else None
    parts = []
    for item in items:
        fitting = common is None or item.type == common or left.type.enum is not None
        coerced = item if fitting or common is None else typing.coerce(item, common)
        parts.append(typing.binary("=", left, coerced, location).expression)
    made = canonical.disjunction(parts)
    return Term(canonical.negation(made) if operator_of(node, location) == "<>" else made, location)


def distinct(typing: Resolving, node: Tree, location: int) -> Term:
    left, right = typing.resolve(node["lexpr"]), typing.resolve(node["rexpr"])
    made = _distinct(typing, left, right, location)
    return Term(canonical.negation(made) if node["kind"] == "AEXPR_NOT_DISTINCT" else made, location)


def _distinct(typing: Resolving, left: Term, right: Term, location: int) -> Expression:
    for side, other in ((left, right), (right, left)):
        if isinstance(side.expression, Const) and side.expression.text is None:
            if isinstance(other.expression, Const):
                return canonical.truth(other.expression.text is not None)
            return canonical.negation(IsNull(other.expression))
    compared = typing.binary("=", left, right, location).expression
    match compared:
        case Call(_, "=", args):
            return Call(t.BOOL, "IS DISTINCT FROM", args)
        case Const(_, text):
            return canonical.truth(text == "f")
        case _:  # a boolean expression compared with a constant
            sides = (typing.coerce(left, t.BOOL).expression, typing.coerce(right, t.BOOL).expression)
            return Call(t.BOOL, "IS DISTINCT FROM", sides)
