"""The server with a disk that fails, is slow or full while the file named by `FAULTY_WHEN` exists.

`FAULTY_HOW`: `sync` (default) lets fdatasync fail, `slow` lets it take `FAULTY_SECONDS` (3), the first `FAULTY_TIMES`
(any number) times, `full` lets nothing be written.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

from switchgear_shapes.__main__ import main

HOW = os.environ.get("FAULTY_HOW", "sync")
SECONDS = float(os.environ.get("FAULTY_SECONDS", "3"))
_left = [None] * int(os.environ.get("FAULTY_TIMES", "1000"))
_sync = os.fdatasync
_pwrite = os.pwrite
_write = os.write
_allocate = os.posix_fallocate


def faulty() -> bool:
    return Path(os.environ["FAULTY_WHEN"]).exists()


def fdatasync(fd: int) -> None:
    if faulty():
        if HOW == "sync":
            raise OSError(errno.EIO, "injected")
        if _left:
            _left.pop()
            time.sleep(SECONDS)
    _sync(fd)


def full_on(call: Any) -> Any:
    def wrapped(*arguments: Any) -> Any:
        if faulty():
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(*arguments)

    return wrapped


if __name__ == "__main__":
    if HOW == "full":
        os.pwrite = full_on(_pwrite)
        os.posix_fallocate = full_on(_allocate)
        os.write = full_on(_write)
    else:
        os.fdatasync = fdatasync
    sys.exit(main())
