"""How large the files of a running server are; it may delete any of them between two looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


def total_size(paths: Iterable[Path]) -> int:
    """Bytes of all files; those that have gone since they were listed count as none."""
    size = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size
