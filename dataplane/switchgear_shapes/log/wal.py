"""The process's one write-ahead log: a thread writes and fdatasyncs, one frame and one sync for all that waited.

Invariants: callbacks run on the event loop in the order of `append`, each after its bytes are durable; after a failed
write or fsync nothing is ever acknowledged again: the process stops, and recovery decides from what is on disk. Only a
full disk is waited out: room is claimed before anything is written to it, so that nothing is half done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from switchgear_shapes.errors import CorruptStorage
from switchgear_shapes.log import frames

log = logging.getLogger("switchgear.shapes.wal")

PREALLOCATE = 4 * 1024 * 1024
"""Space is claimed in these steps, so that most syncs need not change the file's metadata."""
MAX_FRAME = 32 * 1024 * 1024
EXIT_STORAGE_FAILED = 74
LAZY_BYTES = 1024 * 1024
ROOM_SECONDS = 0.5
"""How often a full disk is tried again."""

Callback = Callable[[], None]


class _Stopped(Exception):
    """The log was closed while the disk was full; what waited was never acknowledged."""


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or the quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:016d}.wal"


def segment_numbers(directory: Path) -> list[int]:
    return sorted(int(path.stem) for path in directory.glob("*.wal"))


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Wal:
    """Appends records to numbered segments. All methods are for the event loop's thread."""

    def __init__(self, directory: Path, segment: int, sequence: int) -> None:
        """Begin with the new segment `segment`, frames numbered from `sequence`."""
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._queue: list[tuple[bytes, Callback | None]] = []
        self._rotate: list[tuple[int, Callback]] = []
        self._stopping = threading.Event()
        self._sequence = sequence
        self.full = False
        """Nothing becomes durable until there is room on the disk."""
        self.segment = segment
        self.pending_bytes = 0
        """Appended and not yet durable: the measure for back-pressure."""
        self.segment_bytes = 0
        self.syncs = 0
        self.sync_seconds = 0.0
        self._fd = self._open(segment)
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def append(self, record: bytes, callback: Callback | None = None, *, wake: bool = True) -> None:
        """Queue a record; `callback` runs once it is durable.

        Without `wake` it goes with the next one: for what means nothing without another record, which will follow.
        """
        with self._condition:
            self._queue.append((record, callback))
            self.pending_bytes += len(record)
            if wake or self.pending_bytes > LAZY_BYTES:
                self._condition.notify()

    def rotate(self, callback: Callback) -> None:
        """Begin a new segment behind everything appended so far.

        `callback` runs when all that came before is durable, after its callbacks and before any later ones.
        """
        with self._condition:
            self._rotate.append((len(self._queue), callback))
            self._condition.notify()

    def close(self) -> None:
        """Write what is queued, and end the thread. Callbacks that are still due run on the loop."""
        with self._condition:
            self._stopping.set()
            self._condition.notify()
        self._thread.join()
        os.close(self._fd)

    # -- the thread --

    def _open(self, segment: int) -> int:
        path = segment_path(self._directory, segment)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._position = 0
        self._allocated = 0
        try:
            self._claim(fd, 1)
            os.fsync(fd)
            sync_directory(self._directory)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _claim(self, fd: int, until: int) -> None:
        """Make sure of room for the file's bytes below `until`. Raises OSError when the disk is full."""
        while self._allocated < until:
            try:
                os.posix_fallocate(fd, self._allocated, PREALLOCATE)
            except OSError as error:
                if is_full(error):
                    raise
                # Not every file system can: there a full disk shows at the write.
            self._allocated += PREALLOCATE

    def _run(self) -> None:
        try:
            while True:
                taken = self._take()
                if taken is None:
                    return
                batch, rotation = taken
                if batch:
                    payload = b"".join([record for record, _ in batch])
                    self._when_there_is_room(lambda payload=payload: self._write(payload))  # type: ignore[misc]
                if rotation is not None:
                    self._when_there_is_room(self._begin_segment)
                self._loop.call_soon_threadsafe(self._done, batch, rotation)
        except _Stopped:
            return
        except BaseException as error:
            if self._loop.is_closed():  # nobody is left to tell
                return
            log.critical("the write-ahead log cannot be written (%s); stopping, recovery will decide", error)
            os._exit(EXIT_STORAGE_FAILED)

    def _take(self) -> tuple[list[tuple[bytes, Callback | None]], Callback | None] | None:
        with self._condition:
            while not self._queue and not self._rotate:
                if self._stopping.is_set():
                    return None
                self._condition.wait()
            limit = self._rotate[0][0] if self._rotate else len(self._queue)
            size = count = 0
            while count < limit and (count == 0 or size + len(self._queue[count][0]) <= MAX_FRAME):
                size += len(self._queue[count][0])
                count += 1
            batch = self._queue[:count]
            del self._queue[:count]
            rotation = None
            if self._rotate:
                if self._rotate[0][0] == count:
                    rotation = self._rotate.pop(0)[1]
                self._rotate = [(at - count, callback) for at, callback in self._rotate]
            return batch, rotation

    def _write(self, payload: bytes) -> None:
        started = time.perf_counter()
        data = memoryview(frames.frame(self._sequence, payload))
        self._claim(self._fd, self._position + len(data))
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self._position + written)
        try:
            os.fdatasync(self._fd)
        except OSError as error:  # never to be tried again, whatever it was
            raise RuntimeError(f"fdatasync failed: {error}") from error
        self._sequence += 1
        self._position += len(data)
        self.segment_bytes = self._position
        self.syncs += 1
        self.sync_seconds += time.perf_counter() - started

    def _begin_segment(self) -> None:
        position, allocated = self._position, self._allocated
        try:
            fd = self._open(self.segment + 1)
        except BaseException:
            self._position, self._allocated = position, allocated
            raise
        os.close(self._fd)
        self._fd = fd
        self.segment += 1
        self.segment_bytes = 0

    def _when_there_is_room(self, action: Callable[[], None]) -> None:
        """Do it, again and again while the disk is full. Raises _Stopped, and what else went wrong."""
        while True:
            try:
                action()
            except OSError as error:
                if not is_full(error):
                    raise
                if not self.full:
                    log.error("the disk is full: replication is paused until there is room; nothing is lost")
                    self.full = True
                if self._stopping.wait(ROOM_SECONDS):
                    raise _Stopped from None
            else:
                if self.full:
                    log.warning("there is room on the disk again")
                    self.full = False
                return

    # -- the loop --

    def _done(self, batch: list[tuple[bytes, Callback | None]], rotation: Callback | None) -> None:
        size = sum(len(record) for record, _ in batch)
        with self._condition:
            self.pending_bytes -= size
        for _, callback in batch:
            if callback is not None:
                callback()
        if rotation is not None:
            rotation()


