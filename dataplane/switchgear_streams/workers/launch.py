"""Starts the workers of one server, and ends all of them when one ends.

What it must not do: anything with data. Invariants: no worker outlives the launcher, not even one that hangs (the
kernel kills them with it), and none goes on without the others; the ports' sockets are made here, so that an address in
use is a start that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from switchgear_streams.errors import StartError
from switchgear_streams.settings import Settings
from switchgear_streams.workers import placing, worker
from switchgear_wire import descriptors

LOCK = "LOCK"
_PR_SET_PDEATHSIG = 1
_LOCK_SECONDS = 30.0
"""A worker that was killed while it waits for the disk ends when the disk has answered."""
_STOP_SECONDS = 60.0
"""After the connections are drained: to make everything durable. Whoever takes longer hangs."""

log = logging.getLogger("switchgear.streams")


def launch(settings: Settings) -> int:
    """Run until a signal comes, or a worker ends. Returns the exit status. Raises StartError, OSError."""
    place = settings.data_dir
    place.mkdir(parents=True, exist_ok=True, mode=0o750)
    _take(place / LOCK)
    problem = placing.problem((each.name for each in place.iterdir()), settings.workers)
    if problem is not None:
        raise StartError(f"{place}: {problem}")
    count = settings.workers
    listeners = listen(settings.host, settings.port, count)
    pairs = {
        (low, high): socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for low in range(count)
        for high in range(low + 1, count)
    }
    gc.freeze()
    pids = [
        _fork(index, lambda index=index: _work(settings, index, pairs, listeners))  # type: ignore[misc]
        for index in range(count)
    ]
    for ends in pairs.values():
        for end in ends:
            end.close()
    for listener in listeners:
        listener.close()
    return wait(pids, settings.drain_seconds + _STOP_SECONDS)


def _take(path: Path) -> None:
    """The directory is ours until the last worker has ended. (Those of a launcher that was killed take a moment.)"""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StartError(f"{path.parent} is used by another process") from None
            time.sleep(0.02)


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """One socket a worker, all on the same port: the kernel spreads new connections over them. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made: list[socket.socket] = []
    with socket.socket(family, kind, protocol) as probe:  # an address that somebody else listens on is an error
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
        address = probe.getsockname()
    for _ in range(count):
        sock = socket.socket(family, kind, protocol)
        made.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
    return made


def _fork(index: int, work: Callable[[], int]) -> int:
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _die_with(launcher)
        status = work()
    except BaseException:
        log.exception("worker %d failed", index)
        status = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _work(
    settings: Settings,
    index: int,
    pairs: dict[tuple[int, int], tuple[socket.socket, socket.socket]],
    listeners: list[socket.socket],
) -> int:
    """One worker, in its process."""
    descriptors.make_room()  # a fork's table is as small as its parent's use of it
    sockets: dict[int, socket.socket] = {}
    for (low, high), (left, right) in pairs.items():
        mine, other = (left, right) if index == low else (right, left)
        if index in (low, high):
            sockets[high if index == low else low] = mine
            other.close()
        else:
            mine.close()
            other.close()
    for number, listener in enumerate(listeners):
        if number != index:
            listener.close()
    try:
        asyncio.run(worker.run(settings, index, sockets, listeners[index]))
    except (StartError, OSError, TimeoutError) as error:
        log.error("worker %d cannot start: %s", index, error)
        return 1
    return 0


def _die_with(launcher: int) -> None:
    """Be killed when the launcher ends, however it does. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl: {os.strerror(error)}")
    if os.getppid() != launcher:  # it ended before
        os._exit(worker.LOST)


def wait(pids: list[int], patience: float) -> int:
    """Pass signals on, and kill those that have not ended `patience` seconds later. The first worker that ends without
    being told to takes all others along."""
    told = False
    left, status = set(pids), 0

    def stop(number: int, frame: object) -> None:
        nonlocal told
        if not told:
            signal.setitimer(signal.ITIMER_REAL, patience)
        told = True
        for pid in left:
            _kill(pid, signal.SIGTERM)

    def end(number: int, frame: object) -> None:
        log.critical("workers that do not stop are killed: %s", sorted(left))
        for pid in left:
            _kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while left:
        pid, raw = os.wait()
        left.discard(pid)
        code = os.waitstatus_to_exitcode(raw)
        if code != 0 or not told:
            found = code if code > 0 else worker.LOST
            status = min(status or found, found)  # one that could not start is why the others were lost
            for other in left:
                _kill(other, signal.SIGKILL)
    return status


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
