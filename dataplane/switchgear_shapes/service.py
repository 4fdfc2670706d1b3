"""The running server: the parts wired together, and the routes.

Order of starting: listen (202 starting) → connect → lock (202 waiting; known shapes read-only) → storage → publication
and slot → stream (200 active). When the connection is lost, what is on disk stays readable, as long as no other server
of the same stream has taken the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial

import orjson

from switchgear_shapes import answers
from switchgear_shapes.calls import Answer, not_found
from switchgear_shapes.catalog import Catalog
from switchgear_shapes.creation import Creator
from switchgear_shapes.errors import ShapeError
from switchgear_shapes.eviction import Notes, evict, take_notes
from switchgear_shapes.live import Live, next_cursor
from switchgear_shapes.log.registry import Registry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.measures import RequestMeasures
from switchgear_shapes.metrics import Metrics
from switchgear_shapes.postgres.pool import Pool, PoolTimeout
from switchgear_shapes.postgres.session import ConnectionLost, PostgresError, Session
from switchgear_shapes.reading import Reader
from switchgear_shapes.reconcile import PublicationGone
from switchgear_shapes.relations import Relation
from switchgear_shapes.replication.client import Replication
from switchgear_shapes.replication.conversation import Names, Started, parse_lsn
from switchgear_shapes.replication.publication import Publication
from switchgear_shapes.settings import Settings
from switchgear_shapes.shape_api import ShapeApi
from switchgear_shapes.snapshot import NOW, SnapshotMark
from switchgear_shapes.standby import Standby
from switchgear_shapes.subset_query import Moment, Subsets
from switchgear_shapes.table_watch import TableWatch
from switchgear_shapes.telemetry import Otlp, StatsD
from switchgear_shapes.upstream import Upstream
from switchgear_shapes.writing import Writing, open_store
from switchgear_wire import Limits, Request, Response, Server, serve

log = logging.getLogger("switchgear.shapes")

MAINTENANCE_SECONDS = 10.0
VISIBLE_SECONDS = 1.0
DRAIN_SECONDS = 10.0
_HEALTH_CACHE = b"cache-control: no-cache, no-store, must-revalidate\r\n"


class Service:
    """One server process. Satisfies `shape_api.Stack`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        suffix = f"_{settings.instance_id.replace('-', '_')[:16]}" if settings.random_slot_name else ""
        self._names = Names(
            slot=settings.slot_name + suffix,
            publication=settings.publication_name,
            temporary=settings.temporary_slot,
            manual=settings.manual_table_publishing,
        )
        admin_size = max(1, min(4, settings.db_pool_size // 4))
        self._admin = Pool(settings.pooled_database, admin_size)
        self._snapshots = Pool(settings.pooled_database, max(1, settings.db_pool_size - admin_size))
        self.publication = Publication(settings.publication_name, self._admin, manual=settings.manual_table_publishing)
        self._writing: Writing | None = None
        self._stop = asyncio.Event()
        self._tables = TableWatch(self._look_at_tables)
        self.live = Live()
        self.catalog = Catalog(self._admin)
        self.subsets = Subsets(self._snapshots, self._admin)
        self._cache = answers.CacheRules(settings.cache_max_age, settings.cache_stale_age, settings.sse_timeout)
        self._reader: Reader | None = None
        self._standby = Standby(settings, self._cache, self._cursor, self.live)
        self._notes = Notes(settings.storage_dir)
        self._standing_by: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        pools = (self._admin, self._snapshots)
        self._upstream = Upstream(settings.database, self._names, pools, self, settings.replication_idle_timeout)
        self._metrics = Metrics()
        self._api = ShapeApi(self, RequestMeasures(self._metrics.registry))
        self._metrics.watch_admission(self._api.admission)
        self._metrics.watch_live(self.live)
        self._metrics.watch_subsets(self.subsets)

    # -- state --

    @property
    def active(self) -> bool:
        return self._upstream.active

    @property
    def read_only(self) -> bool:
        return self._standby.follower is not None and self._upstream.waiting_for_lock

    @property
    def serving(self) -> bool:
        return self.read_only or (self.store is not None and self._upstream.readable)

    @property
    def store(self) -> Store | None:
        return None if self._writing is None else self._writing.store

    @property
    def creator(self) -> Creator | None:
        return None if self._writing is None else self._writing.creator

    @property
    def known(self) -> Registry | None:
        return self._standby.follower if self.read_only else self.store

    @property
    def reader(self) -> Reader | None:
        return self._standby.reader if self.read_only else self._reader

    def moment(self, shape: Shape, relation: Relation) -> Moment | None:
        where = shape.definition.where
        if where is None or not where.subqueries:
            return None
        if self._writing is not None and not self.read_only:
            return partial(self._writing.steps.between, shape, relation)
        return partial(self._standby.between, shape)

    @property
    def waiting_for(self) -> str:
        return self._upstream.waiting_for

    async def wait_active(self, seconds: float) -> bool:
        return await self._upstream.wait_active(seconds)

    @property
    def needed(self) -> bool:
        return self.live.count > 0 or (self._writing is not None and self._writing.needed)

    # -- routes --

    def handle(self, request: Request) -> Answer:
        """Every request of the main port."""
        route = answers.route_of(request.path)
        if route == (b"v1", b"shape"):
            self._upstream.asked()
            self._standby.refresh()
            return self._api.handle(request)
        base = answers.base_headers(request, answers.OTHER_METHODS)
        if request.method not in ("GET", "HEAD"):
            return not_found(base)
        match route:
            case ():
                return Response(200, base + answers.DEFAULT_CACHE)
            case (b"v1", b"health"):
                status = self._upstream.status
                body = orjson.dumps({"status": status})
                return Response(200 if status == "active" else 202, base + answers.JSON_TYPE + _HEALTH_CACHE, body)
            case (b"ready",):
                # For roll-outs that wait for the new instance before they end the old one: ready to serve what exists.
                standby = self.read_only and b"standby=true" in request.query.split(b"&")
                return self._probe(base, standby or self._upstream.asleep or (self.serving and not self.read_only))
            case (b"live",):
                return self._probe(base, True)
            case (b"metrics",):
                return self._metrics.response(base)
        return not_found(base)

    def handle_metrics(self, request: Request) -> Answer:
        """Every request of the separate metrics port."""
        base = answers.base_headers(request, answers.OTHER_METHODS)
        if request.method in ("GET", "HEAD") and answers.route_of(request.path) == (b"metrics",):
            return self._metrics.response(base)
        return not_found(base)

    def _probe(self, base: bytes, good: bool) -> Response:
        body = orjson.dumps({"status": self._upstream.status} | ({"waiting_for": self.waiting_for} if not good else {}))
        return Response(200 if good else 503, base + answers.JSON_TYPE + _HEALTH_CACHE, body)

    # -- running --

    async def run(self) -> None:
        """Serve until told to stop. Raises OSError when a port cannot be had, FatalError from the storage."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        servers = await self._listen()
        self._metrics.watch_server(servers[0])
        work = [
            asyncio.ensure_future(self._upstream.run()),
            asyncio.ensure_future(self._maintain()),
            asyncio.ensure_future(self._see_commits()),
            asyncio.ensure_future(self._compact()),
            asyncio.ensure_future(self._tables.run()),
            *(asyncio.ensure_future(sending) for sending in self._telemetry()),
        ]
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                if task.done():
                    task.result()
        finally:
            stopping.cancel()
            await self._shut_down(servers, work)

    def stop(self) -> None:
        self._stop.set()

    def _telemetry(self) -> Iterator[Coroutine[None, None, None]]:
        settings, registry = self.settings, self._metrics.registry
        if settings.statsd is not None:
            yield StatsD(registry, settings.statsd, settings.instance_id).run(settings.system_metrics_period)
        if settings.otlp_endpoint is not None:
            yield Otlp(registry, settings).run(settings.otel_export_period)

    async def _listen(self) -> list[Server]:
        settings = self.settings
        limits = Limits(idle_timeout=settings.tcp_read_timeout, write_stall_timeout=settings.tcp_send_timeout)
        host = "::" if settings.listen_on_ipv6 and settings.host in ("0.0.0.0", "127.0.0.1") else settings.host  # noqa: S104
        servers = [
            await serve(
                self.handle,
                host,
                settings.port,
                limits=limits,
                error_headers=lambda request: answers.base_headers(request, answers.OTHER_METHODS),
                remember_heads=True,
            )
        ]
        if settings.prometheus_port is not None:
            servers.append(await serve(self.handle_metrics, host, settings.prometheus_port, limits=limits))
        log.info("listening on %s port %d", host, servers[0].port)
        return servers

    async def _shut_down(self, servers: list[Server], work: Sequence[asyncio.Future[None]]) -> None:
        log.info("stopping")
        for server in servers:
            server.draining = True
        self.live.stop()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        self._end_standby()
        if self._writing is not None:
            await self._writing.stop()
        await asyncio.gather(*(server.drain(DRAIN_SECONDS) for server in servers))
        if self.store is not None:
            await self.store.close()
        self._admin.close()
        self._snapshots.close()

    # -- what the connection to Postgres is used for --

    async def begin(self, session: Session, started: Started) -> Replication:
        """Raises StorageLocked, FatalError, OSError."""
        self._end_standby()
        if self._closing is not None:
            await self._closing
        writing = self._writing or await self._write()
        await writing.adopt(started)
        self.publication.stored_generated = started.stored_generated
        replication = Replication(session, writing.ingest, writing.store, writing.partitions.look)
        self._metrics.watch_replication(replication, writing.ingest, session.server_version)
        return replication

    async def _write(self) -> Writing:
        """The lock in Postgres is ours: now the directory."""
        settings = self.settings
        store = await open_store(settings.storage_dir, settings.chunk_bytes_threshold)
        writing = Writing(
            store,
            settings,
            self.live,
            self.catalog,
            self._admin,
            self._snapshots,
            self.publication,
            self._metrics,
            self._tables,
        )
        writing.connect(lambda: self.active, self._upstream.ask_position)
        self._reader = Reader(store, self._cache, self._cursor, lambda shape: store.drop(shape, "its file is gone"))
        self._writing = writing
        return writing

    async def let_go(self) -> None:
        """Another instance has the lock."""
        if self.store is not None:
            log.warning("another instance has the lock: giving up the storage")
            self._closing = asyncio.ensure_future(self._give_up())
            await asyncio.shield(self._closing)
        if self._standing_by is None:
            self._standing_by = asyncio.ensure_future(self._stand_by())

    async def _give_up(self) -> None:
        writing = self._writing
        if writing is not None:
            await writing.stop()
            self.live.interrupt()
            self._writing = self._reader = None
            await writing.give_up()

    async def _stand_by(self) -> None:
        with contextlib.suppress(ShapeError):
            await self.publication.look_at_generated()
        await self._standby.run()

    def _end_standby(self) -> None:
        if self._standing_by is not None:
            self._standing_by.cancel()
            self._standing_by = None
        self._standby.end()

    def _cursor(self, previous: int) -> int:
        return next_cursor(previous, time.time(), self.settings.long_poll_timeout)

    # -- now and then --

    async def _maintain(self) -> None:
        """Housekeeping that no request waits for."""
        due = time.monotonic() + self.settings.publication_refresh_period
        while True:
            wait = min(MAINTENANCE_SECONDS, max(0.05, due - time.monotonic()))
            await asyncio.sleep(wait)
            self._admin.close_idle()
            self._snapshots.close_idle()
            if self.store is not None:
                self.store.tick()
                self._evict(self.store)
            self._upstream.tick()
            if not self.active:
                if time.monotonic() >= due:
                    due = time.monotonic() + min(MAINTENANCE_SECONDS, self.settings.publication_refresh_period)
                    if self.read_only:  # nobody tells a standby of changes that end no shape
                        self.catalog.clear()
                    if self.known is not None and self.read_only and self.settings.max_shapes is not None:
                        self._notes.leave(self.known.by_id.values(), self.live.waited_for())
                continue
            try:
                await self._metrics.ask_slot(self._admin, self._names.slot)
                if time.monotonic() >= due and self._writing is not None:
                    due = time.monotonic() + min(
                        self.settings.publication_refresh_period, self.settings.schema_reconciler_period
                    )
                    await self._writing.keep_partitions()
                    await self._look_at_tables(None)
            except PublicationGone as error:
                self._upstream.abort(error)
            except (PostgresError, ConnectionLost, PoolTimeout) as error:
                log.warning("housekeeping in Postgres failed: %s", error)

    async def _look_at_tables(self, oids: set[int] | None) -> None:
        """End the shapes of these tables, or of all, that cannot go on."""
        if self._writing is None or self._upstream.replication is None:
            return
        try:
            await self._writing.reconcile(oids)
        except PublicationGone as error:
            self._upstream.abort(error)
        except (PostgresError, ConnectionLost, PoolTimeout, OSError) as error:
            log.warning("tables could not be looked at: %s", error)

    async def _see_commits(self) -> None:
        """Look which of the transactions that passed are visible by now: only those are acknowledged."""
        while True:
            await asyncio.sleep(VISIBLE_SECONDS)
            passed = None if self._writing is None else self._writing.ingest.passed
            if self.active and passed is not None and passed.first_unseen is not None:
                with contextlib.suppress(PostgresError, ConnectionLost, PoolTimeout):
                    async with self._admin.session() as session:
                        seen, lsn = (await session.query(NOW))[0]
                    passed.prune(SnapshotMark.parse(seen or "", parse_lsn(lsn or "")))

    def _evict(self, store: Store) -> None:
        limit = self.settings.max_shapes
        if limit is not None:
            take_notes(store, self.settings.storage_dir)
            evict(store, limit, self.live.waited_for())

    async def _compact(self) -> None:
        """Shorten the logs of the shapes that were made for it, at moments that differ between instances."""
        while True:
            await asyncio.sleep(self.settings.compaction_period * random.uniform(0.5, 1.5))  # noqa: S311
            store = self.store
            if store is None:
                continue
            for shape in [shape for shape in store.by_id.values() if shape.definition.compaction]:
                if store is self.store:
                    with contextlib.suppress(OSError):  # a full disk; the store has said so
                        await store.compact(shape)
