"""Probes against real servers and commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from switchgear_local.node import prober, probes
from switchgear_local.node.errors import ConfigError
from switchgear_local.node.mounts import MountTable
from switchgear_local.node.prober import Prober, Reactions
from switchgear_local.node.probes import Exec, HttpGet, Probe, Tally, TcpSocket

# Long, where an answer is expected: one that comes late is no failure.
PATIENT = {"timeoutSeconds": 30}
CONTAINER = {"name": "c", "ports": [{"name": "http", "containerPort": 3000}]}


def parsed(**spec: Any) -> Probe:
    probe = probes.parse(spec, CONTAINER, "127.64.0.9")
    assert probe is not None
    return probe


def test_defaults_are_kubernetes_own() -> None:
    probe = parsed(httpGet={"port": "http"})
    assert probe == Probe(HttpGet("127.64.0.9", 3000, "/", False, ()), 0, 10, 1, 1, 3, None)


def test_everything_that_can_be_set() -> None:
    probe = parsed(
        httpGet={
            "host": "127.0.0.2",
            "port": 81,
            "path": "live",
            "scheme": "HTTPS",
            "httpHeaders": [{"name": "A", "value": "b"}],
        },
        initialDelaySeconds=1,
        periodSeconds=2,
        timeoutSeconds=3,
        successThreshold=4,
        failureThreshold=5,
        terminationGracePeriodSeconds=6,
    )
    assert probe == Probe(HttpGet("127.0.0.2", 81, "/live", True, (("A", "b"),)), 1, 2, 3, 4, 5, 6)
    assert parsed(tcpSocket={"port": "http"}).action == TcpSocket("127.64.0.9", 3000)
    assert parsed(exec={"command": ["x"]}).action == Exec(("x",))
    assert probes.parse(None, CONTAINER, "") is None


@pytest.mark.parametrize("spec", [{"grpc": {"port": 1}}, {"httpGet": {"port": "none"}}, {"exec": {}}])
def test_what_is_not_supported_is_said(spec: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parsed(**spec)


def test_thresholds_count_consecutive_results() -> None:
    tally = Tally(parsed(tcpSocket={"port": 1}, failureThreshold=2, successThreshold=2))
    assert [tally.add(ok) for ok in (False, True, False, False, False, True, True)] == [
        None, None, None, False, False, None, True,
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def server(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers one after the other, the last for ever; an empty one never comes."""
    seen: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            answer = left.pop(0) if len(left) > 1 else left[0]
            if not answer:
                await reader.read()
            writer.write(answer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], seen


def answer(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: 2\r\nlocation: /elsewhere\r\n\r\nhi" % status


OK, BUSY = answer(200), answer(503)


@pytest.mark.parametrize(
    ("reply", "ok"),
    [
        (OK, True),
        (answer(302), True),
        (answer(399), True),
        (answer(404), False),
        (BUSY, False),
        (b"junk\r\n\r\n", False),
    ],
)
async def test_http(reply: bytes, ok: bool) -> None:
    async with server(reply) as (port, seen):
        get = {"host": "127.0.0.1", "port": port, "path": "/ready?x=1", "httpHeaders": [{"name": "X-A", "value": "b"}]}
        result = await probes.attempt(parsed(httpGet=get, **PATIENT), os.getpid())
    assert result.ok is ok
    assert len(seen) == 1
    assert seen[0].startswith(b"GET /ready?x=1 HTTP/1.1\r\n")
    assert b"X-A: b" in seen[0]


async def test_a_server_that_never_answers_fails_the_probe() -> None:
    async with server(b"") as (port, _):
        probe = parsed(httpGet={"host": "127.0.0.1", "port": port}, timeoutSeconds=1)
        async with asyncio.timeout(30):
            result = await probes.attempt(probe, os.getpid())
    assert not result.ok
    assert "no answer" in result.message


async def test_tcp() -> None:
    async with server(OK) as (port, _):
        assert (await probes.attempt(parsed(tcpSocket={"host": "127.0.0.1", "port": port}, **PATIENT), 0)).ok
    assert not (await probes.attempt(parsed(tcpSocket={"host": "127.0.0.1", "port": port}, **PATIENT), 0)).ok


async def test_exec_has_the_processs_own_environment() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "100", env={"PATH": os.environ["PATH"], "MINE": "yes"})
    try:
        mine = ["sh", "-c", 'test "$MINE" = yes']
        good = await probes.attempt(parsed(exec={"command": mine}, **PATIENT), process.pid)
        bad = await probes.attempt(parsed(exec={"command": ["sh", "-c", "exit 4"]}, **PATIENT), process.pid)
        none = await probes.attempt(parsed(exec={"command": ["no-such-program"]}), process.pid)
        slow = await probes.attempt(parsed(exec={"command": ["sleep", "50"]}, timeoutSeconds=1), process.pid)
    finally:
        process.kill()
        await process.wait()
    assert (good.ok, bad.ok, none.ok, slow.ok) == (True, False, False, False)
    assert "status 4" in bad.message


