"""One of several workers: its services, the mesh, and the order in which they come up and go down.

All workers are one server: when one of them is lost, the others end at once, and a start of all recovers all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from switchgear_streams import answers
from switchgear_streams.house import House, Result
from switchgear_streams.service import Service, wall_clock
from switchgear_streams.settings import Settings
from switchgear_streams.workers.directory import Directory
from switchgear_streams.workers.mesh import Mesh
from switchgear_streams.workers.placing import DESK, directory
from switchgear_streams.workers.scout import Scout
from switchgear_streams.workers.share import Share, note_of
from switchgear_streams.workers.totals import Totals
from switchgear_wire.errors import HttpError
from switchgear_wire.handover import Arrival
from switchgear_wire.listener import Limits, Server
from switchgear_wire.metrics import merge
from switchgear_wire.request import Request
from switchgear_wire.response import AnyResponse, Response

log = logging.getLogger("switchgear.streams.workers")

LOST = 70
_START_SECONDS = 600.0
_LATE_SECONDS = 2.0
_LIVE_SECONDS = 5.0
_METRICS = answers.BASE + b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" + answers.NO_STORE


def of_worker(settings: Settings, index: int) -> Settings:
    """The settings of a worker: its own data directory."""
    place = settings.data_dir / directory(index, settings.workers)
    services = settings.services
    if services is not None:
        services = tuple(replace(one, data_dir=place / one.data_dir.name) for one in services)
    return replace(settings, data_dir=place, services=services)


class Worker:
    """See the module."""

    def __init__(self, settings: Settings, index: int, sockets: dict[int, socket.socket]) -> None:
        self.settings = of_worker(settings, index)
        self.index = index
        self.mesh = Mesh(index, sockets, self._lost)
        self.server = Server(self.handle, Limits(), lambda request: answers.BASE, remember_heads=True)
        self.server.shared = True
        self.stop_wanted = asyncio.Event()
        self._stopping = self._stopped = False
        self._ready: dict[int, asyncio.Event] = {peer: asyncio.Event() for peer in self.mesh.peers}
        self._known: dict[int, asyncio.Event] = {peer: asyncio.Event() for peer in self.mesh.peers}
        self._drained: dict[int, asyncio.Event] = {peer: asyncio.Event() for peer in self.mesh.peers}
        self._open = asyncio.Event()
        one = self.settings.services is None
        self._services = [
            Service(each, wall_clock, index) for each in ([self.settings] if one else self.settings.services or ())
        ]
        self._shares = [Share(service, number, self.mesh) for number, service in enumerate(self._services)]
        self._totals = [Totals(service, number, self.mesh) for number, service in enumerate(self._services)]
        self._directories: list[Directory] = []
        self._scouts: list[Scout] = []
        self._house = None if one else House(self.settings, self._services, self._shares)

    # -- life --

    async def start(self, listener: socket.socket) -> None:
        """Recover, tell the others what is here, and listen when all have done so. Raises StartError, OSError."""
        for service, share in zip(self._services, self._shares, strict=True):
            service.start()
            service.engine.use_appender(share.append)
        if self.index == DESK:
            for service, share in zip(self._services, self._shares, strict=True):
                service.engine.neighbours = found = Directory(service.engine, share, self.mesh)
                self._directories.append(found)
        else:
            self._scouts = [Scout(service, number, self.mesh) for number, service in enumerate(self._services)]
        self._hear()
        for share in self._shares:
            share.announce()
        for peer in self.mesh.peers:
            self.mesh.send(peer, "ready", None)
        async with asyncio.timeout(_START_SECONDS):
            for event in self._ready.values():
                await event.wait()
            # Nobody may ask before all know everything: a name that is not heard of yet would be given again.
            if self.index == DESK:
                for event in self._known.values():
                    await event.wait()
            else:
                self.mesh.send(DESK, "known", None)
                await self._open.wait()
        for known in self._directories:
            await known.open()
        if self.index == DESK:
            for service in self._services:
                service.engine.start()
            for peer in self.mesh.peers:
                self.mesh.send(peer, "open", None)
        for totals in self._totals:
            totals.start()
        await self.server.start(self.settings.host, self.settings.port, listener)

    async def stop(self, grace: float) -> None:
        """Drain, make everything durable, leave nothing to replay."""
        self._stopping = True
        for peer in self.mesh.peers:
            self.mesh.send(peer, "stop", None)
        for totals in self._totals:
            totals.stop()
        for service in self._services:
            service.drain()
        await self.server.drain(grace)
        await self._all_drained(grace)
        self._stopped = True
        for service in self._services:
            await service.stop()

    async def _all_drained(self, grace: float) -> None:
        """As long as others have connections, some may come here."""
        for peer in self.mesh.peers:
            self.mesh.send(peer, "drained", None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace + _LATE_SECONDS):
                for event in self._drained.values():
                    await event.wait()
        if self.server.connections:
            await self.server.drain(grace)

    def _lost(self, peer: int, problem: str) -> None:
        self._drained[peer].set()
        if not self._stopping and not self.stop_wanted.is_set():
            log.critical("worker %d %s; this one ends, too, and recovery will start from the disk", peer, problem)
            logging.shutdown()
            os._exit(LOST)

    # -- requests --

    def handle(self, request: Request) -> Result:
        """The handler."""
        if request.path == b"/metrics" and request.method in ("GET", "HEAD"):
            return self._metrics()
        if request.path == b"/live" and request.method in ("GET", "HEAD") and not self._stopping:
            return self._live()
        return self._shares[0].handle(request) if self._house is None else self._house.handle(request)

    async def _metrics(self) -> AnyResponse:
        """Those of all workers: every series has the number of its worker."""
        texts = [self._text(), *await self.mesh.ask_all("metrics", None)]
        return Response(200, _METRICS, merge(texts))

    async def _live(self) -> AnyResponse:
        """One that hangs is enough: the others are not started anew without it."""
        well = self._well()
        try:
            async with asyncio.timeout(_LIVE_SECONDS):
                well = well and all(await self.mesh.ask_all("well", None))
        except (TimeoutError, HttpError):
            well = False
        return Service.health(well, "alive" if well else "stuck")

    def _well(self) -> bool:
        return all(one.well for one in self._services)

    def _text(self) -> bytes:
        return self._services[0].metrics.render() if self._house is None else self._house.metrics()

    # -- what others say --

    def _hear(self) -> None:
        on, shares, services = self.mesh.on, self._shares, self._services
        on("ready", lambda peer, value, fd: self._ready[peer].set())
        on("known", lambda peer, value, fd: self._known[peer].set())
        on("drained", lambda peer, value, fd: self._drained[peer].set())
        on("open", lambda peer, value, fd: self._open.set())
        on("stop", lambda peer, value, fd: self.stop_wanted.set())
        on("adopt", self._adopt)
        on("well", lambda peer, value, fd: self._well())
        on("metrics", lambda peer, value, fd: self._text())
        on("foreign", lambda peer, value, fd: shares[value[0]].foreign(peer, value[1]))
        on("settle", lambda peer, value, fd: shares[value[0]].settle(value[1], value[2]))
        on("gone", lambda peer, value, fd: shares[value[0]].gone(peer, value[1]))
        on("totals", lambda peer, value, fd: self._totals[value[0]].hear(peer, value[1]))
        on("usage", lambda peer, value, fd: services[value].durable_usage())
        on("append", lambda peer, value, fd: shares[value[0]].append_for(*value[1:]))
        on("position", lambda peer, value, fd: shares[value[0]].position_for(*value[1:]))
        on("settled", lambda peer, value, fd: shares[value].settled())
        on("notices", lambda peer, value, fd: self._directories[value[0]].hear(peer, value[1]))
        on("watch", lambda peer, value, fd: self._scouts[value[0]].watch(*value[1:]))
        on("survey", lambda peer, value, fd: self._scouts[value].survey())
        on("forget", lambda peer, value, fd: self._scouts[value[0]].forget(value[1]))
        on("unwatch", lambda peer, value, fd: self._scouts[value[0]].unwatch(*value[1:]))
        on("catch_up", lambda peer, value, fd: self._scouts[value].catch_up())

    def _adopt(self, peer: int, value: Any, fd: int) -> Awaitable[None] | None:
        """A connection comes to us."""
        data, handled, raw = value
        note = note_of(raw)
        share = self._shares[note.service]
        if self._stopped or fd < 0:
            log.warning("a connection came from worker %d too late, or without its socket", peer)
            share.tell(note)
            if fd >= 0:
                os.close(fd)
            return None
        return self._adopted(self.server, fd, Arrival(data, handled, note, lambda: share.tell(note)))

    @staticmethod
    async def _adopted(server: Server, fd: int, arrival: Arrival) -> None:
        try:
            await server.adopt(fd, arrival)
        except OSError as error:
            log.warning("a connection was lost on its way here: %s", error)
            arrival.drop()


async def run(settings: Settings, index: int, sockets: dict[int, socket.socket], listener: socket.socket) -> None:
    """Serve until a signal comes."""
    worker = Worker(settings, index, sockets)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop_wanted.set)
    await worker.start(listener)
    gc.freeze()
    if index == DESK:
        place = f"http://{settings.host}:{worker.server.port}{settings.root_path}"
        log.info("listening on %s with %d workers", place, settings.workers)
    await worker.stop_wanted.wait()
    await worker.stop(settings.drain_seconds)
