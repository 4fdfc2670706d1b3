"""Reads along in a storage directory that another process writes: the same shapes, a moment later, nothing changed.

Invariants: never writes, locks or deletes; what it shows is in the writer's log, which the writer shows or
will show, too. When the files have moved on without it (a recovery, a checkpoint long past) it says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from pathlib import Path

from switchgear_shapes.log import frames
from switchgear_shapes.log.registry import FORMAT, Registry
from switchgear_shapes.log.shape import Shape
from switchgear_shapes.log.wal import segment_numbers, segment_path

OPEN_ATTEMPTS = 5
MAX_PAYLOAD = 1 << 31


class Behind(Exception):
    """The log does not continue where this follower stands."""


def is_written(directory: Path) -> bool:
    """Whether another process holds the directory's lock, that is, writes it now."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


class Follower(Registry):
    """See the module. Made with `Follower.open`; one thread at a time."""

    def __init__(self, directory: Path, threshold: int) -> None:
        super().__init__(directory, threshold)
        self._segment = 0
        self._fd = -1
        self._position = 0
        self._sequence = 0
        self._trim_at = self._kept_trim_at = 0
        self.steps: Counter[int] = Counter()
        """How often each shape has ceased to be held since this began to read."""
        self._stamp = self._checkpoint_stamp()

    @classmethod
    def open(cls, directory: Path, threshold: int) -> Follower:
        """Read what is there. Raises Behind (try again later), CorruptStorage, OSError."""
        for _ in range(OPEN_ATTEMPTS):
            follower = cls(directory, threshold)
            try:
                if (directory / "FORMAT").read_text("utf-8").strip() != FORMAT:
                    raise Behind
                first = follower.read_checkpoint()
                numbers = segment_numbers(directory / "wal")
                follower._open(first if first is not None else min(numbers, default=1))
                follower.refresh()
            except (Behind, FileNotFoundError):  # a checkpoint was made in between
                follower.close()
                continue
            except BaseException:
                follower.close()
                raise
            return follower
        raise Behind

    def refresh(self) -> None:
        """Apply what was added. Raises Behind, CorruptStorage, OSError."""
        while True:
            while self._apply_frame():
                pass
            if not segment_path(self._wal_directory, self._segment + 1).exists():
                newer = segment_numbers(self._wal_directory)
                if newer and newer[0] > self._segment:
                    raise Behind
                return
            while self._apply_frame():  # the last frames may have come after the first look
                pass
            if self._staged and self._checkpoint_stamp() != self._stamp:
                raise Behind  # the writer was started anew within a large transaction, which comes again
            self._open(self._segment + 1)

    def close(self) -> None:
        """Let go of the files; the shapes count as gone for whoever still holds one."""
        for shape in self.by_id.values():
            shape.alive = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- reading the log --

    def _open(self, segment: int) -> None:
        fd = os.open(segment_path(self._wal_directory, segment), os.O_RDONLY | os.O_CLOEXEC)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._segment = segment
        self._position = 0

    def _apply_frame(self) -> bool:
        header = os.pread(self._fd, frames.HEADER_BYTES, self._position)
        length = frames.payload_length(header)
        if length is None or length > MAX_PAYLOAD:
            return False
        data = header + os.pread(self._fd, length, self._position + frames.HEADER_BYTES)
        try:
            sequence, payload, end = frames.read_frame(data, 0)
        except frames.TornFrame:  # it is being written
            return False
        if self._sequence not in (0, sequence):
            raise Behind
        self._sequence = sequence + 1
        self._position += end
        for kind, body in frames.records(payload):
            dropped = self._dropped_by(kind, body)
            self.replay(kind, body)
            for shape in dropped:
                self.on_drop(shape)
        return True

    def _dropped_by(self, kind: int, body: bytes) -> list[Shape]:
        if kind == frames.DROP:
            shape = self.by_id.get(int.from_bytes(body, "little"))
            return [] if shape is None else [shape]
        return list(self.by_id.values()) if kind == frames.PURGE else []

    def _apply(self, batch: frames.Batch) -> dict[int, Shape]:
        touched = super()._apply(batch)
        if touched:
            self.on_publish(touched.values())
        return touched

    def _leave(self, shape: Shape) -> None:
        super()._leave(shape)
        self.steps.pop(shape.id, None)

    def _hold(self, number: int, lsn: int) -> None:
        if number in self.held:
            self.steps[number] += 1
        super()._hold(number, lsn)

    def _bound_tails(self, limit: int) -> None:
        """What the writer has moved into the files need not be kept here. Its own limit bounds the rest."""
        if self._tail_bytes < self._trim_at:
            return
        for shape in list(self._tails.values()):
            with contextlib.suppress(FileNotFoundError):
                self._tail_bytes -= shape.log.trim(Path(shape.log.path).stat().st_size)
            if not shape.log.tail_bytes:
                del self._tails[shape.id]
        self._trim_at = self._tail_bytes + limit // 4

    def _bound_kept(self, limit: int) -> None:
        """What the writer has put into files need not be kept here. Its own limit bounds the rest."""
        if self._kept_bytes < self._kept_trim_at:
            return
        for shape in list(self._kept.values()):
            with contextlib.suppress(FileNotFoundError):
                if Path(shape.snapshot.path).stat().st_size >= shape.snapshot.length > 0:
                    self._let_go(shape)
        self._kept_trim_at = self._kept_bytes + limit // 4

    def _checkpoint_stamp(self) -> tuple[int, int]:
        try:
            found = (self._directory / "checkpoint").stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns
