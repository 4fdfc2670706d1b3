"""What a subquery returns, as a multiset that follows the changes of its table. Pure.

Rows are kept as groups: what they contribute (`output`), and on which memberships of nested subqueries that depends
(`ways`: in one of them all must hold; none at all: it does not depend on anything). Rows that can never qualify are not
kept. Invariants: `rows` follows from the committed changes alone, `counts` from `rows` and the nested sources;
`take_changes` tells how membership changed since it was last called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from switchgear_shapes.subqueries.equality import Key

Way = tuple[tuple[int, Key], ...]
"""(position of a nested membership, key): all of them must be true."""


@dataclass(frozen=True, slots=True)
class Group:
    """Equal rows of a subquery's table, as far as its result is concerned."""

    output: Key
    ways: tuple[Way, ...] = ()


@dataclass(slots=True)
class Nested:
    """A nested membership: what it asks, and whether it is a NOT IN."""

    source: Source
    negated: bool


@dataclass(slots=True)
class Changes:
    """How membership changed: key → whether `IN` (`entered`) or `NOT IN` (`excluded`) is true of it now.

    `uncertain`: a NULL came into the result, or left it, which changes NOT IN for keys that are not known here.
    """

    entered: dict[Key, bool]
    excluded: dict[Key, bool]
    uncertain: bool

    def of(self, negated: bool) -> dict[Key, bool]:
        return self.excluded if negated else self.entered

    def __bool__(self) -> bool:
        return bool(self.entered or self.excluded or self.uncertain)


