"""What columns were when their values were first read: DDL may replace values, and the stream does not say so. Pure.

Kept with whatever goes on from what it once read (a shape, a subquery's result), and compared with the catalogue later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from switchgear_shapes.relations import Column, Relation

Signature = tuple[tuple[str, int], ...]
"""(column, type OID) in table order."""


@dataclass(frozen=True, slots=True)
class Origin:
    """`columns`: number and version of those of a signature, in its order; `file`: see `Relation`."""

    columns: tuple[tuple[int, int], ...]
    file: int

    @classmethod
    def of(cls, relation: Relation, columns: Iterable[Column]) -> Origin:
        return _shared(cls(tuple([(column.number, column.version) for column in columns]), relation.file))

    def replaced(self, signature: Signature, relation: Relation) -> frozenset[str]:
        """The columns whose values may have been replaced by DDL since: they have the same names and types, but were
        dropped and added again, or altered while all rows were written anew."""
        now = {column.name: column for column in relation.columns}
        found = set()
        for (name, _), (number, version) in zip(signature, self.columns, strict=True):
            column = now.get(name)
            if column is None:
                continue
            altered = column.version != version and (not relation.file or relation.file != self.file)
            if column.number != number or altered:
                found.add(name)
        return frozenset(found)

    def to_json(self) -> list[Any]:
        return [self.file, self.columns]

    @classmethod
    def from_json(cls, data: list[Any] | None) -> Origin | None:
        """None for what older versions stored."""
        if data is None:
            return None
        file, columns = data
        return _shared(cls(tuple([(number, version) for number, version in columns]), file))


@lru_cache(maxsize=10_000)
def _shared(origin: Origin) -> Origin:
    """The same object for equal ones: most shapes are of few tables."""
    return origin
