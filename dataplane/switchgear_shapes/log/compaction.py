"""Old parts of a shape's log made shorter: successive updates of a row become one, in the place of the last.

Whoever reads from any offset on ends with the same rows as before: an update keeps its place, and brings along what
the earlier ones that it replaces have set. Inserts and deletes stay as they are. Chunks keep the offsets of their ends.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from switchgear_shapes.log.shape_log import ChunkEnd
from switchgear_shapes.log.wal import sync_directory
from switchgear_shapes.offsets import INFINITY

KEPT_CHUNKS = 2
"""So many of the newest complete chunks are left alone: most readers are there."""
WINDOW_BYTES = 16 * 1024 * 1024
"""Updates are merged within so much of the log; the next run finds what came closer together."""
_BLOCK = 1024 * 1024
_SEPARATOR = b",\n"
_UPDATE = b',"headers":{"operation":"update"'


@dataclass(frozen=True, slots=True)
class Compacted:
    """`length` bytes of a new file stand for those below `cut` of the old one."""

    cut: int
    length: int
    chunk_ends: list[ChunkEnd]


def compact(old: str, new: str, chunk_ends: list[ChunkEnd], cut: int) -> Compacted | None:
    """Write the new file, durably; None when there was nothing to merge. Raises OSError."""
    limit = chunk_ends[-1 - KEPT_CHUNKS][0]
    merged_any = False
    made: list[ChunkEnd] = []
    length = 0
    with Path(old).open("rb") as source, Path(new).open("wb") as target:
        for start, lines in _windows(source.fileno(), limit):
            ends = _last_lines(lines, start, chunk_ends)
            kept = merge(lines, frozenset(ends))
            merged_any = merged_any or any(line is None for line in kept)
            for index, line in enumerate(kept):
                if line is not None:
                    target.write(line)
                    length += len(line)
                if index in ends:
                    made.append((length, *ends[index]))
        if not merged_any:
            return None
        shift = length - limit
        made += [(end + shift, tx, op) for end, tx, op in chunk_ends if limit < end <= cut]
        length += _copy(source.fileno(), target, limit, cut)
        target.flush()
        os.fsync(target.fileno())
    sync_directory(Path(new).parent)
    return Compacted(cut, length, made)


def _last_lines(lines: list[bytes], start: int, chunk_ends: list[ChunkEnd]) -> dict[int, tuple[int, int]]:
    """Which of the lines, of which the first begins at `start`, end a chunk: index → offset."""
    ends: dict[int, tuple[int, int]] = {}
    following = bisect_right(chunk_ends, (start, INFINITY, INFINITY))
    position = start
    for index, line in enumerate(lines):
        position += len(line)
        if following < len(chunk_ends) and chunk_ends[following][0] == position:
            ends[index] = chunk_ends[following][1:]
            following += 1
    return ends


def merge(lines: list[bytes], fixed: frozenset[int] = frozenset()) -> list[bytes | None]:
    """The lines with each row's successive updates in the last of them; None for those that are no more.

    Lines with an index in `fixed` stay: they take in earlier ones, and do not go into later ones.
    """
    kept: list[bytes | None] = list(lines)
    later: dict[str, tuple[int, dict[str, Any]]] = {}
    for index in range(len(lines) - 1, -1, -1):
        message = orjson.loads(lines[index][: -len(_SEPARATOR)])
        key = message["key"]
        if message["headers"]["operation"] != "update":
            later.pop(key, None)
            continue
        known = later.get(key)
        if known is None or index in fixed:
            later[key] = (index, message)
            continue
        place, update = known
        update["value"] = message["value"] | update["value"]
        if "old_value" in message:
            update["old_value"] = update.get("old_value", {}) | message["old_value"]
        kept[index] = None
        kept[place] = _rewritten(lines[place], update)
    return kept


def _rewritten(line: bytes, update: dict[str, Any]) -> bytes:
    """The line with another value; its headers, and so its offset, stay as they are."""
    message = {name: update[name] for name in ("key", "value", "old_value") if name in update}
    return orjson.dumps(message)[:-1] + line[line.rindex(_UPDATE) :]


def _windows(fd: int, limit: int) -> Iterator[tuple[int, list[bytes]]]:
    """(position, lines) of the bytes below `limit`, about `WINDOW_BYTES` each."""
    start = position = 0
    rest = b""
    lines: list[bytes] = []
    size = 0
    while position < limit:
        block = os.pread(fd, min(_BLOCK, limit - position), position)
        if not block:
            raise OSError("a shape file is shorter than it was")
        position += len(block)
        rest += block
        *whole, rest = rest.split(b"\n")
        lines += [line + b"\n" for line in whole]
        size += sum(map(len, whole)) + len(whole)
        if size >= WINDOW_BYTES:
            yield start, lines
            start += size
            lines, size = [], 0
    if lines:
        yield start, lines


def _copy(fd: int, target: Any, start: int, end: int) -> int:
    position = start
    while position < end:
        block = os.pread(fd, min(_BLOCK, end - position), position)
        if not block:
            raise OSError("a shape file is shorter than it was")
        target.write(block)
        position += len(block)
    return end - start
