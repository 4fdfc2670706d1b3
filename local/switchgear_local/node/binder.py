"""Binds pending pods that tolerate the node's taint. No scheduler runs in a local region.

Invariant: a pod that is not meant for this node (taint, nodeSelector, scheduling gates, another node's name) is never
bound; nor is any while the node is cordoned or full.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from . import objects
from .api import Api, Object, pod_path
from .errors import ApiError, ApiUnavailableError
from .informer import Informer

log = logging.getLogger(__name__)

_AGAIN = 1.0


def tolerates(pod: Mapping[str, Any]) -> bool:
    """Whether the pod tolerates the process node's taint by name: a blanket toleration does not ask for it."""
    for toleration in pod["spec"].get("tolerations") or ():
        if toleration.get("key") != objects.TAINT or toleration.get("effect") not in (None, "", "NoSchedule"):
            continue
        if toleration.get("operator", "Equal") == "Exists" or not toleration.get("value"):
            return True
    return False


def belongs(pod: Mapping[str, Any], node_labels: Mapping[str, str]) -> bool:
    """Whether the pod is to be bound to this node."""
    spec = pod["spec"]
    if spec.get("nodeName") or spec.get("schedulingGates") or pod["metadata"].get("deletionTimestamp"):
        return False
    selector = spec.get("nodeSelector") or {}
    return tolerates(pod) and all(node_labels.get(key) == value for key, value in selector.items())


class Binder:
    """Follows the pods that have no node. `room` says how many more this node takes now."""

    def __init__(self, api: Api, node_name: str, room: Callable[[], int]) -> None:
        self._api = api
        self._node_name = node_name
        self._room = room
        self._labels = objects.node_labels(node_name)
        self._work = asyncio.Event()
        self._informer = Informer(
            api, "/api/v1/pods", {"fieldSelector": "spec.nodeName="}, self._changed, lambda pod: None
        )

    async def run(self) -> None:
        """Bind until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            tasks.create_task(self._bind_all())

    def _changed(self, pod: Object) -> None:
        if belongs(pod, self._labels):
            self._work.set()

    async def _bind_all(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            left = [pod for pod in self._informer.objects.values() if belongs(pod, self._labels)]
            for pod in sorted(left, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["uid"])):
                if self._room() <= 0 or not await self._bind(pod):
                    self._work.set()
            if self._work.is_set():
                await asyncio.sleep(_AGAIN)

    async def _bind(self, pod: Object) -> bool:
        """False when it is to be tried again."""
        metadata = pod["metadata"]
        path = pod_path(metadata["namespace"], metadata["name"]) + "/binding"
        try:
            await self._api.create(path, objects.binding(pod, self._node_name))
        except ApiError as error:
            # Gone, replaced, or bound meanwhile: the watch says so.
            if error.status not in (404, 409):
                log.warning("binding pod %s/%s: %s", metadata["namespace"], metadata["name"], error)
                return False
        except ApiUnavailableError:
            return False
        # Not again before the watch tells that it has a node.
        self._informer.objects.pop(metadata["uid"], None)
        return True
