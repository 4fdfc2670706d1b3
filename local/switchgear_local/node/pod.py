"""One pod on this node, from its binding to the removal of its object: volumes, containers in order, status, end.

Invariants: the object is deleted only when no process of the pod is left, and only the object with the pod's uid; the
address and the directory go last; a worker never raises: what goes wrong shows in the pod's status and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from . import environment, prober, records, status, volumes
from .addresses import Block
from .api import STRATEGIC, Api, Object, pod_path
from .backoff import Backoff
from .container import Container
from .contents import Contents
from .errors import ApiError, ApiUnavailableError, ConfigError, NodeError
from .events import Events
from .logfiles import Logs
from .mounts import MountTable
from .process import Launch
from .records import PodRecord

log = logging.getLogger(__name__)

DEFAULT_GRACE = 30
FORCED_GRACE = 2.0
_AGAIN = 5.0


@dataclass(frozen=True)
class NodeContext:
    """What a pod needs of its node. `claim(namespace, name)` is the claim as last seen, or None."""

    api: Api
    events: Events
    block: Block
    node_name: str
    node_id: str
    host_ip: str
    pods_dir: Path
    volumes_dir: Path
    program_path: str
    claim: Callable[[str, str], Object | None]


class PodWorker:
    """Runs one pod. `before` is the worker of a namesake that must be gone first."""

    def __init__(self, node: NodeContext, pod: Object, record: PodRecord | None, before: PodWorker | None) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        self.uid: str = metadata["uid"]
        self.namespace: str = metadata["namespace"]
        self.name: str = metadata["name"]
        self.title = f"{self.name}_{self.namespace}({self.uid})"
        self.grace = float(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE))
        self.policy: str = spec.get("restartPolicy") or status.ALWAYS
        self.finished = asyncio.Event()
        self._node = node
        self._pod = pod
        self._version = 0
        self._before = before
        self._directory = node.pods_dir / self.uid
        self._record = record or _new_record(pod)
        self._contents = Contents(node.api, self.namespace)
        self._ending = asyncio.Event()
        self._gone = False
        self._left = False
        self._dirty = asyncio.Event()
        self._volumes_lock = asyncio.Lock()
        init_policy = status.NEVER if self.policy == status.NEVER else status.ON_FAILURE
        self.init = [self._container(entry, init_policy, init=True) for entry in spec.get("initContainers") or ()]
        self.main = [self._container(entry, self.policy) for entry in spec["containers"]]
        self.update(pod)

    def _container(self, spec: Mapping[str, Any], policy: str, *, init: bool = False) -> Container:
        logs = Logs(self._directory / "logs" / spec["name"])
        return Container(self, spec, self._record.container(spec["name"]), logs, policy, init=init)

    # What the API server says.

    def update(self, pod: Object) -> None:
        """A newer state of the object; older ones are ignored."""
        version = pod["metadata"].get("resourceVersion", "")
        number = int(version) if version.isdigit() else self._version + 1
        if number <= self._version:
            return
        self._version, self._pod = number, pod
        self.changed()
        deleted = pod["metadata"].get("deletionTimestamp")
        if deleted:
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            left = datetime.fromisoformat(deleted).timestamp() - time.time()
            self.end(max(1.0, min(grace, left)))

    def object_gone(self) -> None:
        """The object was removed by force, or while the node was away."""
        self._gone = True
        self.end(min(self.grace, FORCED_GRACE))

    def leave(self) -> None:
        """The node stops: end the processes and leave the object for the next start."""
        self._left = True
        self.end(self.grace)

    def end(self, grace: float) -> None:
        """Stop all containers within `grace` seconds. Called again it can only shorten."""
        for container in (*self.init, *self.main):
            container.stop(grace)
        self._ending.set()

    # What a container needs (PodContext).

    def save(self) -> None:
        """Write the record."""
        records.save(self._directory, self._record)

    def changed(self) -> None:
        """The status may have changed."""
        self._dirty.set()

    def event(self, kind: str, reason: str, message: str) -> None:
        """Tell people."""
        self._node.events.emit(self._pod, "Pod", kind, reason, message)

    def marker(self, container: str, start: int) -> str:
        """What the processes of a start carry in their environment."""
        return f"{self._node.node_id}/{self.uid}/{container}/{start}"

    def mounts(self, spec: Mapping[str, Any]) -> MountTable:
        """The container's mounts. Raises ConfigError."""
        projected = {v["name"] for v in self._pod["spec"].get("volumes") or () if volumes.is_projection(v)}
        try:
            return MountTable(volumes.mount_table(spec, self._record.volumes, projected))
        except (ValueError, OSError) as error:
            raise ConfigError(volumes.MOUNT_ERROR, str(error)) from error

    def probes(self, spec: Mapping[str, Any]) -> prober.Plan:
        """The container's probes. Raises ConfigError."""
        with contextlib.suppress(ConfigError):
            return prober.plan(spec, self._record.address, self.mounts(spec))
        # Before the first start there are no volumes; the plan is checked without.
        return prober.plan(spec, self._record.address, MountTable({}))

    async def launch(self, spec: Mapping[str, Any], start: int) -> Launch:
        """Everything for a start of a container, with its Secrets as they are now."""
        node, address = self._node, self._record.address
        async with self._volumes_lock:
            wanted = [*environment.references(spec), *volumes.references(self._pod["spec"])]
            sources = await self._contents.fetch(wanted)
            facts = environment.facts_of(self._pod, node.node_name, node.host_ip, address)
            try:
                self._prepare_volumes(sources, facts)
            except OSError as error:
                raise ConfigError(volumes.MOUNT_ERROR, f"{error.strerror}: {error.filename}") from error
        mounts = self.mounts(spec)
        values = environment.variables(spec, facts, sources)
        home = self._directory / "home"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        environ = environment.process_environment(values, facts, mounts, program_path=node.program_path, home=str(home))
        directory = mounts.rewrite(spec["workingDir"]) if spec.get("workingDir") else str(home)
        container = next(c for c in (*self.init, *self.main) if c.name == spec["name"])
        return Launch(
            argv=environment.arguments(spec, values, mounts),
            environ=environ,
            directory=directory,
            log=container.logs.begin(start),
            marker=self.marker(spec["name"], start),
            keep_fd=node.block.lock_fd,
        )

    def _prepare_volumes(self, sources: environment.Sources, facts: environment.PodFacts) -> None:
        for volume in self._pod["spec"].get("volumes") or ():
            name = volume["name"]
            directory = volumes.volume_directory(self._directory / "volumes", name)
            claim = volumes.claim_name(volume)
            if claim is not None:
                directory = volumes.claim_directory(
                    self._node.volumes_dir, claim, self._node.claim(self.namespace, claim)
                )
            elif "emptyDir" not in volume:
                volumes.write(directory, volumes.files(volume, sources, facts))
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._record.volumes[name] = str(directory)

    # The pod's life.

    async def run(self) -> None:
        """From now until the pod is gone from this node, or the node leaves."""
        writing = asyncio.create_task(self._write_status())
        work = asyncio.create_task(self._work_on())
        try:
            await self._ending.wait()
            await work
            writing.cancel()
            if self._left:
                return
            if not self._gone:
                with contextlib.suppress(ApiError, ApiUnavailableError):
                    await self._write_status_once()
                await self._delete_object()
            try:
                await asyncio.to_thread(volumes.remove, self._directory)
            except OSError as error:
                log.error("pod %s: %s cannot be removed: %s", self.title, self._directory, error)
            self._node.block.release(self.uid)
            log.info("pod %s is gone", self.title)
        finally:
            self.finished.set()
            for task in (writing, work):
                task.cancel()
            await asyncio.gather(writing, work, return_exceptions=True)

    async def write_last_status(self) -> None:
        """For a node that stops: say that the containers do not run. Best effort."""
        with contextlib.suppress(ApiError, ApiUnavailableError):
            await self._write_status_once()

    async def _work_on(self) -> None:
        while True:
            try:
                await self._work()
                return
            except NodeError as error:
                log.error("pod %s: %s", self.title, error)
                if self._ending.is_set():
                    return
                for container in (*self.init, *self.main):
                    container.wait_for(status.CREATING, str(error))
            except Exception:
                # A mistake of ours with one pod must not take the others with it.
                log.exception("pod %s: unexpected; trying again", self.title)
            if self._ending.is_set():
                await asyncio.sleep(1)  # and again: processes must not be left behind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN):
                    await self._ending.wait()

    async def _work(self) -> None:
        if self._before is not None:
            await self._before.finished.wait()
            self._before = None
        self._take_address()
        started_before = any(c.record.starts for c in self.main)
        if not started_before and not await self._initialize():
            return
        if self._pod.get("status", {}).get("phase") in status.TERMINAL:
            # It ended in an earlier life; only what may be left of its processes matters.
            for container in self.main:
                container.record.done = container.record.identity is None
        await asyncio.gather(*(container.run() for container in self.main))

    def _take_address(self) -> None:
        record = self._record
        wanted = record.address or (self._pod.get("status") or {}).get("podIP")
        address = self._node.block.assign(self.uid, wanted)
        record.start_time = record.start_time or status.timestamp()
        record.address = address
        self.save()
        self.changed()

    async def _initialize(self) -> bool:
        """Run the init containers one after the other; False when the pod ends before the last succeeded."""
        for container in self.main:
            container.wait_for(status.INITIALIZING if self.init else status.CREATING)
        for container in self.init:
            await container.run()
            last = container.record.last
            if self._ending.is_set() or not container.record.done or last is None or last.exit_code != 0:
                return False
        return True

    async def _delete_object(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        backoff = Backoff(0.1, 5.0, jitter=True)
        while not self._gone:
            try:
                await self._node.api.delete(pod_path(self.namespace, self.name), body)
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
                log.warning("deleting pod %s: %s; trying again", self.title, error)
            except ApiUnavailableError as error:
                log.debug("deleting pod %s: %s; trying again", self.title, error)
            await asyncio.sleep(backoff.next())

    # Status.

    @property
    def view(self) -> status.PodView:
        """The pod at this moment."""
        spec = self._pod["spec"]
        return status.PodView(
            init=tuple(container.view for container in self.init),
            main=tuple(container.view for container in self.main),
            restart_policy=self.policy,
            address=self._record.address,
            host_ip=self._node.host_ip,
            start_time=self._record.start_time or status.timestamp(),
            readiness_gates=tuple(gate["conditionType"] for gate in spec.get("readinessGates") or ()),
        )

    async def _write_status(self) -> None:
        backoff = Backoff(0.2, 5.0, jitter=True)
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(0.01)  # several changes of one moment make one request
            try:
                await self._write_status_once()
                backoff.reset()
            except (ApiError, ApiUnavailableError) as error:
                log.debug("status of pod %s: %s; trying again", self.title, error)
                await asyncio.sleep(backoff.next())
                self._dirty.set()

    async def _write_status_once(self) -> None:
        current = self._pod.get("status") or {}
        if self._gone or current.get("phase") in status.TERMINAL:
            return
        wanted = status.pod_status(self._pod, self.view, status.timestamp())
        if status.covers(current, wanted):
            return
        path = pod_path(self.namespace, self.name) + "/status"
        self.update(await self._node.api.patch(path, status.status_patch(self._pod, wanted), STRATEGIC))


def _new_record(pod: Mapping[str, Any]) -> PodRecord:
    """A record for a pod that is new here; restart counts go on from what its status says."""
    metadata = pod["metadata"]
    record = PodRecord(uid=metadata["uid"], namespace=metadata["namespace"], name=metadata["name"])
    for key in ("initContainerStatuses", "containerStatuses"):
        for entry in (pod.get("status") or {}).get(key) or ():
            if entry.get("containerID"):
                record.container(entry["name"]).starts = int(entry.get("restartCount") or 0) + 1
    return record
