"""Finds and kills real processes of this machine by what their command line and environment say."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def find(*texts: str) -> list[int]:
    """Pids of live processes whose command line or environment contains every text. Never this process."""
    wanted = [text.encode() for text in texts]
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            seen = (entry / "cmdline").read_bytes().replace(b"\0", b" ") + b"\n" + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and all(text in seen for text in wanted):
            pids.append(int(entry.name))
    return pids


def kill(*texts: str) -> list[int]:
    """SIGKILL to every process that `find` gives; the list of them. Raises AssertionError if there is none."""
    pids = find(*texts)
    assert pids, f"no process with {texts} to kill"
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/stat").exists() and pid in find(*texts) for pid in pids):
        assert time.monotonic() < deadline, f"{pids} survive SIGKILL"
        time.sleep(0.02)
    return pids