class Heard:
    """What a prober told its container."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reactions = Reactions(
            started=lambda: self.said.append("started"),
            ready=lambda ready: self.said.append("ready" if ready else "unready"),
            failed=lambda message, grace: self.said.append("failed"),
            unhealthy=lambda name, message: self.said.append(f"unhealthy {name}"),
        )

    async def until(self, what: str) -> None:
        async with asyncio.timeout(60):
            while what not in self.said:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def probing(spec: dict[str, Any], heard: Heard, **known: bool) -> AsyncIterator[None]:
    plan = prober.plan({"name": "c", **spec}, "127.0.0.1", MountTable({}))
    task = asyncio.create_task(
        Prober(plan, os.getpid(), 0, heard.reactions).run(**({"started": False, "ready": False} | known))
    )
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_start_is_noticed_long_before_the_period_is_over() -> None:
    heard = Heard()
    async with server(BUSY, BUSY, OK) as (port, _):
        probe = {"httpGet": {"port": port}, "periodSeconds": 3600, "failureThreshold": 1} | PATIENT
        spec = {"startupProbe": probe}
        async with probing(spec, heard):
            await heard.until("ready")
    assert heard.said == ["unhealthy Startup", "started", "ready"]


async def test_a_startup_that_fails_ends_the_process_and_readiness_never_begins() -> None:
    heard = Heard()
    async with server(BUSY) as (port, _):
        probe = {"httpGet": {"port": port}, "periodSeconds": 1, "failureThreshold": 2} | PATIENT
        async with probing({"startupProbe": probe, "readinessProbe": probe}, heard):
            await heard.until("failed")
    assert heard.said == ["unhealthy Startup", "unhealthy Startup", "failed"]


async def test_readiness_comes_and_goes() -> None:
    heard = Heard()
    async with server(OK, BUSY, OK) as (port, _):
        spec = {"readinessProbe": {"httpGet": {"port": port}, "periodSeconds": 1, "failureThreshold": 1} | PATIENT}
        async with probing(spec, heard):
            await heard.until("unready")
            heard.said.clear()
            await heard.until("ready")


async def test_liveness_fails_after_its_threshold() -> None:
    heard = Heard()
    async with server(OK, BUSY, OK, BUSY) as (port, _):
        spec = {"livenessProbe": {"httpGet": {"port": port}, "periodSeconds": 1, "failureThreshold": 2} | PATIENT}
        async with probing(spec, heard):
            await heard.until("failed")
    assert heard.said == ["started", "ready", *["unhealthy Liveness"] * 3, "failed"]


def test_the_command_of_an_exec_probe_is_rewritten() -> None:
    spec = {"name": "c", "livenessProbe": {"exec": {"command": ["cat", "/data/alive"]}}}
    plan = prober.plan(spec, "127.0.0.1", MountTable({"/data": "/real"}))
    assert plan.liveness is not None
    assert plan.liveness.action == Exec(("cat", "/real/alive"))
