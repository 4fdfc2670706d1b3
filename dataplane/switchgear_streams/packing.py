"""The part of a checkpoint that runs in its thread: one pack, then one group of the catalogue.

What it must not do: touch a stream (the loop goes on with them): it works on what `checkpoint` froze into the job, on
files, and on descriptors that the job holds.
"""

from __future__ import annotations

import errno
import logging
import time
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from switchgear_streams import catalog, segments, squeezing
from switchgear_streams.disk import Disk
from switchgear_streams.rules import state
from switchgear_streams.rules.state import TooMuch
from switchgear_streams.segments import Packs
from switchgear_streams.squeezing import Squeeze, Squeezed
from switchgear_streams.stream import Frozen, Run, Stream
from switchgear_streams.usage import counts

log = logging.getLogger("switchgear.streams.checkpoint")

_WRITE_SIZE = 4 * 1_048_576
# What is looked at in one go, and for how long (seconds) the thread then leaves the interpreter to the loop.
_READ_SIZE = 16_384
_REST = 0.00005


@dataclass(slots=True)
class Part:
    """One stream in a checkpoint. `joined`: older runs whose bytes go in front of the frozen ones."""

    stream: Stream
    meta: bytes
    deadline: int | None
    kept: list[Run]
    joined: list[Run]
    frozen: Frozen | None
    shed: list[Run] = field(default_factory=list)
    """Older runs that nobody needs any more."""
    cut: int = 0
    """Bytes before it are left out of what is written."""
    recut: list[Run] = field(default_factory=list)
    """Kept runs to be written anew because most of them is before the cut."""
    new: Run | None = None
    left: Run | None = None
    """What a squeeze left of its runs, when the frozen bytes were not part of it."""
    moved: list[tuple[Run, Run]] = field(default_factory=list)
    """(run in a pack that is being emptied, the same bytes in the new pack)."""
    body: bytes = b""
    squeeze: Squeeze | None = None
    squeezed: Squeezed | None = None
    """What it comes to, when it is kept by key and it was time."""
    tried: int = 0
    """Where the stream ended, when squeezing failed."""

    @property
    def swallowed(self) -> bool:
        """Did the squeeze take the frozen bytes in?"""
        return self.squeeze is not None and self.squeezed is not None and self.squeeze.frozen

    @property
    def runs(self) -> list[Run]:
        """All its runs after this checkpoint."""
        runs = self.kept
        if self.moved:
            places = dict(self.moved)
            runs = [places.get(run, run) for run in runs]
        if self.left is not None:
            runs = [self.left, *runs]
        return runs if self.new is None else [*runs, self.new]

    @property
    def written(self) -> list[Run]:
        """What is in the new pack."""
        return [*(new for _, new in self.moved), *(run for run in (self.left, self.new) if run is not None)]

    @property
    def dropped(self) -> list[Run]:
        """What it does not refer to any more."""
        squeezed = [] if self.squeeze is None or self.squeezed is None else self.squeeze.runs
        return [*self.shed, *self.joined, *squeezed, *(old for old, _ in self.moved)]


@dataclass(slots=True)
class Job:
    boundary: int
    pack: int
    generation: int
    parts: list[Part]
    removed: list[bytes]
    packs: dict[int, tuple[int, int]]
    """Size and living bytes of the packs, as of the boundary: what is dropped later is replayed at the next start."""
    usage: list[Any] = field(default_factory=list)
    """As of the boundary."""
    victims: list[int] = field(default_factory=list)
    """Packs that are being emptied."""
    held: list[int] = field(default_factory=list)
    room: int = 0
    """Bytes of streams kept by key that may still be looked at."""
    written: int = 0
    alive: int = 0
    """Size of the new pack, and how much of it streams refer to."""
    rewrite: list[Stream | bytes] | None = None
    """For a new catalogue: everything that did not change, as bytes (streams in it are to be skipped)."""


