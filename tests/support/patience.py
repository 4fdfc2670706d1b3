"""Bounds against hangs that are no part of a test.

httpx waits a minute where a test does not say how long: its own five seconds are a bound that no test means, and on a
busy machine a server may take them to answer. What runs only in `make test-long`, or does more there, has half an hour.
"""

from __future__ import annotations

import os

import pytest
from httpx import _config

from tests.support.effort import LONG

LONG_TIMEOUT = 1800


def pytest_configure() -> None:
    # The one object that is the default of all its functions and clients.
    default = _config.DEFAULT_TIMEOUT_CONFIG
    default.connect = default.read = default.write = default.pool = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (os.environ.get(LONG) or item.get_closest_marker("long")) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))
