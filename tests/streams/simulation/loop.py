"""An event loop whose clock stands still while anything can run, and whose threads are turns of it.

What would run in a thread runs as a whole at a moment that the seed chooses.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any


class _Selector(selectors.SelectSelector):
    """Nothing ever comes from outside: waiting means to move the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everything waits for something that cannot happen")
        self.now += max(timeout, 0.0)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, chance: random.Random) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)
        self._chance = chance

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._chance.uniform(0, 0.02), run)
        return future
