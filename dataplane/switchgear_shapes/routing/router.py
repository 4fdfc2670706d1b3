"""Which shapes a row change may concern: table → groups of shapes that share a projection. Pure.

A group renders a change once for all of its shapes. Shapes with filters will sit in an index inside their group; whole
tables match every change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from switchgear_shapes.definition import Definition
from switchgear_shapes.replication.pgoutput import RelationMessage
from switchgear_shapes.routing.encode import Encoder


class Target(Protocol):
    """A shape, as far as routing needs to know it."""

    @property
    def definition(self) -> Definition: ...


T = TypeVar("T", bound=Target)


class Group(Generic[T]):
    """Shapes of one table whose lines have the same bytes."""

    __slots__ = ("_encoder", "_relation", "definition", "targets")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.targets: dict[T, None] = {}
        self._relation: RelationMessage | None = None
        self._encoder: Encoder | None = None

    def encoder(self, relation: RelationMessage) -> Encoder | None:
        """The encoder for rows of this relation message; None when the group's shapes cannot outlive the change."""
        if self._relation is not relation:
            self._relation = relation
            signature = tuple((column.name, column.type_oid) for column in relation.columns)
            fits = self.definition.survives(relation.oid, relation.schema, relation.name, signature)
            self._encoder = Encoder(self.definition, [c.name for c in relation.columns]) if fits else None
        return self._encoder


class Router(Generic[T]):
    """All tables with shapes, by OID."""

    def __init__(self) -> None:
        self.tables: dict[int, list[Group[T]]] = {}
        self._groups: dict[tuple[Any, ...], Group[T]] = {}

    def add(self, target: T) -> None:
        key = _group_key(target.definition)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(target.definition)
            self.tables.setdefault(target.definition.oid, []).append(group)
        group.targets[target] = None

    def remove(self, target: T) -> None:
        key = _group_key(target.definition)
        group = self._groups.get(key)
        if group is None:
            return
        group.targets.pop(target, None)
        if not group.targets:
            del self._groups[key]
            groups = self.tables[target.definition.oid]
            groups.remove(group)
            if not groups:
                del self.tables[target.definition.oid]

    def targets_of(self, oid: int, accepts: Callable[[T], bool]) -> Iterator[T]:
        """All shapes of a table."""
        for group in self.tables.get(oid, ()):
            for target in group.targets:
                if accepts(target):
                    yield target


def _group_key(definition: Definition) -> tuple[Any, ...]:
    return (*definition.identity[:-2], definition.signature, definition.salt)
