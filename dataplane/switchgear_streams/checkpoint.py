"""Checkpoints: move what the log holds into packs and the catalogue, then give the log's segments back.

On the loop: freeze every dirty stream at a block boundary. In a thread: write one pack (bytes regrouped by stream) and
then a catalogue group that names the boundary. On the loop again: point the streams at their new runs.

Invariants: the catalogue group is written only after its pack and the log up to the boundary are on the disk; a
checkpoint that fails for lack of space changes nothing and is tried again; any other failure ends the process.
Small runs next to new bytes are joined with them, so that a stream has a number of runs logarithmic in its size; packs
of which most is dead are emptied by copying what is alive.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from switchgear_streams import catalog, compaction, segments
from switchgear_streams.disk import Disk
from switchgear_streams.segments import Pack
from switchgear_streams.store import Store
from switchgear_streams.stream import Frozen, Run, Stream

log = logging.getLogger("switchgear.streams.checkpoint")

# Runs of this size and more are left where they are.
_LARGE_RUN = 8 * 1_048_576
_RETRY = 5.0
_WRITE_SIZE = 4 * 1_048_576
# The catalogue is written anew when it is this large and more than three times what is alive in it.
_CATALOG_SLACK = 16 * 1_048_576


@dataclass(slots=True)
class _Part:
    """One stream in a checkpoint. `joined`: older runs whose bytes go in front of the frozen ones."""

    stream: Stream
    meta: bytes
    deadline: int | None
    kept: list[Run]
    joined: list[Run]
    frozen: Frozen | None
    new: Run | None = None
    moved: list[tuple[Run, Run]] = field(default_factory=list)
    """(run in a pack that is being emptied, the same bytes in the new pack)."""
    body: bytes = b""

    @property
    def runs(self) -> list[Run]:
        """All its runs after this checkpoint."""
        runs = self.kept
        if self.moved:
            places = dict(self.moved)
            runs = [places.get(run, run) for run in runs]
        return runs if self.new is None else [*runs, self.new]

    @property
    def written(self) -> list[Run]:
        """What is in the new pack."""
        runs = [new for _, new in self.moved]
        return runs if self.new is None else [*runs, self.new]

    @property
    def dropped(self) -> list[Run]:
        """What it does not refer to any more."""
        return [*self.joined, *(old for old, _ in self.moved)]


@dataclass(slots=True)
class _Job:
    boundary: int
    pack: int
    generation: int
    parts: list[_Part]
    removed: list[bytes]
    packs: dict[int, Pack]
    """Known packs at the boundary."""
    victims: list[int] = field(default_factory=list)
    """Packs that are being emptied."""
    held: list[int] = field(default_factory=list)
    written: int = 0
    alive: int = 0
    """Size of the new pack, and how much of it streams refer to."""
    rewrite: list[tuple[bytes, bytes]] | None = None


class Checkpointer:
    """One checkpoint at a time."""

    def __init__(
        self, store: Store, disk: Disk, writer: catalog.Writer, on_fatal: Callable[[OSError], None], threshold: int
    ) -> None:
        self._store = store
        self._disk = disk
        self._writer = writer
        self._on_fatal = on_fatal
        self._threshold = threshold
        self._task: asyncio.Task[None] | None = None
        self.count = 0
        self.seconds = 0.0
        self.failed = False
        store.pressure_bytes = threshold
        store.on_pressure = self.request

    @property
    def running(self) -> bool:
        return self._task is not None

    def request(self) -> None:
        """Start one unless one is running."""
        if self._task is None:
            self._store.pressure_bytes = 1 << 62
            self._task = asyncio.ensure_future(self._run())

    def tidy(self) -> None:
        """Start one if packs are worth emptying, though nothing new asks for it."""
        if compaction.victims(self._store.packs):
            self.request()

    async def finish(self) -> None:
        """A last one, so that the next start has nothing to replay."""
        while self._task is not None:
            await asyncio.shield(self._task)
        if self._store.dirty or self._store.removed:
            self.request()
            while self._task is not None:
                await asyncio.shield(self._task)
        self._writer.close()

    async def _run(self) -> None:
        store = self._store
        try:
            victims = await self._mark_victims()
            await self._quiet()
            job = self._freeze(victims)
            began = time.monotonic()
            try:
                await store.log.wait(job.boundary)
                await asyncio.to_thread(self._write, job)
            finally:
                for pack in job.held:
                    store.packs.release(pack)
            self._install(job)
            self.seconds = time.monotonic() - began
            self.count += 1
            if self.failed:
                self.failed = False
                log.warning("checkpoints work again")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._on_fatal(error)
                return
            if not self.failed:
                log.error("no disk space for a checkpoint; it is tried again, and the log keeps everything")
            self.failed = True
            self._thaw(job)
        finally:
            self._task = None
            if self.failed:
                asyncio.get_running_loop().call_later(_RETRY, self._rearm)
            else:
                self._rearm()

    def _rearm(self) -> None:
        self._store.pressure_bytes = self._threshold

    # -- on the loop --

    async def _quiet(self) -> None:
        """Wait until no deletion is under way: its effect would be neither in the catalogue nor in what is replayed."""
        store = self._store
        store.hold = asyncio.get_running_loop().create_future()
        try:
            while store.leaving:
                await store.log.wait(store.log.flush())
        finally:
            hold, store.hold = store.hold, None
            hold.set_result(None)

    async def _mark_victims(self) -> list[int]:
        """Choose packs to be emptied, and make the streams in them part of this checkpoint."""
        packs = self._store.packs
        victims = compaction.victims(packs)
        held: list[int] = []
        try:
            for pack in victims:
                packs.acquire(pack)
                held.append(pack)
            found = await asyncio.to_thread(compaction.keys, self._disk, [(pack, packs.fd(pack)) for pack in held])
        except OSError as error:
            log.error("cannot empty a pack: %s", error)
            return []
        finally:
            for pack in held:
                packs.release(pack)
        chosen = set(victims)
        for key in found:
            stream = self._store.get(key)
            if stream is not None and any(run.pack in chosen for run in stream.runs):
                self._store.mark(stream)
        return victims

    def _freeze(self, victims: list[int]) -> _Job:
        store = self._store
        boundary = store.log.flush()
        dirty, store.dirty = store.dirty, {}
        removed, store.removed = store.removed, {}
        packs = store.packs
        pack = packs.next_id
        packs.next_id += 1
        job = _Job(boundary, pack, store.next_generation, [], list(removed), dict(packs.known))
        job.victims = [pack for pack in victims if pack in packs.known]
        for stream in dirty:
            stream.dirty = False
            kept, joined = _split(stream)
            frozen = stream.freeze()
            if frozen is None or not self._hold(job, joined):
                kept, joined = list(stream.runs), []
            if not self._hold(job, [run for run in kept if run.pack in job.victims]):
                job.victims = []
            job.parts.append(_Part(stream, stream.meta(), stream.deadline(), kept, joined, frozen))
        store.unsealed = 0
        if self._writer.size > _CATALOG_SLACK:
            job.rewrite = self._rewritten(job)
        return job

    def _hold(self, job: _Job, runs: list[Run]) -> bool:
        """Keep the packs of these runs open until the job is done; False if one is not there any more."""
        try:
            for run in runs:
                self._store.packs.acquire(run.pack)
                job.held.append(run.pack)
        except OSError as error:
            log.error("cannot open a pack: %s", error)
            return False
        return True

    def _rewritten(self, job: _Job) -> list[tuple[bytes, bytes]] | None:
        """Everything that the new catalogue takes over as it is, if it is time for one."""
        dirty = {part.stream.key for part in job.parts}
        kept: list[tuple[bytes, bytes]] = []
        alive = 0
        for key, found in self._store.streams.items():
            if key not in dirty:
                if type(found) is Stream:
                    if not found.durable_born:
                        continue
                    body = catalog.pack_body(found.generation, found.deadline(), key, found.runs, found.meta())
                else:
                    body = found  # type: ignore[assignment]
                kept.append((key, body))
                alive += len(body)
        return kept if self._writer.size > 3 * alive + _CATALOG_SLACK else None

    def _thaw(self, job: _Job) -> None:
        """The checkpoint came to nothing: frozen bytes go back in front of the tails."""
        store = self._store
        for part in job.parts:
            stream, frozen = part.stream, part.frozen
            if frozen is not None and stream.frozen is frozen:
                stream.tail = frozen.data + stream.tail
                stream.marks = array("Q", [*frozen.marks, *stream.marks])
                stream.tail_start = frozen.start
                stream.frozen = None
            if store.streams.get(stream.key) is stream:
                store.mark(stream)
        for key in job.removed:
            if key not in store.streams:
                store.removed[key] = None
        store.unsealed = max(store.unsealed, self._threshold)

    def _install(self, job: _Job) -> None:
        store, packs = self._store, self._store.packs
        if job.written:
            packs.known[job.pack] = Pack(job.written, job.alive)
        for part in job.parts:
            stream = part.stream
            alive = store.streams.get(stream.key) is stream
            if part.new is not None and stream.frozen is part.frozen:
                stream.frozen = None
            if alive and part.written:
                stream.runs = part.runs
                packs.drop(part.dropped)
            elif part.written:
                packs.drop(part.written)
            if alive and stream.idle:
                store.streams[stream.key] = part.body if part.body else store.streams[stream.key]
                store.hydrated.pop(stream.key, None)
        store.log.retire(job.boundary)

    # -- in the thread --

    def _write(self, job: _Job) -> None:
        made = False
        try:
            if any(part.frozen is not None for part in job.parts) or job.victims:
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
        except OSError:
            if made:
                self._disk.remove(segments.pack_name(job.pack))
            raise

    def _write_pack(self, job: _Job, fd: int) -> None:
        victims = set(job.victims)
        written = 0
        buffered: list[bytes] = []
        for part in job.parts:
            stream = part.stream
            for run in part.kept if victims else ():
                if run.pack in victims:
                    self._move(job, part, run, buffered)
            if part.frozen is not None:
                start, ends, data = self._joined(part, part.frozen)
                head, part.new = segments.encode_run(
                    job.pack, job.written, stream.key, stream.generation, start, ends, data
                )
                buffered += (head, bytes(data) if isinstance(data, bytearray) else data)
                job.written += len(head) + len(data)
            if job.written - written >= _WRITE_SIZE:
                self._disk.write(fd, buffered, written)
                buffered, written = [], job.written
        self._disk.write(fd, buffered, written)
        job.alive = sum(run.length for part in job.parts for run in part.written)

    def _move(self, job: _Job, part: _Part, run: Run, buffered: list[bytes]) -> None:
        """Copy a run as it is, unless it is damaged: then it stays."""
        try:
            data, ends = self._load(run)
        except OSError as error:
            log.error("%s; %r keeps its run there", error, part.stream.key)
            return
        stream = part.stream
        head, new = segments.encode_run(job.pack, job.written, stream.key, stream.generation, run.start, ends, data)
        buffered += (head, data)
        job.written += len(head) + len(data)
        part.moved.append((run, new))

    def _load(self, run: Run) -> tuple[bytes, array[int]]:
        """A run's bytes and append ends. Raises OSError if they are not what was written."""
        fd = self._store.packs.fd(run.pack)
        data = self._disk.read(fd, run.length, run.offset)
        if zlib.crc32(data) != run.crc:
            raise OSError(f"pack {run.pack} is damaged at {run.offset}")
        return data, segments.read_marks(self._disk, fd, run)

    def _joined(self, part: _Part, frozen: Frozen) -> tuple[int, array[int], bytes | bytearray]:
        """(start, append ends, bytes) of the run to be written. Damaged older runs stay where they are."""
        if not part.joined:
            return frozen.start, frozen.marks, frozen.data
        pieces: list[bytes | bytearray] = []
        ends: array[int] = array("Q")
        try:
            for run in part.joined:
                data, some = self._load(run)
                pieces.append(data)
                ends += some
        except OSError as error:
            log.error("%s; %r keeps its runs as they are", error, part.stream.key)
            part.kept, part.joined = [*part.kept, *part.joined], []
            return frozen.start, frozen.marks, frozen.data
        return part.joined[0].start, ends + frozen.marks, b"".join([*pieces, frozen.data])

    def _write_catalog(self, job: _Job) -> None:
        live = {pack: [known.size, known.live] for pack, known in job.packs.items()}
        for part in job.parts:
            for run in part.dropped:
                if run.pack in live:
                    live[run.pack][1] -= run.length
        if job.written:
            live[job.pack] = [job.written, job.alive]
        commit = {
            "wal": job.boundary,
            "generation": job.generation,
            "packs": [[pack, size, alive] for pack, (size, alive) in live.items()],
        }
        if job.rewrite is None:
            self._writer.append(self._entries(job), commit)
            return
        old = self._writer
        writer = catalog.Writer.make(self._disk, old.index + 1)
        try:
            writer.append(self._entries(job), commit)
            self._disk.sync_names()
        except OSError:
            writer.close()
            self._disk.remove(catalog.file_name(writer.index))
            raise
        self._writer = writer
        old.close()
        self._disk.remove(catalog.file_name(old.index))

    @staticmethod
    def _entries(job: _Job) -> Iterator[bytes]:
        if job.rewrite is None:
            for key in job.removed:
                yield catalog.encode(catalog.REMOVE, key)
        else:
            for _, body in job.rewrite:
                yield catalog.encode(catalog.PUT, body)
        for part in job.parts:
            stream = part.stream
            part.body = catalog.pack_body(stream.generation, part.deadline, stream.key, part.runs, part.meta)
            yield catalog.encode(catalog.PUT, part.body)


def _split(stream: Stream) -> tuple[list[Run], list[Run]]:
    """(runs that stay, runs to be joined with the new bytes): neighbours that are not larger join, as in a counter."""
    weight = len(stream.tail)
    index = len(stream.runs)
    while index and stream.runs[index - 1].length <= weight and stream.runs[index - 1].length < _LARGE_RUN:
        index -= 1
        weight += stream.runs[index].length
    return list(stream.runs[:index]), list(stream.runs[index:])
