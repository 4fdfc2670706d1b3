"""Keeps a child process running: restarts it with back-off when it ends, stops it gracefully, bounds its log.

One thread per child, because a child is tied to the life of the thread that started it
(`processes.die_with_parent`): it goes when we go, kill -9 included. A process that escaped even that is found by its
pid file at the next start and ended.

Invariants: at most one process per keeper; after `stop` there is none and none will be started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .accounts import Account
from .errors import StartError
from .processes import die_with_parent, tail

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 10.0
_STABLE_AFTER = 30.0
_LOG_LIMIT = 16 * 1024 * 1024
_WATCH_INTERVAL = 2.0
_GIVE_UP_RESTARTS = 3


@dataclass(frozen=True)
class Command:
    """What to run. `environ` is the child's whole environment.

    `grace` seconds pass between `stop_signal` and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    log_file: Path
    cwd: Path = Path("/")
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 20.0
    parent_death_signal: signal.Signals = signal.SIGTERM
    account: Account = field(default_factory=lambda: Account(name=""))


class Keeper:
    """Runs one Command until `stop`. Thread-safe."""

    def __init__(self, command: Command, pid_file: Path, on_exit: Callable[[str], None] = lambda line: None) -> None:
        self.command = command
        self.restarts = 0
        self._pid_file = pid_file
        self._on_exit = on_exit
        self._stopping = threading.Event()
        self._first_start = threading.Event()
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"keeper-{command.name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process id at this moment, or None between two lives."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process and go on keeping it; raises StartError when it cannot even be executed."""
        end_orphan(self._pid_file)
        self._thread.start()
        self._first_start.wait(30)
        if self._failure is not None:
            raise StartError(f"{self.command.name} cannot be executed: {self._failure}")

    def stop(self) -> None:
        """Stop the process: its signal, its grace, then SIGKILL. Returns when it is gone."""
        self.signal_stop()
        if not self._thread.is_alive():
            return
        self._thread.join(self.command.grace)
        if self._thread.is_alive():
            self._signal(signal.SIGKILL)
            self._thread.join(10)

    def signal_stop(self) -> None:
        """Ask the process to stop without waiting, so that several can stop at the same time."""
        self._stopping.set()
        self._signal(self.command.stop_signal)

    def log_tail(self, lines: int = 15) -> str:
        """The end of the process's log."""
        return tail(self.command.log_file, lines)

    def _signal(self, sig: signal.Signals) -> None:
        with self._lock:
            process = self._process
            if process is not None and process.poll() is None:
                process.send_signal(sig)

    def _run(self) -> None:
        delay = _FIRST_DELAY
        while True:
            started = time.monotonic()
            status = self._live()
            if self._stopping.is_set() or status is None:
                break
            if time.monotonic() - started > _STABLE_AFTER:
                delay = _FIRST_DELAY
            self.restarts += 1
            self._on_exit(f"{self.command.name} ended with status {status}; starting it again in {delay:.1f} s")
            if self._stopping.wait(delay):
                break
            delay = min(delay * 2, _LONGEST_DELAY)
        self._pid_file.unlink(missing_ok=True)

    def _live(self) -> int | None:
        """One life of the process: its exit status, or None when it could not be started at all."""
        self._rotate()
        try:
            with self._lock:
                if self._stopping.is_set():
                    return None
                process = self._spawn()
                self._process = process
        except (OSError, subprocess.SubprocessError) as error:
            if not self._first_start.is_set():
                self._failure = error
                self._first_start.set()
                return None
            return -1  # executed before, so this may pass: memory, a file being replaced
        with contextlib.suppress(OSError):
            self._pid_file.write_text(f"{process.pid} {start_time(process.pid)}\n")
        self._first_start.set()
        while True:
            try:
                return process.wait(_WATCH_INTERVAL)
            except subprocess.TimeoutExpired:
                self._rotate()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.command.log_file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.command.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
                self.command.argv,
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=subprocess.STDOUT,
                cwd=self.command.cwd,
                env=dict(self.command.environ),
                start_new_session=True,
                preexec_fn=die_with_parent(self.command.parent_death_signal),
                **self.command.account.popen_args(),
            )
        finally:
            os.close(fd)

    def _rotate(self) -> None:
        log = self.command.log_file
        with contextlib.suppress(OSError):
            if log.stat().st_size > _LOG_LIMIT:
                # Copied and cut, not renamed: the child holds the file open for appending.
                shutil.copyfile(log, log.with_name(log.name + ".1"))
                log.with_name(log.name + ".1").chmod(0o600)
                os.truncate(log, 0)


def wait_until(check: Callable[[], bool], limit: float, what: str, keepers: tuple[Keeper, ...]) -> None:
    """Poll `check` until it is true.

    Raises StartError with the log's end after `limit` seconds, or as soon as one of `keepers` keeps ending.
    """
    deadline = time.monotonic() + limit
    before = {keeper: keeper.restarts for keeper in keepers}
    delay = 0.02
    while True:
        if check():
            return
        for keeper, restarts in before.items():
            if keeper.restarts - restarts >= _GIVE_UP_RESTARTS:
                raise StartError(
                    f"{what}: {keeper.command.name} keeps ending. {keeper.command.log_file} ends:\n{keeper.log_tail()}"
                )
        if time.monotonic() > deadline:
            logs = "\n".join(f"{keeper.command.log_file} ends:\n{keeper.log_tail()}" for keeper in keepers)
            raise StartError(f"{what}: not ready within {limit:.0f} s. {logs}")
        time.sleep(delay)
        delay = min(delay * 1.5, 0.2)


def start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks; with the pid it names a process for good. Empty when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def end_orphan(pid_file: Path) -> None:
    """Kill the process that a pid file of an earlier life names, if it is still that very process."""
    try:
        pid_text, started = pid_file.read_text().split()
        pid = int(pid_text)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + 10
    while started and start_time(pid) == started and not _is_zombie(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise StartError(f"process {pid} of an earlier start does not end; end it, then try again")
        time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
