"""The process's metrics, under Electric's names for what both have. Sources are read when somebody scrapes."""

from __future__ import annotations

import resource
import time

from switchgear_shapes.admission import Admission
from switchgear_shapes.creation import Creator
from switchgear_shapes.ingest import Ingest
from switchgear_shapes.live import Live
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.store import Store
from switchgear_shapes.measures import MILLISECONDS
from switchgear_shapes.postgres.pool import Pool
from switchgear_shapes.replication.client import Replication
from switchgear_shapes.routing.router import Router
from switchgear_shapes.subqueries.hub import Hub
from switchgear_shapes.subqueries.steps import Steps
from switchgear_shapes.subset_query import Subsets
from switchgear_shapes.system_metrics import watch_system
from switchgear_wire import Response, Server
from switchgear_wire.metrics import Registry

PG_EPOCH_SECONDS = 946_684_800
_TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\ncache-control: no-store\r\n"


class Metrics:
    """A registry and what it reads."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._started = time.time()
        gauge = self.registry.gauge
        gauge("process_start_time_seconds", "Unix time of the start", lambda: self._started)
        gauge("process_resident_memory_bytes", "Resident memory", _resident)
        gauge("process_cpu_seconds_total", "CPU time", time.process_time)
        watch_system(self.registry)
        self._retained = gauge(
            "electric_postgres_replication_slot_retained_wal_size", "Bytes of WAL that the slot keeps in Postgres"
        )
        self._lag = gauge(
            "electric_postgres_replication_slot_confirmed_flush_lsn_lag",
            "Bytes of WAL not acknowledged yet",
        )
        self._wal = gauge("electric_postgres_replication_pg_wal_offset", "Where Postgres' WAL ends, in bytes")
        self._version = gauge("electric_postgres_info_looked_up_pg_version", "Of Postgres, as server_version_num")
        self._receive_lag = self.registry.histogram(
            "electric_postgres_replication_transaction_received_receive_lag",
            "Milliseconds from a commit to here, of each batch's last transaction",
            MILLISECONDS,
        )
        self._snapshots = self.registry.histogram(
            "electric_shape_snapshot_create_snapshot_task_stop_duration",
            "Milliseconds to create a shape's snapshot",
            MILLISECONDS,
        )

    def received(self, commit_time: int) -> None:
        """A transaction that was committed then (Postgres' microseconds) is about to be stored."""
        self._receive_lag.observe(max(0.0, (time.time() - PG_EPOCH_SECONDS) * 1000 - commit_time / 1000))

    def snapshot_made(self, seconds: float) -> None:
        self._snapshots.observe(seconds * 1000)

    def response(self, base: bytes) -> Response:
        return Response(200, base + _TEXT, self.registry.render())

    def watch_server(self, server: Server) -> None:
        gauge = self.registry.gauge
        gauge("switchgear_http_requests_total", "Requests on the main port", lambda: server.requests.value)
        gauge("switchgear_http_connections", "Open connections", lambda: server.connections)

    def watch_subqueries(self, hub: Hub, steps: Steps) -> None:
        gauge = self.registry.gauge
        gauge("electric_subqueries_move_in_triggered_count", "Changes of a subquery that moved rows", lambda: hub.moved)
        gauge("electric_subqueries_subset_result_count", "Queries for what moves", lambda: steps.queries)
        gauge("electric_subqueries_subset_result_rows", "Rows that they returned", lambda: steps.rows)
        gauge("electric_subqueries_subset_result_bytes", "Bytes that they returned", lambda: steps.bytes)
        gauge("switchgear_subqueries_held", "Shapes that wait with transactions", lambda: hub.held)
        gauge("switchgear_subqueries_kept", "Transactions that they wait with", lambda: hub.kept)
        gauge("switchgear_subqueries_sources", "Results of subqueries in memory", lambda: len(hub.feeds))
        gauge("switchgear_subqueries_source_rows", "Different rows in them", lambda: hub.source_rows)

    def watch_admission(self, admission: Admission) -> None:
        for kind in admission.limits:
            self.registry.gauge(
                "electric_admission_control_acquire_current",
                "Requests that wait for something",
                lambda kind=kind: admission.current[kind],  # type: ignore[misc]
                kind=kind,
            )
            self.registry.gauge(
                "electric_admission_control_reject_count",
                "Requests refused because too many waited",
                lambda kind=kind: admission.rejected[kind],  # type: ignore[misc]
                kind=kind,
            )
            for name in ("electric_admission_control_acquire_limit", "electric_admission_control_reject_limit"):
                self.registry.gauge(name, "How many may wait", kind=kind).set(admission.limits[kind])

    def watch_live(self, live: Live) -> None:
        gauge = self.registry.gauge
        gauge("switchgear_live_waiters", "Live requests that wait for a change", lambda: live.count)
        gauge("electric_shapes_active_shapes_count", "Shapes that live requests wait for", lambda: live.shapes)

    def watch_subsets(self, subsets: Subsets) -> None:
        gauge = self.registry.gauge
        gauge("switchgear_subsets_running", "Subset snapshots being answered", lambda: subsets.running)
        gauge("switchgear_subsets_total", "Subset snapshots", lambda: subsets.queries)
        gauge("switchgear_subsets_bytes_total", "Bytes of subset snapshots", lambda: subsets.bytes)

    def watch_store(self, store: Store, creator: Creator) -> None:
        gauge = self.registry.gauge
        gauge("electric_shapes_total_shapes_count", "Shapes", lambda: len(store.by_id))
        gauge("switchgear_storage_pending_bytes", "Bytes waiting for the disk", lambda: store.pending_bytes)
        gauge("switchgear_storage_tail_bytes", "Durable bytes not yet in shape files", lambda: store.tail_bytes)
        gauge("switchgear_storage_open_files", "Cached open files", lambda: len(store.files))
        gauge("switchgear_wal_syncs_total", "fdatasync calls", lambda: store.wal_syncs[0])
        gauge("switchgear_wal_sync_seconds_total", "Time in them", lambda: store.wal_syncs[1])
        gauge("switchgear_snapshots_running", "Shapes being created", lambda: creator.running)
        gauge("switchgear_snapshots_total", "Shapes created", lambda: creator.created)
        gauge("switchgear_snapshots_failed_total", "Creations that failed", lambda: creator.failed)
        gauge("switchgear_snapshots_transactions_total", "Transactions for them", lambda: creator.transactions)
        gauge("switchgear_snapshots_seconds_total", "Time in creations", lambda: creator.seconds)

    def watch_routing(self, store: Store, router: Router[Shape]) -> None:
        gauge = self.registry.gauge
        gauge(
            "electric_shapes_total_shapes_count_indexed",
            "Shapes that changes find without evaluating them",
            lambda: len(store.by_id) - router.unindexed,
        )
        gauge(
            "electric_shapes_total_shapes_count_unindexed",
            "Shapes that are evaluated for every change of their table",
            lambda: router.unindexed,
        )

    def watch_replication(self, replication: Replication, ingest: Ingest, server_version: int) -> None:
        gauge = self.registry.gauge
        self._version.set(server_version)
        gauge("electric_postgres_replication_transaction_received_count", "Transactions", lambda: ingest.transactions)
        gauge("electric_postgres_replication_transaction_received_operations", "Row changes", lambda: ingest.changes)
        gauge("electric_postgres_replication_transaction_received_bytes", "Their bytes", lambda: ingest.bytes)
        gauge("switchgear_replication_lines_total", "Lines written to shape logs", lambda: ingest.routed)
        gauge("switchgear_replication_acknowledged_lsn", "Acknowledged LSN", lambda: replication.acknowledged)

    async def ask_slot(self, admin: Pool, slot: str) -> None:
        """Read the slot's state. Raises ConnectionLost, PoolTimeout, PostgresError."""
        async with admin.session() as session:
            rows = await session.query(
                "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8,"  # noqa: S608
                " pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int8,"
                " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8"
                f" FROM pg_replication_slots WHERE slot_name = '{slot}'"
            )
        if rows:
            retained, lag, end = rows[0]
            self._retained.set(float(retained or 0))
            self._lag.set(float(lag or 0))
            self._wal.set(float(end or 0))


def _resident() -> float:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
