"""Checkpoints: move what the log holds into packs and the catalogue, then give the log's segments back.

On the loop: freeze every dirty stream at a block boundary. In a thread: write one pack (bytes regrouped by stream) and
then a catalogue group that names the boundary. On the loop again: point the streams at their new runs.

Invariants: the catalogue group is written only after its pack and the log up to the boundary are on the disk; a
checkpoint that fails for lack of space changes nothing and is tried again; any other failure ends the process.
Small runs next to new bytes are joined with them, so that a stream has a number of runs logarithmic in its size (large
appends stay where the log has them, up to a number: `adoption`); packs of which most is dead are emptied by copying
what is alive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from switchgear_streams import adoption, catalog, compaction, squeezing
from switchgear_streams.disk import Disk
from switchgear_streams.packing import PASSING, Job, Packer, Part
from switchgear_streams.runs import Run
from switchgear_streams.segments import Pack
from switchgear_streams.store import Store
from switchgear_streams.stream import Stream

log = logging.getLogger("switchgear.streams.checkpoint")

# Runs of this size and more are left where they are.
_LARGE_RUN = 8 * 1_048_576
# A run that lost so many bytes, and more than half, is written anew.
_MIN_RECUT = 65_536
_RETRY = 5.0
# After a checkpoint that squeezed, the next one that is only for squeezing waits so many times as long as it took.
_REST = 4
_PACKED_AT_ONCE = 200
# The catalogue is written anew when it has so many times what is alive in it, and this many bytes more: the more there
# may be, the less often it is written, and the longer a start takes that reads all of it.
CATALOG_TIMES = 2.5
_CATALOG_SLACK = 16 * 1_048_576


class Checkpointer:
    """One checkpoint at a time."""

    def __init__(
        self, store: Store, disk: Disk, writer: catalog.Writer, on_fatal: Callable[[OSError], None], threshold: int
    ) -> None:
        self._store = store
        self._disk = disk
        self._packer = Packer(store.packs, disk, writer)
        self._on_fatal = on_fatal
        self._threshold = threshold
        self._task: asyncio.Task[None] | None = None
        self.count = 0
        self.seconds = 0.0
        self.failed = False
        self.squeezes = self.squeezed_bytes = self.squeezes_failed = 0
        self.adoptions = 0
        self.squeeze_room = max(squeezing.MAX_READ, 2 * threshold)
        """Bytes that a checkpoint may look at: more than can have come since the one before."""
        self._rest_until = 0.0
        self._finished = False
        store.pressure_bytes = threshold
        store.on_pressure = self.request
        store.log.on_crowded = self._crowded

    @property
    def running(self) -> bool:
        return self._task is not None

    def request(self) -> None:
        """Start one unless one is running."""
        if self._task is None:
            self._store.pressure_bytes = 1 << 62
            self._task = asyncio.ensure_future(self._run())

    def _crowded(self) -> None:
        """The log is filling up: tiny records take much more room there than they count as new data."""
        if not self.failed and not self._finished:
            self.request()

    def request_squeezes(self) -> None:
        """Start one for streams that are only to be squeezed, if that did not take much time just now."""
        if asyncio.get_running_loop().time() >= self._rest_until:
            self.request()

    def tidy(self) -> None:
        """Start one if packs are worth emptying, though nothing new asks for it."""
        if self._store.reclaimable >= compaction.MIN_DEAD or compaction.victims(self._store.packs):
            self.request()

    async def finish(self) -> None:
        """A last one, so that the next start has nothing to replay."""
        self._finished = True
        while self._task is not None:
            await asyncio.shield(self._task)
        if self._store.dirty or self._store.removed:
            self.request()
            while self._task is not None:
                await asyncio.shield(self._task)
        self._packer.catalog.close()

    async def _run(self) -> None:
        store = self._store
        try:
            victims = await self._mark_victims()
            if self._rewrites:
                await self._pack_idle()
            await self._quiet()
            job = self._freeze(victims)
            began, loop = time.monotonic(), asyncio.get_running_loop()
            started = loop.time()
            # Of these no deletion, whose bytes are counted, and no fork may come in between.
            store.moving = {part.stream for part in job.parts if part.squeeze is not None}
            if store.moving:
                store.moved = loop.create_future()
            try:
                await store.log.wait(job.boundary)
                await asyncio.to_thread(self._packer.write, job)
            finally:
                for pack in job.held:
                    store.packs.release(pack)
            self._install(job)
            if store.moving:
                self._rest_until = loop.time() + _REST * (loop.time() - started)
            self._moved()
            self.seconds = time.monotonic() - began
            self.count += 1
            if self.failed:
                self.failed = False
                log.warning("checkpoints work again")
        except OSError as error:
            if error.errno not in PASSING:
                self._on_fatal(error)
                return
            if not self.failed:
                log.error("no checkpoint (%s); it is tried again, and the log keeps everything", error.strerror)
            self.failed = True
            self._thaw(job)
            self._moved()
        except Exception as error:
            # Half a checkpoint in memory must not be built upon: the log has everything, a new start replays it.
            log.exception("a checkpoint failed in an unforeseen way")
            self._on_fatal(OSError(f"checkpoint: {error}"))
        finally:
            self._task = None
            if self.failed:
                asyncio.get_running_loop().call_later(_RETRY, self._retry)
            else:
                self._rearm()

    def _retry(self) -> None:
        """Without waiting for a write: there may be no room for one in the log."""
        self._rearm()
        if not self._finished:
            self.request()

    def _rearm(self) -> None:
        self._store.pressure_bytes = self._threshold

    # -- on the loop --

    @property
    def _rewrites(self) -> bool:
        """Is it time for a new catalogue?"""
        return self._packer.catalog.size > CATALOG_TIMES * self._packer.catalog.alive + _CATALOG_SLACK

    async def _pack_idle(self) -> None:
        """A new catalogue takes every idle stream as bytes: make them in batches, not while the loop stands still."""
        store = self._store
        for number, key in enumerate(list(store.hydrated)):
            found = store.streams.get(key)
            if isinstance(found, Stream):
                store.pack_away(found)
            if number % _PACKED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _quiet(self) -> None:
        """Wait until no deletion is under way: its effect would be neither in the catalogue nor in what is replayed."""
        store = self._store
        store.hold = asyncio.get_running_loop().create_future()
        try:
            while store.leaving:
                await store.log.wait(store.log.flush())
        finally:
            self._release()

    def _release(self) -> None:
        """Deletions and forks may go on."""
        hold, self._store.hold = self._store.hold, None
        if hold is not None:
            hold.set_result(None)

    def _moved(self) -> None:
        """So may those of the streams that were squeezed."""
        self._store.moving = set()
        moved, self._store.moved = self._store.moved, None
        if moved is not None:
            moved.set_result(None)

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

    def _freeze(self, victims: list[int]) -> Job:
        store = self._store
        boundary = store.log.flush()
        dirty, store.dirty = store.dirty, {}
        removed, store.removed = store.removed, {}
        packs = store.packs
        pack = packs.next_id
        packs.next_id += 1
        job = Job(boundary, pack, store.next_generation, [], list(removed), packs.sizes())
        job.adopted = self._adopt(dirty)
        job.usage = store.usage.dump()
        job.victims = [pack for pack in victims if pack in packs.known]
        job.room = self.squeeze_room
        for stream in dirty:
            stream.dirty, stream.sealing = False, True
            job.parts.append(self._part(job, stream))
        store.ripe = False
        store.unsealed = store.reclaimable = 0
        if self._rewrites:
            job.rewrite = self._unchanged({part.stream for part in job.parts})
        return job

    def _adopt(self, streams: Iterable[Stream]) -> adoption.Plan:
        """Which of the log's segments become packs."""
        packs = self._store.packs
        for stream in streams:
            stream.cut_tail()
        made = adoption.plan(streams, self._store.log, packs.next_id)
        packs.next_id += len(made.segments)
        return made

    def _part(self, job: Job, stream: Stream) -> Part:
        runs, shed = stream.runs, []
        if stream.left > stream.base:
            shed = [run for run in runs if stream.droppable(run.start, run.start + run.length)]
            runs = runs[len(shed) :] if runs[: len(shed)] == shed else [run for run in runs if run not in shed]
        kept, joined = _split(stream, runs)
        squeeze = squeezing.choose(stream, runs, self._store.clock(), job.room)
        if squeeze is not None and not self._hold(job, squeeze.runs):
            stream.tried, squeeze = stream.end, None
        if squeeze is not None:
            job.room -= squeeze.size
            if not squeeze.frozen:  # what is joined must not be what is squeezed
                kept, joined = list(runs), []
        frozen, adopts = stream.freeze(), adoption.may(stream)
        stays = frozen is None or (adopts and job.adopted.run(frozen[0]) is not None)
        if stays or not self._hold(job, joined):
            kept, joined = list(runs), []
        if not self._hold(job, [run for run in kept if run.pack in job.victims]):
            job.victims = []
        part = Part(
            stream, stream.meta(), self._store.deadlines.due(stream), kept, joined, frozen, shed, squeeze=squeeze
        )
        part.adopts = adopts
        for run in (*kept, *joined[:1]):
            if run.start < stream.left < run.start + run.length and stream.droppable(run.start, stream.left):
                part.cut = stream.left
                if run in kept and _mostly_dead(run, stream.left) and self._hold(job, [run]):
                    part.recut.append(run)
        return part

    def _hold(self, job: Job, runs: list[Run]) -> bool:
        """Keep the packs of these runs open until the job is done; False if one is not there any more."""
        try:
            for run in runs:
                self._store.packs.acquire(run.pack)
                job.held.append(run.pack)
        except OSError as error:
            log.error("cannot open a pack: %s", error)
            return False
        return True

    def _unchanged(self, changed: set[Stream]) -> list[Stream | bytes]:
        """What a new catalogue takes over: streams that wait as bytes, and unpacked ones that are not in the job."""
        store = self._store
        frozen = [found for key in store.hydrated if isinstance(found := store.streams.get(key), Stream)]
        bodies: list[Stream | bytes] = [
            catalog.pack_body(stream.generation, store.deadlines.due(stream), stream.key, stream.runs, stream.meta())
            for stream in frozen
            if stream not in changed
        ]
        return [*store.streams.values(), *bodies]

    def _thaw(self, job: Job) -> None:
        """The checkpoint came to nothing: frozen bytes go back in front of the tails."""
        store = self._store
        for part in job.parts:
            stream, frozen = part.stream, part.frozen
            stream.sealing = False
            if frozen is not None and stream.frozen is frozen:
                stream.chunks = frozen + stream.chunks
                stream.frozen = None
            if store.streams.get(stream.key) is stream:
                store.mark(stream)
        for key in job.removed:
            if key not in store.streams:
                store.removed[key] = None
        store.unsealed = max(store.unsealed, self._threshold)

    def _install(self, job: Job) -> None:
        store, packs = self._store, self._store.packs
        if job.written:
            packs.known[job.pack] = Pack(job.written, job.alive)
        for adopted in job.adopted.segments.values():
            packs.known[adopted.pack] = Pack(adopted.segment.position, adopted.alive)
            self.adoptions += 1
        for part in job.parts:
            stream = part.stream
            stream.sealing = False
            alive = store.streams.get(stream.key) is stream
            squeezed, squeeze = part.squeezed, part.squeeze
            if part.tried:
                stream.tried = part.tried
                self.squeezes_failed += 1
            if (part.new or squeezed is not None) and stream.frozen is part.frozen:
                stream.frozen = None
            if squeezed is not None and squeeze is not None:
                stream.squeezed, stream.compacted, stream.marked = squeezed.start, squeezed.end, squeezed.marked
                stream.first, stream.tried = max(stream.first, squeezed.first), 0
                store.usage.dropped(stream.key, squeezed.dropped, squeeze.time)
                self.squeezes += 1
                self.squeezed_bytes += squeezed.dropped
            if alive and (part.written or part.shed or squeezed is not None):
                stream.runs = part.runs
                packs.drop(part.dropped)
            elif part.written:
                packs.drop(part.written)
            if alive and stream.ripe:  # there was no room for all of it
                store.deadlines.overdue[stream.key] = None
            if alive and stream.idle:
                store.streams[stream.key] = part.body if part.body else store.streams[stream.key]
                store.hydrated.pop(stream.key, None)
        store.log.retire(job.boundary)


def _split(stream: Stream, runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """(runs that stay, runs to be joined with the new bytes): neighbours that are not larger join, as in a counter."""
    new = weight = stream.end - stream.sealed
    index = len(runs)
    follows = stream.sealed
    while index and weight - new < _LARGE_RUN:
        run = runs[index - 1]
        if run.length > weight or run.length >= _LARGE_RUN or run.start + run.length != follows:
            break
        index -= 1
        weight += run.length
        follows = run.start
    return list(runs[:index]), list(runs[index:])


def _mostly_dead(run: Run, cut: int) -> bool:
    dead = cut - run.start
    return dead >= _MIN_RECUT and 2 * dead > run.length
