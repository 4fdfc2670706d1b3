"""Slow work on the side: database probes and clean-ups that must not hold a reconcile worker.

One job a key at a time, few at once, every one with a time limit. Results are observations kept in memory:
losing them at a restart costs a repetition, never correctness.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from switchgear_operator.snapshot import JobView

_log = logging.getLogger(__name__)

LIMIT_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Job:
    digest: str
    task: asyncio.Task[None] | None = None
    result: Any = None
    finished: datetime | None = None
    attempts: int = 0


class Jobs:
    """`done` is called with the owner's UID whenever a job has finished."""

    def __init__(self, done: Callable[[str], None], *, at_once: int = 8) -> None:
        self._done = done
        self._slots = asyncio.Semaphore(at_once)
        self._jobs: dict[tuple[str, str], _Job] = {}

    def view(self, uid: str, name: str, digest: str) -> JobView | None:
        """The job of this owner and name, unless it was about another input (`digest`)."""
        job = self._jobs.get((uid, name))
        if job is None or job.digest != digest:
            return None
        return JobView(job.task is not None, job.result, job.finished, job.attempts)

    def start(self, uid: str, name: str, digest: str, run: Callable[[], Awaitable[Any]]) -> None:
        """Starts a run unless one for the same input is under way; a run for an older input is cancelled."""
        job = self._jobs.get((uid, name))
        if job is not None and job.digest != digest:
            if job.task is not None:
                job.task.cancel()
            job = None
        if job is None:
            job = self._jobs[uid, name] = _Job(digest)
        if job.task is None:
            job.task = asyncio.create_task(self._run(uid, job, run), name=f"{name} {uid}")

    def forget(self, uid: str, name: str | None = None) -> None:
        """The owner is gone, or, with `name`, what that job of it did no longer holds."""
        for key in [key for key in self._jobs if key[0] == uid and name in (None, key[1])]:
            job = self._jobs.pop(key)
            if job.task is not None:
                job.task.cancel()

    def owners(self) -> set[str]:
        """UIDs for which something is kept."""
        return {uid for uid, _ in self._jobs}

    async def stop(self) -> None:
        """Cancels everything and waits for it."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, uid: str, job: _Job, run: Callable[[], Awaitable[Any]]) -> None:
        try:
            async with self._slots, asyncio.timeout(LIMIT_SECONDS):
                job.result = await run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Jobs report their own failures as results; whatever lands here is a fault of ours or the limit.
            _log.error("job of %s: %s", uid, type(error).__name__, exc_info=not isinstance(error, TimeoutError))
            job.result = None
        job.finished = datetime.now(UTC)
        job.attempts += 1
        job.task = None
        self._done(uid)
