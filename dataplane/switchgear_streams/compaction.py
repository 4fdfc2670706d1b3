"""Which packs are worth emptying, and whose bytes they hold. A checkpoint then moves what is alive in them.

A pack goes by itself when nothing in it is alive; this is for packs that little is left of. It reads only headers.
"""

from __future__ import annotations

import logging

from switchgear_streams import adoption, records, segments
from switchgear_streams.disk import Disk
from switchgear_streams.segments import Packs

log = logging.getLogger("switchgear.streams.compaction")

MIN_DEAD = 1_048_576
"""Bytes of a pack that must be dead before it is worth the work."""
MAX_MOVED = 64 * 1_048_576
"""Living bytes that one checkpoint moves at most."""


def victims(packs: Packs) -> list[int]:
    """Packs of which more than half is dead, the emptiest first, within the bound."""
    chosen: list[int] = []
    moved = 0
    for pack, known in sorted(packs.known.items(), key=lambda item: item[1].live):
        dead = known.size - known.live
        if known.live > 0 and dead > known.live and dead >= MIN_DEAD:
            moved += known.live
            if chosen and moved > MAX_MOVED:
                break
            chosen.append(pack)
    return chosen


def keys(disk: Disk, packs: list[tuple[int, int]]) -> set[bytes]:
    """Keys of all streams that have, or had, bytes in these (pack, open descriptor). For the checkpoint's thread."""
    found: set[bytes] = set()
    for pack, fd in packs:
        size, at = disk.size(fd), 0
        try:
            if size >= records.BLOCK.size and disk.read(fd, len(records.MAGIC), 0) == records.MAGIC:
                found.update(adoption.keys(disk, fd, pack))
                continue
            while (run := segments.read_header(disk, fd, pack, at, size)) is not None:
                found.add(run.key)
                at = run.next
        except OSError as error:
            log.error("%s; the pack stays as it is", error)
    return found
