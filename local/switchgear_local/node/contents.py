"""Reads the Secrets and ConfigMaps that a pod names, by name, when a container starts.

Keeps the last contents in memory, so that a container can be restarted while the API server is away. Never logs them.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from typing import Any

from .api import Api
from .environment import Reference, Sources
from .errors import ApiError, ApiUnavailableError

_PLURALS = {"Secret": "secrets", "ConfigMap": "configmaps"}
_Key = tuple[str, str]


class Contents:
    """The Secrets and ConfigMaps of one pod."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._known: dict[_Key, Mapping[str, bytes] | None] = {}

    async def fetch(self, wanted: Iterable[Reference]) -> Sources:
        """Their contents now, or the last known while the API server is away. Raises ApiError, ApiUnavailableError."""
        keys = sorted({(ref.kind, ref.name) for ref in wanted})
        for key, data in zip(keys, await asyncio.gather(*map(self._one, keys)), strict=True):
            self._known[key] = data
        result: dict[str, dict[str, Mapping[str, bytes]]] = {"Secret": {}, "ConfigMap": {}}
        for kind, name in keys:
            data = self._known[kind, name]
            if data is not None:
                result[kind][name] = data
        return Sources(result["Secret"], result["ConfigMap"])

    async def _one(self, key: _Key) -> Mapping[str, bytes] | None:
        kind, name = key
        try:
            found = await self._api.get(f"/api/v1/namespaces/{self._namespace}/{_PLURALS[kind]}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        except ApiUnavailableError:
            if key in self._known:
                return self._known[key]
            raise
        return _data(kind, found)


def _data(kind: str, found: Mapping[str, Any]) -> dict[str, bytes]:
    if kind == "Secret":
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    texts = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    return texts | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
