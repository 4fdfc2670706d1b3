"""Room for one descriptor a connection, made when a server starts.

The soft limit is often 1,024 only. And the kernel doubles a process's table of descriptors when it is full; with other
threads there, that keeps whoever opens the next one, the event loop, waiting for 10 to 20 ms: at 256, at 512, ….
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
from pathlib import Path

log = logging.getLogger("switchgear.wire")

TABLE = 65_536
"""Descriptors that the table has room for from the start, if so many are allowed; each is 8 bytes of kernel memory."""


def make_room() -> None:
    """Take as many descriptors as the system grants. Best called before other threads run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("only %d open files are allowed: %s", soft, error)
    highest = (TABLE if soft == resource.RLIM_INFINITY else min(soft, TABLE)) - 1
    with contextlib.suppress(OSError), Path(os.devnull).open("rb") as file:  # a smaller table only costs time
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, highest))
