"""Small helpers around child processes: dying with the parent, log tails, free ports.

Invariant: nothing here starts a shell, and no secret is ever put into an argument list by these helpers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from .errors import StartError

_PR_SET_PDEATHSIG = 1
_LOG_TAIL_BYTES = 8192
PORTS = 15_000, 32_000
_given: deque[int] = deque(maxlen=1000)
"""Ports that `free_port` chose last: whoever asked may not listen yet."""


def _load_prctl() -> Callable[..., int] | None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        prctl: Callable[..., int] = libc.prctl
    except (OSError, AttributeError):
        return None
    return prctl


_PRCTL = _load_prctl()


def die_with_parent(sig: int) -> Callable[[], None]:
    """A `preexec_fn`: the child gets signal `sig` when the thread that started it ends (also by kill -9).

    The starting thread must therefore live as long as the child should.
    """
    parent = os.getpid()

    def preexec() -> None:
        if _PRCTL is None:
            return
        _PRCTL(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
        if os.getppid() != parent:  # the parent went between fork and prctl
            os.kill(os.getpid(), signal.SIGKILL)

    return preexec


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free on `host` at this moment.

    Taken from below the range that the kernel gives to outgoing connections, so that none of these holds it when a
    server wants it again after a restart; or from the range that `SWITCHGEAR_PORT_RANGE` says. Not one that this
    process was given a moment ago. Raises StartError.
    """
    start, end = _range()
    for _ in range(200):
        port = secrets.randbelow(end - start) + start
        if port not in _given and port_is_free(port, host):
            _given.append(port)
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _range() -> tuple[int, int]:
    given = os.environ.get("SWITCHGEAR_PORT_RANGE", "")
    if not given:
        return PORTS
    parts = re.fullmatch(r"(\d{1,5})-(\d{1,5})", given)
    first, last = map(int, parts.groups()) if parts else (0, 0)
    if not 0 < first <= last < 65_536:
        raise StartError(f"SWITCHGEAR_PORT_RANGE must be like 20000-21000, and is {given!r}")
    return first, last + 1


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True when a server could listen on `host:port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file, or a sentence saying that there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return f"(no log at {path})"
    return "\n".join(text.splitlines()[-lines:]) or f"(the log {path} is empty)"


def write_private(path: Path, data: str | bytes) -> None:
    """Write a file that only its owner may read, atomically."""
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
