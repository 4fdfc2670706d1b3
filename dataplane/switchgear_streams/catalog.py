"""The catalogue: what the last checkpoint knew of every stream, in one append-only file. Pure but for `Disk` calls.

A checkpoint appends one group: entries of the streams that changed, removals, and a closing entry that makes the group
count. A group without its closing entry (the process died) is cut off at the next start. When most of the file is
history, it is written anew.

    entry: length u32 (of what follows it), CRC u32 (of what follows it), kind u8, then
      PUT:    generation u64, deadline u64 (Unix ms, 0: none), key length u16, run count u32, key, runs, meta (JSON)
      REMOVE: key
      COMMIT: JSON {wal, generation, usage, packs: [[id, size, live bytes]...]}
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from switchgear_streams.disk import Disk
from switchgear_streams.stream import Run, Stream, from_meta

PUT, REMOVE, COMMIT = 1, 2, 3
_PREFIX = struct.Struct("<IIB")
_PUT = struct.Struct("<QQHI")
_RUN = struct.Struct("<QQQQII")
MAX_ENTRY = 256 * 1_048_576


def file_name(index: int) -> str:
    return f"catalog-{index:016d}.dat"


def file_index(name: str) -> int | None:
    middle = name[8:-4]
    return int(middle) if name.startswith("catalog-") and name.endswith(".dat") and middle.isdigit() else None


def pack_body(generation: int, deadline: int | None, key: bytes, runs: list[Run], meta: bytes) -> bytes:
    """The body of a PUT entry: also the form in which an idle stream waits in memory."""
    packed = b"".join([_RUN.pack(*run) for run in runs])
    return b"".join((_PUT.pack(generation, deadline or 0, len(key), len(runs)), key, packed, meta))


def unpack_body(body: bytes) -> Stream:
    """The stream of a PUT entry's body."""
    generation, _, key_n, run_n = _PUT.unpack_from(body)
    at = _PUT.size
    key = body[at : at + key_n]
    at += key_n
    runs_end = at + run_n * _RUN.size
    stream = from_meta(key, generation, orjson.loads(body[runs_end:]))
    stream.runs = [Run(*fields) for fields in _RUN.iter_unpack(body[at:runs_end])]
    return stream


def deadline_of(body: bytes) -> int:
    """Unix ms, 0: never."""
    deadline: int = _PUT.unpack_from(body)[1]
    return deadline


def key_of(body: bytes) -> bytes:
    return body[_PUT.size : _PUT.size + _PUT.unpack_from(body)[2]]


def encode(kind: int, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(bytes((kind,))))
    return _PREFIX.pack(len(body) + 5, crc, kind) + body


@dataclass(slots=True)
class Loaded:
    """A catalogue as read. `streams`: key → PUT body. `end`: where the last complete group ends."""

    index: int = 0
    end: int = 0
    wal: int = 0
    generation: int = 1
    streams: dict[bytes, Stream | bytes] = field(default_factory=dict)
    usage: list[Any] | None = None
    packs: dict[int, tuple[int, int]] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    """File offsets of entries that are damaged although a complete group follows them."""


def load(data: bytes, index: int) -> Loaded:
    """Read a catalogue file's content."""
    loaded = Loaded(index)
    staged: list[tuple[int, bytes]] = []
    bad: list[int] = []
    at, size = 0, len(data)
    unpack, prefix = _PREFIX.unpack_from, _PREFIX.size
    while at + prefix <= size:
        length, crc, kind = unpack(data, at)
        end = at + 4 + length
        if length < 5 or length > MAX_ENTRY or end > size:
            resumed = _resume(data, at + 1)
            if resumed is None:
                break
            bad.append(at)
            at = resumed
            continue
        body = data[at + prefix : end]
        if zlib.crc32(data[at + 8 : end]) != crc:
            bad.append(at)
        elif kind == COMMIT:
            _apply(loaded, staged, orjson.loads(body))
            loaded.damaged += bad
            loaded.end = end
            staged, bad = [], []
        else:
            staged.append((kind, body))
        at = end
    return loaded


def _resume(data: bytes, at: int) -> int | None:
    """The next place that begins an intact entry, within a bounded search."""
    for candidate in range(at, min(len(data) - _PREFIX.size, at + 1_048_576)):
        length, crc, kind = _PREFIX.unpack_from(data, candidate)
        end = candidate + 4 + length
        if (
            5 <= length <= MAX_ENTRY
            and kind in (PUT, REMOVE, COMMIT)
            and end <= len(data)
            and zlib.crc32(data[candidate + 8 : end]) == crc
        ):
            return candidate
    return None


def _apply(loaded: Loaded, staged: list[tuple[int, bytes]], commit: dict[str, Any]) -> None:
    streams = loaded.streams
    for kind, body in staged:
        if kind == PUT:
            streams[key_of(body)] = body
        else:
            streams.pop(body, None)
    loaded.wal = commit["wal"]
    loaded.generation = commit["generation"]
    loaded.usage = commit.get("usage")
    # What this checkpoint emptied: its file goes, if the process that wrote it did not live to remove it.
    loaded.packs = {pack: (size, live) for pack, size, live in commit["packs"] if live > 0}


class Writer:
    """Appends groups to the newest catalogue file. Used by the checkpoint's thread only."""

    def __init__(self, disk: Disk, index: int, fd: int, position: int) -> None:
        self._disk = disk
        self.index = index
        self._fd = fd
        self.size = position
        self.alive = 0
        """What of it was of use when it was begun or loaded."""

    @classmethod
    def make(cls, disk: Disk, index: int) -> Writer:
        return cls(disk, index, disk.create(file_name(index)), 0)

    def append(self, entries: Iterable[bytes], commit: dict[str, Any]) -> None:
        """Write one group and sync it. Raises OSError: EIO if nothing is known of the file, else it is as before."""
        at = self.size
        last = encode(COMMIT, orjson.dumps(commit))
        try:
            buffered: list[bytes] = []
            weight = 0
            for entry in entries:
                buffered.append(entry)
                weight += len(entry)
                if weight >= 1_048_576:
                    self._disk.write(self._fd, [b"".join(buffered)], at)
                    at += weight
                    buffered, weight = [], 0
            self._disk.write(self._fd, [b"".join(buffered)], at)
            at += weight
            # A disk may keep what was written last and lose what was written first: the commit waits for the rest.
            self._sync()
            self._disk.write(self._fd, [last], at)
        except OSError as error:
            if error.errno != errno.EIO:
                self._disk.truncate(self._fd, self.size)
            raise
        self._sync()
        self.size = at + len(last)

    def _sync(self) -> None:
        try:
            self._disk.sync(self._fd)
        except OSError as error:  # what is there now is unknown, whatever the reason: no checkpoint may follow it
            raise OSError(errno.EIO, f"the catalogue could not be synced: {error.strerror}") from error

    def close(self) -> None:
        self._disk.close(self._fd)
