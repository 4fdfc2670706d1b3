"""Open files of the storage directory, shared between readers and bounded in number."""

from __future__ import annotations

import os
from collections import OrderedDict


class Handle:
    """An open file. It stays open until its last user has called `release`, also when it was unlinked."""

    __slots__ = ("_users", "fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._users = 1

    def acquire(self) -> Handle:
        self._users += 1
        return self

    def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            os.close(self.fd)


class FileCache:
    """The least recently used files are closed (once nobody reads them) when there are more than `limit`."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._open: OrderedDict[str, Handle] = OrderedDict()

    def get(self, path: str) -> Handle:
        """An acquired handle: the caller must release it. Raises OSError."""
        handle = self._open.get(path)
        if handle is None:
            handle = self._open[path] = Handle(path)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)[1].release()
        else:
            self._open.move_to_end(path)
        return handle.acquire()

    def forget(self, path: str) -> None:
        """The file is being deleted."""
        handle = self._open.pop(path, None)
        if handle is not None:
            handle.release()

    def __len__(self) -> int:
        return len(self._open)


def write_at(path: str, parts: list[bytes], offset: int) -> None:
    """Write `parts` one after the other at `offset`, creating the file. Not synced. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], offset + written)
    finally:
        os.close(fd)
