"""The demo's process: writes now and then, serves the page, and stops within seconds.

Only requests that name this machine as their host are served: a foreign name that resolves here (DNS rebinding) would
let any web page read through the proxy. Writes come from the page itself, as JSON, which a foreign page cannot send
without being asked first.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from importlib import resources

import aiohttp
import psycopg
from aiohttp import web

from . import STREAM, TABLE
from .events import Events, StreamError
from .proxy import Proxy
from .settings import Settings
from .table import MAX_TITLE, Change, Table

log = logging.getLogger(__name__)

FAILURES = (psycopg.Error, aiohttp.ClientError, StreamError, OSError, TimeoutError)
_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/shape.js": ("shape.js", "text/javascript"),
    "/stream.js": ("stream.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
_MAX_BODY = 4096

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Demo:
    """The table, the stream, and whether both are there yet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = False
        self._table = Table(settings.database_url)
        self._http: aiohttp.ClientSession | None = None
        self._events: Events | None = None
        self._proxy: Proxy | None = None

    def application(self) -> web.Application:
        """The aiohttp application; it starts and stops the writer with itself."""
        app = web.Application(middlewares=[_only_this_machine], client_max_size=_MAX_BODY)
        app.cleanup_ctx.append(self._running)
        for path, (name, kind) in _FILES.items():
            app.router.add_get(path, _file(name, kind))
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._is_ready)
        app.router.add_get("/config.json", self._config)
        app.router.add_get("/shape", self._shape)
        app.router.add_get("/stream", self._stream)
        app.router.add_post("/rows", self._add)
        app.router.add_post("/rows/{id:[0-9]{1,18}}", self._set_done)
        return app

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=200, keepalive_timeout=15)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as http:
            self._http = http
            self._events = Events(http, self._settings.streams)
            self._proxy = Proxy(http, self._settings.sync, self._settings.streams)
            writer = asyncio.create_task(self._write(self._events))
            try:
                yield
            finally:
                writer.cancel()
                with suppress(asyncio.CancelledError):
                    await writer
                await self._table.close()

    async def _write(self, events: Events) -> None:
        failures = 0
        while True:
            try:
                if not self._ready:
                    await self._table.prepare()
                    await events.prepare()
                    await events.append("demo", "The demo has started")
                    self._ready = True
                    log.info("the table %s and the stream %s are there", TABLE, STREAM)
                await asyncio.sleep(self._settings.interval)
                change = await self._table.change_something()
                if change is not None:
                    await events.append(change.verb, change.title)
                failures = 0
            except FAILURES as error:
                log.warning("writing failed, trying again: %s", error)
                # A wiped database or service has neither table nor stream.
                self._ready = False
                await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
                failures += 1

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _is_ready(self, _: web.Request) -> web.Response:
        body = {"status": "ready" if self._ready else "starting", "table": TABLE, "stream": STREAM}
        return web.json_response(body, status=200 if self._ready else 503)

    async def _config(self, _: web.Request) -> web.Response:
        sync, streams = self._settings.sync, self._settings.streams
        body = {
            "table": TABLE,
            "stream": STREAM,
            "sync": {"serviceId": sync.service_id, "url": sync.url},
            "streams": {"serviceId": streams.service_id, "url": streams.url},
        }
        return web.json_response(body, headers=_HEADERS)

    async def _shape(self, request: web.Request) -> web.StreamResponse:
        assert self._proxy is not None
        return await self._proxy.shape(request)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        assert self._proxy is not None
        return await self._proxy.stream(request)

    async def _add(self, request: web.Request) -> web.Response:
        title = (await _json(request)).get("title")
        if not isinstance(title, str) or not 0 < len(title.strip()) <= MAX_TITLE or "\0" in title:
            return _bad(f"title must be text of at most {MAX_TITLE} characters")
        return await self._changed(self._table.add(title.strip()))

    async def _set_done(self, request: web.Request) -> web.Response:
        done = (await _json(request)).get("done")
        if not isinstance(done, bool):
            return _bad("done must be true or false")
        return await self._changed(self._table.set_done(int(request.match_info["id"]), done))

    async def _changed(self, changing: Awaitable[Change | None]) -> web.Response:
        assert self._events is not None
        try:
            change = await changing
            if change is None:
                return web.json_response({"code": "NOT_FOUND", "message": "That row is gone."}, status=404)
            await self._events.append(change.verb, change.title)
        except FAILURES as error:
            log.warning("a write of the page failed: %s", error)
            return web.json_response({"code": "UNAVAILABLE", "message": "It cannot be written just now."}, status=503)
        return web.json_response({"verb": change.verb, "title": change.title})


def _file(name: str, kind: str) -> Handler:
    content = (resources.files(__package__) / "page" / name).read_bytes()

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=_HEADERS)

    return handler


@web.middleware
async def _only_this_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    host = request.host.rpartition(":")[0] if request.host[-1:].isdigit() and ":" in request.host else request.host
    if host not in _HOSTS:
        return web.json_response({"code": "FORBIDDEN", "message": "Open the page as http://127.0.0.1"}, status=403)
    if request.method == "POST" and request.content_type != "application/json":
        return _bad("send JSON")
    return await handler(request)


async def _json(request: web.Request) -> dict[str, object]:
    try:
        body = json.loads(await request.text())
    except (ValueError, web.HTTPRequestEntityTooLarge):
        return {}
    return body if isinstance(body, dict) else {}


def _bad(message: str) -> web.Response:
    return web.json_response({"code": "INVALID_REQUEST", "message": message}, status=400)