class Replay:
    """The records of all segments from number `first` on, read without loading them as a whole.

    A torn end of the last segment is cut off. After the iteration `next_segment` and `next_sequence` say where a new
    log goes on, and `bytes` how much there was. Iterating raises CorruptStorage for damage anywhere but at the end.
    """

    def __init__(self, directory: Path, first: int) -> None:
        self._directory = directory
        self._numbers = [number for number in segment_numbers(directory) if number >= first]
        if self._numbers and self._numbers != list(range(first, first + len(self._numbers))):
            raise CorruptStorage(f"write-ahead log segments are missing: there are {self._numbers} from {first} on")
        self.next_segment = first + len(self._numbers)
        self.next_sequence = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number in self._numbers:
            path = segment_path(self._directory, number)
            end = yield from self._segment(path, last=number == self._numbers[-1])
            self.bytes += end
            os.truncate(path, end)  # also gives back what was claimed ahead

    def _segment(self, path: Path, last: bool) -> Generator[tuple[int, bytes], None, int]:
        if path.stat().st_size == 0:
            return 0
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 0
            while True:
                try:
                    sequence, payload, at = frames.read_frame(data, at)
                except frames.TornFrame:
                    break
                if self.next_sequence not in (0, sequence):
                    raise CorruptStorage(f"{path.name}: frame {sequence} is out of order")
                self.next_sequence = sequence + 1
                yield from frames.records(payload)
            if not any(data[at : at + frames.HEADER_BYTES]):
                return at
            if not last or frames.has_frame_after(data, at, self.next_sequence - 1):
                raise CorruptStorage(f"{path.name}: damaged at byte {at}")
            log.warning("%s: cut an unfinished frame at byte %d, which was never acknowledged", path.name, at)
            return at
