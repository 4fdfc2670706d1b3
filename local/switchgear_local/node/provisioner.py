"""Volumes for the claims of class `switchgear-local`: a PersistentVolume each, and a directory of the data directory.

Invariants: a directory is removed only for a volume that this node made, when its claim is gone (or the volume itself
is being deleted), and before the volume's finalizer goes; its path comes from the volume's name alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import objects, volumes
from .api import Api, Object
from .errors import ApiError, ApiUnavailableError
from .events import Events
from .informer import Informer

log = logging.getLogger(__name__)

_AGAIN = 1.0
_VOLUMES = "/api/v1/persistentvolumes"


def wants_volume(claim: Mapping[str, Any]) -> bool:
    """Whether the claim waits for a volume of ours."""
    spec = claim["spec"]
    return (
        spec.get("storageClassName") == objects.STORAGE_CLASS
        and not spec.get("volumeName")
        and not claim["metadata"].get("deletionTimestamp")
        and (claim.get("status") or {}).get("phase", "Pending") == "Pending"
    )


def refusal(claim: Mapping[str, Any]) -> str | None:
    """Why a claim cannot have a volume here, or None."""
    spec = claim["spec"]
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        return "volumeMode Block is not supported by the process node; use Filesystem"
    if spec.get("selector"):
        return "a selector is not supported by the process node; remove it"
    if spec.get("dataSource") or spec.get("dataSourceRef"):
        return "a data source is not supported by the process node; remove it"
    return None


def is_ours(volume: Mapping[str, Any]) -> bool:
    """Whether this node made the volume."""
    annotations = volume["metadata"].get("annotations") or {}
    return (
        annotations.get("pv.kubernetes.io/provisioned-by") == objects.PROVISIONER
        and volume["spec"].get("storageClassName") == objects.STORAGE_CLASS
    )


def is_over(volume: Mapping[str, Any]) -> bool:
    """Whether the volume's data are to go."""
    deleting = bool(volume["metadata"].get("deletionTimestamp"))
    released = (volume.get("status") or {}).get("phase") == "Released"
    return is_ours(volume) and (
        (deleting and (volume.get("status") or {}).get("phase") != "Bound")
        or (released and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete")
    )


class Provisioner:
    """Follows claims and volumes."""

    def __init__(self, api: Api, events: Events, node_name: str, directory: Path) -> None:
        self._api = api
        self._events = events
        self._node_name = node_name
        self._directory = directory
        self._work = asyncio.Event()
        self._names: dict[tuple[str, str], str] = {}
        self._claims = Informer(api, "/api/v1/persistentvolumeclaims", {}, self._claim_changed, self._claim_gone)
        selector = f"app.kubernetes.io/name={objects.SERVICE_ACCOUNT}"
        self._volumes = Informer(
            api, _VOLUMES, {"labelSelector": selector}, lambda volume: self._work.set(), lambda volume: None
        )

    def claim(self, namespace: str, name: str) -> Object | None:
        """A claim as last seen, or None."""
        return self._claims.objects.get(self._names.get((namespace, name), ""))

    async def run(self) -> None:
        """Provide and reclaim until cancelled."""
        volumes.finish_removals(self._directory)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._claims.run())
            tasks.create_task(self._volumes.run())
            tasks.create_task(self._loop())

    def _claim_changed(self, claim: Object) -> None:
        metadata = claim["metadata"]
        self._names[metadata["namespace"], metadata["name"]] = metadata["uid"]
        self._work.set()

    def _claim_gone(self, claim: Object) -> None:
        metadata = claim["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if self._names.get(key) == metadata["uid"]:
            del self._names[key]

    async def _loop(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            # A snapshot: the informers go on meanwhile.
            for step in list(self._steps()):
                try:
                    await step
                except (ApiError, ApiUnavailableError, OSError) as error:
                    log.warning("volumes: %s; trying again", error)
                    self._work.set()
            if self._work.is_set():
                await asyncio.sleep(_AGAIN)

    def _steps(self) -> Iterator[Any]:
        for claim in list(self._claims.objects.values()):
            if wants_volume(claim):
                yield self._provide(claim)
        for volume in list(self._volumes.objects.values()):
            if is_over(volume):
                yield self._reclaim(volume)

    async def _provide(self, claim: Object) -> None:
        reason = refusal(claim)
        if reason is not None:
            self._events.emit(claim, "PersistentVolumeClaim", "Warning", "ProvisioningFailed", reason)
            return
        name = objects.volume_name(claim["metadata"]["uid"])
        if any(volume["metadata"]["name"] == name for volume in self._volumes.objects.values()):
            return  # made already; the controller manager is about to bind it
        directory = volumes.volume_directory(self._directory, name)
        try:
            await self._api.create(_VOLUMES, objects.volume(claim, self._node_name, str(directory)))
        except ApiError as error:
            if error.status != 409:
                raise

    async def _reclaim(self, volume: Object) -> None:
        """Directory, object, finalizer: in this order, each step may be repeated, and each ends in a watch event."""
        metadata = volume["metadata"]
        path = f"{_VOLUMES}/{metadata['name']}"
        await asyncio.to_thread(volumes.remove, volumes.volume_directory(self._directory, metadata["name"]))
        finalizers = metadata.get("finalizers") or ()
        try:
            if not metadata.get("deletionTimestamp"):
                await self._api.delete(path, {"preconditions": {"uid": metadata["uid"]}})
            elif objects.VOLUME_FINALIZER in finalizers:
                others = [name for name in finalizers if name != objects.VOLUME_FINALIZER]
                # The list is replaced as a whole, so only in the version that was read.
                guard = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
                await self._api.patch(path, {"metadata": guard | {"finalizers": others}})
        except ApiError as error:
            if error.status not in (404, 409):
                raise
