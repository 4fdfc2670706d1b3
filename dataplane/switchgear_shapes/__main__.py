"""`switchgear-shapes`: read the settings, run the server, say why it ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys

from switchgear_model import logs
from switchgear_shapes.errors import FatalError
from switchgear_shapes.service import Service
from switchgear_shapes.settings import FLAGS, Settings, SettingsError, load, read_arguments
from switchgear_wire import descriptors

USAGE = """usage: switchgear-shapes [--name value ...]

Serves shapes of a Postgres database over HTTP. Needs DATABASE_URL, and ELECTRIC_SECRET or ELECTRIC_INSECURE=true.
Every setting is an environment variable; all but secrets are flags, too. With a password in the URL use
--database-url-file; the secret may come from --secret-file.

flags:
"""


def main() -> int:
    """Exit status 0 after a stop, 2 for wrong settings, 1 when the server cannot run."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE + "\n".join(f"  --{flag:45} {name}" for flag, name in sorted(FLAGS.items())))
        return 0
    try:
        settings, warnings = load(read_arguments(arguments, os.environ))
    except SettingsError as error:
        for problem in error.problems:
            print(f"switchgear-shapes: {problem}", file=sys.stderr)
        return 2
    logs.configure("switchgear-shapes", settings.log_level)
    log = logging.getLogger("switchgear.shapes")
    for warning in warnings:
        log.warning("%s", warning)
    descriptors.make_room()
    try:
        asyncio.run(_run(settings))
    except FatalError as error:
        log.critical("%s", error)
        return 1
    except OSError as error:
        log.critical("cannot listen: %s", error)
        return 1
    return 0


async def _run(settings: Settings) -> None:
    # Shapes and settings live as long as the process: keep the collector from walking them over and over.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await Service(settings).run()


if __name__ == "__main__":
    sys.exit(main())
