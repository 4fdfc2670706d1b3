"""Which worker has a stream, and where each worker keeps its data. Pure.

A stream's worker follows from its name and the number of workers. A fork is the exception: it lies where its source
lies, whose bytes it shares, and the worker of its name knows where that is (`share`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

MOST = 64
DESK = 0
"""The worker that has the subscriptions."""
SUBSCRIPTIONS = b"\0subscription/"
"""The name that stands for all of them."""
# A CRC of names that differ in one digit differs in few bits: the product spreads them (2^32 by the golden ratio).
_MIX = 0x9E3779B1
_STRIPE = 10**14
_DIRECTORY = re.compile(r"worker\.([0-9]+)\.of\.([0-9]+)")
_KEPT = ("LOCK", "lost+found")


def home(key: bytes, workers: int) -> int:
    """The worker of a stream's name. All streams of a Yjs document are in one place, other hidden ones at the desk."""
    if key[:1] == b"\0":
        if not key.startswith(b"\0yjs/"):
            return DESK
        key = key[: key.find(b"\0", 1)] if key.find(b"\0", 1) > 0 else key
    return ((zlib.crc32(key) * _MIX & 0xFFFFFFFF) >> 16) % workers


def first_generation(worker: int) -> int:
    """No two workers give the same number to a stream, so that a token of one is never taken for another's."""
    return worker * _STRIPE + 1


def directory(worker: int, workers: int) -> str:
    """The name of a worker's data directory."""
    return f"worker.{worker}.of.{workers}"


def problem(names: Iterable[str], workers: int) -> str | None:
    """Why data with these names was not written by so many workers, if it was not."""
    for name in names:
        match = _DIRECTORY.fullmatch(name)
        written = int(match[2]) if match else 1
        if written != workers and name not in _KEPT and (match or workers > 1):
            return (
                f"its data was written with --workers {written}, and streams stay where they are:"
                f" start with --workers {written}, or with an empty directory"
            )
    return None
