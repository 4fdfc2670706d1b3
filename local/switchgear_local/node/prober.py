"""The probes of one running container: startup first, then readiness and liveness side by side.

Until a container has started (or is ready for the first time), it is also probed between the periods, at growing
intervals: a success counts at once, a failure only once a period, so that thresholds keep their meaning.
Invariant: results reach the container only while its process runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import probes
from .backoff import Backoff
from .mounts import MountTable
from .probes import Exec, Probe, Result, Tally

_EAGER = 0.1


@dataclass(frozen=True)
class Plan:
    """A container's probes."""

    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None


def plan(spec: Mapping[str, Any], address: str, mounts: MountTable) -> Plan:
    """The probes of a container's spec. Raises ConfigError for one that is not supported."""

    def one(key: str) -> Probe | None:
        probe = probes.parse(spec.get(key), spec, address)
        if probe is not None and isinstance(probe.action, Exec):
            # Of variables, an exec probe's command may name only literal ones; those it finds in its environment.
            probe = replace(probe, action=Exec(tuple(mounts.rewrite(word) for word in probe.action.argv)))
        return probe

    return Plan(one("startupProbe"), one("readinessProbe"), one("livenessProbe"))


@dataclass(frozen=True)
class Reactions:
    """Whom to tell. `failed` is for startup and liveness (message, grace): the process must end."""

    started: Callable[[], None]
    ready: Callable[[bool], None]
    failed: Callable[[str, float | None], None]
    unhealthy: Callable[[str, str], None]


class Prober:
    """Runs the probes of process `pid`, which was begun `age` seconds ago."""

    def __init__(self, what: Plan, pid: int, age: float, reactions: Reactions) -> None:
        self._plan = what
        self._pid = pid
        self._born = asyncio.get_running_loop().time() - age
        self._tell = reactions

    async def run(self, *, started: bool, ready: bool) -> None:
        """Probe until cancelled, or until startup or liveness fails. `started` and `ready`: what is known already."""
        if not started:
            if self._plan.startup is not None and not await self._startup(self._plan.startup):
                return
            self._tell.started()
        if self._plan.readiness is None:
            self._tell.ready(True)
        async with asyncio.TaskGroup() as tasks:
            if self._plan.readiness is not None:
                tasks.create_task(self._readiness(self._plan.readiness, ready))
            if self._plan.liveness is not None:
                tasks.create_task(self._liveness(self._plan.liveness))

    async def _startup(self, probe: Probe) -> bool:
        tally = Tally(probe)
        await self._initial_delay(probe)
        while True:
            result = await self._period("Startup", probe, eager=True)
            verdict = tally.add(result.ok)
            if verdict is False:
                self._tell.failed(f"startup probe failed: {result.message}", probe.grace)
            if verdict is not None:
                return verdict

    async def _readiness(self, probe: Probe, ready: bool) -> None:
        tally = Tally(probe)
        eager = not ready
        await self._initial_delay(probe)
        while True:
            result = await self._period("Readiness", probe, eager=eager)
            verdict = tally.add(result.ok)
            if verdict is not None:
                self._tell.ready(verdict)
                eager = eager and not verdict
            if result.ok:
                await asyncio.sleep(probe.period)

    async def _liveness(self, probe: Probe) -> None:
        tally = Tally(probe)
        await self._initial_delay(probe)
        while True:
            result = await self._period("Liveness", probe, eager=False)
            if tally.add(result.ok) is False:
                self._tell.failed(f"liveness probe failed: {result.message}", probe.grace)
                return
            if result.ok:
                await asyncio.sleep(probe.period)

    async def _initial_delay(self, probe: Probe) -> None:
        age = asyncio.get_running_loop().time() - self._born
        await asyncio.sleep(max(0.0, probe.initial_delay - age))

    async def _period(self, name: str, probe: Probe, *, eager: bool) -> Result:
        """A success at once, or the failure with which the period began, at its end."""
        clock = asyncio.get_running_loop().time
        end = clock() + probe.period
        first = await probes.attempt(probe, self._pid)
        if first.ok:
            return first
        self._tell.unhealthy(name, first.message)
        pauses = Backoff(_EAGER, 1.0)
        while eager and probe.successes == 1:
            pause = pauses.next()
            if clock() + pause + _EAGER >= end:
                break
            await asyncio.sleep(pause)
            again = await probes.attempt(probe, self._pid)
            if again.ok:
                return again
        await asyncio.sleep(max(0.0, end - clock()))
        return first
