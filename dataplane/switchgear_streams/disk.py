"""Every file operation of the server, below one directory. The only module that opens, writes or removes data files.

It decides nothing. All names are plain file names in the data directory. Raises OSError.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

_MAX_BUFFERS = 512


class Disk:
    """A data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the directory (and make its name durable)."""
        missing = not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o750)
        if missing:
            _sync_directory(self.root.parent)

    def lock(self) -> bool:
        """Take the directory for this process; False if another one has it. Given back when the process ends."""
        fd = os.open(self.root / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock = fd
        return True

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    def open(self, name: str) -> int:
        """For reading and writing."""
        return os.open(self.root / name, os.O_RDWR | os.O_CLOEXEC)

    def create(self, name: str) -> int:
        """A new, empty file; an old one of that name is emptied."""
        return os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """Exactly `length` bytes. Raises OSError if the file is shorter."""
        data = os.pread(fd, length, offset)
        if len(data) == length:
            return data
        parts, have = [data], len(data)
        while have < length:
            data = os.pread(fd, length - have, offset + have)
            if not data:
                raise OSError(f"file ends {length - have} bytes too early")
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def write(self, fd: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
        """All of it."""
        for at in range(0, len(buffers), _MAX_BUFFERS):
            part = buffers[at : at + _MAX_BUFFERS]
            total = sum(map(len, part))
            done = os.pwritev(fd, part, offset)
            if done < total:
                rest = memoryview(b"".join(part))
                while done < total:
                    done += os.pwrite(fd, rest[done:], offset + done)
            offset += total

    def allocate(self, fd: int, size: int) -> None:
        """Reserve blocks, so that a full disk shows here and not at a later write."""
        os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """The file's data is on the disk when this returns. After an error nothing is known about it."""
        os.fdatasync(fd)

    def rename(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)

    def link(self, old: str, new: str) -> None:
        """A second name for a file."""
        os.link(self.root / old, self.root / new)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sync_names(self) -> None:
        """Creations, renames and removals are on the disk when this returns."""
        _sync_directory(self.root)

    def read_text(self, name: str) -> str | None:
        path = self.root / name
        return path.read_text("utf-8") if path.exists() else None

    def replace_text(self, name: str, text: str) -> None:
        """Write a small file in one atomic step."""
        fd = self.create(name + ".tmp")
        try:
            self.write(fd, [text.encode()], 0)
            self.sync(fd)
        finally:
            self.close(fd)
        self.rename(name + ".tmp", name)
        self.sync_names()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
