"""What subqueries return, as far as it must be found again after a crash.

The state in memory runs ahead of what is durable, and shapes that are held need it as it was before their transaction:
so the latest changes are kept to be taken back. Invariants: `rows` are those right after the last transaction up to
`position`; `roll_back` can go to any transaction from `base` on; applying a transaction twice changes nothing.
"""

from __future__ import annotations

from typing import Any

import orjson

from switchgear_shapes.origin import Origin, Signature
from switchgear_shapes.subqueries.values import Group, group_from_json, group_to_json
from switchgear_shapes.where.expression import Subquery, subquery_from_json, subquery_to_json

Deltas = dict[Group, int]


class SourceState:
    """One subquery's rows. `signature`: (column, type OID) of the table's columns that it reads.

    `origin`: what these were when it was read; None for those of older versions.
    """

    __slots__ = ("base", "id", "origin", "position", "recent", "rows", "signature", "spec")

    def __init__(
        self,
        number: int,
        spec: Subquery,
        signature: Signature,
        rows: Deltas,
        position: int,
        origin: Origin | None = None,
    ) -> None:
        self.id = number
        self.spec = spec
        self.signature = signature
        self.origin = origin
        self.rows = rows
        self.position = position
        self.base = position
        self.recent: list[tuple[int, Deltas]] = []
        """(commit LSN, what it changed), in order, all behind `base`."""

    @property
    def identity(self) -> tuple[Any, ...]:
        return identity(self.spec)

    def record(self, lsn: int, deltas: Deltas) -> None:
        """A transaction that `rows` have already taken in."""
        self.position = lsn
        if deltas:
            self.recent.append((lsn, deltas))

    def apply(self, lsn: int, deltas: Deltas) -> None:
        """A transaction from the write-ahead log."""
        if lsn > self.position:
            _add(self.rows, deltas, 1)
            self.record(lsn, deltas)

    def roll_back(self, lsn: int) -> None:
        """Take back everything from the transaction at `lsn` on, as far as that is still possible."""
        while self.recent and self.recent[-1][0] >= lsn:
            _add(self.rows, self.recent.pop()[1], -1)
        self.position = max(self.base, min(self.position, lsn - 1))

    def forget_before(self, lsn: int) -> None:
        """Nobody will ask for the state before the transaction at `lsn`."""
        keep = next((index for index, (at, _) in enumerate(self.recent) if at >= lsn), len(self.recent))
        if keep:
            del self.recent[:keep]
            self.base = max(self.base, lsn - 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.id,
            "spec": subquery_to_json(self.spec),
            "signature": self.signature,
            "origin": None if self.origin is None else self.origin.to_json(),
            "rows": deltas_to_json(self.rows),
            "position": self.position,
            "base": self.base,
            "recent": [[lsn, deltas_to_json(deltas)] for lsn, deltas in self.recent],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SourceState:
        state = cls(
            data["source"],
            subquery_from_json(data["spec"]),
            tuple((name, oid) for name, oid in data["signature"]),
            deltas_from_json(data["rows"]),
            data["position"],
            Origin.from_json(data.get("origin")),
        )
        state.base = data["base"]
        state.recent = [(lsn, deltas_from_json(deltas)) for lsn, deltas in data["recent"]]
        return state


def identity(spec: Subquery) -> tuple[Any, ...]:
    """Subqueries with equal identity have the same result."""
    where = None if spec.where is None else spec.where.sql
    return spec.oid, spec.schema, spec.table, tuple(column.name for column in spec.columns), where


def deltas_to_json(deltas: Deltas) -> Any:
    return [[group_to_json(group), count] for group, count in deltas.items()]


def deltas_from_json(data: Any) -> Deltas:
    return {group_from_json(group): count for group, count in data}


def encode_deltas(deltas: Deltas) -> bytes:
    return orjson.dumps(deltas_to_json(deltas))


def decode_deltas(data: bytes) -> Deltas:
    return deltas_from_json(orjson.loads(data))


def _add(rows: Deltas, deltas: Deltas, sign: int) -> None:
    for group, delta in deltas.items():
        count = rows.get(group, 0) + sign * delta
        if count:
            rows[group] = count
        else:
            rows.pop(group, None)
