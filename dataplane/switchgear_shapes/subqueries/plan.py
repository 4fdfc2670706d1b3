"""A where clause with subqueries as a disjunction of conjunctions of conditions. Pure.

Negations are moved down to the conditions, which three-valued logic allows: the clause is true exactly when in one of
the disjuncts all conditions are true. A condition is either free of subqueries (as large a part of the clause as
possible), or one `IN` or `NOT IN`. Its place in `Plan.conditions` is what the protocol calls a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from switchgear_shapes.relations import Relation
from switchgear_shapes.subqueries.equality import comparable
from switchgear_shapes.where.expression import (
    And,
    Call,
    Column,
    Expression,
    InList,
    InSubquery,
    IsNull,
    Not,
    Or,
    Subquery,
    Where,
)

MAX_DISJUNCTS = 100


class SubqueryRefused(ValueError):
    """The clause uses subqueries in a way that is not supported; the text is for the client."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A part of the clause without subqueries, that must be true."""

    expression: Expression


@dataclass(frozen=True, slots=True)
class Membership:
    """`(columns) IN` (or NOT IN) the result of `Where.subqueries[query]`."""

    columns: tuple[Column, ...]
    query: int
    negated: bool


Condition = Plain | Membership
Disjunct = tuple[int, ...]
Keep = Callable[[Condition], int]


@dataclass(frozen=True, slots=True)
class Plan:
    """`disjuncts` hold sorted positions of `conditions`. A clause without disjuncts is never true."""

    conditions: tuple[Condition, ...]
    disjuncts: tuple[Disjunct, ...]
    subqueries: tuple[Subquery, ...]

    @property
    def memberships(self) -> Iterator[tuple[int, Membership]]:
        """(position, condition) of those that ask a subquery."""
        for position, condition in enumerate(self.conditions):
            if isinstance(condition, Membership):
                yield position, condition

    def satisfied(self, truths: list[bool]) -> bool:
        """Whether a row belongs to the shape, given which of its conditions are true."""
        return any(all(truths[position] for position in disjunct) for disjunct in self.disjuncts)


def plan(where: Where) -> Plan:
    """Raises SubqueryRefused."""
    positions: dict[Condition, int] = {}

    def keep(condition: Condition) -> int:
        return positions.setdefault(condition, len(positions))

    disjuncts = _disjuncts(where.expression, False, keep)
    conditions = tuple(positions)
    for condition in conditions:
        if isinstance(condition, Membership):
            _check(condition, where.subqueries[condition.query])
    for query in where.subqueries:
        if query.where is not None and query.where.subqueries:
            plan(query.where)
    return Plan(conditions, tuple(disjuncts), where.subqueries)


def _check(condition: Membership, query: Subquery) -> None:
    for left, right in zip(condition.columns, query.columns, strict=True):
        for column in (left, right):
            if not comparable(column.type):
                name = column.type.name + ("[]" if column.type.array else "")
                raise SubqueryRefused(
                    f'column "{column.name}" of type {name} cannot be used with IN (SELECT ...):'
                    " equal values of this type can differ as text"
                )


def check_collations(columns: Iterable[Column], relation: Relation) -> None:
    """Raises SubqueryRefused for a column of the table whose values may be equal without being the same."""
    known = {column.name: column.collation for column in relation.columns}
    for column in columns:
        collation = known.get(column.name)
        if collation is not None and not collation.deterministic:
            raise SubqueryRefused(
                f'column "{column.name}" cannot be used with IN (SELECT ...):'
                f' its collation "{collation.name}" takes different texts as equal'
            )


def _disjuncts(node: Expression, negated: bool, keep: Keep) -> list[Disjunct]:
    """The disjunctive form of the node, or of its negation."""
    if not _has_subquery(node):
        return [(keep(Plain(Not(node) if negated else node)),)]
    match node:
        case Not(arg):
            return _disjuncts(arg, not negated, keep)
        case InSubquery(columns, query):
            return [(keep(Membership(columns, query, negated)),)]
        case And(args) | Or(args):
            conjunction = isinstance(node, And) is not negated
            return (_all if conjunction else _any)(_parts(type(node), args), negated, keep)
    raise SubqueryRefused("subqueries can only be combined with AND, OR and NOT")


def _parts(kind: type[And | Or], args: tuple[Expression, ...]) -> list[Expression]:
    """The arguments, with those that have no subquery joined to one."""
    plain = [arg for arg in args if not _has_subquery(arg)]
    others = [arg for arg in args if _has_subquery(arg)]
    return [*([kind(tuple(plain))] if len(plain) > 1 else plain), *others]


def _any(args: list[Expression], negated: bool, keep: Keep) -> list[Disjunct]:
    found: dict[Disjunct, None] = {}
    for arg in args:
        for disjunct in _disjuncts(arg, negated, keep):
            found[disjunct] = None
    return _limited(found)


def _all(args: list[Expression], negated: bool, keep: Keep) -> list[Disjunct]:
    found: dict[Disjunct, None] = {(): None}
    for arg in args:
        alternatives = _disjuncts(arg, negated, keep)
        if len(found) * len(alternatives) > MAX_DISJUNCTS**2:
            raise _too_many()
        found = {tuple(sorted({*left, *right})): None for left in found for right in alternatives}
        _limited(found)
    return list(found)


def _limited(found: dict[Disjunct, None]) -> list[Disjunct]:
    if len(found) > MAX_DISJUNCTS:
        raise _too_many()
    return list(found)


def _too_many() -> SubqueryRefused:
    return SubqueryRefused(
        f"the filter with its subqueries is too complex: it has more than {MAX_DISJUNCTS} alternatives"
        " when written as an OR of ANDs"
    )


def _has_subquery(node: Expression) -> bool:
    match node:
        case InSubquery():
            return True
        case And(args) | Or(args) | Call(_, _, args):
            return any(_has_subquery(arg) for arg in args)
        case Not(arg) | IsNull(arg) | InList(arg, _):
            return _has_subquery(arg)
        case _:
            return False
