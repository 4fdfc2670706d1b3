"""Rows of the stream against a plan: which conditions are true, and what a row gives to a subquery's result. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from switchgear_shapes.replication.pgoutput import Values
from switchgear_shapes.subqueries.equality import Key, Normal, normal
from switchgear_shapes.subqueries.plan import Membership, Plain, Plan
from switchgear_shapes.subqueries.values import Group
from switchgear_shapes.where.cost import bounded
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Column

Truth = Callable[[int, Key], bool]
"""Whether the membership at a position is true of a key."""


class Broken(Exception):
    """A shape cannot go on; the text is the reason for its end."""


class KeyReader:
    """Columns of a row in their normal form."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Sequence[Column], positions: dict[str, int]) -> None:
        self._columns: list[tuple[int, Normal]] = [(positions[c.name], normal(c.type)) for c in columns]

    def __call__(self, row: Values) -> Key:
        found: list[bytes | None] = []
        for index, normalise in self._columns:
            value = row[index]
            found.append(normalise(value) if isinstance(value, bytes) else None)
        return tuple(found)


class PlanReader:
    """A plan for rows in the column order `columns`. Raises KeyError when a needed column is not among them."""

    __slots__ = ("_disjuncts", "_plain", "keys", "width")

    def __init__(self, plan: Plan, columns: Sequence[str]) -> None:
        positions = {name: index for index, name in enumerate(columns)}
        self._plain = [
            (at, bounded(predicate(condition.expression, positions), condition.expression, positions))
            for at, condition in enumerate(plan.conditions)
            if isinstance(condition, Plain)
        ]
        self.keys = [
            (at, KeyReader(condition.columns, positions))
            for at, condition in enumerate(plan.conditions)
            if isinstance(condition, Membership)
        ]
        self._disjuncts = plan.disjuncts
        self.width = len(plan.conditions)

    def plain_truths(self, row: Values) -> list[bool]:
        """By position; memberships are given as true. Raises Broken."""
        truths = [True] * self.width
        try:
            for at, evaluate in self._plain:
                truths[at] = evaluate(row) is True
        except TooLarge as error:
            raise Broken(str(error)) from None
        return truths

    def possible(self, truths: list[bool]) -> bool:
        """Whether the row can belong, whatever the memberships say."""
        return any(all(truths[at] for at in disjunct) for disjunct in self._disjuncts)


class GroupReader:
    """What a row of a subquery's table gives to its result; None for nothing. `plan` is None without a filter."""

    __slots__ = ("_memberships", "_output", "_reader", "_ways")

    def __init__(self, output: Sequence[Column], plan: Plan | None, columns: Sequence[str]) -> None:
        self._output = KeyReader(output, {name: index for index, name in enumerate(columns)})
        self._reader = None if plan is None else PlanReader(plan, columns)
        self._ways: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        if plan is not None:
            memberships = {at for at, _ in plan.memberships}
            for disjunct in plan.disjuncts:
                plain = tuple(at for at in disjunct if at not in memberships)
                self._ways.append((plain, tuple(at for at in disjunct if at in memberships)))

    def __call__(self, row: Values) -> Group | None:
        """Raises Broken."""
        reader = self._reader
        if reader is None:
            return Group(self._output(row))
        truths = reader.plain_truths(row)
        alive = [asked for plain, asked in self._ways if all(truths[at] for at in plain)]
        if not alive:
            return None
        if any(not asked for asked in alive):
            return Group(self._output(row))
        needed = {at for asked in alive for at in asked}
        keys = {at: read(row) for at, read in reader.keys if at in needed}
        ways = dict.fromkeys(tuple((at, keys[at]) for at in asked) for asked in alive)
        return Group(self._output(row), tuple(ways))
