"""The queue: one entry and one worker a key, newest wins, failures come back later, events at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchgear_operator.queue import BACKOFF_MAX, RetryLater, WorkQueue, backoff


@asynccontextmanager
async def running(handler: Callable[[str], Awaitable[None]], workers: int = 4) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(handler, workers=workers)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_one_key_is_never_handled_twice_at_once_and_the_newest_state_is_seen() -> None:
    state, seen, now = 0, [], Counter[str]()

    async def handler(key: str) -> None:
        now[key] += 1
        assert now[key] == 1
        before = state
        await asyncio.sleep(0.002)
        seen.append(before)
        now[key] -= 1

    async with running(handler) as queue:
        for _ in range(200):
            state += 1
            queue.add("a")
            if state % 10 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: bool(seen) and seen[-1] == 200)
        # Two hundred events and a few runs: that is the point.
        assert len(seen) < 100
        await until(lambda: queue.depth == 0 and queue.busy == 0)


async def test_different_keys_run_side_by_side_and_no_more_than_allowed() -> None:
    at_once, most = 0, 0

    async def handler(key: str) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1

    async with running(handler, workers=3) as queue:
        for n in range(30):
            queue.add(str(n))
        assert queue.depth == 30
        await until(lambda: queue.handled == 30)
    assert most == 3


async def test_a_failing_key_comes_back_and_an_event_brings_it_back_at_once() -> None:
    runs = 0

    async def handler(key: str) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("no")
        if runs == 3:
            raise RetryLater("not yet", 3600)

    async with running(handler) as queue:
        queue.add("a")
        await until(lambda: runs == 3)
        assert queue.failed == 2
        await asyncio.sleep(0.05)
        assert runs == 3
        queue.add("a")
        await until(lambda: queue.handled == 1)


async def test_later_means_the_sooner_of_two_times() -> None:
    runs = 0

    async def handler(key: str) -> None:
        nonlocal runs
        runs += 1

    async with running(handler) as queue:
        queue.add_after("a", 3600)
        queue.add_after("a", 0.01)
        queue.add_after("a", 3600)
        await until(lambda: runs == 1)
        await asyncio.sleep(0.05)
        assert runs == 1


async def test_a_worker_survives_what_handlers_raise(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(key: str) -> None:
        if key.startswith("bad"):
            raise RuntimeError(key)

    async with running(handler, workers=1) as queue:
        for n in range(5):
            queue.add(f"bad{n}")
        queue.add("good")
        await until(lambda: queue.handled == 1)
        assert queue.failed == 5


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_and_are_bounded(failures: int, jitter: float) -> None:
    assert 0 < backoff(failures, jitter) <= BACKOFF_MAX
    assert backoff(failures, jitter) <= backoff(failures + 1, jitter)
