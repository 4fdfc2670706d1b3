"""The part of a checkpoint that runs in its thread: one pack, then one group of the catalogue.

What it must not do: touch a stream (the loop goes on with them): it works on what `checkpoint` froze into the job, on
files, and on descriptors that the job holds.
"""

from __future__ import annotations

import errno
import logging
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from switchgear_streams import adoption, catalog, checksums, segments, squeezing
from switchgear_streams.disk import Disk
from switchgear_streams.rules import state
from switchgear_streams.rules.state import TooMuch
from switchgear_streams.runs import Chunk, Run
from switchgear_streams.segments import Bytes, Packs
from switchgear_streams.squeezing import Squeeze, Squeezed
from switchgear_streams.stream import Stream
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
    frozen: list[Chunk] | None
    shed: list[Run] = field(default_factory=list)
    """Older runs that nobody needs any more."""
    cut: int = 0
    """Bytes before it are left out of what is written."""
    recut: list[Run] = field(default_factory=list)
    """Kept runs to be written anew because most of them is before the cut."""
    adopts: bool = False
    """May large chunks stay where the log has them?"""
    new: list[Run] = field(default_factory=list)
    """What the frozen bytes became."""
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
        return [*runs, *self.new]

    @property
    def written(self) -> list[Run]:
        """What is in the new pack, and in adopted ones."""
        return [*(new for _, new in self.moved), *([] if self.left is None else [self.left]), *self.new]

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
    adopted: adoption.Plan = field(default_factory=adoption.Plan)
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
            self._adopt(job)
            if job.victims or any(_writes(job, part) for part in job.parts):
                fd = self._disk.create(segments.pack_name(job.pack))
                made = True
                try:
                    self._write_pack(job, fd)
                    self._disk.sync(fd)
                finally:
                    self._disk.close(fd)
                if not job.written:
                    self._disk.remove(segments.pack_name(job.pack))
            else:
                self._write_pack(job, -1)  # nothing is written: all of it stays where it is
            if made or job.adopted.segments:
                self._disk.sync_names()
            self._write_catalog(job)
        except OSError as error:
            # After any other error the catalogue may name the packs, on this disk or at the next start.
            if error.errno in PASSING:
                for pack in (*([job.pack] if made else ()), *(one.pack for one in job.adopted.segments.values())):
                    self._disk.remove(segments.pack_name(pack))
            raise

    def _adopt(self, job: Job) -> None:
        """Give the log's segments that are to be packs their names. What cannot be is written as any other."""
        for index, adopted in list(job.adopted.segments.items()):
            segment = adopted.segment
            try:
                self._disk.link(segment.name, segments.pack_name(adopted.pack))
            except OSError as error:
                log.warning("%s is copied, it cannot be made a pack: %s", segment.name, error)
                del job.adopted.segments[index]
            else:
                segment.adopted = True
                self._disk.truncate(segment.fd, segment.position)

    def _write_pack(self, job: Job, fd: int) -> None:
        victims = set(job.victims)
        written = 0
        buffered: list[Bytes] = []
        for part in job.parts:
            if part.squeeze is not None:
                part.left = self._squeeze(job, part, part.squeeze, buffered)
            for run in part.kept if victims or part.recut else ():
                if run.pack in victims or run in part.recut:
                    self._move(job, part, run, buffered)
            if part.frozen is not None and not part.swallowed:
                self._seal(job, part, part.frozen, buffered)
            if job.written - written >= _WRITE_SIZE:
                self._disk.write(fd, buffered, written)
                buffered, written = [], job.written
        if buffered:
            self._disk.write(fd, buffered, written)
        alive = {job.pack: 0}
        for part in job.parts:
            for run in part.written:
                alive[run.pack] = alive.get(run.pack, 0) + run.length
        job.alive = alive[job.pack]
        for adopted in job.adopted.segments.values():
            adopted.alive = alive[adopted.pack]

    def _seal(self, job: Job, part: Part, frozen: list[Chunk], buffered: list[Bytes]) -> None:
        """Make runs of the frozen bytes: what stays in the log is one each, what is between that another."""
        group: list[Chunk] = []
        for chunk in frozen:
            run = job.adopted.run(chunk) if part.adopts else None
            if run is None:
                group.append(chunk)
                continue
            if group:
                part.new.append(self._add(job, part.stream, *self._joined(part, group), buffered))
                group = []
            part.new.append(run)
        if group:
            part.new.append(self._add(job, part.stream, *self._joined(part, group), buffered))

    def _move(self, job: Job, part: Part, run: Run, buffered: list[Bytes]) -> None:
        """Copy a run as it is, unless it is damaged: then it stays."""
        try:
            whole, marks = self._load(run)
        except OSError as error:
            log.error("%s; %r keeps its run there", error, part.stream.key)
            return
        stream = part.stream
        start, marks, data = _cut(part, run.start, marks, whole)
        part.moved.append((run, self._add(job, stream, start, marks, [data], buffered)))

    @staticmethod
    def _add(
        job: Job,
        stream: Stream,
        start: int,
        ends: array[int],
        pieces: Sequence[Bytes],
        buffered: list[Bytes],
    ) -> Run:
        """One more run of the pack."""
        head, run = segments.encode_run(job.pack, job.written, stream.key, stream.generation, start, ends, pieces)
        buffered += (head, *pieces)
        job.written += len(head) + run.length
        return run

    def _squeeze(self, job: Job, part: Part, asked: Squeeze, buffered: list[Bytes]) -> Run | None:
        """Keep of the stream what its newest messages are. Where that cannot be, it is written as any other."""
        stream, frozen = part.stream, part.frozen if asked.frozen else None
        last = asked.runs[-1] if asked.runs else None
        end = asked.start if last is None else last.start + last.length
        if frozen is not None:
            end = frozen[-1].end
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
        return self._add(job, stream, made.start, made.ends, [made.data], buffered) if made.data else None

    def _pieces(self, runs: list[Run], frozen: list[Chunk] | None) -> Iterator[tuple[int, bytes]]:
        """(position, bytes) of these, bit by bit. Raises OSError if they are not what was written."""
        for run in runs:
            fd, crc = self._packs.fd(run.pack), 0
            for at in range(0, run.length, _READ_SIZE):
                data = self._disk.read(fd, min(_READ_SIZE, run.length - at), run.offset + at)
                crc = checksums.crc32(data, crc)
                yield run.start + at, data
                time.sleep(_REST)
            if crc != run.crc:
                raise OSError(f"pack {run.pack} is damaged at {run.offset}")
        for chunk in frozen or ():
            with memoryview(chunk.data) as view:
                for at in range(0, len(view), _READ_SIZE):
                    yield chunk.start + at, bytes(view[at : at + _READ_SIZE])
                    time.sleep(_REST)

    def _load(self, run: Run) -> tuple[bytes, array[int]]:
        """A run's bytes and append ends. Raises OSError if they are not what was written."""
        fd = self._packs.fd(run.pack)
        data = self._disk.read(fd, run.length, run.offset)
        if checksums.crc32(data) != run.crc:
            raise OSError(f"pack {run.pack} is damaged at {run.offset}")
        return data, segments.read_marks(self._disk, fd, run)

    def _joined(self, part: Part, chunks: list[Chunk]) -> tuple[int, array[int], list[Bytes]]:
        """(start, append ends, bytes) of the run to be written. Older runs go in front of the first one. A damaged one
        stays where it is, and what is before it, so that it is not read again until as much has come after it."""
        start, ends = chunks[0].start, chunks[0].marks
        for chunk in chunks[1:]:
            ends = ends + chunk.marks
        if not part.joined or part.new:
            return start, ends, [chunk.data for chunk in chunks]
        pieces: list[Bytes] = [chunk.data for chunk in reversed(chunks)]
        for index in range(len(part.joined) - 1, -1, -1):
            try:
                data, some = self._load(part.joined[index])
            except OSError as error:
                log.error("%s; %r keeps its runs as they are", error, part.stream.key)
                part.kept, part.joined = [*part.kept, *part.joined[: index + 1]], part.joined[index + 1 :]
                break
            pieces.append(data)
            ends = some + ends
        pieces.reverse()
        if not part.joined:
            return start, ends, pieces
        start, ends, whole = _cut(part, part.joined[0].start, ends, b"".join(pieces))
        return start, ends, [whole]

    def _write_catalog(self, job: Job) -> None:
        live = {pack: [size, alive] for pack, (size, alive) in job.packs.items()}
        for part in job.parts:
            for run in part.dropped:
                if run.pack in live:
                    live[run.pack][1] -= run.length
        if job.written:
            live[job.pack] = [job.written, job.alive]
        for adopted in job.adopted.segments.values():
            live[adopted.pack] = [adopted.segment.position, adopted.alive]
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


def _writes(job: Job, part: Part) -> bool:
    """Is anything of it to be written to the pack (victims apart)?"""
    if part.recut or part.squeeze is not None:
        return True
    return any(not part.adopts or job.adopted.run(chunk) is None for chunk in part.frozen or ())


def _cut(part: Part, start: int, ends: array[int], data: Bytes) -> tuple[int, array[int], Bytes]:
    """(start, append ends, bytes) without what lies before the part's cut."""
    if not start < part.cut < start + len(data):
        return start, ends, data
    return part.cut, ends[bisect_right(ends, part.cut) :], data[part.cut - start :]
