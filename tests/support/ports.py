"""Each worker of a run takes its ports from a part of the range of its own, and so do the regions that it starts.

A port is chosen a moment before a server listens there: another worker's server would take it in between, once in some
thousand starts. A region chooses all its ports at first, and listens on the last of them many seconds later.
"""

from __future__ import annotations

import os

import pytest

from switchgear_local import processes


def part(start: int, end: int, index: int, count: int) -> tuple[int, int]:
    """The `index`th of `count` equal parts of a range."""
    width = (end - start) // count
    return start + index * width, start + (index + 1) * width


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        index, count = int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])
        first, end = part(*processes.PORTS, index, count)
        os.environ["SWITCHGEAR_PORT_RANGE"] = f"{first}-{end - 1}"
