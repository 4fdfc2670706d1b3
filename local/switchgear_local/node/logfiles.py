"""Log files of containers: written by the processes themselves, bounded and read by the node.

Each start of a container writes to a file of its own, `<number of the start>.log`; the present and the previous one
are kept. A file is bounded by punching a hole into its beginning: the process goes on appending, no line is lost or
moved, and the disk space is free. Where a file system cannot do that, the file is cut instead.

Lines are as the process wrote them, without timestamps. For `sinceSeconds` the node notes how long a file was when.
Invariant: reading needs little memory, however long the log is.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 20 * 1024 * 1024
KEEP = 10 * 1024 * 1024
_ALIGN = 1024 * 1024  # a multiple of every file system's block size
BLOCK = 64 * 1024
_SAMPLES = 4096
_PUNCH_HOLE_KEEP_SIZE = 3


def _load_fallocate() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    return function


_FALLOCATE = _load_fallocate()


def data_start(fd: int, offset: int = 0) -> int:
    """The first offset from `offset` on that holds data; the file's size when there is none."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(fd).st_size
        return offset


def line_start(fd: int, offset: int) -> int:
    """The start of the first whole line at or after `offset`, past anything that was discarded."""
    start = data_start(fd, offset)
    if start == 0:
        return 0
    size = os.fstat(fd).st_size
    if os.pread(fd, 1, start - 1) == b"\n":
        return start
    position = start
    while position < size:
        block = os.pread(fd, BLOCK, position)
        if not block:
            break
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline + 1
        position += len(block)
    return size


def tail_start(fd: int, lines: int) -> int:
    """Where the last `lines` lines start."""
    size = os.fstat(fd).st_size
    first = line_start(fd, 0)
    if lines <= 0:
        return size
    position, wanted = size, lines
    # A newline that ends the file ends its last line and starts none.
    end = size - 1 if size and os.pread(fd, 1, size - 1) == b"\n" else size
    position = end
    while position > first:
        begin = max(first, position - BLOCK)
        block = os.pread(fd, position - begin, begin)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if wanted == 0:
                return begin + at + 1
        position = begin
    return first


def bound(path: Path) -> None:
    """Discard the beginning of a log that has grown beyond LIMIT bytes of data, keeping about the last KEEP."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(fd).st_size
        start = data_start(fd)
        if size - start <= LIMIT:
            return
        end = (size - KEEP) // _ALIGN * _ALIGN
        if _FALLOCATE is None or _FALLOCATE(fd, _PUNCH_HOLE_KEEP_SIZE, 0, end) != 0:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@dataclass
class Growth:
    """How long a log was when: times are seconds since the epoch, rising; sizes in bytes. Bounded."""

    times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def note(self, now: float, size: int) -> None:
        """Note the size at `now`; a size that is noted already needs no second note."""
        if self.sizes and self.sizes[-1] == size:
            return
        self.times.append(now)
        self.sizes.append(size)
        if len(self.times) > _SAMPLES:
            # Older times become coarser; their number stays bounded.
            del self.times[1 : _SAMPLES // 2 : 2], self.sizes[1 : _SAMPLES // 2 : 2]

    def offset_at(self, moment: float) -> int:
        """An offset at which everything that was written after `moment` begins or has not begun yet."""
        index = bisect.bisect_left(self.times, moment)
        return self.sizes[index - 1] if index else 0


class Logs:
    """The log files of one container in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._growth: dict[int, Growth] = {}

    def path(self, start: int) -> Path:
        """The log of the container's start number `start`."""
        return self._directory / f"{start}.log"

    def begin(self, start: int) -> Path:
        """The path for a new start; logs older than the previous one go."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for found in self._directory.glob("*.log"):
            if not found.stem.isdigit() or int(found.stem) < start - 1:
                found.unlink(missing_ok=True)
        self._growth = {number: growth for number, growth in self._growth.items() if number >= start - 1}
        return self.path(start)

    def tend(self, start: int, now: float) -> None:
        """Note the growth of the present log and keep it bounded. Call about once a second."""
        path = self.path(start)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        self._growth.setdefault(start, Growth()).note(now, size)
        bound(path)

    def since(self, start: int, moment: float) -> int:
        """Where to begin reading for what was written after `moment` (to about a second; sooner when unknown)."""
        path = self.path(start)
        try:
            found = path.stat()
        except FileNotFoundError:
            return 0
        if found.st_mtime < moment:
            return found.st_size
        growth = self._growth.get(start)
        return growth.offset_at(moment) if growth else 0
