"""How a shape with subqueries follows its sources: transactions kept, joined and told as one. Pure.

As long as no membership that the shape asks for changes, each transaction becomes lines at once. From the first one
that changes a membership on, the shape is *held*: its readers stay where they are, and its transactions are kept.
Then a snapshot of the database is taken, and awaited until the stream has passed it, so that it is known which of the
kept transactions it sees: the first ones. These become one step, atomically visible: their row changes under the
memberships before the step; then what the snapshot says leaves and enters the shape because of the step's changes of
membership. What was kept behind them follows, at once or as the next step. So whatever a reader sees is what the
shape's SELECT gives right after some transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from switchgear_shapes.replication.pgoutput import RelationMessage, Values
from switchgear_shapes.subqueries.equality import Key

Change = tuple[RelationMessage, Values | None, Values | None, int]
"""(relation, old row, new row, op)"""
Flips = dict[int, dict[Key, bool]]
"""position → key → whether the condition is true of it from now on."""


@dataclass(slots=True)
class Kept:
    """A transaction that waits: as lines (`data`, up to `last_op`), or as changes to be encoded; never both.

    `next_op` is the first op that the transaction does not use.
    """

    xid: int
    lsn: int
    next_op: int
    flips: Flips = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    data: bytes = b""
    last_op: int = 0
    size: int = 0
    spoiled: str = ""
    """Why the shape must end unless its snapshot sees the transaction."""


def before(kept: Iterable[Kept]) -> Flips:
    """Truths as they were before all of these, where they differed at some time."""
    found: Flips = {}
    for transaction in kept:
        for position, keys in transaction.flips.items():
            known = found.setdefault(position, {})
            for key, now in keys.items():
                known.setdefault(key, not now)
    return found


def net(kept: Iterable[Kept]) -> Flips:
    """What all of these together change."""
    first: Flips = {}
    last: Flips = {}
    for transaction in kept:
        for position, keys in transaction.flips.items():
            known, latest = first.setdefault(position, {}), last.setdefault(position, {})
            for key, now in keys.items():
                known.setdefault(key, not now)
                latest[key] = now
    found: Flips = {}
    for position, keys in last.items():
        changed = {key: now for key, now in keys.items() if now is not first[position][key]}
        if changed:
            found[position] = changed
    return found


def first_unseen(transactions: Iterable[tuple[int, bool]], snapshot_lsn: int) -> int | None:
    """Where the snapshot cuts the stream: the first commit LSN that it does not see.

    `transactions` are (commit LSN, seen) of all that concern the shape. None when it sees a later one without an
    earlier one, which happens for the moment in which a commit is on disk and not visible yet: another snapshot is
    needed.
    """
    cut = snapshot_lsn
    latest_seen = 0
    for lsn, seen in transactions:
        if seen:
            latest_seen = max(latest_seen, lsn)
        else:
            cut = min(cut, lsn)
    return None if latest_seen > cut else cut


def split(kept: Sequence[Kept], cut: int) -> tuple[list[Kept], list[Kept]]:
    """(the step, what comes after it)."""
    at = next((index for index, transaction in enumerate(kept) if transaction.lsn >= cut), len(kept))
    return list(kept[:at]), list(kept[at:])


def ready(kept: Sequence[Kept]) -> int:
    """How many of the first ones change no membership: they need no step."""
    return next((index for index, transaction in enumerate(kept) if transaction.flips), len(kept))
