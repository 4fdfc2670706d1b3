"""The server on a disk that can be made to fail: the files `full`, `broken`, … in $FAULTS are the switches.

`full`: no space for a new log segment or a checkpoint. `broken`: the next sync fails. `stuck`: syncs wait until it is
gone, and the file `waits` says that one does. `unlinkable`: no file gets a second name. Run as
`python -m tests.streams.faulty` with the server's flags.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from switchgear_streams import disk, service
from switchgear_streams.__main__ import main

SWITCHES = Path(os.environ.get("FAULTS", "/nowhere"))


class FaultyDisk(disk.Disk):
    """See the module."""

    def allocate(self, fd: int, size: int) -> None:
        self._room()
        super().allocate(fd, size)

    def create(self, name: str) -> int:
        if name.startswith("pack-"):
            self._room()
        return super().create(name)

    def sync(self, fd: int) -> None:
        if (SWITCHES / "broken").exists():
            raise OSError(errno.EIO, "the disk is broken")
        while (SWITCHES / "stuck").exists():
            (SWITCHES / "waits").touch()
            time.sleep(0.01)
        super().sync(fd)

    def link(self, old: str, new: str) -> None:
        if (SWITCHES / "unlinkable").exists():
            raise OSError(errno.EPERM, "no hard links here")
        super().link(old, new)

    @staticmethod
    def _room() -> None:
        if (SWITCHES / "full").exists():
            raise OSError(errno.ENOSPC, "the disk is full")


if __name__ == "__main__":
    service.Disk = FaultyDisk  # type: ignore[misc]
    main()
