"""Whether rows of a transaction take each other's keys, as a deferrable primary key allows. Pure.

A log has one row for each key: where two rows have the same key for a while, the deletion of one would delete the
other as well. So whoever follows such a table must begin anew. Seen is any key that went after it had come within the
transaction, also of a row that simply came and went.
"""

from __future__ import annotations

from switchgear_shapes.replication.pgoutput import Value, Values

REUSED = "rows took each other's keys within a transaction"


class Reuse:
    """The keys of one transaction, by table."""

    __slots__ = ("_came",)

    def __init__(self) -> None:
        self._came: dict[int, set[tuple[Value, ...]]] = {}

    def clear(self) -> None:
        self._came.clear()

    def seen(self, oid: int, positions: tuple[int, ...], old: Values | None, new: Values | None) -> bool:
        """Note a change; whether a key went that had come. `positions`: of the key's columns."""
        gone = None if old is None else tuple(old[index] for index in positions)
        come = None if new is None else tuple(new[index] for index in positions)
        if gone == come:
            return False
        came = self._came.setdefault(oid, set())
        reused = gone in came
        if come is not None:
            came.add(come)
        return reused
