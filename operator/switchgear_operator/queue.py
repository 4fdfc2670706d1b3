"""The work queue: one entry and at most one worker for a key, newest state wins.

Bounded by construction: a key is in it once, and keys are objects that exist. A key that fails comes back
after an exponential pause with full jitter; an event brings it back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_log = logging.getLogger(__name__)

BACKOFF_FIRST: Final = 0.25
BACKOFF_MAX: Final = 60.0
HANDLER_LIMIT: Final = 120.0


class RetryLater(Exception):
    """Raised by a handler that wants its key back after `delay` seconds; None: after the usual back-off."""

    def __init__(self, why: str, delay: float | None = None) -> None:
        super().__init__(why)
        self.delay = delay


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after the n-th failure in a row; `jitter` in [0, 1)."""
    ceiling = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(failures, 16))
    return float(ceiling * (0.25 + 0.75 * jitter))


class WorkQueue(Generic[K]):
    """`handler` is called with a key, never twice at once for the same one."""

    def __init__(self, handler: Callable[[K], Awaitable[None]], *, workers: int) -> None:
        self._handler = handler
        self._workers = workers
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self.handled = 0
        self.failed = 0
        self.last_progress = time.monotonic()

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Keys in work."""
        return len(self._running)

    def add(self, key: K) -> None:
        """Handle this key as soon as possible (again, when it is in work now)."""
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: K, delay: float) -> None:
        """Handle this key after `delay` seconds, unless something brings it back sooner."""
        if delay <= 0:
            self.add(key)
            return
        if key in self._waiting or key in self._again:
            return
        when = time.monotonic() + delay
        present = self._timers.get(key)
        if present is not None and present[0] <= when:
            return
        self._cancel_timer(key)
        handle = asyncio.get_running_loop().call_later(delay, self._fire, key)
        self._timers[key] = (when, handle)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        present = self._timers.pop(key, None)
        if present is not None:
            present[1].cancel()

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._running.add(key)
            try:
                await self._handle(key)
            finally:
                self._running.discard(key)
                self.last_progress = time.monotonic()
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _handle(self, key: K) -> None:
        try:
            async with asyncio.timeout(HANDLER_LIMIT):
                await self._handler(key)
        except asyncio.CancelledError:
            raise
        except RetryLater as later:
            self._retry(key, later.delay)
            _log.info("%s: %s", key, later)
        except Exception as error:
            self.failed += 1
            self._retry(key, None)
            # The traceback only for what nobody thought of.
            _log.error("%s: %s: %s", key, type(error).__name__, error, exc_info=not isinstance(error, TimeoutError))
        else:
            self.handled += 1
            self._failures.pop(key, None)

    def _retry(self, key: K, delay: float | None) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        if delay is None:
            delay = backoff(failures, random.random())  # noqa: S311 - jitter, not a secret
        # While in work `add_after` still sets a timer, and an event that came meanwhile brings it back at once.
        with contextlib.suppress(RuntimeError):
            self.add_after(key, delay)
