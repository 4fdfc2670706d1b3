"""What a shape is: a table, a projection and a filter of it, checked against the catalogue. Pure.

Two requests with equal definitions share one shape; `identity` is what they are compared by.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from switchgear_shapes.errors import ShapeError, Unpublished, invalid
from switchgear_shapes.origin import Origin
from switchgear_shapes.relations import Column, Relation
from switchgear_shapes.request import ShapeParams
from switchgear_shapes.subqueries.plan import SubqueryRefused, check_collations, plan
from switchgear_shapes.where import expression
from switchgear_shapes.where.expression import Where

_HANDLE_BITS = 27
GENERATED_PUBLISHED = 180_000
"""The version of Postgres from which on a publication can carry stored generated columns."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A resolved shape. `columns` is sorted; `signature` is the table's (column, type OID) list in table order."""

    oid: int
    schema: str
    table: str
    pk: tuple[str, ...]
    columns: tuple[str, ...]
    selects_all: bool
    full_replica: bool
    changes_only: bool
    signature: tuple[tuple[str, int], ...]
    salt: str = ""
    """Mixed into keys of tables without a primary key, where columns outside of the projection tell rows apart."""
    where: Where | None = None
    """Which rows belong to the shape; None for all."""
    partitioned: bool = False
    """The table is the root of partitions: its rows, and its changes, are theirs."""
    compaction: bool = False
    """Whether the log may be compacted. No part of the identity: the request that makes the shape decides."""
    deferrable: bool = False
    """Whether two rows may have the same key within a transaction."""
    origin: Origin | None = None
    """What the table was when the shape was made; None for shapes of older versions."""

    @property
    def identity(self) -> tuple[Any, ...]:
        return (
            self.oid,
            self.schema,
            self.table,
            self.pk,
            self.columns,
            self.selects_all,
            self.full_replica,
            self.changes_only,
            None if self.where is None else self.where.sql,
        )

    @property
    def tables(self) -> set[int]:
        """All tables that the shape depends on."""
        return {self.oid} if self.where is None else {self.oid, *self.where.tables}

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns whose values are parts of the key, in their order."""
        if self.pk:
            return self.pk
        chosen = set(self.columns)
        return tuple(name for name, _ in self.signature if name in chosen)

    @property
    def hidden_columns(self) -> tuple[str, ...]:
        """Columns that only a hash in the key stands for: there is no primary key, and they are not selected."""
        if self.pk:
            return ()
        chosen = set(self.columns)
        return tuple(name for name, _ in self.signature if name not in chosen)

    def handle(self, microseconds: int) -> str:
        digest = hashlib.blake2b(repr(self.identity).encode(), digest_size=8).digest()
        return f"{int.from_bytes(digest, 'big') % (1 << _HANDLE_BITS)}-{microseconds}"

    def survives(self, oid: int, schema: str, table: str, signature: tuple[tuple[str, int], ...]) -> bool:
        """Whether a log with this definition can go on after the table became what the arguments say."""
        if (oid, schema, table) != (self.oid, self.schema, self.table):
            return False
        if signature == self.signature:
            return True
        if self.selects_all or not self.pk:
            return False
        return self._has_what_it_needs(signature)

    def rewritten(self, relation: Relation, known: dict[int, frozenset[str]] | None = None) -> bool:
        """Whether values that the shape has may have been replaced by DDL since.

        `known` keeps what is the same for other shapes that are compared with this `relation`.
        """
        origin = self.origin
        if origin is None:
            return False
        replaced = None if known is None else known.get(id(origin))
        if replaced is None:
            replaced = origin.replaced(self.signature, relation)
            if known is not None:
                known[id(origin)] = replaced
        return bool(replaced) and (not self.pk or not replaced.isdisjoint(self._needed))

    def renewed(self, relation: Relation, known: dict[int, tuple[Origin, Origin]]) -> Definition:
        """With an origin that has what was added since to types of the columns; for what was not `rewritten`.

        `known`: as there, by the identity of origins, which it keeps.
        """
        origin = self.origin
        if origin is None:
            return self
        _, now = known.get(id(origin)) or known.setdefault(
            id(origin), (origin, origin.renewed(self.signature, relation))
        )
        return self if now is origin else replace(self, origin=now)

    @property
    def _needed(self) -> set[str]:
        return {*self.columns, *self.pk, *(self.where.columns if self.where is not None else ())}

    def takes_rows_of(self, oid: int, schema: str, table: str, signature: tuple[tuple[str, int], ...]) -> bool:
        """Whether rows that the stream describes like this are rows of the shape: its table's, or a partition's."""
        if not self.partitioned or oid == self.oid:
            return self.survives(oid, schema, table, signature)
        if self.selects_all or not self.pk:  # a partition has all columns of its root, in any order
            return sorted(signature) == sorted(self.signature)
        return self._has_what_it_needs(signature)

    def _has_what_it_needs(self, signature: tuple[tuple[str, int], ...]) -> bool:
        now, before = dict(signature), dict(self.signature)
        return all(now.get(name) == before.get(name) for name in self._needed)

    def to_json(self) -> dict[str, Any]:
        return {
            "oid": self.oid,
            "schema": self.schema,
            "table": self.table,
            "pk": self.pk,
            "columns": self.columns,
            "selects_all": self.selects_all,
            "full_replica": self.full_replica,
            "changes_only": self.changes_only,
            "signature": self.signature,
            "salt": self.salt,
            "where": None if self.where is None else expression.to_json(self.where),
            "partitioned": self.partitioned,
            "compaction": self.compaction,
            "deferrable": self.deferrable,
            "origin": None if self.origin is None else self.origin.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Definition:
        return cls(
            oid=data["oid"],
            schema=sys.intern(data["schema"]),
            table=sys.intern(data["table"]),
            pk=_shared(tuple(data["pk"])),
            columns=_shared(tuple(data["columns"])),
            selects_all=data["selects_all"],
            full_replica=data["full_replica"],
            changes_only=data["changes_only"],
            signature=_shared(tuple([(name, oid) for name, oid in data["signature"]])),
            salt=data["salt"],
            where=None if data.get("where") is None else expression.from_json(data["where"]),
            partitioned=data.get("partitioned", False),
            compaction=data.get("compaction", False),
            deferrable=data.get("deferrable", False),
            origin=Origin.from_json(data.get("origin")),
        )


@lru_cache(maxsize=10_000)
def _shared(value: Any) -> Any:
    """The same value for equal ones: most shapes are of few tables."""
    return value


def streamed_columns(relation: Relation, *, stored_generated: bool) -> tuple[Column, ...]:
    """The columns whose values the replication stream carries."""
    return tuple(c for c in relation.columns if not c.generated or (c.generated == "s" and stored_generated))


def publishable(column: Column, relation: Relation) -> bool:
    """Whether it is a generated column that a publication of this Postgres can carry."""
    return column.generated == "s" and relation.server_version >= GENERATED_PUBLISHED


def define(
    params: ShapeParams, relation: Relation, where: Where | None = None, *, stored_generated: bool, publication: str
) -> Definition:
    """The definition that the parameters, and the filter made of them, mean for this table.

    `stored_generated`: whether the publication carries such columns. Raises ShapeError (400), Unpublished (503).
    """
    allowed = None
    if params.queryable_columns is not None:
        allowed = _check_columns(params.queryable_columns, relation, "queryable_columns", "queryable columns", None)
    if params.columns is not None:
        chosen = _check_columns(params.columns, relation, "columns", "columns", allowed)
    else:
        chosen = allowed if allowed is not None else [column.name for column in relation.columns]
    _check_generated(params, relation, chosen, stored_generated, publication)
    _check_where(params, relation, where, stored_generated)
    streamed = streamed_columns(relation, stored_generated=stored_generated)
    return Definition(
        oid=relation.oid,
        schema=relation.schema,
        table=relation.name,
        pk=relation.pk,
        columns=tuple(sorted(chosen)),
        selects_all=params.columns is None and allowed is None,
        full_replica=params.full_replica,
        changes_only=params.changes_only,
        signature=tuple((column.name, column.type_oid) for column in streamed),
        salt="" if relation.pk else secrets.token_hex(8),
        where=where,
        partitioned=relation.kind == "p",
        compaction=params.compaction,
        deferrable=relation.deferrable,
        origin=Origin.of(relation, streamed),
    )


def relation_name(params: ShapeParams) -> str:
    return f'"{params.schema}"."{params.table}"'


def no_such_table(params: ShapeParams) -> ShapeError:
    return invalid(
        "table",
        f"Table {relation_name(params)} does not exist."
        " If the table name contains capitals or special characters you must quote it.",
    )


def _check_columns(
    names: tuple[str, ...], relation: Relation, field: str, what: str, allowed: list[str] | None
) -> list[str]:
    missing = [name for name in relation.pk if name not in names]
    if missing:
        text = f"The list of {what} must include all primary key columns, missing: {', '.join(missing)}"
        raise invalid(field, text)
    known = {column.name for column in relation.columns} if allowed is None else set(allowed)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise invalid(field, f"The following {what} are not found on the table: {', '.join(unknown)}")
    return list(names)


def _check_generated(
    params: ShapeParams, relation: Relation, chosen: list[str], stored_generated: bool, publication: str
) -> None:
    carried = {column.name for column in streamed_columns(relation, stored_generated=stored_generated)}
    bad = [name for name in chosen if name not in carried]
    if not bad:
        return
    if all(publishable(column, relation) for column in relation.columns if column.name in bad):
        raise Unpublished(publication)
    text = f"The following columns are generated and cannot be included in the shape: {', '.join(bad)}"
    if params.columns is None:
        text += ". You can exclude them from the shape by explicitly listing which columns to fetch in the"
        text += " 'columns' query param"
    raise invalid("columns", text)


def _check_where(params: ShapeParams, relation: Relation, where: Where | None, stored_generated: bool) -> None:
    if where is None:
        return
    carried = {column.name for column in streamed_columns(relation, stored_generated=stored_generated)}
    bad = sorted(where.columns - carried)
    if bad:
        text = f"The where clause reads generated columns, which are not replicated: {', '.join(bad)}"
        raise invalid("where", text)
    if not where.subqueries:
        return
    try:
        for _, condition in plan(where).memberships:
            check_collations(condition.columns, relation)
    except SubqueryRefused as error:
        raise invalid("where", str(error)) from None
    if relation.kind == "p":
        raise invalid("where", "Subqueries on a partitioned table are not supported; use a partition")
    if params.compaction:
        raise invalid("experimental_compaction", "can't be enabled for shapes with subqueries")