class Source:
    """One subquery's result. `nested` are the memberships of its own filter, by position."""

    __slots__ = ("_before", "_index", "_masks", "_nulls", "counts", "nested", "qualified", "rows", "width")

    def __init__(
        self, width: int, nested: dict[int, Nested] | None = None, rows: dict[Group, int] | None = None
    ) -> None:
        """`rows` are counted with `count_all`."""
        self.width = width
        self.nested = nested or {}
        self.rows: dict[Group, int] = {} if rows is None else rows
        self.counts: dict[Key, int] = {}
        self.qualified: set[Group] = set()
        """Groups with `ways` that count at present."""
        self._index: dict[tuple[int, Key], set[Group]] = {}
        self._nulls: set[Key] = set()
        self._masks: dict[Key, int] = {}
        """For a key with NULLs: how many different members are equal in its other columns."""
        self._before: dict[Key, bool] = {}
        """Keys whose count changed since `take_changes`: whether they were members."""

    # -- membership --

    def has(self, key: Key) -> bool:
        """Whether `key IN (…)` is true."""
        return None not in key and key in self.counts

    def excludes(self, key: Key) -> bool:
        """Whether `key NOT IN (…)` is true: every member differs from it for certain."""
        if not self.counts:
            return True
        if self._nulls and any(_may_equal(key, member) for member in self._nulls):
            return False
        return key not in self._masks if None in key else key not in self.counts

    def truth(self, key: Key, negated: bool) -> bool:
        return self.excludes(key) if negated else self.has(key)

    # -- changing --

    def count_all(self) -> None:
        """Derive everything from `rows`; nothing of it is reported as a change."""
        rows = dict(self.rows)
        for held in (self.rows, self.counts, self.qualified, self._index, self._nulls, self._masks):
            held.clear()
        self.apply(rows)
        self._before.clear()

    def apply(self, deltas: dict[Group, int]) -> None:
        """Rows that came (> 0) and went (< 0), under the nested sources as they are now."""
        for group, delta in deltas.items():
            if delta == 0:
                continue
            count = self.rows.get(group, 0) + delta
            assert count >= 0, "a row left a subquery's result that never came into it"
            if count:
                self.rows[group] = count
            else:
                del self.rows[group]
            if group.ways:
                self._apply_conditional(group, delta, count)
            else:
                self._count(group.output, delta)

    def follow(self, position: int, changes: Changes) -> None:
        """A nested source changed."""
        negated = self.nested[position].negated
        groups: Iterable[Group]
        if negated and changes.uncertain:
            groups = [group for group in self.rows if group.ways]
        else:
            found = (self._index.get((position, key), ()) for key in changes.of(negated))
            groups = {group for some in found for group in some}
        for group in groups:
            self._requalify(group)

    def take_changes(self) -> Changes:
        before, self._before = self._before, {}
        entered: dict[Key, bool] = {}
        excluded: dict[Key, bool] = {}
        uncertain = False
        for key, was in before.items():
            now = key in self.counts
            if was is now:
                continue
            if None in key:
                uncertain = True
            else:
                entered[key] = now
        if entered:
            excluded = self._excluded(entered)
        return Changes(entered, excluded, uncertain)

    def _excluded(self, entered: dict[Key, bool]) -> dict[Key, bool]:
        """The keys, with NULLs and without, for which NOT IN changed."""
        made: dict[Key, bool] = {}
        came: dict[Key, int] = {}
        for key, now in entered.items():
            if not any(_may_equal(key, member) for member in self._nulls):
                made[key] = not now
            for masked in _maskings(key):
                came[masked] = came.get(masked, 0) + (1 if now else -1)
        for masked, difference in came.items():
            count = self._masks.get(masked, 0)
            blocked = any(_may_equal(masked, member) for member in self._nulls)
            if not blocked and (count > 0) is not (count - difference > 0):
                made[masked] = count == 0
        return made

    # -- within --

    def _apply_conditional(self, group: Group, delta: int, count: int) -> None:
        if count == delta:  # it is new
            for entry in _entries(group):
                self._index.setdefault(entry, set()).add(group)
        elif count == 0:
            for entry in _entries(group):
                groups = self._index[entry]
                groups.discard(group)
                if not groups:
                    del self._index[entry]
        if group in self.qualified:
            self._count(group.output, delta)
            if count == 0:
                self.qualified.discard(group)
        elif count == delta and self._qualifies(group):
            self.qualified.add(group)
            self._count(group.output, delta)

    def _requalify(self, group: Group) -> None:
        now = self._qualifies(group)
        if now is (group in self.qualified):
            return
        if now:
            self.qualified.add(group)
            self._count(group.output, self.rows[group])
        else:
            self.qualified.discard(group)
            self._count(group.output, -self.rows[group])

    def _qualifies(self, group: Group) -> bool:
        nested = self.nested
        return any(
            all(nested[position].source.truth(key, nested[position].negated) for position, key in way)
            for way in group.ways
        )

    def _count(self, key: Key, delta: int) -> None:
        was = self.counts.get(key, 0)
        now = was + delta
        assert now >= 0, "a subquery's result lost more than it had"
        self._before.setdefault(key, was > 0)
        if now:
            self.counts[key] = now
        else:
            self.counts.pop(key, None)
        if (was > 0) is not (now > 0):
            self._member(key, 1 if now else -1)

    def _member(self, key: Key, change: int) -> None:
        if None in key:
            if change > 0:
                self._nulls.add(key)
            else:
                self._nulls.discard(key)
            return
        for masked in _maskings(key):
            count = self._masks.get(masked, 0) + change
            if count:
                self._masks[masked] = count
            else:
                del self._masks[masked]


def _may_equal(left: Key, right: Key) -> bool:
    """Whether the rows are not certain to differ."""
    return all(a is None or b is None or a == b for a, b in zip(left, right, strict=True))


def _maskings(key: Key) -> Iterator[Key]:
    """The key with one or more of its columns NULL."""
    for size in range(1, len(key) + 1):
        for places in combinations(range(len(key)), size):
            yield tuple(None if place in places else value for place, value in enumerate(key))


def _entries(group: Group) -> set[tuple[int, Key]]:
    return {entry for way in group.ways for entry in way}


def group_to_json(group: Group) -> Any:
    return [_key_to_json(group.output), [[[at, _key_to_json(key)] for at, key in way] for way in group.ways]]


def group_from_json(data: Any) -> Group:
    output, ways = data
    return Group(_key_from_json(output), tuple(tuple((at, _key_from_json(key)) for at, key in way) for way in ways))


def _key_to_json(key: Key) -> list[str | None]:
    return [None if value is None else value.decode("latin-1") for value in key]


def _key_from_json(data: list[str | None]) -> Key:
    return tuple(None if value is None else value.encode("latin-1") for value in data)
