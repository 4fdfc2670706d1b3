"""Which tables are partitions of the roots that have shapes, and what a change of that means for them.

The stream names the leaf that a row is in, never the root, and says nothing when a partition comes or goes. So the tree
is read from the catalogue: before a shape's snapshot, whenever the stream describes a table after the last look, and
with the reconciler. Invariants: a root's shapes are routed to from each of its leaves; a partition that went, or that
came with rows in it, ends them, because their logs would no longer be true. What was known survives in a file, so that
a partition which went while nobody ran is noticed. `on_tree(root, leaves)` is told where rows of a root come from,
`on_broken(root, reason)` whose shapes end, `on_grown(root)` that there are new leaves to publish in full.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.postgres.session import Row
from switchgear_shapes.replication.conversation import parse_lsn

log = logging.getLogger("switchgear.shapes.partitions")

_FILE = "partitions.json"
# A partition that was created as one is linked to its parent by the transaction that made it. One that was attached
# later may have had rows before, which are in no log.
_TREES = """
SELECT root::int8, t.relid::oid::int8, t.isleaf, i.xmin = a.xmin, c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
FROM pg_catalog.unnest(ARRAY[{oids}]::oid[]) root CROSS JOIN LATERAL pg_catalog.pg_partition_tree(root::regclass) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.relid
JOIN pg_catalog.pg_attribute a ON a.attrelid = t.relid AND a.attname = 'ctid'
WHERE t.relid <> root::regclass
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A table below a root. `born`: it was made as a partition, and so began empty. `logged`: its changes are in the
    stream, as those of unlogged and foreign tables are not."""

    leaf: bool
    born: bool
    logged: bool = True


Tree = dict[int, Member]


def trees_query(roots: list[int]) -> str:
    return _TREES.format(oids=",".join(map(str, roots)))


def trees_of(roots: list[int], rows: list[Row]) -> dict[int, Tree]:
    """The trees of these roots from the rows of `trees_query`; empty for one that is gone."""
    trees: dict[int, Tree] = {root: {} for root in roots}
    for root, oid, leaf, born, logged in rows:
        trees[int(root or 0)][int(oid or 0)] = Member(leaf == "t", born == "t", logged == "t")
    return trees


def broken(known: frozenset[int], now: Mapping[int, Member]) -> str | None:
    """Why shapes of a root with the known members cannot go on; None when they can."""
    if known - now.keys():
        return "a partition of its table was dropped or detached"
    if any(not now[oid].born for oid in now.keys() - known):
        return "a partition was attached to its table, perhaps with rows"
    if any(member.leaf and not member.logged for member in now.values()):
        return "changes of a partition of its table are not replicated: it is an unlogged or a foreign table"
    return None


class Partitions:
    """The trees of the roots that have shapes."""

    def __init__(self, admin: Pool, directory: Path) -> None:
        self._admin = admin
        self._path = directory / _FILE
        self._known: dict[int, frozenset[int]] = {}
        self.looked_lsn = 0
        """Everything that was committed up to here was seen by the last look."""
        self.on_tree: Callable[[int, frozenset[int]], None] = lambda root, leaves: None
        self.on_broken: Callable[[int, str], None] = lambda root, reason: None
        self.on_grown: Callable[[int], None] = lambda root: None

    @property
    def roots(self) -> list[int]:
        return sorted(self._known)

    def settled(self, commit_lsn: int) -> bool:
        """Whether what a transaction says about tables cannot be news: it was seen by the last look."""
        return not self._known or commit_lsn < self.looked_lsn

    def start_anew(self) -> None:
        """The stream is another one, whose positions cannot be compared with those before."""
        self.looked_lsn = 0

    def restore(self, roots: set[int]) -> None:
        """What was known of these roots when the process ended; nothing of the others."""
        try:
            stored = {int(root): frozenset(members) for root, members in orjson.loads(self._path.read_bytes()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            stored = {}
        self._known = {root: stored.get(root, frozenset({0})) for root in roots}

    def add(self, root: int, tree: Tree) -> None:
        """A shape of this root is about to be made, from rows in this tree."""
        if root in self._known:
            self._apply({root: tree})
            return
        self._known[root] = frozenset(tree)
        self._write()
        self.on_tree(root, _leaves(tree))

    def keep(self, roots: set[int]) -> None:
        """Only these roots have shapes."""
        gone = self._known.keys() - roots
        if gone:
            for root in gone:
                del self._known[root]
                self.on_tree(root, frozenset())
            self._write()

    async def look(self) -> None:
        """Read the trees again. Raises ConnectionLost, PoolTimeout, PostgresError."""
        roots = self.roots
        if not roots:
            return
        async with self._admin.session() as session:
            ((position,),) = await session.query("SELECT pg_current_wal_insert_lsn()")
            rows = await session.query(trees_query(roots))
        self._apply(trees_of(roots, rows))
        self.looked_lsn = max(self.looked_lsn, parse_lsn(position or ""))

    def _apply(self, trees: dict[int, Tree]) -> None:
        changed = False
        for root, tree in trees.items():
            known = self._known.get(root)
            if known is None:
                continue
            reason = broken(known, tree)
            if reason is not None:
                self.on_broken(root, reason)
            elif known != tree.keys():
                self.on_grown(root)
            if known != tree.keys():
                changed = True
                self._known[root] = frozenset(tree)
            self.on_tree(root, _leaves(tree))
        if changed:
            self._write()

    def _write(self) -> None:
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(orjson.dumps({str(root): sorted(members) for root, members in self._known.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _leaves(tree: Mapping[int, Member]) -> frozenset[int]:
    return frozenset(oid for oid, member in tree.items() if member.leaf)
