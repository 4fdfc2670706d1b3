"""From a where clause to the ways by which an index can find it. Pure.

A clause is taken apart into conditions that must all be true. A condition may have paths: an atom, which is one entry
of one index, and what must be true besides. A row for which the condition is true fits the atom of at least one path,
and every path that the row fits wholly makes the condition true. Three-valued logic allows this: AND is true when both
sides are, OR when one side is, and NOT is moved inwards as "is false". No paths at all: the condition is never true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

from switchgear_shapes.routing import keys
from switchgear_shapes.routing.keys import Key, KeyFunction
from switchgear_shapes.where.expression import (
    BOOL,
    And,
    Call,
    Column,
    Const,
    Expression,
    InList,
    IsNull,
    Not,
    Or,
)

MAX_PATHS = 1000
"""A condition with more ways to be true than this is not indexed."""

EQUAL, ELEMENT, PREFIX, RANGE, FIRST, PRESENT = range(6)
"""Kinds of atoms: the value is the key; an element of the array is; its text begins with the key; it lies within; the
array's first element is (or it is empty, for None); it is not NULL."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One entry of one index of one column. `selectivity`: lower finds fewer rows."""

    kind: int
    column: str
    function: KeyFunction
    key: Key
    selectivity: int


@dataclass(frozen=True, slots=True)
class Path:
    """What finds a condition, and what must be true besides."""

    atom: Atom
    rest: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """`paths` is None for what cannot be indexed: the expression must be evaluated."""

    expression: Expression
    paths: tuple[Path, ...] | None
    _hash: int | None = field(default=None, init=False, compare=False, repr=False)

    def __hash__(self) -> int:
        """Kept: it walks the expression, and the condition is part of each of the paths that it is the rest of."""
        if self._hash is None:
            object.__setattr__(self, "_hash", hash((self.expression, self.paths)))
        return self._hash  # type: ignore[return-value]

    @property
    def rank(self) -> tuple[int, int]:
        assert self.paths is not None
        return max((path.atom.selectivity for path in self.paths), default=-1), len(self.paths)


Conditions = tuple[Condition, ...]


def conditions(expression: Expression) -> Conditions:
    """What must be true so that the expression is true."""
    return _join(_true(expression))


def best(conditions: Conditions) -> int | None:
    """The place of the condition that finds its rows most precisely."""
    place: int | None = None
    rank = (0, 0)
    for index, condition in enumerate(conditions):
        if condition.paths is not None:
            found = condition.rank
            if place is None or found < rank:
                place, rank = index, found
    return place


def expression_of(conditions: Conditions) -> Expression:
    if len(conditions) == 1:
        return conditions[0].expression
    return And(tuple(condition.expression for condition in conditions))


# -- taking apart --


def _true(node: Expression) -> list[Condition]:
    """Conditions that are all true just when the node is."""
    match node:
        case Const():
            return [] if node.text in ("t", "true") else [Condition(node, ())]
        case And(args):
            return list(chain.from_iterable(_true(arg) for arg in args))
        case Or(args):
            return [_any(node, [_true(arg) for arg in args])]
        case Not(arg):
            return _false(arg, node)
        case Column():
            return [_equal(node, node, Const(node.type, "t"))]
        case IsNull(arg):
            name = keys.column_of(arg)
            return [Condition(node, None if name is None else (_path(EQUAL, name, keys.same, None, 5),))]
        case InList(arg, values):
            return [_any(node, [[_equal(node, arg, value)] for value in values if value.text is not None])]
        case Call():
            return [_call(node)]
        case _:
            return [Condition(node, None)]


def _false(node: Expression, negation: Expression) -> list[Condition]:
    """Conditions that are all true just when the node is false; `negation` is its NOT."""
    match node:
        case Const():
            return [] if node.text in ("f", "false") else [Condition(negation, ())]
        case And(args):
            return [_any(negation, [_false(arg, Not(arg)) for arg in args])]
        case Or(args):
            return list(chain.from_iterable(_false(arg, Not(arg)) for arg in args))
        case Not(arg):
            return _true(arg)
        case Column():
            return [_equal(negation, node, Const(node.type, "f"))]
        case IsNull(arg):
            name = keys.column_of(arg)
            return [Condition(negation, None if name is None else (_path(PRESENT, name, keys.same, None, 9),))]
        case Call(_, "<>", (left, right)):
            return [_comparison(negation, "=", left, right)]
        case Call(_, ("<" | "<=" | ">" | ">=") as operator, (left, right)):
            return [_comparison(negation, _NEGATED[operator], left, right)]
        case _:
            return [Condition(negation, None)]


