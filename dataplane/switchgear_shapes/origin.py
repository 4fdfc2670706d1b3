"""What columns were when their values were first read: DDL may replace values, and the stream does not say so. Pure.

Kept with whatever goes on from what it once read (a shape, a subquery's result), and compared with the catalogue later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from switchgear_shapes.relations import Column, Relation

Signature = tuple[tuple[str, int], ...]
"""(column, type OID) in table order."""


Make = tuple[str, int, str]
"""What a value's text depends on in types of somebody's own: a hash of the attributes of composites, the OID of the
last label of enums, a hash of the labels up to it. A label that is added later changes no value."""


@dataclass(frozen=True, slots=True)
class Origin:
    """`columns`: number and version of those of a signature, in its order; `file`: see `Relation`; `makes`: of those
    columns that have one, by their place."""

    columns: tuple[tuple[int, int], ...]
    file: int
    makes: tuple[tuple[int, Make], ...] = ()

    @classmethod
    def of(cls, relation: Relation, columns: Iterable[Column]) -> Origin:
        columns = list(columns)
        numbers = tuple([(column.number, column.version) for column in columns])
        return _shared(cls(numbers, relation.file, _makes(columns)))

    def replaced(self, signature: Signature, relation: Relation) -> frozenset[str]:
        """The columns whose values may have been replaced by DDL since: they have the same names and types, but were
        dropped and added again, or altered while all rows were written anew; or their type has other attributes or
        labels."""
        now = {column.name: column for column in relation.columns}
        makes = dict(self.makes)
        found = set()
        for index, ((name, _), (number, version)) in enumerate(zip(signature, self.columns, strict=True)):
            column = now.get(name)
            if column is None:
                continue
            altered = column.version != version and (not relation.file or relation.file != self.file)
            make = makes.get(index)
            if column.number != number or altered or (make is not None and make != _make(column, make[1])):
                found.add(name)
        return frozenset(found)

    def renewed(self, signature: Signature, relation: Relation) -> Origin:
        """With the labels that were added since, so that their renaming is noticed as well. Only of columns of which
        none was `replaced`."""
        now = {column.name: column for column in relation.columns}
        columns = [now.get(name) for name, _ in signature]
        if not any(column is not None and (column.attributes or column.labels) for column in columns):
            return self
        makes = _makes(columns)
        return self if makes == self.makes else _shared(replace(self, makes=makes))

    def to_json(self) -> list[Any]:
        return [self.file, self.columns, self.makes]

    @classmethod
    def from_json(cls, data: list[Any] | None) -> Origin | None:
        """None for what older versions stored."""
        if data is None:
            return None
        file, columns, *more = data
        makes = tuple([(index, (made[0], made[1], made[2])) for index, made in (more[0] if more else ())])
        return _shared(cls(tuple([(number, version) for number, version in columns]), file, makes))


def _makes(columns: Iterable[Column | None]) -> tuple[tuple[int, Make], ...]:
    found = [(index, column) for index, column in enumerate(columns) if column is not None]
    return tuple(
        [(index, _make(c, c.labels[-1][0] if c.labels else 0)) for index, c in found if c.attributes or c.labels]
    )


def _make(column: Column, last: int) -> Make:
    return _hash(column.attributes), last, _hash(repr([label for label in column.labels if label[0] <= last]))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=10_000)
def _shared(origin: Origin) -> Origin:
    """The same object for equal ones: most shapes are of few tables."""
    return origin
