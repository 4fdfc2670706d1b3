"""A small asynchronous client for the Kubernetes API: objects as dictionaries, credentials from a kubeconfig.

Invariants: every call has a time limit; nothing is retried here (callers know what may be repeated); credentials are
in no error and no log; a kubeconfig or token file that was replaced is read again after a 401.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import yaml

from .errors import ApiError, ApiUnavailableError, NodeError

Object = dict[str, Any]

CALL_LIMIT = 10.0
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
_EVENT_LIMIT = 8 * 1024 * 1024
_BODY_LIMIT = 64 * 1024 * 1024


class Credentials:
    """Server, TLS context and token of a kubeconfig. Raises NodeError when it cannot be used."""

    def __init__(self, path: Path) -> None:
        try:
            config = yaml.safe_load(path.read_text())
            cluster, user = _current(config)
            self.server = str(cluster["server"]).rstrip("/")
            self._token = user.get("token")
            self._token_file = user.get("tokenFile")
            self.tls = _tls(cluster, user, path.parent)
        except (OSError, KeyError, TypeError, ValueError, StopIteration, yaml.YAMLError, ssl.SSLError) as error:
            raise NodeError("BAD_KUBECONFIG", f"{path} cannot be used ({type(error).__name__}: {error})") from error

    def headers(self) -> dict[str, str]:
        """The Authorization header, if the credentials are a token."""
        token = self._token
        if self._token_file:
            token = Path(self._token_file).read_text().strip()
        return {"Authorization": f"Bearer {token}"} if token else {}


def _current(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    name = config.get("current-context") or config["contexts"][0]["name"]
    context = next(item["context"] for item in config["contexts"] if item["name"] == name)
    cluster = next(item["cluster"] for item in config["clusters"] if item["name"] == context["cluster"])
    user = next(item["user"] for item in config["users"] if item["name"] == context["user"])
    return cluster, user or {}


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=_data(cluster, "certificate-authority", base).decode() or None)
    certificate, key = _data(user, "client-certificate", base), _data(user, "client-key", base)
    if certificate:
        # The ssl module reads files only; a memory file leaves no key on the disk.
        fd = os.memfd_create("client", os.MFD_CLOEXEC)
        try:
            os.write(fd, certificate + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    return context


def _data(section: Mapping[str, Any], name: str, base: Path) -> bytes:
    if inline := section.get(f"{name}-data"):
        return base64.b64decode(inline)
    if file := section.get(name):
        return (base / str(file)).read_bytes()
    return b""


class Api:
    """One API server. Use it as an asynchronous context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        self._path = kubeconfig
        self._credentials = Credentials(kubeconfig)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=32, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=True
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        """GET. Raises ApiError, ApiUnavailableError."""
        return await self._call("GET", path, params=params)

    async def create(self, path: str, body: Object) -> Object:
        """POST. Raises ApiError, ApiUnavailableError."""
        return await self._call("POST", path, body)

    async def patch(self, path: str, body: Object, kind: str = MERGE) -> Object:
        """PATCH. Raises ApiError, ApiUnavailableError."""
        return await self._call("PATCH", path, body, kind)

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """DELETE, with DeleteOptions as body. Raises ApiError, ApiUnavailableError."""
        return await self._call("DELETE", path, body)

    async def watch(self, path: str, params: Mapping[str, str], seconds: int) -> AsyncGenerator[Object, None]:
        """The events of one watch request, which lasts at most `seconds`. Raises ApiError, ApiUnavailableError."""
        query = {**params, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        limit = aiohttp.ClientTimeout(total=seconds + 10, sock_connect=CALL_LIMIT)
        try:
            async with self._request("GET", path, None, "", query, limit) as answer:
                await self._raise_for(answer)
                buffer = bytearray()
                async for block in answer.content.iter_any():
                    buffer += block
                    if len(buffer) > _EVENT_LIMIT:
                        raise ApiUnavailableError(f"watch {path}: an event is larger than {_EVENT_LIMIT} bytes")
                    while (end := buffer.find(b"\n")) >= 0:
                        line = bytes(buffer[:end])
                        del buffer[: end + 1]
                        if line.strip():
                            yield orjson.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unavailable("watch", path, error) from error

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        kind: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Object:
        limit = aiohttp.ClientTimeout(total=CALL_LIMIT)
        try:
            async with self._request(method, path, body, kind, params, limit) as answer:
                await self._raise_for(answer)
                raw = await answer.read()
            result: Object = orjson.loads(raw)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unavailable(method, path, error) from error
        return result

    def _request(
        self,
        method: str,
        path: str,
        body: Object | None,
        kind: str,
        params: Mapping[str, str] | None,
        limit: aiohttp.ClientTimeout,
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            raise RuntimeError("use Api as an asynchronous context manager")
        credentials = self._credentials
        headers = {"Accept": "application/json", "User-Agent": "switchgear-node"} | credentials.headers()
        data = None
        if body is not None:
            data = orjson.dumps(body)
            headers["Content-Type"] = kind
        return self._session.request(
            method,
            credentials.server + path,
            params=params,
            data=data,
            headers=headers,
            ssl=credentials.tls,
            timeout=limit,
            allow_redirects=False,
        )

    async def _raise_for(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status < 300:
            return
        raw = await answer.content.read(_BODY_LIMIT)
        if answer.status == 401:
            await asyncio.to_thread(self._reload)
        try:
            status = orjson.loads(raw)
            raise ApiError(answer.status, str(status.get("reason", "")), str(status.get("message", ""))[:1024])
        except (ValueError, AttributeError):
            raise ApiError(answer.status, "", raw[:200].decode(errors="replace")) from None

    def _reload(self) -> None:
        try:
            self._credentials = Credentials(self._path)
        except NodeError:
            return  # half-written perhaps: the next 401 reads it again


def _unavailable(what: str, path: str, error: Exception) -> ApiUnavailableError:
    return ApiUnavailableError(f"{what} {path}: {type(error).__name__}: {error}")


def pod_path(namespace: str, name: str) -> str:
    """The path of a pod."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
