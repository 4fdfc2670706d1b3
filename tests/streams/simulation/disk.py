"""A disk in memory that knows what is durable: a test double of `switchgear_streams.disk.Disk`.

A write is there for readers at once and durable only after `sync`; names are durable only after `sync_names`. At a
loss of power any subset of the unsynced writes is there, in any order, each perhaps torn at 512 bytes; of the unsynced
changes of names a prefix, or any subset. A killed process loses nothing, but what was not synced still is not.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from pathlib import Path

SECTOR = 512


class PowerLoss(BaseException):
    """The process ends here. No `except Exception` of the server's may go on after it."""


class _File:
    """`durable`: what is surely there; `now`: what readers get; `pending`: unsynced (offset, bytes) and sizes."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.now = bytearray()
        self.pending: list[tuple[int, bytes] | int] = []


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        if change <= len(content):
            del content[change:]
        else:
            content.extend(bytes(change - len(content)))
        return
    offset, data = change
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class SimulatedDisk:
    """`ends_after`: the process ends at this operation; `breaks_at`: this sync fails (None: not at all)."""

    def __init__(self, chance: random.Random) -> None:
        self.root = Path("/simulated")
        self._chance = chance
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._changes: list[tuple[str, str, _File | None]] = []
        self._open: dict[int, _File] = {}
        self._next_fd = 1000
        self.operations = 0
        self.syncs = 0
        self.ends_after: int | None = None
        self.breaks_at: int | None = None
        self.dead = False
        self.trace: list[str] = []

    # -- the course of events --

    def _step(self, what: str) -> None:
        if self.dead:
            raise PowerLoss
        self.operations += 1
        self.trace.append(what)
        if self.ends_after is not None and self.operations >= self.ends_after:
            self.die()

    def die(self) -> None:
        self.dead = True
        raise PowerLoss

    def restart(self, *, power: bool) -> str:
        """What the next process finds. Returns what happened to unsynced data."""
        self._open.clear()
        self.dead = False
        self.ends_after = self.breaks_at = None
        if not power:
            return "killed"
        kept = lost = 0
        changes = self._changes
        if self._chance.random() < 0.5:
            surviving = changes[: self._chance.randrange(len(changes) + 1)]
        else:
            surviving = [change for change in changes if self._chance.random() < 0.5]
        names = dict(self._durable_names)
        for kind, name, file in surviving:
            _rename(names, kind, name, file)
        self._names, self._durable_names, self._changes = names, dict(names), []
        for file in {id(f): f for f in names.values()}.values():
            survivors = [change for change in file.pending if self._chance.random() < 0.5]
            if self._chance.random() < 0.3:
                survivors = file.pending[: self._chance.randrange(len(file.pending) + 1)]
            for change in survivors:
                _apply(file.durable, self._torn(change))
            kept, lost = kept + len(survivors), lost + len(file.pending) - len(survivors)
            file.pending = []
            file.now = bytearray(file.durable)
        return f"power: {kept} unsynced changes kept, {lost} lost"

    def _torn(self, change: tuple[int, bytes] | int) -> tuple[int, bytes] | int:
        if isinstance(change, int) or self._chance.random() < 0.5:
            return change
        offset, data = change
        # A write reaches the disk in sectors, of which the first or the last ones may be missing.
        edge = (offset // SECTOR + 1 + self._chance.randrange(len(data) // SECTOR + 1)) * SECTOR - offset
        if edge >= len(data):
            return change
        return (offset, data[:edge]) if self._chance.random() < 0.7 else (offset + edge, data[edge:])

    # -- what `Disk` has --

    def prepare(self) -> None:
        pass

    def lock(self) -> bool:
        return True

    def unlock(self) -> None:
        pass

    def names(self) -> list[str]:
        return sorted(self._names)

    def open(self, name: str) -> int:
        self._step(f"open {name}")
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, name)
        return self._fd(self._names[name])

    def create(self, name: str) -> int:
        self._step(f"create {name}")
        file = self._names.get(name)
        if file is None:
            file = _File()
            self._note("link", name, file)
        else:
            self._change(file, 0)
        return self._fd(file)

    def _fd(self, file: _File) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def size(self, fd: int) -> int:
        return len(self._open[fd].now)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        if self.dead:
            raise PowerLoss
        data = bytes(self._open[fd].now[offset : offset + length])
        if len(data) < length:
            raise OSError(f"file ends {length - len(data)} bytes too early")
        return data

    def write(self, fd: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
        file = self._open[fd]
        data = b"".join(buffers)
        self._change(file, (offset, data))  # before the step: the process may end in the middle of it
        self._step(f"write {offset}+{len(data)}")

    def allocate(self, fd: int, size: int) -> None:
        self._step(f"allocate {size}")
        if size > len(self._open[fd].now):
            self._change(self._open[fd], size)

    def truncate(self, fd: int, size: int) -> None:
        self._step(f"truncate {size}")
        self._change(self._open[fd], size)

    @staticmethod
    def _change(file: _File, change: tuple[int, bytes] | int) -> None:
        file.pending.append(change)
        _apply(file.now, change)

    def sync(self, fd: int) -> None:
        self._step("sync")
        self.syncs += 1
        if self.breaks_at is not None and self.syncs >= self.breaks_at:
            raise OSError(errno.EIO, "the disk is broken")
        file = self._open[fd]
        for change in file.pending:
            _apply(file.durable, change)
        file.pending = []

    def rename(self, old: str, new: str) -> None:
        self._step(f"rename {old} {new}")
        self._note("rename " + old, new, self._names[old])

    def link(self, old: str, new: str) -> None:
        self._step(f"link {old} {new}")
        self._note("link", new, self._names[old])

    def remove(self, name: str) -> None:
        self._step(f"remove {name}")
        if name in self._names:
            self._note("remove", name, None)

    def _note(self, kind: str, name: str, file: _File | None) -> None:
        self._changes.append((kind, name, file))
        _rename(self._names, kind, name, file)

    def sync_names(self) -> None:
        self._step("sync names")
        self._durable_names = dict(self._names)
        self._changes = []

    def read_text(self, name: str) -> str | None:
        file = self._names.get(name)
        return None if file is None else file.now.decode("utf-8")

    def replace_text(self, name: str, text: str) -> None:
        fd = self.create(name + ".tmp")
        self.write(fd, [text.encode()], 0)
        self.sync(fd)
        self.close(fd)
        self.rename(name + ".tmp", name)
        self.sync_names()


def _rename(names: dict[str, _File], kind: str, name: str, file: _File | None) -> None:
    if kind.startswith("rename "):
        names.pop(kind.removeprefix("rename "), None)
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
