"""Requests to the Kubernetes API with aiohttp: get, list, apply, merge, create, delete.

No retries (the work queue does that) and no caching. Bodies are never logged: they may hold Secrets.
Every request has a time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import aiohttp
import orjson

from switchgear_operator.kube.config import KubeConfig
from switchgear_operator.kube.refs import Ref

Json = dict[str, Any]

_TIMEOUT: Final = aiohttp.ClientTimeout(total=20, connect=5)
_PAGE: Final = 500


class ApiError(Exception):
    """The API server refused, or could not be reached (status 0). `message` is the server's own text."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def conflict(self) -> bool:
        """Somebody else was faster: observe again."""
        return self.status == 409

    @property
    def rejected(self) -> bool:
        """The request itself is at fault, so that repeating it changes nothing by itself.

        A 403 is both: rights that are missing (or a namespace that goes) pass, a quota or a refused resize do not.
        """
        if self.status == 403:
            return "cannot" not in self.message and "being terminated" not in self.message
        return 400 <= self.status < 500 and self.status not in (401, 404, 408, 409, 429)


class KubeClient:
    """One pooled session. Use as an async context manager."""

    def __init__(self, config: KubeConfig, *, manager: str, connections: int = 40) -> None:
        self._config = config
        self._manager = manager
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = self._config.ssl_context()
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=context if context is not None else True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, ref: Ref) -> Json | None:
        """The object, or None when there is none."""
        try:
            return await self._request("GET", ref.path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, ref: Ref, label_selector: str | None = None) -> list[Json]:
        """All objects of a collection (`ref` without a name), read in pages. Items carry kind and apiVersion."""
        items: list[Json] = []
        params = {"limit": str(_PAGE)} | ({"labelSelector": label_selector} if label_selector else {})
        while True:
            page = await self._request("GET", ref.collection, params=params)
            kind = str(page.get("kind", "")).removesuffix("List")
            items += [{"apiVersion": page.get("apiVersion"), "kind": kind} | item for item in page.get("items") or []]
            token = page.get("metadata", {}).get("continue")
            if not token:
                return items
            params = params | {"continue": token}

    async def apply(self, ref: Ref, body: Mapping[str, Any]) -> Json:
        """Server-side apply under our field manager, taking over conflicting fields that are ours by design."""
        params = {"fieldManager": self._manager, "force": "true"}
        return await self._request("PATCH", ref.path, body, params=params, content="application/apply-patch+yaml")

    async def merge(self, ref: Ref, patch: Mapping[str, Any], *, subresource: str | None = None) -> Json:
        """JSON merge patch; put ``metadata.resourceVersion`` or ``uid`` into it as a precondition."""
        path = f"{ref.path}/{subresource}" if subresource else ref.path
        params = {"fieldManager": self._manager}
        return await self._request("PATCH", path, patch, params=params, content="application/merge-patch+json")

    async def create(self, ref: Ref, body: Mapping[str, Any]) -> Json:
        """Creates; 409 when the name is taken."""
        return await self._request("POST", ref.collection, body, params={"fieldManager": self._manager})

    async def delete(self, ref: Ref, uid: str) -> None:
        """Deletes exactly the object with this UID; one that is gone already is a success."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", ref.path, body)
        except ApiError as error:
            # 409: the name belongs to another object by now, so ours is gone.
            if error.status not in (404, 409):
                raise

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Json:
        assert self._session is not None, "use the client as a context manager"
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = content
        if token := self._config.token():
            headers["authorization"] = f"Bearer {token}"
        try:
            async with self._session.request(
                method,
                self._config.server + path,
                params=params,
                data=orjson.dumps(body) if body is not None else None,
                headers=headers,
                server_hostname=self._config.server_name,
            ) as response:
                raw = await response.read()
                if response.status < 300:
                    parsed: Json = orjson.loads(raw) if raw else {}
                    return parsed
                raise _error(response.status, raw, response.headers.get("retry-after"))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {type(error).__name__}") from error


def _error(status: int, raw: bytes, retry_after: str | None) -> ApiError:
    delay = float(retry_after) if retry_after and retry_after.isdigit() else None
    try:
        parsed = orjson.loads(raw)
        return ApiError(status, str(parsed.get("reason", "")), str(parsed.get("message", ""))[:2000], delay)
    except (orjson.JSONDecodeError, AttributeError):
        return ApiError(status, "", raw[:200].decode("utf-8", "replace"), delay)
