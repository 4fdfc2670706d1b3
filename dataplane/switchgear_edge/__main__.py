"""`switchgear-edge`: starts the watchers and the two listeners, and stops them in the order that loses least."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial

from switchgear_edge import headers, kube
from switchgear_edge.internal import Internal
from switchgear_edge.metrics import EdgeMetrics
from switchgear_edge.paths import resolve
from switchgear_edge.relay import HIGH_WATER, Relay
from switchgear_edge.routes import RouteTable
from switchgear_edge.service import Edge
from switchgear_edge.settings import Settings, SettingsError, parse
from switchgear_edge.watch import Watcher, collections
from switchgear_model import logs
from switchgear_model.credentials import edge_internal_key, pod_key
from switchgear_wire import Limits, Request, Server, descriptors, serve
from switchgear_wire.upstream import Upstream

log = logging.getLogger("switchgear.edge")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except SettingsError as error:
        for problem in error.problems:
            print(f"switchgear-edge: {problem}", file=sys.stderr)
        return 2
    logs.configure("switchgear-edge", settings.log_level)
    descriptors.make_room()
    return asyncio.run(run(settings))


class Process:
    """The parts of one edge, wired."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = EdgeMetrics()
        self.table = RouteTable(lambda service_id: b"Bearer " + pod_key(settings.region_key, service_id).encode())
        self.upstream = Upstream()
        self.relay = Relay(
            self.upstream,
            max_per_service=settings.max_service_requests,
            head_timeout=settings.head_timeout,
            trusts=settings.trusts if settings.trusted_proxies else None,
            failure=self.metrics.failure,
        )
        self.watchers = [Watcher(c, partial(kube.load, os.environ)) for c in collections(self.table)]
        self.tasks: list[asyncio.Task[None]] = []
        self.stopping = False
        self._known = False
        self.edge = Edge(self.table, self.relay, self.metrics, self.synced)
        self.internal = Internal(
            self.table, self.metrics.registry, edge_internal_key(settings.region_key), self.not_ready, self.not_live
        )

    def synced(self) -> bool:
        """Whether every first list is in; once true it stays so, whatever becomes of the API server."""
        if not self._known:
            self._known = all(w.synced.is_set() for w in self.watchers)
        return self._known

    def not_ready(self) -> str:
        if self.stopping:
            return "stopping"
        missing = [w.collection.name for w in self.watchers if not w.synced.is_set()]
        return f"not listed yet: {', '.join(missing)}" if missing else ""

    def not_live(self) -> str:
        dead = [w.collection.name for w, t in zip(self.watchers, self.tasks, strict=True) if t.done()]
        return f"watchers ended: {', '.join(dead)}" if dead else ""

    def add_gauges(self, public: Server) -> None:
        gauge = self.metrics.registry.gauge
        gauge("switchgear_edge_connections", "Client connections.", lambda: public.connections)
        gauge("switchgear_edge_refused_connections", "Refused at the limit so far.", lambda: public.refused.value)
        gauge("switchgear_edge_requests_running", "Requests at pods.", lambda: self.relay.running)
        upstream = "switchgear_edge_upstream_connections"
        gauge(upstream, "Connections to pods.", lambda: self.upstream.connections - self.upstream.idle, state="busy")
        gauge(upstream, "Connections to pods.", lambda: self.upstream.idle, state="idle")
        gauge("switchgear_edge_routes", "Service ids that the edge knows.", lambda: len(self.table))
        gauge("switchgear_edge_pods", "Pods that the edge knows.", lambda: self.table.pods)
        for watcher in self.watchers:
            name = watcher.collection.name
            age = "switchgear_edge_watch_age_seconds"
            gauge(age, "Since the Kubernetes API last spoke.", lambda w=watcher: w.age, collection=name)  # type: ignore[misc]
            failed = "switchgear_edge_watch_failures"
            gauge(failed, "Failed lists and watches so far.", lambda w=watcher: w.failures, collection=name)  # type: ignore[misc]


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status."""
    process = Process(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        internal = await serve(process.internal.handle, settings.host, settings.internal_port)
        public = await serve(
            process.edge.handle,
            settings.host,
            settings.port,
            limits=Limits(max_connections=settings.max_connections, high_water=HIGH_WATER),
            error_headers=_error_headers,
        )
    except OSError as error:
        print(f"switchgear-edge: cannot listen on {settings.host}: {error}", file=sys.stderr)
        return 1
    # Waiting requests live long and hold no cycles: looking through all of them again and again would only cost time.
    gc.set_threshold(50_000, 20, 50)
    gc.freeze()
    process.tasks = [asyncio.ensure_future(w.run()) for w in process.watchers]
    process.add_gauges(public)
    log.info("listening on %s:%d, internal on %d", settings.host, public.port, internal.port)
    await stop.wait()
    log.info("stopping: no new requests, running ones get %g s", settings.drain_seconds)
    process.stopping = True
    process.relay.stop_live()
    await public.drain(settings.drain_seconds)
    for task in process.tasks:
        task.cancel()
    await asyncio.gather(*process.tasks, return_exceptions=True)
    process.upstream.close()
    internal.close()
    log.info("stopped")
    return 0


def _error_headers(request: Request | None) -> bytes:
    """CORS for the answers that the listener makes itself."""
    target = resolve(request.path if request is not None else b"")
    return headers.cors(target.family, None if request is None else request.headers.get(b"origin"))


if __name__ == "__main__":
    sys.exit(main())
