"""One container: start its process, probe it, start it again with back-off, stop it.

Invariants: at most one process of a container runs at a time, and none of its descendants outlives it; cancelling
`run` leaves the process running (that is how the node leaves, and adopts it later); whatever happens shows in `view`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from . import prober, process
from .backoff import Backoff
from .environment import CONFIG_ERROR, check
from .errors import ApiError, ApiUnavailableError, ConfigError
from .logfiles import Logs
from .prober import Prober, Reactions
from .process import Launch, Process
from .records import ContainerRecord
from .status import (
    CRASH_LOOP,
    CREATING,
    ContainerView,
    Running,
    State,
    Terminated,
    Waiting,
    ended,
    restarts,
    timestamp,
)

log = logging.getLogger(__name__)

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
RESET_AFTER = 600.0
_START_FAILED = 128
_CLEAN_UP_TRIES = 6


class PodContext(Protocol):
    """What a container needs of its pod."""

    title: str
    grace: float

    async def launch(self, spec: Mapping[str, Any], start: int) -> Launch:
        """Everything for a start. Raises ConfigError, ApiError, ApiUnavailableError, OSError."""

    def probes(self, spec: Mapping[str, Any]) -> prober.Plan:
        """The container's probes. Raises ConfigError."""

    def marker(self, container: str, start: int) -> str:
        """The marker of a start of a container."""

    def save(self) -> None:
        """Write the records."""

    def changed(self) -> None:
        """The pod's status may have changed."""

    def event(self, kind: str, reason: str, message: str) -> None:
        """Tell people."""


