"""All pods of this node: one worker each, records of an earlier life, log upkeep.

Invariants: no process is started or ended because the API server is away; a pod of an earlier life is ended only after
a complete list without it; processes that no record knows are ended before anything is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import process, records, volumes
from .container import Container
from .informer import Informer
from .pod import NodeContext, PodWorker
from .records import PodRecord

log = logging.getLogger(__name__)

_ORPHAN_GRACE = 10.0
_TEND_EVERY = 1.0
_BEGIN_AGAIN = 5.0
_REMEMBERED = 10_000


class Kubelet:
    """The node's pods. `run` follows the API server until cancelled; `shutdown` ends all processes."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._done: dict[str, None] = {}
        self._records: dict[str, PodRecord] = {}
        self._leaving = False
        self._informer = Informer(
            node.api, "/api/v1/pods", {"fieldSelector": f"spec.nodeName={node.node_name}"}, self._changed, self._removed
        )

    def __len__(self) -> int:
        return len(self._workers)

    async def prepare(self) -> None:
        """Read the records of an earlier life, and end what none of them knows. Needs no API server."""
        volumes.finish_removals(self._node.pods_dir)
        for directory, record in records.load_all(self._node.pods_dir):
            if record is None:
                log.warning("no usable record in %s; its processes are ended", directory)
                continue
            self._records[record.uid] = record
            if record.address:
                self._node.block.assign(record.uid, record.address)
        await self._end_strays()

    async def _end_strays(self) -> None:
        known = {
            f"{self._node.node_id}/{record.uid}/{name}/{container.starts}"
            for record in self._records.values()
            for name, container in record.containers.items()
            if container.identity is not None and process.is_alive(container.identity)
        }
        for marker, pids in process.marked(f"{self._node.node_id}/").items():
            if marker not in known:
                log.warning("ending processes of an earlier life that no record knows: %s %s", marker, pids)
                await process.kill_members(process.NO_SESSION, marker)

    async def run(self) -> None:
        """Follow the pods bound to this node until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            tasks.create_task(self._sweep())
            tasks.create_task(self._tend())

    async def _sweep(self) -> None:
        """End the pods of an earlier life whose objects are gone."""
        await self._informer.synced.wait()
        for uid in set(self._records) - set(self._informer.objects):
            await self._end_orphan(self._records.pop(uid))
        for directory, _ in records.load_all(self._node.pods_dir):
            if directory.name not in self._workers and directory.name not in self._informer.objects:
                await asyncio.to_thread(volumes.remove, directory)

    async def _end_orphan(self, record: PodRecord) -> None:
        log.warning("pod %s/%s is gone from the API server; ending its processes", record.namespace, record.name)
        for name, container in record.containers.items():
            if container.identity is None or not process.is_alive(container.identity):
                continue
            marker = f"{self._node.node_id}/{record.uid}/{name}/{container.starts}"
            if (found := process.adopt(container.identity, marker)) is not None:
                found.signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ORPHAN_GRACE):
                        await found.wait()
                await process.kill_members(found.pid, marker)
                found.close()
            await process.kill_members(process.NO_SESSION, marker)
        self._node.block.release(record.uid)

    async def _tend(self) -> None:
        while True:
            for worker in list(self._workers.values()):
                for container in (*worker.init, *worker.main):
                    if container.record.starts:
                        container.logs.tend(container.record.starts, time.time())
            await asyncio.sleep(_TEND_EVERY)

    def _changed(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._workers:
            self._workers[uid].update(pod)
        elif uid not in self._done and not self._leaving:
            self._begin(pod)

    def _begin(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        uid, name = metadata["uid"], (metadata["namespace"], metadata["name"])
        before = next((w for w in self._workers.values() if (w.namespace, w.name) == name), None)
        worker = PodWorker(self._node, pod, self._records.pop(uid, None), before)
        self._workers[uid] = worker
        task = asyncio.create_task(worker.run(), name=f"pod {worker.title}")
        self._tasks[uid] = task
        task.add_done_callback(lambda task: self._ended(worker, task))

    def _begin_again(self, uid: str) -> None:
        record = records.load(self._node.pods_dir / uid)
        if record is not None:
            self._records[uid] = record
        if uid in self._informer.objects:
            self._changed(self._informer.objects[uid])

    def _ended(self, worker: PodWorker, task: asyncio.Task[None]) -> None:
        self._tasks.pop(worker.uid, None)
        if not self._leaving:
            self._workers.pop(worker.uid, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pod %s: its worker failed; beginning again", worker.title, exc_info=error)
            asyncio.get_running_loop().call_later(_BEGIN_AGAIN, self._begin_again, worker.uid)
        elif worker.uid in self._informer.objects:
            # Its object may stay for a while (finalizers); it must not begin again.
            self._done[worker.uid] = None
            while len(self._done) > _REMEMBERED:
                self._done.pop(next(iter(self._done)))

    def _removed(self, pod: Mapping[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        self._done.pop(uid, None)
        if uid in self._workers:
            self._workers[uid].object_gone()

    async def shutdown(self, limit: float) -> None:
        """End all pods' processes, leaving their objects; what outlives `limit` seconds is killed."""
        self._leaving = True
        workers, tasks = list(self._workers.values()), list(self._tasks.values())
        for worker in workers:
            worker.leave()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=limit)
            if pending:
                self.hurry()
                await asyncio.wait(pending, timeout=15)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.gather(*(worker.write_last_status() for worker in workers))

    def hurry(self) -> None:
        """Cut short the grace of all pods that are being ended."""
        for worker in self._workers.values():
            worker.end(0)

    def find_log(self, namespace: str, pod: str, container: str) -> Container | None:
        """The container whose logs somebody wants, or None."""
        for worker in self._workers.values():
            if (worker.namespace, worker.name) == (namespace, pod):
                for candidate in (*worker.init, *worker.main):
                    if candidate.name == container:
                        return candidate
        return None


def directories(data_dir: Path) -> tuple[Path, Path]:
    """The directories of pods and of volumes in a data directory, made when missing."""
    pods, claims = data_dir / "pods", data_dir / "volumes"
    for directory in (pods, claims):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return pods, claims
