"""Nothing that tests start outlives them, also when pytest or a worker of it is killed.

Each of these processes has a guardian: a small process that waits for its end, then finds what it left by a mark in
the environment (and what those have started), lets it stop by itself for a while, and kills the rest. A signal at the
parent's death would not do: it is sent when the *thread* ends that started a child, and many servers are started in
threads.

Must not: import anything but the standard library; the guardian runs this file alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "PYTEST_OF_SWITCHGEAR"
"""Not `SWITCHGEAR_…`: tests keep settings of ours away from what they start."""
GRACE_SECONDS = 40.0
"""A region stops its pods, its databases and its control plane in good order."""
GIVE_UP_SECONDS = 30.0

_kept: list[object] = []


def pytest_configure() -> None:
    guard()


def guard(grace: float = GRACE_SECONDS) -> None:
    """From now on, this process's children end soon after it has."""
    bare = {name: value for name, value in os.environ.items() if name != MARK}
    mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ[MARK] = mark
    ours, theirs = os.pipe()  # it is closed when this process is gone, however it went
    guardian = subprocess.Popen(
        [sys.executable, "-I", __file__, str(ours), mark, str(grace)],
        pass_fds=[ours],
        env=bare,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(ours)
    _kept.extend((theirs, guardian))


def main(pipe: int, mark: str, grace: float) -> None:
    """The guardian."""
    os.read(pipe, 1)
    began = time.monotonic()
    left: dict[int, str] = {}
    while time.monotonic() < began + grace + GIVE_UP_SECONDS:
        running = processes()
        left = {pid: started for pid, started in left.items() if running.get(pid, ("", 0))[0] == started}
        left |= {pid: running[pid][0] for pid in belonging(running, mark)}
        if not left:
            return
        if time.monotonic() > began + grace:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def processes() -> dict[int, tuple[str, int]]:
    """Every process that has not ended: pid → when it was started, and its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = (fields[19], int(fields[1]))
    return found


def belonging(running: dict[int, tuple[str, int]], mark: str) -> set[int]:
    """Those that have the mark, and all that these have started."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in running:
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    while more := {pid for pid, (_, parent) in running.items() if parent in found} - found:
        found |= more
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
