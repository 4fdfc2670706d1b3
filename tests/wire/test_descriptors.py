"""A server takes the descriptors that it may have, and the kernel's table has room for them before they come."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from switchgear_wire.descriptors import TABLE

PROGRAM = """
import re, resource, sys
from pathlib import Path
from switchgear_wire import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
descriptors.make_room()
status = Path("/proc/self/status").read_text()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], re.search(r"FDSize:\\s+(\\d+)", status)[1])
"""


@pytest.mark.parametrize("soft", [64, 1024])
def test_room_is_made(soft: int) -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 100_000)
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    allowed, size = map(int, done.stdout.split())
    assert allowed == hard
    assert size >= min(hard, TABLE)
    assert done.stderr == ""
