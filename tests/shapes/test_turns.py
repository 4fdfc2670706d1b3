"""Turns: few at once, in order; nobody waits for ever, and one who leaves the queue takes nothing along."""

from __future__ import annotations

import asyncio

import pytest

from switchgear_shapes import turns
from switchgear_shapes.turns import Turns


async def test_first_come_first_served() -> None:
    taken = Turns(2)
    order: list[int] = []
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        await taken.enter()
        order.append(number)
        most = max(most, taken.taken)
        await asyncio.sleep(0)
        taken.leave()

    await asyncio.gather(*(one(number) for number in range(50)))
    assert order == list(range(50))
    assert most == 2
    assert (taken.taken, taken.waiting) == (0, 0)


async def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.01)
    taken = Turns(1)
    await taken.enter()
    await asyncio.wait_for(taken.enter(), 60)
    assert taken.taken == 2
    taken.leave()
    taken.leave()
    assert taken.taken == 0


async def test_one_who_leaves_the_queue_takes_nothing_along() -> None:
    taken = Turns(1)
    await taken.enter()
    first, second = (asyncio.ensure_future(taken.enter()) for _ in range(2))
    await asyncio.sleep(0)
    taken.leave()  # the turn is the first one's, who is gone before he learns it
    first.cancel()
    await asyncio.wait_for(second, 60)
    assert taken.taken == 1
    taken.leave()
    third = asyncio.ensure_future(taken.enter())
    await asyncio.wait_for(third, 60)
    assert (taken.taken, taken.waiting) == (1, 0)
