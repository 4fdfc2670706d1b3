"""Bounds against hangs that are no part of a test.

httpx waits a minute where a test does not say how long: its own five seconds are a bound that no test means, and on a
busy machine a server may take them to answer. What runs only in `make test-long`, or does more there, has half an hour.

Hypothesis fails a test of which one example takes a fifth of a second, or whose examples are made slowly: another
process that has the processor for so long is enough. And `make test` tries the same examples each time, so that who
changed nothing sees nothing new; pytest by itself and `make test-long` try others each time.
"""

from __future__ import annotations

import os

import hypothesis
import pytest
from httpx import _config

from tests.support.effort import LONG, SAME

LONG_TIMEOUT = 1800


def pytest_configure() -> None:
    hypothesis.settings.register_profile(
        "patient",
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        derandomize=bool(os.environ.get(SAME)),
    )
    hypothesis.settings.load_profile("patient")
    # The one object that is the default of all its functions and clients.
    default = _config.DEFAULT_TIMEOUT_CONFIG
    default.connect = default.read = default.write = default.pool = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (os.environ.get(LONG) or item.get_closest_marker("long")) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))
