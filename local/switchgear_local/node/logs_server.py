"""`kubectl logs`: GET /containerLogs/{namespace}/{pod}/{container} over HTTPS, for the API server alone.

The client must show a certificate signed by the cluster's CA and be the API server's kubelet client (group
`system:masters`, or a name given): users' certificates of the same CA must not read every pod's logs.
Invariants: memory per reader is one block; the number of readers is bounded; a reader that stalls is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from . import logfiles
from .container import Container
from .errors import NodeError
from .kubelet import Kubelet
from .logfiles import BLOCK

log = logging.getLogger(__name__)

MAX_READERS = 64
_POLL = 0.2
_STALL = 60.0
_GROUP = "system:masters"


@dataclass(frozen=True)
class Options:
    """What part of a log is wanted. `since` is in seconds since the epoch."""

    follow: bool = False
    previous: bool = False
    tail: int | None = None
    limit: int | None = None
    since: float | None = None


def parse_options(query: Mapping[str, str], now: float) -> Options:
    """The options of a request at `now`. Raises ValueError naming the parameter."""
    since: float | None = None
    seconds = _number(query, "sinceSeconds")
    if seconds is not None:
        since = now - seconds
    if moment := query.get("sinceTime"):
        try:
            since = datetime.fromisoformat(moment).timestamp()
        except ValueError:
            raise ValueError("sinceTime must be a time in RFC 3339") from None
    if _flag(query, "timestamps"):
        raise ValueError("timestamps are not recorded by the process node; leave --timestamps out")
    tail = _number(query, "tailLines")
    limit = _number(query, "limitBytes")
    return Options(_flag(query, "follow"), _flag(query, "previous"), tail, limit, since)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "false").lower() in ("true", "1")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return int(text)


def is_api_server(certificate: Mapping[str, Any] | None) -> bool:
    """Whether a verified client certificate is one that the API server uses towards kubelets."""
    subject = [pair for group in (certificate or {}).get("subject", ()) for pair in group]
    return ("organizationName", _GROUP) in subject


def tls_context(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """TLS that demands a client certificate. Raises NodeError."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as error:
        raise NodeError("BAD_TLS", f"{certificate}, {key} or {client_ca} cannot be used: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class LogsServer:
    """Serves the logs of a kubelet's containers."""

    def __init__(self, kubelet: Kubelet, tls: ssl.SSLContext) -> None:
        self._kubelet = kubelet
        self._tls = tls
        self._readers = 0
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises NodeError when it cannot."""
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._handle)
        app.router.add_get("/healthz", self._health)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=self._tls).start()
        except OSError as error:
            raise NodeError(
                "PORT_IN_USE", f"cannot listen on {host}:{port} ({error.strerror}); choose --port"
            ) from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close, readers included."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert")
        if not is_api_server(certificate):
            return web.Response(status=403, text="only the API server may read logs here\n")
        where = request.match_info
        container = self._kubelet.find_log(where["namespace"], where["pod"], where["container"])
        if container is None:
            return web.Response(status=404, text=f"container {where['container']!r} is not on this node\n")
        try:
            options = parse_options(request.query, time.time())
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        start = container.record.starts - int(options.previous)
        path = container.logs.path(start)
        if start < 1 or not path.exists():
            what = "previous log" if options.previous else "log"
            return web.Response(status=400, text=f"container {container.name!r} has no {what} yet\n")
        if self._readers >= MAX_READERS:
            return web.Response(
                status=429, headers={"Retry-After": "5"}, text="too many log readers; try again later\n"
            )
        self._readers += 1
        try:
            return await self._stream(request, container, start, options)
        finally:
            self._readers -= 1

    async def _stream(
        self, request: web.Request, container: Container, start: int, options: Options
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        fd = os.open(container.logs.path(start), os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset = _begin(fd, container, start, options)
            await response.prepare(request)
            left = options.limit
            while True:
                # Asked before reading, so that what came before the end is not missed.
                over = container.record.starts != start or not container.running
                block, offset = _read(fd, offset)
                if left is not None:
                    block = block[:left]
                    left -= len(block)
                if block:
                    async with asyncio.timeout(_STALL):
                        await response.write(block)
                if left == 0 or (not block and (over or not options.follow)):
                    break
                if not block:
                    await asyncio.sleep(_POLL)
            await response.write_eof()
        except (TimeoutError, ConnectionError):
            log.debug("a log reader went away")
        finally:
            os.close(fd)
        return response


def _begin(fd: int, container: Container, start: int, options: Options) -> int:
    """The offset at which to begin."""
    offset = logfiles.line_start(fd, 0)
    if options.since is not None:
        offset = max(offset, logfiles.line_start(fd, container.logs.since(start, options.since)))
    if options.tail is not None:
        offset = max(offset, logfiles.tail_start(fd, options.tail))
    return offset


def _read(fd: int, offset: int) -> tuple[bytes, int]:
    """The next block and the offset after it, past what was discarded meanwhile."""
    size = os.fstat(fd).st_size
    if offset > size:  # the file was cut
        offset = 0
    data = logfiles.data_start(fd, offset)
    if data > offset:
        offset = logfiles.line_start(fd, data)
    block = os.pread(fd, BLOCK, offset)
    return block, offset + len(block)
