"""Loopback addresses for pods: a block per data directory, so that two regions on one machine never meet.

127.64.0.0/10 is divided into 4,096 blocks of 1,024 addresses. A block is claimed with a lock file in a machine-wide
place. The lock is shared between the node and the processes that it starts (they inherit the descriptor), so that the
block stays claimed while any of them lives, also after the node was killed; the file names the data directory's id,
by which the restarted node knows its own block again.

Invariants: an address is given to one pod at a time and returns only when that pod is gone; the next address is tried
after the last one given, so that one is reused as late as possible.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import NodeError

_BASE = int(ipaddress.IPv4Address("127.64.0.0"))
BLOCKS = 4096
BLOCK_SIZE = 1024
_PLACES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108
_ID_LIMIT = 128


def lock_place() -> Path:
    """The directory of the lock files: the same for every user of this machine. Raises NodeError."""
    for place in _PLACES:
        with contextlib.suppress(OSError):
            mode = place.stat().st_mode
            # World-writable with the sticky bit, or ordinary users and root would choose different places.
            if stat.S_ISDIR(mode) and mode & stat.S_IWOTH and mode & stat.S_ISVTX:
                return place
    raise NodeError("NO_LOCK_PLACE", f"none of {', '.join(map(str, _PLACES))} is a world-writable directory")


class Block:
    """A claimed block. `lock_fd` is to be inherited by the pods' processes."""

    def __init__(self, index: int, lock_fd: int) -> None:
        self.index = index
        self.lock_fd = lock_fd
        self._first = _BASE + index * BLOCK_SIZE
        self._used: dict[str, str] = {}
        self._next = 1

    def assign(self, owner: str, wanted: str | None = None) -> str:
        """The owner's address: the one it has, `wanted` if it is free and of this block, else the next free one.

        Raises NodeError when all are used.
        """
        if owner in self._used:
            return self._used[owner]
        taken = set(self._used.values())
        if wanted and wanted not in taken and self.holds(wanted):
            self._used[owner] = wanted
            return wanted
        for step in range(BLOCK_SIZE - 2):
            offset = (self._next - 1 + step) % (BLOCK_SIZE - 2) + 1
            address = str(ipaddress.IPv4Address(self._first + offset))
            if address not in taken:
                self._next = offset + 1
                self._used[owner] = address
                return address
        raise NodeError("NO_ADDRESS", f"all {BLOCK_SIZE - 2} addresses of this node are in use; delete some pods")

    def release(self, owner: str) -> None:
        """Take back the owner's address; its processes must be gone."""
        self._used.pop(owner, None)

    def holds(self, address: str) -> bool:
        """Whether the address is one of this block's that may be given to a pod."""
        with contextlib.suppress(ValueError):
            return 0 < int(ipaddress.IPv4Address(address)) - self._first < BLOCK_SIZE - 1
        return False

    def close(self) -> None:
        """Let go of the node's hold; the block stays claimed while processes hold it too."""
        os.close(self.lock_fd)


def claim(data_id: str, preferred: int | None = None, place: Path | None = None) -> Block:
    """Claim a block for a data directory's id, `preferred` first. Raises NodeError when none is free."""
    directory = place or lock_place()
    start = int.from_bytes(hashlib.sha256(data_id.encode()).digest()[:4], "big") % BLOCKS
    for index in _candidates(start, preferred):
        fd = _try(directory / f"switchgear-addresses-{index:04d}.lock", data_id)
        if fd is not None:
            return Block(index, fd)
    raise NodeError("NO_ADDRESS_BLOCK", f"all {BLOCKS} address blocks are claimed (lock files in {directory})")


def _candidates(start: int, preferred: int | None) -> Iterator[int]:
    if preferred is not None and 0 <= preferred < BLOCKS:
        yield preferred
    for step in range(BLOCKS):
        yield (start + step) % BLOCKS


def _try(path: Path, data_id: str) -> int | None:
    """A descriptor that holds a shared lock on the file, which names us; None when the block is another's."""
    fd = _open(path)
    if fd is None:
        return None
    try:
        if _lock(fd, fcntl.LOCK_EX):
            os.ftruncate(fd, 0)
            os.pwrite(fd, data_id.encode(), 0)
        # Going from exclusive to shared can let another in between; then the file names that other one.
        if _lock(fd, fcntl.LOCK_SH) and os.pread(fd, _ID_LIMIT, 0).decode(errors="replace") == data_id:
            return fd
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int | None:
    """Open or create the lock file; None when it belongs to another user."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        return os.open(path, flags)
    except (FileNotFoundError, PermissionError):
        return None
