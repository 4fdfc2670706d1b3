"""One kind of object, kept up to date: list, then watch; after an outage from where it was, after 410 anew.

Invariants: while the API server is away the last known objects stay; an object is reported gone only when the API
server said so (a watch event, or a complete list without it).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from .api import Api, Object
from .backoff import Backoff
from .errors import ApiError, ApiUnavailableError

log = logging.getLogger(__name__)

_PAGE = 500
_WATCH_SECONDS = (60, 90)
_STEADY = 5.0


class Informer:
    """Follows the objects at `path`. `changed(object)` and `gone(object)` are called in the event loop.

    `objects` holds them by uid; `synced` is set after the first complete list.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        params: Mapping[str, str],
        changed: Callable[[Object], None],
        gone: Callable[[Object], None],
    ) -> None:
        self._api = api
        self._path = path
        self._params = dict(params)
        self._changed = changed
        self._gone = gone
        self._version: str | None = None
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff = Backoff(0.1, 5.0, jitter=True)
        complained = False
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
            except (ApiError, ApiUnavailableError) as error:
                if isinstance(error, ApiError):
                    # 410 as a rule: what the API server refuses to continue is begun again.
                    self._version = None
                if not complained and getattr(error, "status", 0) != 410:
                    log.warning("following %s: %s; trying again", self._path, error)
                    complained = True
            if clock() - began > _STEADY:
                backoff.reset()
                complained = False
            else:
                await asyncio.sleep(backoff.next())

    async def _list(self) -> None:
        found: dict[str, Object] = {}
        token = ""
        while True:
            params = {**self._params, "limit": str(_PAGE)} | ({"continue": token} if token else {})
            page = await self._api.get(self._path, params)
            for item in page["items"]:
                found[item["metadata"]["uid"]] = _trim(item)
            token = page["metadata"].get("continue") or ""
            if not token:
                break
        for uid in set(self.objects) - set(found):
            self._gone(self.objects.pop(uid))
        for uid, item in found.items():
            self.objects[uid] = item
            self._changed(item)
        self._version = page["metadata"]["resourceVersion"]
        self.synced.set()

    async def _watch(self) -> None:
        params = {**self._params, "resourceVersion": self._version or ""}
        seconds = random.randint(*_WATCH_SECONDS)  # noqa: S311
        async with contextlib.aclosing(self._api.watch(self._path, params, seconds)) as events:
            async for event in events:
                self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise ApiError(int(item.get("code") or 500), str(item.get("reason", "")), str(item.get("message", "")))
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            self.objects.pop(uid, None)
            self._gone(item)
            return
        self.objects[uid] = _trim(item)
        self._changed(item)


def _trim(item: Object) -> Object:
    item["metadata"].pop("managedFields", None)
    return item