def _any(node: Expression, alternatives: list[list[Condition]]) -> Condition:
    """At least one alternative is true: it is indexed when all of them are. Where one may fail on a row, its place
    decides whether another that is true counts: the whole is evaluated besides."""
    whole = (Condition(node, None),) if len(alternatives) > 1 and keys.may_fail(node) else ()
    paths: dict[Path, None] = {}
    for alternative in alternatives:
        joined = _join(alternative)
        place = best(joined)
        if place is None:
            return Condition(node, None)
        others = joined[:place] + joined[place + 1 :]
        chosen = joined[place].paths
        assert chosen is not None
        for path in chosen:
            paths[Path(path.atom, whole or path.rest + others)] = None
        if len(paths) > MAX_PATHS:
            return Condition(node, None)
    return Condition(node, tuple(paths))


def _join(parts: list[Condition]) -> Conditions:
    """Equal conditions once, and ranges of one column as one."""
    if len(parts) == 1:  # each constant of a list, whose condition has the whole list as its expression
        return (parts[0],)
    joined: dict[tuple[str, KeyFunction], Condition] = {}
    others: dict[Condition, None] = {}
    for condition in parts:
        paths = condition.paths
        if paths is None or len(paths) != 1 or paths[0].atom.kind != RANGE or paths[0].rest:
            others[condition] = None
            continue
        atom = paths[0].atom
        known = joined.get((atom.column, atom.function))
        joined[atom.column, atom.function] = condition if known is None else _intersection(known, condition)
    return (*joined.values(), *others)


def _intersection(left: Condition, right: Condition) -> Condition:
    assert left.paths is not None
    assert right.paths is not None
    both = And((left.expression, right.expression))
    if not left.paths:
        return Condition(both, ())
    atom, other = left.paths[0].atom, right.paths[0].atom
    lows = [low for low, _ in (atom.key, other.key) if low is not None]
    highs = [high for _, high in (atom.key, other.key) if high is not None]
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and not low < high:
        return Condition(both, ())
    selectivity = 7 if low is None or high is None else 4
    return Condition(both, (_path(RANGE, atom.column, atom.function, (low, high), selectivity),))


# -- atoms --

_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def _path(kind: int, column: str, function: KeyFunction, key: Key, selectivity: int) -> Path:
    return Path(Atom(kind, column, function, key, selectivity))


def _call(node: Call) -> Condition:
    match node:
        case Call(_, ("=" | "<" | "<=" | ">" | ">=") as operator, (left, right)):
            return _comparison(node, operator, left, right)
        case Call(_, "IS TRUE", (arg,)):
            return _any(node, [_true(arg)])
        case Call(_, "IS FALSE", (arg,)):
            return _any(node, [_false(arg, Not(arg))])
        case Call(_, "~~", (arg, Const() as pattern)):
            return _like(node, arg, pattern)
        case Call(_, "@>", (Column() as array, Const() as const)) | Call(
            _, "<@", (Const() as const, Column() as array)
        ):
            return _contains(node, array, const)
        case Call(_, "<@", (Column() as array, Const() as const)) | Call(
            _, "@>", (Const() as const, Column() as array)
        ):
            return _contained(node, array, const)
        case Call(_, "&&", (Column() as array, Const() as const) | (Const() as const, Column() as array)):
            return _overlaps(node, array, const)
        case Call(_, "= ANY", (Const() as const, Column() as array)):
            return _element_of(node, array, const)
    return Condition(node, None)


def _comparison(node: Expression, operator: str, left: Expression, right: Expression) -> Condition:
    if isinstance(left, Const):
        left, right, operator = right, left, _MIRRORED[operator]
    if not isinstance(right, Const):
        return Condition(node, None)
    if right.text is None:
        return Condition(node, ())
    return _equal(node, left, right) if operator == "=" else _range(node, operator, left, right)


def _equal(node: Expression, arg: Expression, const: Const) -> Condition:
    name = keys.column_of(arg)
    if name is None or not (function := keys.equality(const.type)) or not _comparable(arg, const):
        return Condition(node, None)
    assert const.text is not None
    selectivity = 7 if const.type.name == "bool" else 0
    try:
        return Condition(node, (_path(EQUAL, name, function, function(const.text.encode()), selectivity),))
    except ValueError:
        return Condition(node, None)


def _range(node: Expression, operator: str, arg: Expression, const: Const) -> Condition:
    name = keys.column_of(arg)
    if name is None or not (function := keys.order(const.type)) or not _comparable(arg, const):
        return Condition(node, None)
    assert const.text is not None
    try:
        end = function(const.text.encode())
    except ValueError:
        return Condition(node, None)
    # A value v is looked for as (v, 1): it lies above (c, 0) from c on, above (c, 2) behind c, and likewise below.
    match operator:
        case "<":
            key: Key = (None, (end, 0))
        case "<=":
            key = (None, (end, 2))
        case ">":
            key = ((end, 2), None)
        case _:
            key = ((end, 0), None)
    return Condition(node, (_path(RANGE, name, function, key, 7),))


