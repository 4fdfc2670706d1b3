"""Which members want a row: a tree of indexes over the conditions of their where clauses.

A node holds members whose conditions on the way to it are true. What remains of a member's conditions is found through
the node's probes, or evaluated: equal remainders once for all members that share them. A node begins without probes and
gets them when its remainders become many, so that a leaf costs little and a popular constant is no list to walk.
Adding and removing cost the number of the clause's atoms. Finding costs what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from switchgear_shapes.replication.pgoutput import Value, Values
from switchgear_shapes.routing.conditions import EQUAL, Condition, Conditions, Path, best, conditions, expression_of
from switchgear_shapes.routing.keys import KeyFunction, same
from switchgear_shapes.routing.probes import Probe, probe_for
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.expression import Expression, Where

BURST = 8
"""Different remainders at which a node begins to index them."""
SMALL = 8
_NOWHERE = -1
"""The position of a column that the layout does not have: no row is matched before one comes that has it."""

Predicate = Callable[[Values], bool | None]


class Compile(Protocol):
    """Makes predicates. `where` is the clause that the expression is a part of: its subqueries are numbered there."""

    def __call__(self, expression: Expression, positions: Mapping[str, int], where: Where) -> Predicate: ...


class Member(Protocol):
    """What is indexed; without a clause it wants every row."""

    @property
    def where(self) -> Where | None: ...


M = TypeVar("M", bound=Member)

_Rest = tuple[Conditions, str | None]
"""A remainder; with subqueries in the clause, only for that clause."""
_Slot = tuple[int, str, KeyFunction]
"""Kind, column and key function: what the atoms of one probe have in common."""


class _Check(Generic[M]):
    """Members with the same remainder, which must be evaluated."""

    __slots__ = ("members", "predicate", "where")

    def __init__(self, where: Where) -> None:
        self.where = where
        self.members: dict[M, None] = {}
        self.predicate: Predicate | None = None


class _Node(Generic[M]):
    """See the module."""

    __slots__ = ("always", "checks", "finds", "lookups", "positions", "probes")

    def __init__(self) -> None:
        self.always: list[M] | dict[M, None] | None = None
        self.checks: dict[_Rest, _Check[M]] | None = None
        self.probes: dict[_Slot, Probe[_Node[M]]] | None = None
        # What `probes` are for matching: (position, function), plain look-ups apart from the others.
        self.lookups: Sequence[tuple[int, Callable[[Value], _Node[M] | None]]] = ()
        self.finds: Sequence[tuple[int, Callable[[Value, list[_Node[M]], list[_Node[M]]], None]]] = ()
        self.positions: Sequence[int] = ()
        """The columns that `probes` look at."""

    @property
    def empty(self) -> bool:
        return not self.always and not self.checks and not self.probes

    def keep(self, member: M) -> None:
        if self.always is None:
            self.always = [member]
        elif isinstance(self.always, dict):
            self.always[member] = None
        elif len(self.always) < SMALL:
            self.always.append(member)
        else:
            self.always = dict.fromkeys([*self.always, member])

    def let_go(self, member: M) -> None:
        if isinstance(self.always, dict):
            self.always.pop(member, None)
        elif self.always is not None and member in self.always:
            self.always.remove(member)

    def nodes(self) -> Iterator[_Node[M]]:
        """The node and all below."""
        yield self
        for probe in (self.probes or {}).values():
            for node in probe.items():
                yield from node.nodes()

    def members(self) -> Iterator[M]:
        """All members of the node and below; one with several paths may come several times."""
        for node in self.nodes():
            yield from node.always or ()
            for check in (node.checks or {}).values():
                yield from check.members

    def arrange(self, positions: Mapping[str, int]) -> None:
        """Make the probes ready for rows in this layout."""
        lookups = []
        finds = []
        for (kind, column, function), probe in (self.probes or {}).items():
            position = positions.get(column, _NOWHERE)
            if kind == EQUAL and function is same:
                lookups.append((position, probe.get))
            else:
                finds.append((position, probe.find))
        self.lookups = tuple(lookups)
        self.finds = tuple(finds)
        self.positions = tuple({position for position, _ in (*lookups, *finds)})


class Index(Generic[M]):
    """All members of one table. `columns` is the layout of its rows."""

    def __init__(self, columns: Sequence[str], compile_predicate: Compile) -> None:
        self._compile = compile_predicate
        self._root: _Node[M] = _Node()
        self._root.probes = {}
        self._whole: dict[_Rest, Predicate] = {}
        """Predicates of whole clauses, for values that an index could not place."""
        self._branching = 0
        """Members that a row may find by several paths."""
        self.unindexed = 0
        """Members that are evaluated for every row."""
        self.undecided: list[M] = []
        """Members whose conditions were not evaluated on a row, for a value of it is too large: for others to clear."""
        self._positions: dict[str, int] = {}
        self.set_layout(columns)

    def set_layout(self, columns: Sequence[str]) -> None:
        """Rows have these columns from now on."""
        self._positions = {name: index for index, name in enumerate(columns)}
        self._whole.clear()
        for node in self._root.nodes():
            node.arrange(self._positions)
            for check in (node.checks or {}).values():
                check.predicate = None

    # -- members --

    def add(self, member: M) -> None:
        wanted = _conditions_of(member)
        self._count(wanted, 1)
        self._insert(self._root, wanted, member)

    def remove(self, member: M) -> None:
        """The member must be there."""
        wanted = _conditions_of(member)
        self._count(wanted, -1)
        if self._whole and member.where is not None:
            self._whole.pop(_whole(member.where), None)
        self._delete(self._root, wanted, member)

    def __iter__(self) -> Iterator[M]:
        return iter(dict.fromkeys(self._root.members()))

    def _count(self, wanted: Conditions, by: int) -> None:
        if wanted and best(wanted) is None:
            self.unindexed += by
        if any(condition.paths is not None and len(condition.paths) > 1 for condition in wanted):
            self._branching += by

    def _insert(self, node: _Node[M], wanted: Conditions, member: M) -> None:
        if not wanted:
            node.keep(member)
            return
        place = None if node.probes is None else best(wanted)
        if place is None:
            self._insert_check(node, wanted, member)
            return
        assert node.probes is not None
        for path, rest in _branches(wanted, place):
            slot = _slot(path)
            probe = node.probes.get(slot)
            if probe is None:
                probe = node.probes[slot] = probe_for(path.atom)
                node.arrange(self._positions)
            below = probe.get(path.atom.key)
            if below is None:
                below = _Node()
                probe.add(path.atom.key, below)
            self._insert(below, rest, member)

    def _insert_check(self, node: _Node[M], wanted: Conditions, member: M) -> None:
        where = member.where
        assert where is not None
        if node.checks is None:
            node.checks = {}
        key = _rest(wanted, where)
        check = node.checks.get(key)
        if check is None:
            check = node.checks[key] = _Check(where)
        check.members[member] = None
        if node.probes is None and len(node.checks) > BURST:
            self._burst(node)

    def _burst(self, node: _Node[M]) -> None:
        checks, node.checks = node.checks or {}, None
        node.probes = {}
        for (wanted, _), check in checks.items():
            for member in check.members:
                self._insert(node, wanted, member)

    def _delete(self, node: _Node[M], wanted: Conditions, member: M) -> None:
        if not wanted:
            node.let_go(member)
            return
        place = None if node.probes is None else best(wanted)
        if place is None:
            assert member.where is not None
            key = _rest(wanted, member.where)
            check = (node.checks or {}).get(key)
            if check is not None:
                check.members.pop(member, None)
                if not check.members:
                    assert node.checks is not None
                    del node.checks[key]
            return
        assert node.probes is not None
        for path, rest in _branches(wanted, place):
            slot = _slot(path)
            probe = node.probes.get(slot)
            below = None if probe is None else probe.get(path.atom.key)
            if probe is None or below is None:  # another path through the same entry was the last one there
                continue
            self._delete(below, rest, member)
            if below.empty:
                probe.remove(path.atom.key)
                if not len(probe):
                    del node.probes[slot]
                    node.arrange(self._positions)

    # -- rows --

    @property
    def depth(self) -> int | None:
        """How many leading columns `find` needs; None when a row must be matched as a whole."""
        root = self._root
        if root.always or root.checks:
            return None
        return 1 + max(root.positions, default=-1)

    def find(self, values: Values) -> list[_Node[M]]:
        """What `collect` needs of a row that begins with these values: `depth` of them. Empty: no member wants it."""
        root = self._root
        found: list[_Node[M]] = []
        for position, get in root.lookups:
            below = get(values[position])
            if below is not None:
                found.append(below)
        if root.finds:
            unsure: list[_Node[M]] = []
            for position, find in root.finds:
                find(values[position], found, unsure)
            if unsure:
                found.append(self._doubtful(unsure))
        return found

    def collect(self, found: list[_Node[M]], row: Values) -> list[M]:
        """The members that want the row, each once; `found` is what `find` gave for it."""
        out: list[M] = []
        root = self._root
        if root.always:
            out.extend(root.always)
        if root.checks:
            self._evaluate(root, row, out)
        for node in found:
            if node.checks or node.probes:
                self._collect(node, row, out)
            elif node.always:
                out.extend(node.always)
        return list(dict.fromkeys(out)) if self._branching and len(out) > 1 else out

    def match_both(self, old: Values, new: Values) -> tuple[list[M], list[M]]:
        """The members that want the old row, and those that want the new one: the same list where that is certain."""
        root = self._root
        found = self.find(new)
        news = self.collect(found, new)
        for position in root.positions:
            if old[position] != new[position]:
                return self.match(old), news
        if root.checks:
            return self.collect(found, old), news
        for node in found:
            if node.checks or node.probes:
                return self.collect(found, old), news
        return news, news

    def match(self, row: Values) -> list[M]:
        """The members that want the row, each once."""
        return self.collect(self.find(row), row)

    def _collect(self, node: _Node[M], row: Values, out: list[M]) -> None:
        if node.always:
            out.extend(node.always)
        if node.checks:
            self._evaluate(node, row, out)
        for position, get in node.lookups:
            below = get(row[position])
            if below is not None:
                self._collect(below, row, out)
        if node.finds:
            found: list[_Node[M]] = []
            unsure: list[_Node[M]] = []
            for position, find in node.finds:
                find(row[position], found, unsure)
            if unsure:
                found.append(self._doubtful(unsure))
            for below in found:
                self._collect(below, row, out)

    def _evaluate(self, node: _Node[M], row: Values, out: list[M]) -> None:
        for (wanted, _), check in (node.checks or {}).items():
            predicate = check.predicate
            if predicate is None:
                predicate = check.predicate = self._compile(expression_of(wanted), self._positions, check.where)
            try:
                if predicate(row) is True:
                    out.extend(check.members)
            except TooLarge:
                self.undecided.extend(check.members)

    def _doubtful(self, unsure: list[_Node[M]]) -> _Node[M]:
        """A node whose members are those below `unsure`, each wanting a row if its whole clause is true.

        No member below is found in another way by the same value: it has no key.
        """
        node: _Node[M] = _Node()
        checks = node.checks = {}
        for member in dict.fromkeys(member for doubted in unsure for member in doubted.members()):
            assert member.where is not None
            key = _whole(member.where)
            check = checks.get(key)
            if check is None:
                check = checks[key] = _Check(member.where)
                check.predicate = self._whole.get(key)
                if check.predicate is None:
                    expression = member.where.expression
                    check.predicate = self._whole[key] = self._compile(expression, self._positions, member.where)
            check.members[member] = None
        return node


def _conditions_of(member: Member) -> Conditions:
    return () if member.where is None else conditions(member.where.expression)


def _slot(path: Path) -> _Slot:
    atom = path.atom
    return atom.kind, atom.column, atom.function


def _rest(wanted: Conditions, where: Where) -> _Rest:
    return wanted, where.sql if where.subqueries else None


def _whole(where: Where) -> _Rest:
    return _rest((Condition(where.expression, None),), where)


def _branches(wanted: Conditions, place: int) -> Iterator[tuple[Path, Conditions]]:
    """The paths of the chosen condition, each with what remains to be true.

    Once there are several, other conditions with several paths are evaluated instead: the number of entries must not
    be the product.
    """
    chosen = wanted[place].paths
    assert chosen is not None
    others = wanted[:place] + wanted[place + 1 :]
    for path in chosen:
        rest = (*path.rest, *others)
        if len(chosen) > 1:
            rest = tuple(
                Condition(condition.expression, None)
                if condition.paths is not None and len(condition.paths) > 1
                else condition
                for condition in rest
            )
        yield path, rest
