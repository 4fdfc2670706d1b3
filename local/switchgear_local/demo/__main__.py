"""`python -m switchgear_local.demo`: reads the settings, then serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from aiohttp import web

from switchgear_model import logs

from . import settings
from .server import Demo

log = logging.getLogger("switchgear_local.demo")

_HOST = "127.0.0.1"
_DRAIN_SECONDS = 2.0


async def serve(wanted: settings.Settings) -> None:
    """Serves until a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Without cancellation a live request would outlive its browser, and so hold a connection to the edge.
    runner = web.AppRunner(
        Demo(wanted).application(), handler_cancellation=True, access_log=None, shutdown_timeout=_DRAIN_SECONDS
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, _HOST, wanted.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        log.info("serving the demo on http://%s:%s/", host, port)
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Exit status 2 when the settings are wrong, 1 when the port is taken."""
    logs.configure("switchgear-demo")
    try:
        asyncio.run(serve(settings.read(sys.argv[1:])))
    except settings.SettingsError as error:
        log.error("%s", error)
        sys.exit(2)
    except OSError as error:
        log.error("the demo cannot serve: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
