"""The operator as a whole: the first walk, then watches, queue, walks and the health listener until it is stopped.

Everything it knows can be rebuilt: killing it at any moment and starting it again converges.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

from switchgear_model import labels
from switchgear_model.kinds import KINDS
from switchgear_operator import admin_token, kopf_app, routing
from switchgear_operator.act import MANAGER, Actor
from switchgear_operator.edges import Edges
from switchgear_operator.health import Health, Vitals
from switchgear_operator.jobs import Jobs
from switchgear_operator.kube.client import ApiError, KubeClient
from switchgear_operator.kube.config import KubeConfig
from switchgear_operator.kube.refs import Ref
from switchgear_operator.observe import Observer
from switchgear_operator.queue import WorkQueue
from switchgear_operator.reconcile import Reconciler
from switchgear_operator.region_key import RegionKey
from switchgear_operator.settings import Settings
from switchgear_operator.snapshot import Config
from switchgear_operator.store import NAMESPACE_KIND, Key, Store, key_of

_log = logging.getLogger(__name__)

WORKERS: Final = 16
#: A change that a walk found and no watch reported for so long: the watch is dead.
WATCH_STALE_SECONDS: Final = 90.0
_FIRST_WALK_PAUSE: Final = 1.0
_STOP_SECONDS: Final = 10.0


class WatchDead(Exception):
    """A watch has ended without anybody noticing but the walk."""


class App:
    """One operator. `run` returns when it was stopped and raises when something of it has ended by itself."""

    def __init__(self, settings: Settings, kubeconfig: KubeConfig) -> None:
        self._settings = settings
        self._kubeconfig = kubeconfig
        self._store = Store()
        self._kube = KubeClient(kubeconfig, manager=MANAGER)
        self._edges = Edges(self._kube, settings.namespace, settings.edge_urls)
        self._jobs = Jobs(self._job_done)
        self._region_key = RegionKey(self._kube, settings.namespace)
        config = Config(
            namespace=settings.namespace,
            region=settings.region,
            public_url=settings.public_url,
            shapes_image=settings.shapes_image,
            streams_image=settings.streams_image,
            metrics_namespaces=settings.metrics_namespaces,
        )
        observer = Observer(self._kube, config, self._store, self._jobs, self._edges, self._region_key)
        actor = Actor(self._kube, self._jobs, socket.gethostname()[:63])
        self._reconciler = Reconciler(observer, actor, self._jobs, self._store, self._again)
        self._queue: WorkQueue[Key] = WorkQueue(self._reconciler, workers=WORKERS)
        self._stop = asyncio.Event()
        self._kopf_stop = asyncio.Event()
        self._kopf_ready = asyncio.Event()
        self._walked = float("-inf")

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT."""
        self._take_signals()
        health = Health(self._settings.health_host, self._settings.health_port, self._vitals)
        async with self._kube:
            await health.start()
            try:
                if await self._first_walk():
                    await self._serve()
            finally:
                await self._jobs.stop()
                await self._edges.close()
                await health.stop()
        _log.info("stopped")

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def _first_walk(self) -> bool:
        """Fills the mirror before anything is decided by it, however long the API server takes. False: stopped."""
        while not self._stop.is_set():
            try:
                await self._region_key.get()
                await admin_token.ensure(self._kube, self._settings.namespace, self._settings.admin_token_secret)
                await self._walk()
            except Exception as error:
                _log.warning("not started yet: %s: %s", type(error).__name__, error)
                await self._sleep(_FIRST_WALK_PAUSE)
            else:
                self._store.trust()
                return True
        return False

    async def _serve(self) -> None:
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        watches = asyncio.create_task(self._watch(), name="watches")
        own = [
            asyncio.create_task(self._queue.run(), name="queue"),
            asyncio.create_task(self._walks(), name="walks"),
        ]
        _log.info("region %s, %d objects", self._settings.region, len(self._store))
        done, _ = await asyncio.wait([stopped, watches, *own], return_when=asyncio.FIRST_COMPLETED)
        # The queue first: nothing is decided any more while the watches end.
        self._stop.set()
        for task in [*own, stopped]:
            task.cancel()
        self._kopf_stop.set()
        _, late = await asyncio.wait([watches, *own], timeout=_STOP_SECONDS)
        for task in late:
            task.cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _watch(self) -> None:
        runs = asyncio.create_task(
            kopf_app.run(self._kubeconfig, self.on_event, stop=self._kopf_stop, ready=self._kopf_ready)
        )
        ready = asyncio.create_task(self._kopf_ready.wait())
        await asyncio.wait([runs, ready], return_when=asyncio.FIRST_COMPLETED)
        # kopf takes the signals when it starts; stopping is ours to order.
        self._take_signals()
        try:
            await runs
        finally:
            ready.cancel()
            self._take_signals()

    def on_event(self, kind: str, raw: Mapping[str, Any], gone: bool) -> None:
        """An event of a watch: keys into the queue, nothing else."""
        for key in self._concerned(kind, raw, gone):
            self._queue.add(key)

    def _concerned(self, kind: str, raw: Mapping[str, Any], gone: bool) -> set[Key]:
        if kind in KINDS:
            change = self._store.update(raw, gone=gone)
            if gone and change.before is not None:
                self._jobs.forget(change.before.meta.uid)
            return routing.of_ours(self._store, change)
        if kind == "Namespace":
            return routing.of_namespace(self._store, raw)
        if kind == "RoleBinding":
            return routing.of_binding(self._store, raw)
        return routing.of_child(raw)

    def _again(self, key: Key, delay: float) -> None:
        self._queue.add_after(key, delay)

    def _job_done(self, uid: str) -> None:
        key = self._store.by_uid(uid)
        if key is not None:
            self._queue.add(key)

    async def _walks(self) -> None:
        """Everything again, now and then: what was missed, users' Secrets, and role bindings left behind."""
        while True:
            await asyncio.sleep(self._settings.resync_seconds * random.uniform(0.8, 1.0))  # noqa: S311 - spreading
            try:
                await self._walk()
            except ApiError as error:
                _log.warning("walk failed: %s", error)
            dead = self._store.stale(WATCH_STALE_SECONDS)
            if dead:
                # Walks keep us going, but slowly: whoever supervises us starts us again with new watches.
                raise WatchDead(f"no watch has reported {dead[0]} within {WATCH_STALE_SECONDS:.0f} s")

    async def _walk(self) -> None:
        for kind in KINDS:
            for key in self._store.replace(kind, await self._kube.list(Ref(kind, ""))):
                self._queue.add(key)
        objects = self._store.everything()
        for obj in objects:
            self._queue.add(key_of(obj))
        bindings = await self._kube.list(Ref("RoleBinding", ""), f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}")
        for binding in bindings:
            if labels.FINALIZER in (binding["metadata"].get("finalizers") or []):
                self._queue.add((NAMESPACE_KIND, "", binding["metadata"]["namespace"]))
        alive = {obj.meta.uid for obj in objects}
        for uid in self._jobs.owners() - alive:
            self._jobs.forget(uid)
        self._walked = time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    def _vitals(self) -> Vitals:
        return Vitals(
            ready=self._kopf_ready.is_set() and not self._stop.is_set(),
            walk_age=time.monotonic() - self._walked,
            stale=len(self._store.stale(WATCH_STALE_SECONDS)),
            depth=self._queue.depth,
            busy=self._queue.busy,
            failed=self._queue.failed,
            objects=len(self._store),
            heard={kind: time.monotonic() - when for kind, when in self._store.heard.items()},
            results=dict(self._reconciler.results),
        )
