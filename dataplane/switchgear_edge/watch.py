"""Keeps the route table equal to what the Kubernetes API says: one list-and-watch loop a collection.

Invariants: what was learned stays when the API is away; a watch continues where the last one ended, and only a version
that the server has forgotten (410) or a break of more than a few failures makes it list again; each wait has a limit
and some jitter; a loop never ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from switchgear_edge.kube import Access, KubeApiError, KubeConfigError, KubeReader
from switchgear_edge.routes import Key, RouteTable, object_key
from switchgear_model import kinds, labels
from switchgear_wire.upstream import UpstreamError

log = logging.getLogger("switchgear.edge.watch")

WATCH_SECONDS = 290
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
_GONE = 410


@dataclass(frozen=True)
class Collection:
    """What is watched: `path` of the API, and what to do with its objects."""

    name: str
    path: str
    query: Mapping[str, str]
    apply: Callable[[Mapping[str, Any]], str | None]
    delete: Callable[[Key], None]
    keys: Callable[[], Iterable[Key]]


def collections(table: RouteTable) -> list[Collection]:
    """The two kinds of services, and the pods with our label, in all namespaces."""
    made = [
        Collection(
            name=info.plural,
            path=f"/apis/{labels.API_VERSION}/{info.plural}",
            query={},
            apply=lambda raw, kind=kind: table.apply_service(kind, raw),  # type: ignore[misc]
            delete=lambda key, kind=kind: table.delete_service(kind, key),  # type: ignore[misc]
            keys=lambda kind=kind: table.service_keys(kind),  # type: ignore[misc]
        )
        for kind, info in kinds.KINDS.items()
        if info.is_service
    ]
    pods = Collection(
        name="pods",
        path="/api/v1/pods",
        query={"labelSelector": f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}"},
        apply=table.apply_pod,
        delete=table.delete_pod,
        keys=table.pod_keys,
    )
    return [*made, pods]


class Watcher:
    """One loop. `synced` after the first list; `last_contact` is the monotonic time of the API's last word."""

    def __init__(self, collection: Collection, access: Callable[[], Access]) -> None:
        self.collection = collection
        self.synced = asyncio.Event()
        self.last_contact = time.monotonic()
        self.failures = 0
        self._access = access
        self._version = ""
        self._in_a_row = 0

    @property
    def age(self) -> float:
        """Seconds since the API server last said something to this loop."""
        return time.monotonic() - self.last_contact

    async def run(self) -> None:
        """For ever, until cancelled."""
        while True:
            try:
                await self._once()
                self._in_a_row = 0
            except (KubeApiError, KubeConfigError, UpstreamError, OSError, ValueError) as error:
                self._failed(error)
            except Exception:
                log.exception("unexpected error while watching %s; going on", self.collection.name)
                self._version = ""
                self._in_a_row += 1
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        if not self._in_a_row:
            return random.uniform(0, 0.05)  # noqa: S311 - spreads load, guards nothing
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self._in_a_row, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._in_a_row += 1
        if isinstance(error, KubeApiError) and error.status == _GONE:
            self._version = ""
            self._in_a_row = 0
            return
        # After a short break the server continues from our version; after a long one (or another server behind the same
        # address) only a list is sure.
        if self._in_a_row >= 3:
            self._version = ""
        if self._in_a_row in (1, 10) or self._in_a_row % 100 == 0:
            log.warning("cannot read %s (attempt %d), routes stay: %s", self.collection.name, self._in_a_row, error)

    async def _once(self) -> None:
        """One connection: a list if there is no version to go on from, then a watch until it ends."""
        reader = KubeReader(self._access())
        try:
            if not self._version:
                await self._list(reader)
            seconds = WATCH_SECONDS - random.randrange(60)  # noqa: S311
            async with asyncio.timeout(seconds + 60):
                path, query = self.collection.path, self.collection.query
                async with aclosing(reader.watch(path, query, self._version, seconds)) as events:
                    async for event in events:
                        self._in_a_row = 0
                        self.last_contact = time.monotonic()
                        self._handle(event)
            self.last_contact = time.monotonic()
        finally:
            reader.close()

    async def _list(self, reader: KubeReader) -> None:
        items, version = await reader.list(self.collection.path, self.collection.query)
        gone = set(self.collection.keys())
        for raw in items:
            self._apply(raw)
            gone.discard(object_key(raw))
        for key in gone:
            self.collection.delete(key)
        self._version = version
        self._in_a_row = 0
        self.last_contact = time.monotonic()
        if not self.synced.is_set():
            log.info("%s: %d objects", self.collection.name, len(items))
            self.synced.set()

    def _handle(self, event: dict[str, Any]) -> None:
        kind, raw = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise KubeApiError(int(raw.get("code") or 0), str(raw.get("message", ""))[:500])
        if kind in ("ADDED", "MODIFIED"):
            self._apply(raw)
        elif kind == "DELETED":
            self.collection.delete(object_key(raw))
        self._version = (raw.get("metadata") or {}).get("resourceVersion") or self._version

    def _apply(self, raw: Mapping[str, Any]) -> None:
        problem = self.collection.apply(raw)
        if problem is not None:
            log.warning("left out %s %s: %s", self.collection.name, "/".join(object_key(raw)), problem)
