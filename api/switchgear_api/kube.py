"""The Kubernetes API as this room uses it: plain JSON objects, five verbs, every error a `Problem`.

Connection, TLS and credentials are lightkube's; objects stay dictionaries, because the API hands them on as JSON.
Every call has a limit in time. A refused or broken connection is 503 for the caller, never a hang.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
from lightkube import KubeConfig
from lightkube.config import client_adapter
from lightkube.core.exceptions import ConfigError

from switchgear_api.problems import Json, from_kubernetes, unavailable

FIELD_MANAGER = "switchgear-api"
_PAGE = 500
_MAX_OBJECTS = 20_000
_APPLY = "application/apply-patch+yaml"


def kubeconfig_from_environment() -> KubeConfig:
    """$KUBECONFIG when it is set, else the pod's own ServiceAccount, else ~/.kube/config.

    Raises lightkube's ConfigError when none of them is there.
    """
    named = os.environ.get("KUBECONFIG")
    if named:
        return KubeConfig.from_file(Path(named))
    return KubeConfig.from_env()


class Kube:
    """A client for one API server. Use as an async context manager, or call `close`."""

    def __init__(self, config: KubeConfig, *, timeout: float = 10.0) -> None:
        single = config.get()
        if single is None:
            raise ConfigError("the kubeconfig names no current context")
        params = client_adapter.ConnectionParams(timeout=httpx2.Timeout(timeout, connect=3.0), trust_env=False)
        self._http = client_adapter.AsyncClient(single, params)

    async def __aenter__(self) -> Kube:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the pooled connections."""
        await self._http.aclose()

    async def get(self, path: str) -> Json:
        """One object. Raises Problem 404 when it is not there."""
        return (await self._call("GET", path))[1]

    async def find(self, path: str) -> Json | None:
        """One object, or None."""
        status, answer = await self._call("GET", path, allow=(404,))
        return None if status == 404 else answer

    async def list_all(self, path: str, **selectors: str) -> list[Json]:
        """All objects of a collection. `selectors` are query parameters such as labelSelector."""
        items: list[Json] = []
        params: dict[str, str] = {"limit": str(_PAGE), **selectors}
        while len(items) < _MAX_OBJECTS:
            _, answer = await self._call("GET", path, params=params)
            items.extend(answer.get("items") or [])
            following = (answer.get("metadata") or {}).get("continue")
            if not following:
                break
            params["continue"] = following
        return items

    async def apply(self, path: str, manifest: Mapping[str, Any]) -> tuple[bool, Json]:
        """Server-side apply, never by force. Answers whether the object is new, and the object."""
        status, answer = await self._call(
            "PATCH", path, params={"fieldManager": FIELD_MANAGER}, body=manifest, content_type=_APPLY
        )
        return status == 201, answer

    async def create(self, path: str, manifest: Mapping[str, Any]) -> Json:
        """POST to a collection. Raises Problem 409 when the name is taken."""
        return (await self._call("POST", path, params={"fieldManager": FIELD_MANAGER}, body=manifest))[1]

    async def delete(self, path: str, uid: str) -> None:
        """Deletes the object with this UID. Being gone already is success; another object of that name is 409."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        await self._call("DELETE", path, body=body, allow=(404,))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        allow: tuple[int, ...] = (),
    ) -> tuple[int, Json]:
        content = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": content_type} if content is not None else {}
        try:
            response = await self._http.request(
                method, path, params=dict(params or {}), content=content, headers=headers
            )
        except httpx2.TimeoutException as error:
            raise unavailable("it did not answer in time") from error
        except httpx2.HTTPError as error:
            raise unavailable("no connection") from error
        answer = _json(response.content)
        if response.status_code >= 400 and response.status_code not in allow:
            raise from_kubernetes(response.status_code, answer)
        return response.status_code, answer


def _json(content: bytes) -> Json:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def segment(name: str) -> str:
    """A name as one path segment."""
    return quote(name, safe="")
