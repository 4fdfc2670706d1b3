"""The publication's tables: added when a shape needs them, checked, and dropped when none does.

One change at a time, each table in its own transaction. A table is added under a lock that waits for running writers:
what a transaction wrote before the addition would never be published, and its shape would miss it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import orjson

from switchgear_shapes.errors import ShapeError, cannot_verify, invalid, snapshot_failed
from switchgear_shapes.identifiers import literal, quote, quote_relation
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.relations import obstacle_of
from switchgear_shapes.replication.entries import Entries

log = logging.getLogger("switchgear.shapes.publication")

LOCK_SECONDS = 5
_INSUFFICIENT_PRIVILEGE = "42501"
_LOCK_FAILURES = frozenset({"55P03", "57014", "40P01"})
_DUPLICATE = "42710"
_NARROWED = "(pg_catalog.to_jsonb(f) ->> 'prqual' IS NOT NULL OR pg_catalog.to_jsonb(f) ->> 'prattrs' IS NOT NULL)"
_ENTRY = "pg_catalog.concat_ws(' ', r.oid, p.oid, p.xmin)"
_CONCERNS = (
    "(f.prrelid = c.oid OR c.relkind = 'p' AND f.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)))"
)
_CARRIES_GENERATED = "coalesce(pg_catalog.to_jsonb(p) ->> 'pubgencols' = 's', false)"
_UNDEFINED = frozenset({"42P01", "42704", "3F000"})


@dataclass(frozen=True, slots=True)
class _State:
    """`partial`: schema and name of the tables (that one, or the leaves of a root) without full replica identity.

    `obstacle`: why changes of one of them are not replicated at all. `narrowed`: those that the publication has with a
    row filter or a column list. `by_root`: it names the root in changes of this partition. `entry`: see `Entries`.
    """

    published: bool
    partial: tuple[tuple[str, str], ...]
    partitioned: bool
    obstacle: str | None
    narrowed: tuple[tuple[str, str], ...]
    by_root: bool
    entry: str


class Publication:
    """The publication of this server. `manual`: somebody else keeps it, and it is only checked."""

    def __init__(self, name: str, admin: Pool, *, manual: bool) -> None:
        self._name = name
        self._admin = admin
        self._manual = manual
        self._turn = asyncio.Lock()
        self._configured: set[int] = set()
        self.entries = Entries(None)
        self.stored_generated = False
        """Whether it carries stored generated columns; Postgres can since 18."""
        self.on_break: Callable[[int], None] = lambda oid: None
        """Called with a table that is found to have been out of the publication, before it counts as published."""

    def forget(self, oid: int | None = None) -> None:
        """What was known may no longer hold: of one table, or of all."""
        if oid is None:
            self._configured.clear()
        else:
            self._configured.discard(oid)

    async def ensure(self, oid: int, schema: str, table: str) -> None:
        """Make changes of the table arrive in full. Raises ShapeError (503, 400), ConnectionLost, PoolTimeout."""
        if oid in self._configured:
            return
        async with self._turn:
            if oid in self._configured:
                return
            async with self._admin.session() as session:
                entry = await self._configure(session, oid, schema, table)
            if entry and self.entries.known.get(oid, entry) != entry:
                self.on_break(oid)
            self._configured.add(oid)
            self.entries.keep(oid, entry)

    async def published(self) -> dict[int, str] | None:
        """The tables in the publication that are published in full, by OID, with their entry.

        None when the publication is gone, or leaves operations out. Notes whether it carries generated columns.
        """
        async with self._admin.session() as session:
            rows = await session.query(
                f"SELECT c.oid::int8, {_ENTRY}, {_CARRIES_GENERATED} FROM pg_publication p"  # noqa: S608
                " LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid"
                " LEFT JOIN pg_class c ON (c.oid = r.prrelid OR p.puballtables AND c.relkind IN ('r', 'p'))"
                f" AND (c.relreplident = 'f' OR c.relkind = 'p') AND NOT (p.pubviaroot AND c.relispartition)"
                f" AND NOT EXISTS (SELECT FROM pg_publication_rel f WHERE f.prpubid = p.oid AND {_NARROWED}"
                f" AND {_CONCERNS}) WHERE p.pubname = {literal(self._name)}"
                " AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate"
            )
        if not rows:
            return None
        self.stored_generated = rows[0][2] == "t"
        return {int(row[0]): row[1] or "" for row in rows if row[0] is not None}

    async def look_at_generated(self) -> bool:
        """Whether `stored_generated` has become another. Raises ShapeError (503)."""
        before = self.stored_generated
        try:
            async with self._admin.session() as session:
                rows = await session.query(
                    f"SELECT {_CARRIES_GENERATED} FROM pg_publication p WHERE pubname = {literal(self._name)}"  # noqa: S608
                )
        except (ConnectionLost, PoolTimeout, PostgresError):
            raise cannot_verify() from None
        self.stored_generated = bool(rows) and rows[0][0] == "t"
        return self.stored_generated != before

    def unbroken(self, published: Mapping[int, str], oids: Collection[int]) -> set[int]:
        """Which of the tables are in the publication, and have been so without a break. Raises OSError."""
        found = {
            oid for oid in oids if oid in published and self.entries.known.get(oid, published[oid]) == published[oid]
        }
        for oid in oids:
            if oid in published:
                self.entries.keep(oid, published[oid])
        return found

    async def remove_unused(self, used: Callable[[], Collection[int]]) -> None:
        """Drop the tables from the publication that no shape uses.

        `used` tells what shapes use at the moment. Whoever begins to use a table later finds it not configured, and
        waits until it may be added again: between the two there must be no turn of the loop.
        """
        if self._manual:
            return
        async with self._turn, self._admin.session() as session:
            rows = await session.query(
                "SELECT c.oid::int8, n.nspname, c.relname FROM pg_publication p"  # noqa: S608
                " JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid"
                f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = {literal(self._name)} ORDER BY 2, 3"
            )
            for oid, schema, table in rows:
                if int(oid or 0) in used():
                    continue
                self._configured.discard(int(oid or 0))
                self.entries.remove(int(oid or 0))
                relation = quote_relation(schema or "", table or "")
                try:
                    await session.query(
                        f"BEGIN READ WRITE; SET LOCAL lock_timeout = '{LOCK_SECONDS}s';"
                        f" ALTER PUBLICATION {quote(self._name)} DROP TABLE ONLY {relation}; COMMIT"
                    )
                    log.info("%s left the publication: no shape uses it", relation)
                except PostgresError as error:
                    await session.query("ROLLBACK")
                    if error.sqlstate not in _UNDEFINED:
                        log.warning("%s stays in the publication: %s", relation, error.message)

    async def _configure(self, session: Session, oid: int, schema: str, table: str) -> str:
        """The table's entry."""
        state = await self._state(session, oid)
        if state is None:
            raise snapshot_failed(f'Database table "{schema}.{table}" does not exist any more')
        if state.obstacle is not None:
            raise invalid("table", state.obstacle)
        if state.published and not state.partial and not state.narrowed and not state.by_root:
            return state.entry
        if self._manual:
            raise self._missing(schema, table, state, "the ELECTRIC_MANUAL_TABLE_PUBLISHING setting prevents Electric")
        # A root's locks are those of its partitions, too: it is they that are written to.
        relation = quote_relation(schema, table) if state.partitioned else f"ONLY {quote_relation(schema, table)}"
        # Both locks wait for running writers; the second is the one that changing the replica identity takes.
        mode = "ACCESS EXCLUSIVE" if state.partial else "SHARE ROW EXCLUSIVE"
        statements = [
            f"BEGIN READ WRITE; SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; LOCK TABLE {relation} IN {mode} MODE",
        ]
        if not state.published:
            statements.append(f"ALTER PUBLICATION {quote(self._name)} ADD TABLE {relation}")
        for name in state.narrowed:
            for what in ("DROP", "ADD"):
                statements.append(f"ALTER PUBLICATION {quote(self._name)} {what} TABLE ONLY {quote_relation(*name)}")
        if state.by_root:
            statements.append(f"ALTER PUBLICATION {quote(self._name)} SET (publish_via_partition_root = false)")
        statements += [f"ALTER TABLE ONLY {quote_relation(*name)} REPLICA IDENTITY FULL" for name in state.partial]
        statements.append("COMMIT")
        try:
            await session.query("; ".join(statements))
        except PostgresError as error:
            await session.query("ROLLBACK")
            if error.sqlstate == _DUPLICATE:
                return ""
            if error.sqlstate == _INSUFFICIENT_PRIVILEGE:
                raise self._missing(schema, table, state, "Electric lacks privileges") from None
            if error.sqlstate in _LOCK_FAILURES:
                raise snapshot_failed(
                    f'Could not lock the table "{schema}.{table}" within {LOCK_SECONDS} s to add it to the publication;'
                    " a long transaction is writing to it"
                ) from None
            if error.sqlstate in _UNDEFINED:
                raise
            raise snapshot_failed(f'Cannot publish the table "{schema}.{table}": {error.message}') from None
        now = await self._state(session, oid)
        return "" if now is None else now.entry

    async def _state(self, session: Session, oid: int) -> _State | None:
        rows = await session.query(
            "SELECT EXISTS (SELECT FROM pg_publication p"  # noqa: S608
            " LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid"
            f" WHERE p.pubname = {literal(self._name)} AND (p.puballtables OR r.oid IS NOT NULL)),"
            " (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(n.nspname, l.relname)"
            " ORDER BY l.oid <> c.oid, n.nspname, l.relname)"
            " FROM pg_class l JOIN pg_namespace n ON n.oid = l.relnamespace"
            " WHERE l.relreplident <> 'f' AND (l.oid = c.oid AND c.relkind <> 'p' OR c.relkind = 'p' AND l.oid IN"
            " (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf))), c.relkind = 'p',"
            " (SELECT pg_catalog.jsonb_build_array(l.oid::int8, n.nspname, l.relname, l.relkind, l.relpersistence)"
            " FROM pg_class l JOIN pg_namespace n ON n.oid = l.relnamespace"
            " WHERE (l.relkind NOT IN ('r', 'p') OR l.relpersistence <> 'p') AND (l.oid = c.oid OR c.relkind = 'p'"
            " AND l.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid))) ORDER BY l.oid LIMIT 1),"
            " (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(n.nspname, l.relname))"
            " FROM pg_publication_rel f JOIN pg_class l ON l.oid = f.prrelid"
            " JOIN pg_namespace n ON n.oid = l.relnamespace"
            f" WHERE f.prpubid = p.oid AND {_NARROWED} AND {_CONCERNS}), p.pubviaroot AND c.relispartition,"
            f" {_ENTRY} FROM pg_class c LEFT JOIN pg_publication p ON p.pubname = {literal(self._name)}"
            f" LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid WHERE c.oid = {oid}"
        )
        if not rows:
            return None
        published, partial, partitioned, unpublishable, narrowed, by_root, entry = rows[0]
        names = tuple((name[0], name[1]) for name in orjson.loads(partial or "[]"))
        filtered = tuple((name[0], name[1]) for name in orjson.loads(narrowed or "[]"))
        obstacle = None if unpublishable is None else obstacle_of(*orjson.loads(unpublishable))
        return _State(published == "t", names, partitioned == "t", obstacle, filtered, by_root == "t", entry or "")

    def _missing(self, schema: str, table: str, state: _State, why: str) -> ShapeError:
        name = f'Database table "{schema}.{table}"'
        if not state.published:
            adding = f"{why} from adding it" if "setting" in why else f"{why} to add it"
            return snapshot_failed(f'{name} is missing from the publication "{self._name}" and {adding}')
        if state.narrowed:
            lacking = ".".join(state.narrowed[0])
            return snapshot_failed(
                f'Database table "{lacking}" has a row filter or a column list in the publication "{self._name}":'
                " changes would be missing; drop the table from the publication and add it without"
            )
        if state.by_root:
            return snapshot_failed(
                f'Changes of the partition "{schema}.{table}" are published under the name of its root;'
                f" run ALTER PUBLICATION {quote(self._name)} SET (publish_via_partition_root = false)"
            )
        lacking = ".".join(state.partial[0])
        return snapshot_failed(f'Database table "{lacking}" does not have its replica identity set to FULL')
