"""The catalogue: what the last checkpoint knew of every stream, in one append-only file. Pure but for `Disk` calls.

A checkpoint appends one group: an opening entry, entries of the streams that changed, removals, and a closing entry
that makes the group count. A group without its closing entry (the process died) is cut off at the next start: the log
still has what it was about. If the log has not, the closing entry was there and is damaged; the opening one says the
same. When most of the file is history, it is written anew.

    entry: length u32 (of what follows it), CRC u32 (of what follows it), kind u8, then
      PUT:    generation u64, deadline u64 (Unix ms, 0: none), key length u16, run count u32, key, runs, meta (JSON)
      REMOVE: key
      BEGIN:  the group's COMMIT
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
from switchgear_streams.pieces import Pieces
from switchgear_streams.runs import Run
from switchgear_streams.stream import Stream, from_meta

PUT, REMOVE, COMMIT, BEGIN = 1, 2, 3, 4
_KINDS = (PUT, REMOVE, COMMIT, BEGIN)
_PREFIX = struct.Struct("<IIB")
_SEEDS = [zlib.crc32(bytes((kind,))) for kind in range(256)]
_PUT = struct.Struct("<QQHI")
_DEADLINE = struct.Struct("<Q")
_RUN = struct.Struct("<QQQQII")
_PREFIX_N, _PUT_N, _KEY_N = _PREFIX.size, _PUT.size, 16
_MAX_KEY = 0xFFFF
MAX_ENTRY = 256 * 1_048_576
# How far behind a damaged length an intact entry is looked for.
_SEARCHED = 1_048_576


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
    deadline: int = _DEADLINE.unpack_from(body, 8)[0]
    return deadline


def key_of(body: bytes) -> bytes:
    return body[_PUT.size : _PUT.size + _PUT.unpack_from(body)[2]]


def encode(kind: int, body: bytes) -> bytes:
    crc = zlib.crc32(body, _SEEDS[kind])
    return _PREFIX.pack(len(body) + 5, crc, kind) + body


@dataclass(slots=True)
class Group:
    """What was read of a group. `opening`: the content of its opening entry; `end`: where its last entry ends."""

    opening: dict[str, Any] | None = None
    streams: dict[bytes, Stream | bytes] = field(default_factory=dict)
    removed: dict[bytes, None] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    end: int = 0


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
    rest: Group = field(default_factory=Group)
    """What is behind `end`."""
    damaged: list[int] = field(default_factory=list)
    """File offsets of entries that are damaged although a complete group follows them."""


def load(file: Pieces, index: int) -> Loaded:
    """Read a catalogue file, a piece at a time."""
    return _Loading(file, index).run()


class _Loading:
    """A catalogue that is being read, and its open group, which may turn out not to count.

    The streams of the first group, which can be nearly all that there are, become the catalogue's as they are.
    """

    def __init__(self, file: Pieces, index: int) -> None:
        self._file = file
        self._loaded = Loaded(index)
        self._group = Group()

    def run(self) -> Loaded:
        at: int | None = 0
        while at is not None and at + _PREFIX.size <= self._file.size:
            following = self._whole(at)
            at = following if following > at else self._one(at)
        self._loaded.rest = self._group
        return self._loaded

    def _whole(self, at: int) -> int:
        """Entries from `at` on, as many as lie whole in one piece. Returns where the next one begins."""
        data, place = self._file.piece(at, _PREFIX.size)
        base, size = at - place, len(data)
        staged, crc_of, unpack = self._group.streams, zlib.crc32, _PREFIX.unpack_from
        while place + _PREFIX_N <= size:
            length, crc, kind = unpack(data, place)
            end = place + 4 + length
            if length < 5 or end > size:
                break
            body = data[place + _PREFIX_N : end]
            if crc_of(body, _SEEDS[kind]) != crc:
                break
            if kind == PUT:
                staged[body[_PUT_N : _PUT_N + body[_KEY_N] + 256 * body[_KEY_N + 1]]] = body
            elif kind in _KINDS:
                self._rest(kind, body, base + end)
                staged = self._group.streams
            else:
                break
            place = end
        self._group.end = base + place
        return base + place

    def _one(self, at: int) -> int | None:
        """The entry at `at`: a large one, a torn or a damaged one. Returns where to go on; None: it was the end."""
        file = self._file
        if not _intact(file, at):
            # Nothing in a damaged entry is believed, its length neither.
            resumed = _resume(file, at + 1)
            if resumed is not None:
                self._group.damaged.append(at)
            return resumed
        length: int
        length, _, kind = _PREFIX.unpack(file.take(at, _PREFIX.size))
        body = bytes(file.take(at + _PREFIX.size, length - 5))
        if kind == PUT:
            self._group.streams[key_of(body)] = body
        else:
            self._rest(kind, body, at + 4 + length)
        self._group.end = at + 4 + length
        return at + 4 + length

    def _rest(self, kind: int, body: bytes, end: int) -> None:
        """An intact entry that ends at `end` and is no PUT."""
        group = self._group
        if kind == COMMIT:
            _apply(self._loaded, group, orjson.loads(body), end)
            self._group = Group()
        elif kind == BEGIN:
            group.opening = orjson.loads(body)
        else:
            group.streams.pop(body, None)
            group.removed[body] = None


def complete(loaded: Loaded) -> dict[str, Any]:
    """The last group counts, though its closing entry is damaged. Returns what that said; it belongs at `end`."""
    group, loaded.rest = loaded.rest, Group()
    assert group.opening is not None
    _apply(loaded, group, group.opening, group.end)
    return group.opening


def _apply(loaded: Loaded, group: Group, commit: dict[str, Any], end: int) -> None:
    for key in group.removed:
        loaded.streams.pop(key, None)
    if loaded.streams:
        loaded.streams.update(group.streams)
    else:
        loaded.streams = group.streams
    loaded.damaged += group.damaged
    loaded.end = end
    loaded.wal = commit["wal"]
    loaded.generation = commit["generation"]
    loaded.usage = commit.get("usage")
    # What this checkpoint emptied: its file goes, if the process that wrote it did not live to remove it.
    loaded.packs = {pack: (size, live) for pack, size, live in commit["packs"] if live > 0}


def _resume(file: Pieces, at: int) -> int | None:
    """The next place that begins an intact entry, within a bounded search."""
    stop = min(file.size - _PREFIX.size + 1, at + _SEARCHED)
    while at < stop:
        data, place = file.piece(at, _PREFIX.size)
        last = min(stop - at + place, len(data) - _PREFIX.size + 1)
        for candidate in range(place, last):
            if data[candidate + 8] in _KINDS and _intact(file, at + candidate - place):
                return at + candidate - place
        at += last - place
    return None


def _intact(file: Pieces, at: int) -> bool:
    """Is there an entry at `at`, as it was written? What cannot be one is not read to its end."""
    length: int
    crc: int
    length, crc, kind = _PREFIX.unpack(file.take(at, _PREFIX.size))
    end, size, body = at + 4 + length, length - 5, at + _PREFIX.size
    if length > MAX_ENTRY or end > file.size or kind not in _KINDS:
        return False
    if size < {PUT: _PUT.size + 2, REMOVE: 0, COMMIT: 2, BEGIN: 2}[kind] or (kind == REMOVE and size > _MAX_KEY):
        return False
    if kind == PUT:
        _, _, key_n, run_n = _PUT.unpack(file.take(body, _PUT.size))
        meta = _PUT.size + key_n + run_n * _RUN.size
        if meta + 2 > size or bytes(file.take(body + meta, 1)) != b"{":
            return False
    return file.crc(at + 8, end) == crc


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
        content = orjson.dumps(commit)
        first, last = encode(BEGIN, content), encode(COMMIT, content)
        try:
            buffered: list[bytes] = [first]
            weight = len(first)
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
