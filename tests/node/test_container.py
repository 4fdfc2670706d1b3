"""One container's life with real processes, and no API server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from switchgear_local.node import container as container_module
from switchgear_local.node import prober, process
from switchgear_local.node.backoff import Backoff
from switchgear_local.node.container import Container
from switchgear_local.node.errors import ConfigError
from switchgear_local.node.logfiles import Logs
from switchgear_local.node.mounts import MountTable
from switchgear_local.node.process import Identity, Launch
from switchgear_local.node.records import ContainerRecord
from switchgear_local.node.status import Running, Terminated, Waiting


class Pod:
    """What a container needs, in a directory."""

    title = "p_ns(u)"
    grace = 5.0

    def __init__(self, directory: Path, keep_fd: int) -> None:
        self.directory = directory
        self.keep_fd = keep_fd
        self.saves = 0
        self.events: list[str] = []
        self.missing = ""

    async def launch(self, spec: Mapping[str, Any], start: int) -> Launch:
        if self.missing:
            raise ConfigError("CreateContainerConfigError", self.missing)
        return Launch(
            argv=spec["command"],
            environ={"PATH": os.environ["PATH"]},
            directory=str(self.directory),
            log=self.directory / f"{start}.log",
            marker=self.marker(spec["name"], start),
            keep_fd=self.keep_fd,
        )

    def probes(self, spec: Mapping[str, Any]) -> prober.Plan:
        return prober.plan(spec, "127.0.0.1", MountTable({}))

    def marker(self, container: str, start: int) -> str:
        return f"test-container/{self.directory.name}-{os.getpid()}/{container}/{start}"

    def save(self) -> None:
        self.saves += 1

    def changed(self) -> None:
        pass

    def event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(reason)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    reading, writing = os.pipe()
    yield Pod(tmp_path, writing)
    os.close(reading)
    os.close(writing)


@pytest.fixture
async def run(pod: Pod) -> AsyncIterator[Callable[..., Container]]:
    made: list[tuple[Container, asyncio.Task[None]]] = []

    def start(*command: str, policy: str = "Always", record: ContainerRecord | None = None, **spec: Any) -> Container:
        full = {"name": "c", "command": list(command), **spec}
        container = Container(pod, full, record or ContainerRecord(), Logs(pod.directory), policy)
        made.append((container, asyncio.create_task(container.run())))
        return container

    yield start
    for container, task in made:
        container.stop(0)
        await asyncio.wait_for(task, 30)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_back_off_grows_and_says_so(pod: Pod, run: Callable[..., Container]) -> None:
    container = run("sh", "-c", "exit 3")
    await until(lambda: container.view.restarts == 2)
    await until(lambda: isinstance(container.view.state, Waiting))
    view = container.view
    assert view.state == Waiting("CrashLoopBackOff", "back-off 4s restarting failed container=c pod=p_ns(u)")
    assert view.last is not None
    assert view.last.exit_code == 3
    assert "BackOff" in pod.events


def test_back_off_is_bounded() -> None:
    backoff = Backoff(container_module.FIRST_DELAY, container_module.LONGEST_DELAY)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert backoff.next() == 1


async def test_stopping_during_back_off_ends_at_once(run: Callable[..., Container]) -> None:
    container = run("sh", "-c", "exit 3")
    await until(lambda: container.view.restarts == 2 and isinstance(container.view.state, Waiting))
    container.stop(3600)


@pytest.mark.parametrize(("policy", "code"), [("Never", 3), ("OnFailure", 0)])
async def test_a_container_that_is_done_stays_so(run: Callable[..., Container], policy: str, code: int) -> None:
    container = run("sh", "-c", f"exit {code}", policy=policy)
    await until(lambda: container.view.done)
    assert isinstance(container.view.state, Terminated)
    assert container.view.state.exit_code == code
    assert container.view.restarts == 0


async def test_grace_can_only_be_shortened(pod: Pod, run: Callable[..., Container]) -> None:
    container = run("sh", "-c", "trap '' TERM; touch deaf; while :; do sleep 0.1; done")
    await until((pod.directory / "deaf").exists)
    container.stop(3600)
    await asyncio.sleep(0.1)
    container.stop(7200)
    container.stop(0.1)
    await until(lambda: isinstance(container.view.state, Terminated))
    assert isinstance(container.view.state, Terminated)
    assert container.view.state.signal == signal.SIGKILL


async def test_what_a_dead_main_process_left_is_ended_before_the_next_start(
    pod: Pod, run: Callable[..., Container]
) -> None:
    container = run("sh", "-c", "setsid sleep 1000 & echo $! > child; sleep 0.2; exit 1")
    await until(lambda: container.view.restarts >= 1)
    first = pod.marker("c", 1)
    assert process.marked(first) == {}


async def test_a_missing_secret_is_waited_for_without_a_restart(pod: Pod, run: Callable[..., Container]) -> None:
    pod.missing = "Secret 'x' not found"
    container = run("sleep", "1000")
    await until(lambda: container.view.state == Waiting("CreateContainerConfigError", "Secret 'x' not found"))
    pod.missing = ""
    await until(lambda: isinstance(container.view.state, Running))
    assert container.view.restarts == 0
    assert pod.events == ["Failed"]


@pytest.mark.parametrize("spec", [{"lifecycle": {"preStop": {}}}, {"livenessProbe": {"grpc": {"port": 1}}}])
async def test_what_is_not_supported_is_said(run: Callable[..., Container], spec: dict[str, Any]) -> None:
    container = run("sleep", "1000", **spec)
    await until(lambda: getattr(container.view.state, "reason", "") == "CreateContainerConfigError")


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session of its own and has nothing to do with the node."""
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield other
    other.kill()
    other.wait()


async def test_a_reused_pid_is_never_touched(stranger: subprocess.Popen[bytes], run: Callable[..., Container]) -> None:
    identity = process.identify(stranger.pid)
    assert identity is not None
    for forged in (
        replace(identity, started=identity.started - 5),
        Identity(stranger.pid, identity.started, "boot"),
    ):
        record = ContainerRecord(identity=forged, starts=4, started_at="2026-01-01T00:00:00Z")
        container = run("true", policy="Never", record=record)
        await until(lambda container=container: container.view.done)  # type: ignore[misc]
        assert isinstance(container.view.state, Terminated)
        assert container.view.state.reason == "ContainerStatusUnknown"
    await asyncio.sleep(0.05)
    assert stranger.poll() is None


async def test_a_cancelled_container_is_left_running_and_adopted(pod: Pod, run: Callable[..., Container]) -> None:
    record = ContainerRecord()
    first = Container(pod, {"name": "c", "command": ["sleep", "1000"]}, record, Logs(pod.directory), "Always")
    task = asyncio.create_task(first.run())
    await until(lambda: record.ready)
    task.cancel()
    await asyncio.wait({task})
    assert record.identity is not None
    assert process.is_alive(record.identity)
    second = run("sleep", "1000", record=record)
    assert second.view.ready
    await until(lambda: second.running)
    await asyncio.sleep(0.1)
    assert second.view.restarts == 0
    process.send(record.identity.pid, signal.SIGKILL)
    await until(lambda: second.view.restarts == 1)
