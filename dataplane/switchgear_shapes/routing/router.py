"""Which shapes a row change concerns: table → the index of its shapes' clauses, and groups that share lines. Pure.

A group renders a change once for all of its shapes: those of one projection. A shape whose definition does not outlive
what the stream says about its table is not indexed but kept apart, for whoever must end it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from switchgear_shapes.definition import Definition
from switchgear_shapes.replication.pgoutput import RelationMessage
from switchgear_shapes.routing.encode import Encoder
from switchgear_shapes.routing.index import Compile, Index, Predicate
from switchgear_shapes.where.cost import bounded
from switchgear_shapes.where.evaluate import predicate
from switchgear_shapes.where.expression import Expression, Where


class Target(Protocol):
    """A shape, as far as routing needs to know it."""

    @property
    def definition(self) -> Definition: ...


T = TypeVar("T", bound=Target)


class Group:
    """Shapes of one table whose lines have the same bytes. `encoder` is None when the table became another one."""

    __slots__ = ("definition", "encoder", "size")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.encoder: Encoder | None = None
        self.size = 0

    def fit(self, relation: RelationMessage) -> None:
        signature = tuple((column.name, column.type_oid) for column in relation.columns)
        fits = self.definition.takes_rows_of(relation.oid, relation.schema, relation.name, signature)
        self.encoder = Encoder(self.definition, [column.name for column in relation.columns]) if fits else None


class Member(Generic[T]):
    """A shape in the index of its table."""

    __slots__ = ("group", "target", "where")

    def __init__(self, target: T, group: Group) -> None:
        self.target = target
        self.group = group
        self.where: Where | None = target.definition.where


class Table(Generic[T]):
    """The shapes of one table. `relation` is what the stream last said about it; None until then."""

    def __init__(self, definition: Definition, compile_predicate: Compile) -> None:
        self.relation: RelationMessage | None = None
        self.members: dict[T, Member[T]] = {}
        self.misfits: dict[T, Member[T]] = {}
        """Those of the members that do not outlive the relation."""
        self.depth: int | None = None
        """How many leading columns tell whether a row may concern a shape; None when it must be matched as a whole."""
        self.likely = True
        """Whether the last change concerned a shape: the next one probably will, or will not, as well."""
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._deferrable = definition.pk if definition.deferrable else ()
        self.is_deferrable = definition.deferrable
        self._columns = tuple(name for name, _ in definition.signature)
        self.width = len(self._columns)
        self.index: Index[Member[T]] = Index(self._columns, compile_predicate)

    def add(self, target: T) -> None:
        self.remove(target)
        key = _group_key(target.definition)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(target.definition)
            if self.relation is not None:
                group.fit(self.relation)
        group.size += 1
        member = self.members[target] = Member(target, group)
        if self.relation is not None and group.encoder is None:
            self.misfits[target] = member
        else:
            self.index.add(member)
        self._look()

    def remove(self, target: T) -> None:
        member = self.members.pop(target, None)
        if member is None:
            return
        if self.misfits.pop(target, None) is None:
            self.index.remove(member)
        member.group.size -= 1
        if not member.group.size:
            del self._groups[_group_key(target.definition)]
        self._look()

    def fit(self, relation: RelationMessage) -> None:
        """The stream describes the table (again): rows have its layout from now on."""
        known, self.relation = self.relation, relation
        if known == relation:
            return
        for group in self._groups.values():
            group.fit(relation)
        if any(group.encoder is None for group in self._groups.values()) or self.misfits:
            for target, member in self.members.items():
                misfit = member.group.encoder is None
                if misfit and target not in self.misfits:
                    self.index.remove(member)
                    self.misfits[target] = member
                elif not misfit and self.misfits.pop(target, None) is not None:
                    self.index.add(member)
        columns = tuple(column.name for column in relation.columns)
        if columns != self._columns:
            self._columns = columns
            self.width = len(columns)
            self.index.set_layout(columns)
        self._look()

    @property
    def deferrable(self) -> tuple[int, ...]:
        """The positions of a primary key that may be violated within a transaction; of others none."""
        return tuple(self._columns.index(name) for name in self._deferrable if name in self._columns)

    def _look(self) -> None:
        self.depth = None if self.misfits else self.index.depth


def evaluated(expression: Expression, positions: Mapping[str, int], where: Where) -> Predicate:
    """Predicates of clauses without subqueries."""
    return bounded(predicate(expression, positions), expression, positions)


class Router(Generic[T]):
    """All tables with shapes, by OID. The shapes of a partitioned table are in the tables of its leaves, too."""

    def __init__(self, compile_predicate: Compile = evaluated) -> None:
        self._compile = compile_predicate
        self.tables: dict[int, Table[T]] = {}
        self._leaves: dict[int, frozenset[int]] = {}

    def add(self, target: T) -> None:
        for oid in self.sources(target.definition.oid):
            self._add(oid, target)

    def remove(self, target: T) -> None:
        for oid in self.sources(target.definition.oid):
            self._remove(oid, target)

    def sources(self, oid: int) -> tuple[int, ...]:
        """The tables under which the stream may name a table's rows."""
        leaves = self._leaves.get(oid)
        return (oid,) if leaves is None else (oid, *leaves)

    def set_leaves(self, root: int, leaves: frozenset[int]) -> None:
        """The rows of a partitioned table come from these tables from now on."""
        before = self._leaves.get(root, frozenset())
        table = self.tables.get(root)
        shapes = [] if table is None else list(table.members)
        for target in shapes:
            for oid in before - leaves:
                self._remove(oid, target)
            for oid in leaves - before:
                self._add(oid, target)
        if leaves:
            self._leaves[root] = leaves
        else:
            self._leaves.pop(root, None)

    def _add(self, oid: int, target: T) -> None:
        table = self.tables.get(oid)
        if table is None:
            table = self.tables[oid] = Table(target.definition, self._compile)
        table.add(target)

    def _remove(self, oid: int, target: T) -> None:
        table = self.tables.get(oid)
        if table is not None:
            table.remove(target)
            if not table.members:
                del self.tables[oid]

    def targets_of(self, oid: int, accepts: Callable[[T], bool]) -> Iterator[T]:
        """All shapes of a table."""
        table = self.tables.get(oid)
        for target in () if table is None else table.members:
            if accepts(target):
                yield target

    @property
    def unindexed(self) -> int:
        """Shapes whose clause is evaluated for every row of their table."""
        return sum(table.index.unindexed for table in self.tables.values())


def _group_key(definition: Definition) -> tuple[Any, ...]:
    """What decides over a line's bytes, and over whether the shape outlives a change of its table."""
    return (
        definition.schema,
        definition.table,
        definition.pk,
        definition.columns,
        definition.selects_all,
        definition.full_replica,
        definition.signature,
        definition.salt,
        None if definition.where is None else definition.where.columns,
    )