class Container:
    """Supervises one container of a pod. `policy` is the restart policy that applies to it."""

    def __init__(
        self,
        pod: PodContext,
        spec: Mapping[str, Any],
        record: ContainerRecord,
        logs: Logs,
        policy: str,
        *,
        init: bool = False,
    ) -> None:
        self.name: str = spec["name"]
        self.record = record
        self.logs = logs
        self._pod = pod
        self._spec = spec
        self._policy = policy
        self._init = init
        self._state = _initial_state(record)
        self._end = asyncio.Event()
        self._stopping = False
        self._deadline = float("inf")
        self._end_message = ""
        self._backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)

    @property
    def view(self) -> ContainerView:
        """The container at this moment."""
        record = self.record
        running = isinstance(self._state, Running)
        finished = isinstance(self._state, Terminated) and self._state.exit_code == 0
        return ContainerView(
            name=self.name,
            image=self._spec.get("image") or "",
            state=self._state,
            last=None if isinstance(self._state, Terminated) else record.last,
            restarts=max(0, record.starts - 1),
            ready=finished if self._init else running and record.ready,
            started=running and record.probed_started,
            done=record.done,
            container_id=f"process://{self._pod.marker(self.name, record.starts)}" if record.starts else "",
        )

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return isinstance(self._state, Running)

    def wait_for(self, reason: str, message: str = "") -> None:
        """Say what a container that was not started yet is waiting for."""
        if isinstance(self._state, Waiting):
            self._set(Waiting(reason, message))

    def stop(self, grace: float) -> None:
        """Stop for good: SIGTERM now, SIGKILL after `grace` seconds. Called again it can only shorten."""
        self._stopping = True
        self._end_within(grace)

    async def run(self) -> None:
        """Keep the container as its spec says until it is done or stopped."""
        if self.record.done:
            return
        current = await self._find()
        while True:
            if current is None:
                if self._stopping or self.record.done:
                    return
                current = await self._start()
            if current is not None:
                result = await self._live(current)
                self._ended(result)
                current = None
            if self.record.done or self._stopping:
                return
            if isinstance(self._state, Terminated):
                await self._pause()

    async def _find(self) -> Process | None:
        """The process of an earlier life of the node, if it still runs; its leftovers go if it does not."""
        record = self.record
        if record.identity is None:
            return None
        marker = self._pod.marker(self.name, record.starts)
        found = process.adopt(record.identity, marker)
        if found is None:
            await self._clean_up(process.NO_SESSION, marker)
            self._ended(ended(None, record.started_at, timestamp()))
            return None
        log.info("adopted %s of %s, pid %d", self.name, self._pod.title, found.pid)
        self._set(Running(record.started_at))
        return found

    async def _start(self) -> Process | None:
        """Start the process. None when it could not be: then the state says why, and it may be tried again."""
        record = self.record
        try:
            check(self._spec, init=self._init)
            self._pod.probes(self._spec)
            launch = await self._pod.launch(self._spec, record.starts + 1)
        except (ConfigError, ApiError, ApiUnavailableError) as error:
            await self._not_yet(error)
            return None
        if self._stopping:
            return None
        record.starts += 1
        record.started_at = timestamp()
        record.ready = record.probed_started = False
        try:
            started = process.start(launch)
        except (OSError, ValueError) as error:
            self._ended(Terminated(_START_FAILED, "StartError", record.started_at, timestamp(), _start_error(error)))
            return None
        record.identity = started.identity
        self._end.clear()
        self._end_message = ""
        self._deadline = float("inf")
        self._pod.save()
        self._set(Running(record.started_at))
        log.info("started %s of %s, pid %d", self.name, self._pod.title, started.pid)
        return started

    async def _not_yet(self, error: ConfigError | ApiError | ApiUnavailableError) -> None:
        """Say why, and wait a moment. A container that ran before keeps showing how it ended as its last state."""
        reason = error.reason if isinstance(error, ConfigError) else "FailedStart"
        # What is missing may come; only a wrong spec is the container's own error.
        state = Waiting(reason if reason == CONFIG_ERROR else CREATING, str(error))
        if state != self._state:
            self._set(state)
            self._pod.event("Warning", "Failed" if reason == CONFIG_ERROR else reason, str(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_DELAY):
                await self._end.wait()

    async def _live(self, current: Process) -> Terminated:
        """Watch and probe the process until it has ended, with all that it started."""
        ended_task = asyncio.create_task(current.ended())
        probing = asyncio.create_task(self._probe(current))
        ending = asyncio.create_task(self._end.wait())
        try:
            await asyncio.wait({ended_task, ending}, return_when=asyncio.FIRST_COMPLETED)
            probing.cancel()
            if not ended_task.done():
                await self._terminate(current, ended_task)
            await ended_task
        finally:
            for task in (ended_task, probing, ending):
                task.cancel()
            await asyncio.gather(ended_task, probing, ending, return_exceptions=True)
        # Before its status is read: until then no other session can have its pid.
        await self._clean_up(current.pid, current.marker)
        code = await current.code()
        current.close()
        return ended(code, self.record.started_at, timestamp(), self._end_message)

    async def _terminate(self, current: Process, gone: asyncio.Task[None]) -> None:
        """SIGTERM to the main process, then to what it left behind; SIGKILL to all when the grace is over."""
        clock = asyncio.get_running_loop().time
        current.signal(signal.SIGTERM)
        while not gone.done() and clock() < self._deadline:
            await asyncio.wait({gone}, timeout=min(0.25, max(0.0, self._deadline - clock())))
        if gone.done():
            left = process.signal_members(current.pid, current.marker, signal.SIGTERM)
            while left and clock() < self._deadline:
                await asyncio.sleep(0.05)
                left = len(process.members(current.pid, current.marker))
            return
        log.warning("%s of %s outlived its grace period; killing it", self.name, self._pod.title)
        current.signal(signal.SIGKILL)
        await self._clean_up(current.pid, current.marker)

    async def _clean_up(self, session: int, marker: str) -> None:
        for _ in range(_CLEAN_UP_TRIES):
            if await process.kill_members(session, marker):
                return
            log.error("processes of %s of %s outlive SIGKILL; waiting", self.name, self._pod.title)

    def _ended(self, how: Terminated) -> None:
        record = self.record
        record.identity = None
        record.ready = record.probed_started = False
        record.last = how
        record.done = not restarts(self._policy, how.exit_code)
        self._pod.save()
        self._set(how)
        log.info("%s of %s ended: %s, exit code %d", self.name, self._pod.title, how.reason, how.exit_code)

    async def _pause(self) -> None:
        """Wait before the next start, longer each time, unless the container ran long."""
        how = self._state
        if isinstance(how, Terminated) and _seconds(how) >= RESET_AFTER:
            self._backoff.reset()
        delay = self._backoff.next()
        message = f"back-off {delay:g}s restarting failed container={self.name} pod={self._pod.title}"
        self._set(Waiting(CRASH_LOOP, message))
        self._pod.event("Warning", "BackOff", f"Back-off restarting failed container {self.name}")
        self._end.clear()
        if self._stopping:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._end.wait()

    async def _probe(self, current: Process) -> None:
        try:
            plan = self._pod.probes(self._spec)
        except ConfigError as error:  # an adopted container, whose volumes are gone perhaps
            log.error("%s of %s runs without probes: %s", self.name, self._pod.title, error)
            return
        age = max(0.0, time.time() - _epoch(self.record.started_at))
        reactions = Reactions(self._on_started, self._on_ready, self._on_failed, self._on_unhealthy)
        await Prober(plan, current.pid, age, reactions).run(started=self.record.probed_started, ready=self.record.ready)

    def _on_started(self) -> None:
        self.record.probed_started = True
        self._pod.save()
        self._pod.changed()

    def _on_ready(self, ready: bool) -> None:
        if self.record.ready != ready:
            self.record.ready = ready
            self._pod.save()
            self._pod.changed()

    def _on_failed(self, message: str, grace: float | None) -> None:
        self._end_message = message
        self._pod.event("Normal", "Killing", f"Container {self.name} failed its probe and will be restarted")
        self._end_within(self._pod.grace if grace is None else grace)

    def _on_unhealthy(self, name: str, message: str) -> None:
        self._pod.event("Warning", "Unhealthy", f"{name} probe of {self.name} failed: {message}")

    def _end_within(self, grace: float) -> None:
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + max(0.0, grace))
        self._end.set()

    def _set(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._pod.changed()


def _initial_state(record: ContainerRecord) -> State:
    """What is known before `run`, so that a restart of the node shows no container as not running that is."""
    if record.done and record.last is not None:
        return record.last
    if record.identity is not None and process.is_alive(record.identity):
        return Running(record.started_at)
    return Waiting(CREATING)


def _start_error(error: Exception) -> str:
    """Why a program did not start; its arguments are left out, for `$(NAME)` may have put a secret there."""
    if isinstance(error, FileNotFoundError):
        return "the command was not found on PATH, or the working directory does not exist"
    if isinstance(error, PermissionError):
        return "the command is not on PATH, or may not be executed"
    if isinstance(error, OSError):
        return f"the command cannot be executed: {error.strerror}"
    return "the command, its arguments or its environment hold a character that no process can be given"


def _seconds(how: Terminated) -> float:
    return _epoch(how.finished_at) - _epoch(how.started_at)


def _epoch(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return time.time()
