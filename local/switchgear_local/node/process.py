"""Processes of containers: start, recognise again, watch for their end, and kill with everything they started.

A process is known by pid and kernel start time, so that a reused pid is never taken for it. Everything that it starts
belongs to it: by session, or by the marker in its environment, which survives double forks and new sessions.

Invariants: signals go through pidfds, hence never to another process; a container's processes run in a session of
their own and do not end with the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARKER = "SWITCHGEAR_CONTAINER"
# For `session` where the main process is long gone: its pid may lead a stranger's session by now.
NO_SESSION = -1
_REAP_LIMIT = 10.0


@dataclass(frozen=True)
class Identity:
    """A process for good: pid, start time in the kernel's ticks since boot, and which boot."""

    pid: int
    started: int
    boot: str


@dataclass(frozen=True)
class Launch:
    """What to start. `marker` names the container instance; `keep_fd` is inherited (the address block's lock)."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    directory: str
    log: Path
    marker: str
    keep_fd: int

    def __repr__(self) -> str:
        return f"Launch({self.marker!r})"


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on, or None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def identify(pid: int) -> Identity | None:
    """The identity of a running process, or None when it is gone (a zombie is gone)."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return Identity(pid, int(fields[19]), boot_id())


def is_alive(identity: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identify(identity.pid) == identity


def members(session: int, marker: str) -> list[int]:
    """The pids that belong to a container: its session's, and those that carry its marker."""
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for pid in _pids():
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX":
            continue
        if int(fields[3]) == session or wanted in _environ(pid):
            found.append(pid)
    return found


def marked(prefix: str) -> dict[str, list[int]]:
    """Every running process whose marker starts with `prefix`, by marker."""
    wanted = f"{MARKER}={prefix}".encode()
    found: dict[str, list[int]] = {}
    for pid in _pids():
        for entry in _environ(pid):
            if entry.startswith(wanted):
                found.setdefault(entry.partition(b"=")[2].decode(), []).append(pid)
    return found


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def send(pid: int, sig: signal.Signals, still: Callable[[int], bool] = lambda pid: True) -> None:
    """Signal a process if, once it is held by a pidfd, `still` says that it is the right one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            if still(pid):
                signal.pidfd_send_signal(fd, sig)
        finally:
            os.close(fd)


def signal_members(session: int, marker: str, sig: signal.Signals) -> int:
    """Signal everything that belongs to a container; returns how many processes that were."""
    pids = members(session, marker)
    for pid in pids:
        send(pid, sig, lambda pid: pid in members_of((pid,), session, marker))
    return len(pids)


def members_of(pids: Sequence[int], session: int, marker: str) -> list[int]:
    """Those of `pids` that belong to the container."""
    wanted = f"{MARKER}={marker}".encode()
    result = []
    for pid in pids:
        fields = _stat(pid)
        if fields is not None and (int(fields[3]) == session or wanted in _environ(pid)):
            result.append(pid)
    return result


async def kill_members(session: int, marker: str, limit: float = 10.0) -> bool:
    """SIGKILL what belongs to a container until nothing is left; False when something outlived `limit` seconds."""
    deadline = asyncio.get_running_loop().time() + limit
    while signal_members(session, marker, signal.SIGKILL):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


class Process:
    """The main process of a container: one that we started, or one adopted from an earlier life of the node."""

    def __init__(self, identity: Identity, marker: str, child: subprocess.Popen[bytes] | None) -> None:
        self.identity = identity
        self.marker = marker
        self._child = child
        self._pidfd = _open_pidfd(identity)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.identity.pid

    async def wait(self) -> int | None:
        """The exit status once it ended."""
        await self.ended()
        return await self.code()

    async def ended(self) -> None:
        """Returns when the process has ended. Until `code` is asked a child of ours keeps its pid."""
        loop = asyncio.get_running_loop()
        if self._pidfd is not None:
            ended: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._pidfd, _settle, ended)
            try:
                await ended
            finally:
                loop.remove_reader(self._pidfd)

    async def code(self) -> int | None:
        """The exit status (negative: a signal) of an ended process; None for an adopted one: init has its status."""
        if self._child is None:
            return None
        # The kernel has its status by now; the limit is for the impossible.
        return await asyncio.to_thread(self._child.wait, _REAP_LIMIT)

    def signal(self, sig: signal.Signals) -> None:
        """Signal the main process alone, if it still runs."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, sig)

    def close(self) -> None:
        """Release the descriptor; call it after the end only."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _open_pidfd(identity: Identity) -> int | None:
    """A pidfd of exactly this process, or None when it is gone."""
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if _same_start(identity):
        return fd
    os.close(fd)
    return None


def _same_start(identity: Identity) -> bool:
    fields = _stat(identity.pid)
    # A zombie child of ours is still right: its status is waiting to be read.
    return fields is not None and int(fields[19]) == identity.started


def start(launch: Launch) -> Process:
    """Start a container's process. Raises OSError when the program or the directory is not there."""
    fd = os.open(launch.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            list(launch.argv),
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=subprocess.STDOUT,
            cwd=launch.directory,
            env={**launch.environ, MARKER: launch.marker},
            start_new_session=True,
            pass_fds=(launch.keep_fd,),
        )
    finally:
        os.close(fd)
    fields = _stat(child.pid)
    started = int(fields[19]) if fields is not None else 0
    return Process(Identity(child.pid, started, boot_id()), launch.marker, child)


def adopt(identity: Identity, marker: str) -> Process | None:
    """Take over a process of an earlier life of the node; None when it is gone."""
    if not is_alive(identity):
        return None
    process = Process(identity, marker, None)
    return process if is_alive(identity) else None
