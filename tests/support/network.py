"""Commands that fetch what tests need: a registry that fails once is asked again."""

from __future__ import annotations

import subprocess
import time
from typing import Any

ATTEMPTS = 3
PAUSE = 5.0


def fetch(command: list[Any], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` of a command that can be repeated; what the last attempt returned."""
    for attempt in range(1, ATTEMPTS):
        done = subprocess.run(command, check=False, **options)
        if done.returncode == 0:
            return done
        time.sleep(PAUSE * attempt)
    return subprocess.run(command, check=False, **options)
