"""What no test has to say for itself: how long an example and an answer may take."""

from __future__ import annotations

import time

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=3)
@given(st.integers())
def test_an_example_may_take_long(number: int) -> None:
    time.sleep(0.3)


def test_an_answer_may_take_long() -> None:
    with httpx.Client() as client:
        assert client.timeout.read == 60
