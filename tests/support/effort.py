"""How much a test does: enough to find faults in `make test`, more of the same in `make test-long`."""

from __future__ import annotations

import os

LONG = "SWITCHGEAR_TESTS_LONG"
"""Set by `tests.run --long`."""
SAME = "SWITCHGEAR_TESTS_SAME"
"""Set by `tests.run` without `--long`: Hypothesis tries the same examples each time."""


def effort(usual: int, long: int) -> int:
    """Examples, rounds or rows."""
    return long if os.environ.get(LONG) else usual
