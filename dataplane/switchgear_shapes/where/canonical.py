"""Building expressions in their canonical form, so that what means the same mostly is the same. Pure.

Every function gives an expression that is TRUE, FALSE or NULL exactly when the plain form would be. The order of AND
and OR is kept where an argument might raise an error, because the arguments before it may be there to prevent that.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from switchgear_shapes.where import types as t
from switchgear_shapes.where import values
from switchgear_shapes.where.expression import (
    And,
    Call,
    Column,
    Const,
    Expression,
    InList,
    IsNull,
    Not,
    Or,
    Type,
)
from switchgear_shapes.where.operators import FLIPPED, NEGATED

TRUE: Final = Const(t.BOOL, "t")
FALSE: Final = Const(t.BOOL, "f")
NULL: Final = Const(t.BOOL, None)


def truth(value: bool | None) -> Const:
    return NULL if value is None else TRUE if value else FALSE


def condition(node: Expression) -> Expression:
    """A boolean expression as a condition: a bare column is `column = true`."""
    return Call(t.BOOL, "=", (node, TRUE)) if isinstance(node, Column) else node


def negation(node: Expression) -> Expression:
    node = condition(node)
    match node:
        case Const(_, text):
            return NULL if text is None else truth(text == "f")
        case Not(arg):
            return arg
        case Call(_, "=", (arg, Const(Type("bool", False), text)), rule) if text is not None:
            return Call(t.BOOL, "=", (arg, truth(text == "f")), rule)
        case Call(_, "<" | "<=" | ">" | ">=", args, rule):
            return Call(t.BOOL, NEGATED[node.name], args, rule)
        case _:
            return Not(node)


def conjunction(args: list[Expression]) -> Expression:
    flat: dict[Expression, None] = {}
    for arg in map(condition, args):
        for part in arg.args if isinstance(arg, And) else (arg,):
            flat[part] = None
    flat.pop(TRUE, None)
    if FALSE in flat:
        return FALSE
    parts = _ordered(list(flat))
    return TRUE if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))


def disjunction(args: list[Expression]) -> Expression:
    flat: dict[Expression, None] = {}
    for arg in map(condition, args):
        for part in arg.args if isinstance(arg, Or) else (arg,):
            flat[part] = None
    flat.pop(FALSE, None)
    if TRUE in flat:
        return TRUE
    parts = _ordered(_merged(list(flat)))
    return FALSE if not parts else parts[0] if len(parts) == 1 else Or(tuple(parts))


def _merged(parts: list[Expression]) -> list[Expression]:
    """Equalities of one expression with constants become one list."""
    constants: dict[Expression, list[Const]] = {}
    where: dict[Expression, int] = {}
    kept: list[Expression | None] = []
    for part in parts:
        match part:
            case Call(_, "=", (arg, Const() as value), "") if value.type == arg.type != t.BOOL:
                found = [value]
            case InList(arg, listed):
                found = list(listed)
            case _:
                kept.append(part)
                continue
        if arg not in where:
            where[arg] = len(kept)
            kept.append(None)
        constants.setdefault(arg, []).extend(found)
    for arg, found in constants.items():
        kept[where[arg]] = in_list(arg, found)
    return [part for part in kept if part is not None]


def in_list(arg: Expression, constants: list[Const]) -> Expression:
    """`arg IN (constants)`, which have its type and are not NULL; at least one."""
    distinct = sorted(set(constants), key=lambda value: value.text or "")
    return Call(t.BOOL, "=", (arg, distinct[0])) if len(distinct) == 1 else InList(arg, tuple(distinct))


def _ordered(parts: list[Expression]) -> list[Expression]:
    return sorted(parts, key=repr) if len(parts) > 1 and all(map(cannot_fail, parts)) else parts


_CALM: Final = frozenset({"=", "<", "<=", ">", ">=", "IS TRUE", "IS FALSE", "IS DISTINCT FROM", "lower"})


def cannot_fail(node: Expression) -> bool:
    """Whether Postgres evaluates the node on every row without an error."""
    match node:
        case Const() | Column():
            return True
        case And(args) | Or(args):
            return all(map(cannot_fail, args))
        case Not(arg) | IsNull(arg) | InList(arg):
            return cannot_fail(arg)
        case Call(_, "~~" | "~~*", (text, pattern)):
            return isinstance(pattern, Const) and cannot_fail(text)
        case Call(_, name, args):
            return name in _CALM and all(map(cannot_fail, args))
        case _:
            return True


def comparison(name: str, left: Expression, right: Expression, rule: str = "") -> Expression:
    """`left name right` for arguments that the operator takes as they are."""
    if isinstance(left, Const) and not isinstance(right, Const):
        name, left, right = FLIPPED[name], right, left
    if any(isinstance(side, Const) and side.text is None for side in (left, right)):
        return NULL
    if name == "<>":
        return negation(comparison("=", left, right))
    if isinstance(right, Const):
        left, right = _with_constant(left, right)
        if left.type == t.BOOL and name == "=" and not isinstance(left, Column | Const):
            return left if right == TRUE else negation(left)
    return Call(t.BOOL, name, (left, right), rule)


def _with_constant(left: Expression, right: Const) -> tuple[Expression, Const]:
    """The constant in the left side's own type, wherever that compares the same."""
    text = right.text
    assert text is not None
    if left.type.array or right.type.array:
        return left, right
    uncast = left.args[0] if isinstance(left, Call) and left.name == "cast" else None
    if right.type == t.NUMERIC:
        right = Const(t.NUMERIC, comparable_numeric(text))
        whole = (right.text or "").lstrip("-")
        if uncast is not None and uncast.type.name in t.INTEGERS and whole.isdigit() and len(whole) < 19:
            left, right = uncast, Const(t.INT8, right.text)
    if left.type.name in t.INTEGERS and right.type.name in t.INTEGERS and left.type != right.type:
        low, high = t.INTEGERS[left.type.name]
        if low <= int(right.text or "0") <= high:
            return left, Const(left.type, right.text)
        return left, Const(t.INT8, right.text)
    if left.type.name in ("text", "varchar") and right.type.name in ("text", "varchar"):
        return left, Const(left.type, text)
    if left.type == t.BPCHAR == right.type:
        return left, Const(t.BPCHAR, text.rstrip(" "))
    if left.type.name in t.FLOATS and text == "-0":
        return left, Const(right.type, "0")
    return left, right


def comparable_numeric(text: str) -> str:
    """The shortest text of an equal number."""
    value = Decimal(text)
    if not value.is_finite():
        return text
    return values.print_numeric(values.checked_numeric(value.normalize(values.EXACT)))
