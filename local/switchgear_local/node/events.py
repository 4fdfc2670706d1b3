"""Events for people (`kubectl describe`): best effort, bounded, never in the way of the work.

Invariants: the same event about an object is sent at most once a minute; when the queue is full, or the API server is
away, events are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from switchgear_model.logs import redact

from .api import Api, Object
from .errors import ApiError, ApiUnavailableError
from .status import timestamp

log = logging.getLogger(__name__)

_QUEUE = 100
_REMEMBERED = 1000
_AGAIN_AFTER = 60.0
_MESSAGE_LIMIT = 1000


class Events:
    """Collects events and sends them while `run` runs."""

    def __init__(self, api: Api, node_name: str) -> None:
        self._api = api
        self._node_name = node_name
        self._queue: asyncio.Queue[Object] = asyncio.Queue(_QUEUE)
        self._sent: dict[tuple[str, str, str], float] = {}

    def emit(self, about: Mapping[str, Any], kind: str, type_: str, reason: str, message: str) -> None:
        """Queue an event about an object (`kind` is its kind, `type_` is Normal or Warning)."""
        metadata = about["metadata"]
        text = redact(message)[:_MESSAGE_LIMIT]
        now = asyncio.get_running_loop().time()
        key = (metadata["uid"], reason, text)
        if now - self._sent.get(key, -_AGAIN_AFTER) < _AGAIN_AFTER:
            return
        if len(self._sent) >= _REMEMBERED:
            self._sent.clear()
        self._sent[key] = now
        try:
            self._queue.put_nowait(self._event(metadata, kind, type_, reason, text))
        except asyncio.QueueFull:
            log.debug("event dropped: %s %s", reason, metadata["name"])

    def _event(self, metadata: Mapping[str, Any], kind: str, type_: str, reason: str, message: str) -> Object:
        namespace, now = metadata.get("namespace", "default"), timestamp()
        about = {"apiVersion": "v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}
        if "namespace" in metadata:
            about["namespace"] = namespace
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "involvedObject": about,
            "type": type_,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "switchgear-node", "host": self._node_name},
            "reportingComponent": "switchgear-node",
            "reportingInstance": self._node_name,
        }

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._api.create(f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)
            except (ApiError, ApiUnavailableError) as error:
                # A namespace that is being deleted takes no events, for one.
                log.debug("event not sent: %s", error)
                await asyncio.sleep(0.2)
