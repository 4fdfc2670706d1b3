"""The demo's stream: created when missing, then appended to. A plain client of the streams service."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp

from . import STREAM
from .settings import Service

_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)


class StreamError(Exception):
    """The streams service refused; the message holds the status only."""


class Events:
    """The stream `STREAM` of a streams service, of JSON messages ``{"at", "kind", "text"}``."""

    def __init__(self, http: aiohttp.ClientSession, service: Service) -> None:
        self._http = http
        self._url = f"{service.url}/{STREAM}"
        self._headers = {"Authorization": f"Bearer {service.secret}", "Content-Type": "application/json"}

    async def prepare(self) -> None:
        """Creates the stream; that it exists is fine. Raises StreamError, aiohttp.ClientError or TimeoutError."""
        await self._send("PUT", None)

    async def append(self, kind: str, text: str) -> None:
        """Appends one message. Raises as `prepare` does; then it is unknown whether the message is there."""
        message = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, "text": text}
        await self._send("POST", message)

    async def _send(self, method: str, message: dict[str, str] | None) -> None:
        async with self._http.request(
            method, self._url, json=message, headers=self._headers, timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            if answer.status not in (200, 201, 204):
                raise StreamError(f"{method} of the stream answered {answer.status}")