def _comparable(arg: Expression, const: Const) -> bool:
    """Whether both are of one type, or of types whose values compare as their text does."""
    if arg.type == const.type:
        return True
    if arg.type.array or const.type.array:
        return False
    return any(arg.type.name in family and const.type.name in family for family in (keys.TEXTS, keys.INTEGERS))


def _like(node: Call, arg: Expression, pattern: Const) -> Condition:
    name = keys.column_of(arg)
    if name is None or arg.type.name not in keys.TEXTS or arg.type.array:
        return Condition(node, None)
    if pattern.text is None:
        return Condition(node, ())
    prefix, rest = _literal_prefix(pattern.text)
    if rest is None or (not prefix and rest != ""):
        return Condition(node, None)
    if rest == "":
        return Condition(node, (_path(EQUAL, name, keys.same, prefix.encode(), 0),))
    besides = () if rest == "%" else (Condition(node, None),)
    return Condition(node, (Path(Atom(PREFIX, name, keys.same, prefix.encode(), 3), besides),))


def _literal_prefix(pattern: str) -> tuple[str, str | None]:
    """The text with which every match begins, and the pattern's rest; None for a pattern that ends in its escape."""
    prefix = []
    at = 0
    while at < len(pattern) and pattern[at] not in "%_":
        if pattern[at] == "\\":
            at += 1
            if at == len(pattern):
                return "", None
        prefix.append(pattern[at])
        at += 1
    return "".join(prefix), pattern[at:]


# -- arrays --


def _elements(array: Column, const: Const) -> tuple[KeyFunction, list[bytes | None]] | None:
    """How elements become keys, and the constant's elements; None when they cannot be indexed."""
    if not array.type.array or array.type != const.type or const.text is None:
        return None
    function = keys.element_equality(array.type)
    if function is None:
        return None
    try:
        return function, keys.elements(const.text.encode())
    except ValueError:
        return None


def _contains(node: Expression, array: Column, const: Const) -> Condition:
    """array @> const: each element of the constant is one of the array."""
    found = _elements(array, const)
    if found is None:
        return Condition(node, () if const.text is None else None)
    function, wanted = found
    if None in wanted:  # NULL equals nothing
        return Condition(node, ())
    if not wanted:
        return Condition(node, (_path(PRESENT, array.name, keys.same, None, 9),))
    parts = [
        _path(ELEMENT, array.name, function, function(item), 2) for item in dict.fromkeys(wanted) if item is not None
    ]
    first, *others = parts
    rest = tuple(Condition(_has(array, path), (path,)) for path in others)
    return Condition(node, (Path(first.atom, rest),))


def _element_of(node: Expression, array: Column, const: Const) -> Condition:
    """const = ANY (array)."""
    if const.text is None:
        return Condition(node, ())
    function = keys.element_equality(array.type)
    if function is None or const.type.name != array.type.name:
        return Condition(node, None)
    return Condition(node, (_path(ELEMENT, array.name, function, function(const.text.encode()), 2),))


def _has(array: Column, path: Path) -> Expression:
    """That the array has the element, as an expression of its own."""
    text = b'{"' + path.atom.key.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"}'
    return Call(BOOL, "@>", (array, Const(array.type, text.decode())))


def _overlaps(node: Expression, array: Column, const: Const) -> Condition:
    found = _elements(array, const)
    if found is None:
        return Condition(node, () if const.text is None else None)
    function, wanted = found
    items = [item for item in dict.fromkeys(wanted) if item is not None]
    if len(items) > MAX_PATHS:
        return Condition(node, None)
    return Condition(node, tuple(_path(ELEMENT, array.name, function, function(item), 2) for item in items))


def _contained(node: Expression, array: Column, const: Const) -> Condition:
    """array <@ const: the array is empty, or its first element and all others are among the constant's."""
    found = _elements(array, const)
    if found is None:
        return Condition(node, () if const.text is None else None)
    function, allowed = found
    besides = (Condition(node, None),)
    items = [item for item in dict.fromkeys(allowed) if item is not None]
    if len(items) >= MAX_PATHS:
        return Condition(node, None)
    paths = [Path(Atom(FIRST, array.name, function, function(item), 6), besides) for item in items]
    return Condition(node, (Path(Atom(FIRST, array.name, function, None, 6)), *paths))
