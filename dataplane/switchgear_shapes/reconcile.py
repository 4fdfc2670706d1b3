"""Compares shapes with the catalogue and the publication, for what the stream does not tell.

A table that was dropped, renamed or altered without a write afterwards, whose rows were written anew by DDL, or that
was taken out of the publication behind our back, ends its shapes here: their logs would silently stop being true.
All shapes are looked at now and then, those of a table soon after the stream has described it (again): it does so
after everything that happens to a table but writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.definition import Definition, streamed_columns
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.origin import Origin
from switchgear_shapes.partitions import Partitions
from switchgear_shapes.postgres.pool import PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.subqueries.hub import TABLE_CHANGED, Hub

log = logging.getLogger("switchgear.shapes.reconcile")


class PublicationGone(Exception):
    """The publication was dropped or leaves operations out: Postgres goes on without a word and without changes."""


async def reconcile(
    store: Store,
    hub: Hub,
    catalog: Catalog,
    publication: Publication,
    shapes: Iterable[Shape],
    *,
    only: Collection[int] | None = None,
) -> None:
    """End those of the shapes that cannot go on, and those whose subqueries read one of the tables `only`, or any.

    Raises PublicationGone, ConnectionLost, PoolTimeout, PostgresError, OSError.
    """
    by_table: dict[int, list[Shape]] = {}
    for shape in shapes:
        if shape.snapshot.complete:
            by_table.setdefault(shape.definition.oid, []).append(shape)
    feeds = [feed for feed in hub.feeds if only is None or feed.state.spec.oid in only]
    oids = {*by_table, *(feed.state.spec.oid for feed in feeds)}
    relations = await catalog.read(list(oids))
    published = await publication.published()
    if published is None:
        raise PublicationGone(
            "the publication was dropped while replication was running, or no longer publishes every operation"
        )
    unbroken = publication.unbroken(published, oids)
    for oid, concerned in by_table.items():
        relation = relations.get(oid)
        if relation is None:
            _drop(store, concerned, "its table was dropped")
        elif oid not in unbroken:
            publication.forget(oid)
            left = "for a while" if oid in published else "or got a filter there, or lost its full replica identity"
            _drop(store, concerned, f"its table left the publication {left}")
        else:
            _drop_changed(store, concerned, relation, stored_generated=publication.stored_generated)
            if relation.kind == "p":
                await repair(publication, concerned[0].definition)
    for feed in feeds:
        relation = relations.get(feed.state.spec.oid)
        if not feed.ready.done():
            continue
        if relation is None or relation.oid not in unbroken or not feed.still_fits(relation):
            hub.end_users(feed, TABLE_CHANGED)
        elif feed.state.origin is not None:
            feed.state.origin = feed.state.origin.renewed(feed.state.signature, relation)
    if only is None:
        await publication.remove_unused(lambda: _used(store, hub))


def _used(store: Store, hub: Hub) -> set[int]:
    """The tables that shapes read, or are about to: a shape is registered before its table is published."""
    return {shape.definition.oid for shape in store.by_id.values()} | {feed.state.spec.oid for feed in hub.feeds}


def _drop_changed(store: Store, shapes: list[Shape], relation: Relation, *, stored_generated: bool) -> None:
    streamed = streamed_columns(relation, stored_generated=stored_generated)
    signature = tuple((column.name, column.type_oid) for column in streamed)
    known: dict[int, frozenset[str]] = {}
    changed = [
        shape
        for shape in shapes
        if (relation.pk, relation.deferrable) != (shape.definition.pk, shape.definition.deferrable)
        or shape.definition.rewritten(relation, known)
        or not shape.definition.survives(relation.oid, relation.schema, relation.name, signature)
    ]
    _drop(store, changed, "its table's definition changed")
    newer: dict[int, tuple[Origin, Origin]] = {}
    for shape in shapes:
        if shape.alive:
            shape.definition = shape.definition.renewed(relation, newer)


def roots_of(store: Store) -> set[int]:
    """The partitioned tables that have shapes."""
    return {shape.definition.oid for shape in store.by_id.values() if shape.definition.partitioned}


def follow_partitions(partitions: Partitions, store: Store, publication: Publication) -> None:
    """What becomes of a root's shapes, and of its new leaves, when its partitions are others than before."""
    running: set[asyncio.Future[None]] = set()

    def shapes_of(root: int) -> list[Shape]:
        return [shape for shape in store.by_id.values() if shape.definition.oid == root]

    def publish(root: int) -> None:
        for shape in shapes_of(root)[:1]:
            task = asyncio.ensure_future(repair(publication, shape.definition))
            running.add(task)
            task.add_done_callback(running.discard)

    def end(root: int, reason: str) -> None:
        publication.forget(root)
        _drop(store, shapes_of(root), reason)

    partitions.restore(roots_of(store))
    partitions.on_broken = end
    partitions.on_grown = publish


async def repair(publication: Publication, definition: Definition) -> None:
    """Give new partitions of a root their full replica identity. Failing is no harm: their shapes end if it matters."""
    publication.forget(definition.oid)
    try:
        await publication.ensure(definition.oid, definition.schema, definition.table)
    except (ShapeError, PostgresError, ConnectionLost, PoolTimeout) as error:
        log.warning("new partitions of %s.%s are not published in full: %s", definition.schema, definition.table, error)


def _drop(store: Store, shapes: list[Shape], reason: str) -> None:
    for shape in shapes:
        store.drop(shape, reason)
