"""What tests start ends with them, however they end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import subprocess, sys, threading, time
from tests.support import orphans

orphans.guard(grace={grace})
server = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " \\
    "bare = subprocess.Popen(['sleep', '600'], env=dict(), start_new_session=True); print(bare.pid, flush=True); " \\
    "time.sleep(600)"

def start():
    one = subprocess.Popen([sys.executable, "-c", server], start_new_session=True, stdout=subprocess.PIPE, text=True)
    print(one.pid, one.stdout.readline().strip(), flush=True)

thread = threading.Thread(target=start)
thread.start()
thread.join()
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.crash
@pytest.mark.parametrize("killed", [True, False])
def test_servers_end_with_the_tests_that_started_them(killed: bool) -> None:
    program = PROGRAM.format(grace=0.3)
    command = [sys.executable, "-c", program]
    tests = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None and tests.stdin is not None
    left = [int(pid) for pid in tests.stdout.readline().split()]
    assert len(left) == 2
    assert all(map(alive, left)), "a thread's end ends nothing"
    if killed:
        tests.kill()
    tests.stdin.close()  # else it ends now, by itself
    tests.wait(60)
    deadline = time.monotonic() + 60
    while any(map(alive, left)):
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)
    assert alive(os.getpid())
