"""The metrics of a server: names, meanings, and where the numbers come from. No series depends on request input."""

from __future__ import annotations

from collections.abc import Callable

from switchgear_streams.checkpoint import Checkpointer
from switchgear_streams.limits import Seats
from switchgear_streams.live import Hub
from switchgear_streams.recovery import Report
from switchgear_streams.store import Store
from switchgear_streams.subscriptions.engine import Engine
from switchgear_streams.trimming import Trimmer
from switchgear_streams.usage import Usage
from switchgear_streams.yjs.compactor import Compactor
from switchgear_wire.metrics import Counter, Registry


def requests(registry: Registry) -> dict[str, Counter]:
    """One counter a method, "other" for the rest."""
    return {
        method: registry.counter("streams_requests_total", "Requests by method.", method=method)
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "other")
    }


def watch(registry: Registry, store: Store, checkpointer: Checkpointer, hub: Hub, report: Report) -> None:
    """Everything that is read from the parts when it is asked for."""
    wal = store.log
    gauge = registry.gauge
    gauge("streams_streams", "Streams held, those kept only for forks included.", lambda: len(store.streams))
    gauge("streams_appends_total", "Appends accepted.", lambda: store.appends)
    gauge("streams_appended_bytes_total", "Stored bytes accepted.", lambda: store.appended_bytes)
    gauge("streams_wal_blocks_total", "Groups written to the log.", lambda: wal.assigned)
    gauge("streams_wal_syncs_total", "Syncs of the log.", lambda: wal.syncs)
    gauge("streams_wal_bytes_total", "Bytes written to the log.", lambda: wal.bytes)
    gauge("streams_wal_retained_bytes", "Bytes of the log that wait for a checkpoint.", lambda: wal.retained)
    gauge("streams_disk_full", "1 while the log cannot grow.", lambda: wal.full)
    gauge("streams_unsealed_bytes", "Memory that a checkpoint would free.", lambda: store.unsealed)
    gauge("streams_checkpoints_total", "Checkpoints made.", lambda: checkpointer.count)
    gauge("streams_checkpoint_seconds", "Duration of the last checkpoint.", lambda: checkpointer.seconds)
    gauge("streams_adopted_segments_total", "Log segments that became packs.", lambda: checkpointer.adoptions)
    gauge("streams_packs", "Pack files.", lambda: len(store.packs.known))
    gauge("streams_open_packs", "Open pack files.", lambda: store.packs.open_files)
    gauge("streams_long_polls", "Long-polls waiting.", lambda: hub.long_polls)
    gauge("streams_sse_subscribers", "SSE subscribers.", lambda: hub.subscribers)
    gauge("streams_sse_demoted_total", "SSE subscribers that fell behind the tail.", lambda: hub.demoted)
    gauge("streams_sse_buffered_bytes", "Bytes that wait for SSE subscribers' sockets.", hub.buffered)
    gauge("streams_damaged_streams", "Streams quarantined at this start.", lambda: store.damaged)
    gauge("streams_torn_bytes", "Bytes cut from the log's end at this start.", lambda: report.torn_bytes)


def watch_connections(registry: Registry, seats: Seats) -> None:
    """Where their number is bounded."""
    registry.gauge("streams_connections", "Connections that use the service.", lambda: seats.taken)


def watch_usage(registry: Registry, usage: Usage, clock: Callable[[], int]) -> None:
    """The sums behind a bill. `/usage` shows the same, once durable."""
    gauge = registry.gauge
    gauge("streams_usage_write_units_total", "Appends, each 10 KB of one counted.", lambda: usage.units)
    gauge("streams_usage_written_bytes_total", "Stored bytes of all appends.", lambda: usage.bytes)
    gauge("streams_usage_retained_bytes", "Bytes that streams keep.", lambda: usage.held)
    gauge(
        "streams_usage_retained_byte_seconds_total",
        "Bytes kept, over time.",
        lambda: usage.byte_milliseconds(clock()) // 1000,
    )


def expired(registry: Registry) -> Counter:
    return registry.counter("streams_expired_total", "Streams removed because their time was over.")


def watch_retention(registry: Registry, trimmer: Trimmer, checkpointer: Checkpointer) -> None:
    """Of data that went because of a bound on age or size, or because a newer message of its key is there."""
    registry.gauge("streams_trims_total", "Times that a stream was cut at its beginning.", lambda: trimmer.trims)
    registry.gauge("streams_trimmed_bytes_total", "Bytes cut from streams' beginnings.", lambda: trimmer.trimmed_bytes)
    registry.gauge("streams_squeezes_total", "Times that replaced messages went.", lambda: checkpointer.squeezes)
    registry.gauge("streams_squeezed_bytes_total", "Bytes of replaced messages.", lambda: checkpointer.squeezed_bytes)
    registry.gauge(
        "streams_squeezes_failed_total",
        "Times that a stream kept by key had to stay whole.",
        lambda: checkpointer.squeezes_failed,
    )


def watch_documents(registry: Registry, compactor: Compactor) -> None:
    """Of Yjs documents."""
    gauge = registry.gauge
    gauge("streams_yjs_compactions_total", "Snapshots made.", lambda: compactor.done)
    gauge("streams_yjs_failed_compactions_total", "Snapshots that could not be made.", lambda: compactor.failures)
    gauge("streams_yjs_waiting_documents", "Documents that wait for a snapshot.", lambda: compactor.waiting)
    gauge("streams_yjs_compaction_seconds", "Duration of the last compaction.", lambda: compactor.seconds)


def watch_subscriptions(registry: Registry, engine: Engine) -> None:
    """Of subscriptions and their wakes."""
    gauge = registry.gauge
    gauge("streams_subscriptions", "Subscriptions.", lambda: len(engine.subscriptions))
    gauge("streams_wakes_delivered_total", "Webhooks and wake events that arrived.", lambda: engine.delivered)
    gauge("streams_wakes_failed_total", "Attempts to deliver a webhook that failed.", lambda: engine.undelivered)
