"""The write-ahead log: group commit of everything that changes, one log for the whole process.

What is submitted during one turn of the event loop becomes one block. A dedicated thread writes all blocks that wait,
syncs once, and hands them back to the loop, where their entries learn in order that they are durable.

Invariants: an entry's `durable` runs only after its block is on the disk, and in submission order; after a failed
write or sync nothing is acknowledged any more (`on_fatal` ends the process); space is reserved before an entry is
accepted (`room`), so that a full disk is met before a write fails.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Protocol

from switchgear_streams import records
from switchgear_streams.disk import Disk

log = logging.getLogger("switchgear.streams.wal")

# What would make a block larger begins another one, even within one turn of the loop.
MAX_BLOCK = 4 * 1_048_576
# Of each segment this is kept for deletions and the like, which must work when the disk is full.
_RESERVE = 65_536
# So many segments' worth of log may wait for a checkpoint; what it holds is in memory, too.
MAX_SEGMENTS = 4
_SPARE_RETRY = 1.0


class Entry(Protocol):
    """A change on its way to the disk."""

    @property
    def large(self) -> object:
        """True if it wants to know where it comes to lie."""

    def encode(self) -> list[bytes]: ...
    def placed(self, segment: Segment, end: int) -> None: ...
    def durable(self) -> None: ...


class Room(Enum):
    OK = "ok"
    WAIT = "wait"
    FULL = "full"


@dataclass(slots=True)
class Segment:
    """One log file. `last` is the number of the last block in it, 0 while there is none.

    `adopted`: it is a pack, too, or may be (`adoption`): it is not to be used again.
    """

    index: int
    fd: int
    capacity: int
    position: int = 0
    last: int = 0
    adopted: bool = False

    @property
    def name(self) -> str:
        return segment_name(self.index)


@dataclass(slots=True)
class _Job:
    fd: int
    offset: int
    buffers: list[bytes]
    number: int
    entries: list[Entry] = field(default_factory=list)


def segment_name(index: int) -> str:
    return f"wal-{index:016d}.log"


def segment_index(name: str) -> int | None:
    middle = name[4:-4]
    return int(middle) if name.startswith("wal-") and name.endswith(".log") and middle.isdigit() else None


class Log:
    """The write side. All methods run on the event loop's thread, except `_work`."""

    def __init__(self, disk: Disk, log_id: bytes, segment_bytes: int, on_fatal: Callable[[OSError], None]) -> None:
        self._disk = disk
        self._id = log_id
        self._segment_bytes = segment_bytes
        self._on_fatal = on_fatal
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._group: list[Entry] = []
        self._group_bytes = 0
        self._scheduled = False
        self._segments: list[Segment] = []
        self._spare: Segment | None = None
        self._retired: list[Segment] = []
        self._making: asyncio.Future[Segment] | None = None
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self._room_waiters: list[asyncio.Future[None]] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._current: Segment
        self._limit = 0
        self._next_index = 1
        self.on_crowded: Callable[[], None] = lambda: None
        """Told when the log has much to be given back, whatever became of it in memory."""
        self.full = False
        """The last attempt to get more space failed for lack of it."""
        self.assigned = 0
        """The number of the last block that was handed to the thread."""
        self.durable = 0
        """The number of the last block that is on the disk."""
        self.syncs = 0
        self.bytes = 0

    def start(self, last_number: int, old: list[Segment]) -> None:
        """Begin after block `last_number`; `old` segments wait for their checkpoint. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self.assigned = self.durable = last_number
        self._segments = list(old)
        self._next_index = max((segment.index for segment in old), default=0) + 1
        self._use(self._new_segment(self._next_index, None))
        self._thread = threading.Thread(target=self._work, name="wal", daemon=True)
        self._thread.start()
        self._want_spare()

    async def stop(self) -> None:
        """Everything submitted becomes durable, then the thread ends."""
        await self.wait(self.flush())
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._making is not None:
            await asyncio.wait([self._making])
            await asyncio.sleep(0)
        for segment in (*self._segments, *self._retired, *([self._spare] if self._spare else [])):
            self._disk.close(segment.fd)

    @property
    def pending_number(self) -> int:
        """The number that the block of what was submitted last has, until that is closed."""
        return self.assigned + 1

    @property
    def retained(self) -> int:
        """Bytes in segments that wait for a checkpoint, the current one included."""
        return sum(segment.position for segment in self._segments)

    # -- space --

    def room(self, size: int, reserved: bool = False) -> Room:
        """Is there space for an entry of at most `size` bytes? `reserved`: use the last reserve, too."""
        need = self._group_bytes + size + records.BLOCK.size
        current = self._current
        if current.position + need <= (current.capacity if reserved else self._limit):
            return Room.OK
        if self._spare is not None and size + records.BLOCK.size <= self._spare.capacity - _RESERVE:
            self.flush()
            self._use(self._spare)
            self._spare = None
            self._want_spare()
            return Room.OK
        self._want_spare()
        return Room.FULL if self.full else Room.WAIT

    async def wait_room(self, seconds: float) -> None:
        """Until there may be room again, at most `seconds`."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._room_waiters.append(waiter)
        await asyncio.wait([waiter], timeout=seconds)
        if not waiter.done():
            self._room_waiters.remove(waiter)

    def _use(self, segment: Segment) -> None:
        self._current = segment
        self._limit = segment.capacity - _RESERVE
        self._segments.append(segment)

    def _want_spare(self) -> None:
        retained = self.retained
        if retained > (MAX_SEGMENTS - 2) * self._segment_bytes:
            self.on_crowded()
        if self._making is not None or self._spare is not None or retained > (MAX_SEGMENTS - 1) * self._segment_bytes:
            return
        index = self._segments[-1].index + 1
        old = self._retired.pop() if self._retired else None
        self._making = self._loop.run_in_executor(None, self._new_segment, index, old)
        self._making.add_done_callback(self._spare_made)

    def _new_segment(self, index: int, old: Segment | None) -> Segment:
        name = segment_name(index)
        if old is not None:
            self._disk.rename(old.name, name)
            self._disk.sync_names()
            return Segment(index, old.fd, old.capacity)
        fd = self._disk.create(name)
        try:
            self._disk.allocate(fd, self._segment_bytes)
            self._disk.sync(fd)
            self._disk.sync_names()
        except OSError:
            self._disk.close(fd)
            self._disk.remove(name)
            raise
        return Segment(index, fd, self._segment_bytes)

    def _spare_made(self, future: asyncio.Future[Segment]) -> None:
        self._making = None
        error = future.exception()
        if error is None:
            self._spare = future.result()
            if self.full:
                log.warning("there is disk space again: appends are accepted")
            self.full = False
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            if not self.full:
                log.error("the disk is full: appends answer 507 when the log's current segment is used up")
            self.full = True
            self._loop.call_later(_SPARE_RETRY, self._want_spare)
        else:
            log.error("cannot make a log segment: %s", error)
            self._loop.call_later(_SPARE_RETRY, self._want_spare)
        waiters, self._room_waiters = self._room_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- writing --

    def submit(self, entry: Entry, size: int) -> None:
        """Take an entry for which `room` was OK in this turn. It goes with the block `pending_number`, and may be added
        to until this turn ends: it is never encoded in here, where its caller has not put anything in yet."""
        if self._group_bytes + size > MAX_BLOCK:
            self.flush()
        self._group.append(entry)
        self._group_bytes += size
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_soon)

    def grow(self, size: int) -> None:
        """An entry of the open group grew by `size` bytes (for which `room` was OK)."""
        self._group_bytes += size

    def _flush_soon(self) -> None:
        self._scheduled = False
        if self._group:
            self.flush()

    def flush(self) -> int:
        """Close the open block, if any. Returns the number of the last block."""
        entries = self._group
        if not entries:
            return self.assigned
        self._group = []
        self._group_bytes = 0
        self.assigned = number = self.assigned + 1
        pieces: list[bytes] = []
        current = self._current
        begin = current.position + records.BLOCK.size
        for entry in entries:
            pieces += entry.encode()
            if entry.large:
                entry.placed(current, begin + sum(map(len, pieces)))
        buffers, total = records.encode_block(self._id, number, self.durable, pieces)
        job = _Job(current.fd, current.position, buffers, number, entries)
        current.position += total
        current.last = number
        self.bytes += total
        self._queue.put(job)
        return number

    def wait(self, number: int) -> asyncio.Future[None]:
        """Done when block `number` is durable."""
        future: asyncio.Future[None] = self._loop.create_future()
        if number <= self.durable:
            future.set_result(None)
        else:
            self._barriers.append((number, future))
        return future

    def _work(self) -> None:
        """The thread: write what waits, sync once, report."""
        queue, disk = self._queue, self._disk
        while True:
            job = queue.get()
            jobs: list[_Job] = []
            stop = False
            while True:
                if job is None:
                    stop = True
                    break
                jobs.append(job)
                try:
                    job = queue.get_nowait()
                except Empty:
                    break
            if jobs:
                try:
                    _write(disk, jobs)
                except OSError as error:
                    self._loop.call_soon_threadsafe(self._on_fatal, error)
                    return
                self._loop.call_soon_threadsafe(self._done, jobs)
            if stop:
                return

    def _done(self, jobs: list[_Job]) -> None:
        self.durable = jobs[-1].number
        self.syncs += 1
        for job in jobs:
            for entry in job.entries:
                try:
                    entry.durable()
                except Exception:
                    log.exception("a change is durable, but telling so failed")
        if self._barriers:
            ready = [future for number, future in self._barriers if number <= self.durable]
            self._barriers = [pair for pair in self._barriers if pair[0] > self.durable]
            for future in ready:
                if not future.done():
                    future.set_result(None)

    # -- checkpoints --

    @property
    def segments(self) -> list[Segment]:
        """Those that wait for a checkpoint, the current one last."""
        return self._segments

    def roll(self) -> bool:
        """Begin a new segment, if there is one to begin (nothing may wait to be flushed)."""
        if self._group or self._spare is None:
            return False
        self._use(self._spare)
        self._spare = None
        self._want_spare()
        return True

    def retire(self, number: int) -> None:
        """Blocks up to `number` are in a checkpoint: give back the segments that hold nothing else."""
        keep: list[Segment] = []
        for segment in self._segments:
            if segment is not self._current and segment.last <= number:
                whole = segment.capacity == self._segment_bytes and not segment.adopted
                if whole and not self._retired and self._spare is None:
                    self._retired.append(segment)
                else:
                    self._disk.close(segment.fd)
                    self._disk.remove(segment.name)
            else:
                keep.append(segment)
        self._segments = keep
        self._want_spare()


def _write(disk: Disk, jobs: list[_Job]) -> None:
    first = jobs[0]
    fd, offset, buffers = first.fd, first.offset, first.buffers
    end = offset + sum(map(len, buffers)) if len(jobs) > 1 else 0
    for job in jobs[1:]:
        if job.fd != fd or job.offset != end:
            disk.write(fd, buffers, offset)
            disk.sync(fd)
            fd, offset, buffers, end = job.fd, job.offset, [], job.offset
        buffers = buffers + job.buffers
        end += sum(map(len, job.buffers))
    disk.write(fd, buffers, offset)
    disk.sync(fd)
