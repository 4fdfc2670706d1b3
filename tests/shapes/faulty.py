"""The server with a disk whose syncs fail (or take FAULTY_SECONDS) while the file named by `FAULTY_WHEN` exists."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

from switchgear_shapes.__main__ import main

_real = os.fdatasync


def fdatasync(fd: int) -> None:
    if Path(os.environ["FAULTY_WHEN"]).exists():
        if "FAULTY_SECONDS" not in os.environ:
            raise OSError(errno.EIO, "injected")
        time.sleep(float(os.environ["FAULTY_SECONDS"]))
    _real(fd)


if __name__ == "__main__":
    os.fdatasync = fdatasync
    sys.exit(main())
