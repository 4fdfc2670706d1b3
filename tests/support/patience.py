"""httpx waits a minute where a test does not say how long.

Its own five seconds are a bound that no test means: on a busy machine a server may take them to answer.
"""

from __future__ import annotations

from httpx import _config


def pytest_configure() -> None:
    # The one object that is the default of all its functions and clients.
    default = _config.DEFAULT_TIMEOUT_CONFIG
    default.connect = default.read = default.write = default.pool = 60.0
