"""The auth proxy: the browser's requests for the shape and the stream, with id and secret added on the way.

It forwards the protocol's own parameters and nothing else: which table and which stream are read is decided here, so a
browser cannot ask for another. Bodies are streamed; of the answer's headers, those that describe the hop are dropped,
because the bytes are passed on uncompressed and with a length of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from . import STREAM, TABLE
from .settings import Service

log = logging.getLogger(__name__)

SHAPE_PARAMETERS = frozenset({"offset", "handle", "live", "live_sse", "cursor", "expired_handle", "cache-buster"})
STREAM_PARAMETERS = frozenset({"offset", "live", "cursor"})
_REQUEST_HEADERS = ("If-None-Match", "Accept")
_DROPPED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, sock_read=120)


class Proxy:
    """Two handlers: `shape` and `stream`."""

    def __init__(self, http: aiohttp.ClientSession, sync: Service, streams: Service) -> None:
        self._http = http
        self._sync = sync
        self._streams = streams

    async def shape(self, request: web.Request) -> web.StreamResponse:
        """GET /shape: the demo's table, by the shape protocol."""
        own = [("table", TABLE), ("source_id", self._sync.service_id), ("secret", self._sync.secret)]
        parameters = [*allowed(request.query.items(), SHAPE_PARAMETERS), *own]
        return await self._forward(request, self._sync.url, parameters, {})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /stream: the demo's stream, by the streams protocol."""
        parameters = allowed(request.query.items(), STREAM_PARAMETERS)
        bearer = {"Authorization": f"Bearer {self._streams.secret}"}
        return await self._forward(request, f"{self._streams.url}/{STREAM}", parameters, bearer)

    async def _forward(
        self, request: web.Request, url: str, parameters: list[tuple[str, str]], extra: Mapping[str, str]
    ) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        headers |= {"Accept-Encoding": "identity", **extra}
        try:
            async with self._http.get(
                url, params=parameters, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as answer:
                return await _pass_on(request, answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            # Not the error's text: it may hold the URL with the secret.
            log.warning("%s: the edge cannot be reached (%s)", request.path, type(error).__name__)
            body = {"code": "EDGE_UNAVAILABLE", "message": "The edge cannot be reached just now."}
            return web.json_response(body, status=503, headers={"Retry-After": "1", "Cache-Control": "no-store"})


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_answer_headers(answer.headers.items()))
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError):
        # The head is out: a cut body is the only honest end, and the browser asks again.
        if request.transport is not None:
            request.transport.close()
    return response


def allowed(given: Iterable[tuple[str, str]], names: frozenset[str]) -> list[tuple[str, str]]:
    """The parameters that the protocol knows, in their order. Pure."""
    return [(name, value) for name, value in given if name in names]


def _answer_headers(found: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    kept = ((n, v) for n, v in found if n.lower() not in _DROPPED and not n.lower().startswith("access-control-"))
    return CIMultiDict(kept)
