"""`switchgear-streams`: reads the settings, serves until SIGTERM or SIGINT, stops in good order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from switchgear_model import logs
from switchgear_streams.errors import StartError
from switchgear_streams.house import House
from switchgear_streams.service import Service
from switchgear_streams.settings import Settings, SettingsError, load
from switchgear_streams.workers import placing
from switchgear_streams.workers.launch import launch
from switchgear_wire import descriptors
from switchgear_wire.listener import Server, serve

log = logging.getLogger("switchgear.streams")


def main() -> None:
    """Exit status 0 after a signal, 2 for wrong settings, 1 when it cannot start, 70 when the disk fails."""
    try:
        settings = load(sys.argv[1:], os.environ)
    except SettingsError as error:
        for problem in error.problems:
            print(f"switchgear-streams: {problem}", file=sys.stderr)
        sys.exit(2)
    logs.configure("switchgear-streams", settings.log_level)
    descriptors.make_room()
    # Long lists of plain data are made all the time and hold no cycles.
    gc.set_threshold(50_000, 20, 50)
    try:
        if settings.workers > 1:
            sys.exit(launch(settings))
        asyncio.run(run(settings))
    except StartError as error:
        log.error("cannot start: %s", error)
        sys.exit(1)
    except OSError as error:
        log.error("cannot start: %s", error)
        sys.exit(1)


def names(place: Path) -> list[str]:
    """What is in a directory, if it is there."""
    return [each.name for each in place.iterdir()] if place.is_dir() else []


async def run(settings: Settings) -> None:
    """Serve until a signal comes."""
    problem = placing.problem(names(settings.data_dir), 1)
    if problem is not None:
        raise StartError(f"{settings.data_dir}: {problem}")
    service = Service(settings) if settings.services is None else House(settings)
    service.start()
    gc.freeze()
    server: Server = await serve(
        service.handle, settings.host, settings.port, error_headers=service.error_headers, remember_heads=True
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("listening on http://%s:%d%s", settings.host, server.port, settings.root_path)
    await stop.wait()
    log.info("stopping")
    service.drain()
    await server.drain(settings.drain_seconds)
    await service.stop()
    log.info("stopped")


if __name__ == "__main__":
    main()
