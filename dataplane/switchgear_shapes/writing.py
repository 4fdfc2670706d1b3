"""What exists only while this instance writes: the storage, what fills it from Postgres, and what reads it.

Made as a whole once the lock in Postgres is ours, and ended as a whole when another instance has it. Nothing here
outlives that: who waits for a shape that is being made is told so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from switchgear_shapes.catalog import Catalog
from switchgear_shapes.creation import Creator
from switchgear_shapes.errors import database_unreachable
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.live import Live
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import StorageLocked, Store, lasting
from switchgear_shapes.metrics import Metrics
from switchgear_shapes.partitions import Partitions
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.reconcile import follow_partitions, reconcile, roots_of
from switchgear_shapes.replication.conversation import Started
from switchgear_shapes.replication.entries import Entries
from switchgear_shapes.replication.pgoutput import RelationMessage
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.routing.router import Router
from switchgear_shapes.settings import Settings
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.subqueries.steps import Steps
from switchgear_shapes.table_watch import TableWatch

STORAGE_LOCK_SECONDS = 10.0


async def open_store(directory: Path, threshold: int) -> Store:
    """Raises StorageLocked when another process holds on to the directory, FatalError, OSError."""
    deadline = time.monotonic() + STORAGE_LOCK_SECONDS
    while True:
        try:
            return Store.open(directory, threshold)
        except StorageLocked:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


class Writing:
    """See the module."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        live: Live,
        catalog: Catalog,
        admin: Pool,
        snapshots: Pool,
        publication: Publication,
        metrics: Metrics,
        tables: TableWatch,
    ) -> None:
        self.store = store
        self._live = live
        self._catalog = catalog
        self._publication = publication
        self._tables = tables
        self._router = router = Router[Shape]()
        publication.entries = Entries(settings.storage_dir)
        publication.on_break = self._on_break
        self.hub = Hub(store, settings.subquery_buffer_transactions)
        self.ingest = Ingest(store, router, self.hub, settings.storage_dir)
        self.ingest.on_relation = self._on_relation
        self.ingest.outgoing.on_received = metrics.received
        self.steps = Steps(self.hub, self.ingest, store, snapshots, catalog, publication)
        self.partitions = Partitions(admin, settings.storage_dir)
        self.partitions.on_tree = router.set_leaves
        follow_partitions(self.partitions, store, publication)
        self.ingest.is_settled = self.partitions.settled
        self.creator = Creator(
            store,
            self.ingest,
            self.steps,
            snapshots,
            admin,
            publication,
            self.partitions,
            settings.chunk_bytes_threshold,
        )
        self.creator.on_created = metrics.snapshot_made
        self.ingest.append(self.hub.catching_up())
        store.on_publish = live.publish
        store.on_drop = self._on_drop
        with lasting():
            for shape in store.by_id.values():
                if shape.id not in self.hub.followers:
                    router.add(shape)
        metrics.watch_subqueries(self.hub, self.steps)
        metrics.watch_store(store, self.creator)
        metrics.watch_routing(store, router)

    def connect(self, active: Callable[[], bool], ask_position: Callable[[], None]) -> None:
        """Whether the stream is there, and how to ask Postgres how far it is."""
        self.steps.connected = active
        self.steps.nudge_by(ask_position)

    @property
    def needed(self) -> bool:
        """Whether something is under way that needs the database."""
        return self.creator.running > 0 or self.steps.running > 0

    def _on_drop(self, shape: Shape) -> None:
        self.ingest.unregister(shape)
        self._catalog.forget(shape.definition.schema, shape.definition.table)
        for oid in shape.definition.tables:
            self._tables.touch(oid)  # perhaps others cannot go on, either
        self._live.dropped(shape)

    def _on_relation(self, relation: RelationMessage) -> None:
        self._catalog.forget(relation.schema, relation.name)
        self._tables.touch(relation.oid)

    def _on_break(self, oid: int) -> None:
        """Whoever waits for the table to be published again is not followed yet, and begins behind the break."""
        for shape in self._followed({oid}):
            self.store.drop(shape, "its table left the publication for a while")
        for feed in self.hub.feeds:
            if feed.state.spec.oid == oid:
                self.hub.end_users(feed, "the table of its subquery left the publication for a while")

    def _followed(self, oids: set[int]) -> list[Shape]:
        """The shapes of these tables to which changes are given."""
        known = self._router.tables
        found = [shape for oid in oids & known.keys() for shape in known[oid].members]
        return found + [f.shape for f in self.hub.followers.values() if f.shape.definition.oid in oids]

    async def adopt(self, started: Started) -> None:
        """Decide whether the shapes on disk continue this slot's stream."""
        store = self.store
        await store.settle()
        system = (started.system_identifier, started.timeline)
        reason = None
        if started.new_slot:
            reason = "the replication slot is new"
        elif store.system is not None and store.system != system:
            reason = "the database is another one, or on another timeline"
        elif started.slot_lsn > store.durable_lsn:
            reason = "the replication slot is ahead of the storage"
        if reason is not None:
            store.purge(reason)
            self.ingest.start_anew()
            self.partitions.start_anew()
            self._publication.entries.clear()
        if reason is not None or store.system != system:
            store.set_system(*system, started.slot_lsn)
        self._publication.forget()
        self._catalog.clear()
        await self.partitions.look()
        self._tables.touch_all()

    async def keep_partitions(self) -> None:
        """Raises ConnectionLost, PoolTimeout, PostgresError."""
        self.partitions.keep(roots_of(self.store))
        await self.partitions.look()

    async def reconcile(self, oids: set[int] | None) -> None:
        """End the shapes of these tables, or of all, that cannot go on.

        Raises PublicationGone, ConnectionLost, PoolTimeout, PostgresError, OSError.
        """
        shapes = list(self.store.by_id.values()) if oids is None else self._followed(oids)
        await reconcile(self.store, self.hub, self._catalog, self._publication, shapes, only=oids)

    async def stop(self) -> None:
        """Begin nothing any more; what is known can still be read."""
        await self.creator.stop()
        await self.steps.stop()

    async def give_up(self) -> None:
        """Another instance goes on with the storage."""
        shapes = list(self.store.by_id.values())
        for shape in shapes:
            if not shape.snapshot.complete:  # its creation was abandoned; somebody may wait for it
                shape.alive = False
                shape.snapshot.fail(database_unreachable())
        await self.store.close()  # which writes the files of those that are alive
        for shape in shapes:
            shape.alive = False