# Errors that may go away, and after which the files are as they were.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Packer:
    """Writes jobs, one at a time."""

    def __init__(self, packs: Packs, disk: Disk, writer: catalog.Writer) -> None:
        self._packs = packs
        self._disk = disk
        self.catalog = writer

    def write(self, job: Job) -> None:
        made = False
        try:
            if job.victims or any(part.frozen or part.recut or part.squeeze for part in job.parts):
                fd = self._disk.create(segments.pack_name(job.pack))
                made = True
                try:
                    self._write_pack(job, fd)
                    self._disk.sync(fd)
                finally:
                    self._disk.close(fd)
                if not job.written:
                    self._disk.remove(segments.pack_name(job.pack))
                self._disk.sync_names()
            self._write_catalog(job)
        except OSError as error:
            # After any other error the catalogue may name the pack, on this disk or at the next start.
            if made and error.errno in PASSING:
                self._disk.remove(segments.pack_name(job.pack))
            raise

    def _write_pack(self, job: Job, fd: int) -> None:
        victims = set(job.victims)
        written = 0
        buffered: list[bytes | bytearray] = []
        for part in job.parts:
            stream = part.stream
            if part.squeeze is not None:
                part.left = self._squeeze(job, part, part.squeeze, buffered)
            for run in part.kept if victims or part.recut else ():
                if run.pack in victims or run in part.recut:
                    self._move(job, part, run, buffered)
            if part.frozen is not None and not part.swallowed:
                part.new = self._add(job, stream, *self._joined(part, part.frozen), buffered)
            if job.written - written >= _WRITE_SIZE:
                self._disk.write(fd, buffered, written)
                buffered, written = [], job.written
        self._disk.write(fd, buffered, written)
        job.alive = sum(run.length for part in job.parts for run in part.written)

    def _move(self, job: Job, part: Part, run: Run, buffered: list[bytes | bytearray]) -> None:
        """Copy a run as it is, unless it is damaged: then it stays."""
        try:
            whole, marks = self._load(run)
        except OSError as error:
            log.error("%s; %r keeps its run there", error, part.stream.key)
            return
        stream = part.stream
        part.moved.append((run, self._add(job, stream, *_cut(part, run.start, marks, whole), buffered)))

    @staticmethod
    def _add(
        job: Job,
        stream: Stream,
        start: int,
        ends: array[int],
        data: bytes | bytearray,
        buffered: list[bytes | bytearray],
    ) -> Run:
        """One more run of the pack."""
        head, run = segments.encode_run(job.pack, job.written, stream.key, stream.generation, start, ends, data)
        buffered += (head, data)
        job.written += len(head) + len(data)
        return run

    def _squeeze(self, job: Job, part: Part, asked: Squeeze, buffered: list[bytes | bytearray]) -> Run | None:
        """Keep of the stream what its newest messages are. Where that cannot be, it is written as any other."""
        stream, frozen = part.stream, part.frozen if asked.frozen else None
        last = asked.runs[-1] if asked.runs else None
        end = asked.start if last is None else last.start + last.length
        if frozen is not None:
            end = frozen.start + len(frozen.data)
        meta = orjson.loads(part.meta)
        try:
            made = squeezing.squeeze(asked, self._pieces(asked.runs, frozen), end)
        except (TooMuch, OSError) as error:
            why = "too many keys to be kept by key" if isinstance(error, TooMuch) else str(error)
            log.error("%r stays as it is, until twice as much is there: %s", stream.key, why)
            part.tried = meta["u"] = meta.get("e", 0)
            part.meta, part.deadline = orjson.dumps(meta), asked.deadline
            return None
        part.squeezed = made
        part.kept = [run for run in part.kept if run not in asked.runs]
        part.joined = []
        meta.pop("u", None)
        meta["z"], meta["y"], meta["w"] = made.end, made.start, made.marked
        if made.first:
            meta["o"], meta["l"] = made.first, 0
        part.meta = orjson.dumps(meta)
        if not state.worth(meta["e"] - made.start, made.end - made.start):
            part.deadline = asked.deadline
        if counts(stream.key):
            units, written, held, moment = job.usage
            job.usage = [units, written, held - made.dropped, str(int(moment) - made.dropped * asked.time)]
        return self._add(job, stream, made.start, made.ends, made.data, buffered) if made.data else None

    def _pieces(self, runs: list[Run], frozen: Frozen | None) -> Iterator[tuple[int, bytes]]:
        """(position, bytes) of these, bit by bit. Raises OSError if they are not what was written."""
        for run in runs:
            fd, crc = self._packs.fd(run.pack), 0
            for at in range(0, run.length, _READ_SIZE):
                data = self._disk.read(fd, min(_READ_SIZE, run.length - at), run.offset + at)
                crc = zlib.crc32(data, crc)
                yield run.start + at, data
                time.sleep(_REST)
            if crc != run.crc:
                raise OSError(f"pack {run.pack} is damaged at {run.offset}")
        if frozen is not None:
            with memoryview(frozen.data) as view:
                for at in range(0, len(view), _READ_SIZE):
                    yield frozen.start + at, bytes(view[at : at + _READ_SIZE])
                    time.sleep(_REST)

    def _load(self, run: Run) -> tuple[bytes, array[int]]:
        """A run's bytes and append ends. Raises OSError if they are not what was written."""
        fd = self._packs.fd(run.pack)
        data = self._disk.read(fd, run.length, run.offset)
        if zlib.crc32(data) != run.crc:
            raise OSError(f"pack {run.pack} is damaged at {run.offset}")
        return data, segments.read_marks(self._disk, fd, run)

    def _joined(self, part: Part, frozen: Frozen) -> tuple[int, array[int], bytes | bytearray]:
        """(start, append ends, bytes) of the run to be written. A damaged older run stays where it is, and what is
        before it, so that it is not read again until as much has come after it."""
        pieces: list[bytes | bytearray] = [frozen.data]
        ends = frozen.marks
        for index in range(len(part.joined) - 1, -1, -1):
            try:
                data, some = self._load(part.joined[index])
            except OSError as error:
                log.error("%s; %r keeps its runs as they are", error, part.stream.key)
                part.kept, part.joined = [*part.kept, *part.joined[: index + 1]], part.joined[index + 1 :]
                break
            pieces.append(data)
            ends = some + ends
        if not part.joined:
            return frozen.start, frozen.marks, frozen.data
        return _cut(part, part.joined[0].start, ends, b"".join(reversed(pieces)))

    def _write_catalog(self, job: Job) -> None:
        live = {pack: [size, alive] for pack, (size, alive) in job.packs.items()}
        for part in job.parts:
            for run in part.dropped:
                if run.pack in live:
                    live[run.pack][1] -= run.length
        if job.written:
            live[job.pack] = [job.written, job.alive]
        commit = {
            "wal": job.boundary,
            "generation": job.generation,
            "usage": job.usage,
            "packs": [[pack, size, alive] for pack, (size, alive) in live.items()],
        }
        if job.rewrite is None:
            self.catalog.append(self._entries(job), commit)
            return
        old = self.catalog
        writer = catalog.Writer.make(self._disk, old.index + 1)
        try:
            writer.append(self._entries(job), commit)
            self._disk.sync_names()
        except OSError:
            writer.close()
            self._disk.remove(catalog.file_name(writer.index))
            raise
        writer.alive = writer.size
        self.catalog = writer
        old.close()
        self._disk.remove(catalog.file_name(old.index))

    @staticmethod
    def _entries(job: Job) -> Iterator[bytes]:
        if job.rewrite is None:
            for key in job.removed:
                yield catalog.encode(catalog.REMOVE, key)
        else:
            for body in job.rewrite:
                if isinstance(body, bytes):
                    yield catalog.encode(catalog.PUT, body)
        for part in job.parts:
            stream = part.stream
            part.body = catalog.pack_body(stream.generation, part.deadline, stream.key, part.runs, part.meta)
            yield catalog.encode(catalog.PUT, part.body)


def _cut(
    part: Part, start: int, ends: array[int], data: bytes | bytearray
) -> tuple[int, array[int], bytes | bytearray]:
    """(start, append ends, bytes) without what lies before the part's cut."""
    if not start < part.cut < start + len(data):
        return start, ends, data
    return part.cut, ends[bisect_right(ends, part.cut) :], data[part.cut - start :]
