"""What the server knows of tables: asked of Postgres once, kept until something says that it changed."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from switchgear_shapes.errors import cannot_verify
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError
from switchgear_shapes.relations import Relation, from_rows, query_by_name, query_by_oids

log = logging.getLogger("switchgear.shapes.catalog")

LIMIT = 10_000


_UNCOMPILED = "SET LOCAL jit = off;"
"""Postgres takes the look at the catalogue for a long query and compiles it: half a second for what takes 20 ms."""


class Catalog:
    """A bounded cache of relations by name; concurrent look-ups of one name share a query."""

    def __init__(self, admin: Pool) -> None:
        self._admin = admin
        self._known: OrderedDict[tuple[str, str], Relation] = OrderedDict()
        self._outdated: OrderedDict[tuple[str, str], Relation] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[Relation | None]] = {}

    def peek(self, schema: str, table: str) -> Relation | None:
        return self._known.get((schema, table))

    def last_known(self, schema: str, table: str) -> Relation | None:
        """What was known when Postgres could last be asked."""
        name = (schema, table)
        return self._known.get(name) or self._outdated.get(name)

    async def get(self, schema: str, table: str) -> Relation | None:
        """The table, or None when there is none of this name. Raises ShapeError (503)."""
        name = (schema, table)
        found = self._known.get(name)
        if found is not None:
            self._known.move_to_end(name)
            return found
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.ensure_future(self._ask(name))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)

    async def _ask(self, name: tuple[str, str]) -> Relation | None:
        try:
            async with self._admin.session(wait=5.0) as session:
                relations = from_rows(await session.query(_UNCOMPILED + query_by_name(*name)))
        except (ConnectionLost, PoolTimeout, PostgresError) as error:
            log.warning("cannot look up %s.%s: %s", *name, error)
            raise cannot_verify() from None
        if not relations:
            return None
        self._known[name] = relations[0]
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return relations[0]

    async def read(self, oids: list[int]) -> dict[int, Relation]:
        """The tables as they are now, past the cache, which learns from it. Raises ConnectionLost, PoolTimeout."""
        found: dict[int, Relation] = {}
        for start in range(0, len(oids), 1000):
            async with self._admin.session() as session:
                rows = await session.query(_UNCOMPILED + query_by_oids(oids[start : start + 1000]))
            found |= {relation.oid: relation for relation in from_rows(rows)}
        for relation in found.values():
            if (relation.schema, relation.name) in self._known:
                self._known[relation.schema, relation.name] = relation
        return found

    def forget(self, schema: str, table: str) -> None:
        known = self._known.pop((schema, table), None)
        if known is not None:
            self._outdated[schema, table] = known
            if len(self._outdated) > LIMIT:
                self._outdated.popitem(last=False)

    def clear(self) -> None:
        for schema, table in list(self._known):
            self.forget(schema, table)
