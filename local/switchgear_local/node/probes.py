"""Probes: parsing and threshold arithmetic are pure; `attempt` does the one bit of I/O.

Invariants: every attempt ends within its timeout; a probe never leaves a process or a connection behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from .errors import ConfigError

_BODY_LIMIT = 10_240


@dataclass(frozen=True)
class HttpGet:
    """Succeeds for a status from 200 to 399; redirects are not followed."""

    host: str
    port: int
    path: str
    tls: bool
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TcpSocket:
    """Succeeds when a connection is accepted."""

    host: str
    port: int


@dataclass(frozen=True)
class Exec:
    """Succeeds when the command ends with status 0."""

    argv: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """A probe with its timing in seconds and its thresholds in consecutive results."""

    action: HttpGet | TcpSocket | Exec
    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int
    grace: float | None


@dataclass(frozen=True)
class Result:
    """One attempt's outcome."""

    ok: bool
    message: str = ""


class Tally:
    """Counts consecutive results. `add` returns True or False when a threshold is reached, else None."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._run = 0
        self._last: bool | None = None

    def add(self, ok: bool) -> bool | None:
        """Count one result."""
        self._run = self._run + 1 if ok == self._last else 1
        self._last = ok
        needed = self._probe.successes if ok else self._probe.failures
        return ok if self._run >= needed else None


def parse(spec: Mapping[str, Any] | None, container: Mapping[str, Any], pod_ip: str) -> Probe | None:
    """A container's probe, or None when it has none. Raises ConfigError for a kind that is not supported."""
    if not spec:
        return None
    return Probe(
        action=_action(spec, container, pod_ip),
        initial_delay=float(spec.get("initialDelaySeconds") or 0),
        period=float(spec.get("periodSeconds") or 10),
        timeout=float(spec.get("timeoutSeconds") or 1),
        successes=int(spec.get("successThreshold") or 1),
        failures=int(spec.get("failureThreshold") or 3),
        grace=float(spec["terminationGracePeriodSeconds"]) if spec.get("terminationGracePeriodSeconds") else None,
    )


def _action(spec: Mapping[str, Any], container: Mapping[str, Any], pod_ip: str) -> HttpGet | TcpSocket | Exec:
    if get := spec.get("httpGet"):
        headers = tuple((h["name"], h["value"]) for h in get.get("httpHeaders") or ())
        path = get.get("path") or "/"
        return HttpGet(
            host=get.get("host") or pod_ip,
            port=port_number(get["port"], container),
            path=path if path.startswith("/") else f"/{path}",
            tls=get.get("scheme") == "HTTPS",
            headers=headers,
        )
    if tcp := spec.get("tcpSocket"):
        return TcpSocket(host=tcp.get("host") or pod_ip, port=port_number(tcp["port"], container))
    if command := (spec.get("exec") or {}).get("command"):
        return Exec(tuple(command))
    raise ConfigError("CreateContainerConfigError", "a probe needs httpGet, tcpSocket or exec on the process node")


def port_number(port: int | str, container: Mapping[str, Any]) -> int:
    """A port's number, by number or by the name of one of the container's ports. Raises ConfigError."""
    if isinstance(port, int):
        return port
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    if port.isdigit():
        return int(port)
    raise ConfigError(
        "CreateContainerConfigError", f"a probe names port {port!r}, which container {container['name']!r} lacks"
    )


async def attempt(probe: Probe, pid: int) -> Result:
    """Probe once. `pid` is the container's process: an exec probe runs with its environment and directory."""
    try:
        async with asyncio.timeout(probe.timeout):
            match probe.action:
                case HttpGet() as get:
                    return await _http(get)
                case TcpSocket() as tcp:
                    return await _tcp(tcp)
                case Exec() as run:
                    return await _exec(run.argv, pid)
    except TimeoutError:
        return Result(False, f"no answer within {probe.timeout:g} s")
    except Exception as error:
        # Whatever a server answers, or a command does, is a failed probe and must not end the probing.
        return Result(False, f"{type(error).__name__}: {error}")


async def _http(get: HttpGet) -> Result:
    scheme = "https" if get.tls else "http"
    host = f"[{get.host}]" if ":" in get.host else get.host
    # Certificates are not verified, nor does a kubelet: they seldom name the pod's address.
    connector = aiohttp.TCPConnector(force_close=True, ssl=False)
    headers = {"User-Agent": "kube-probe/switchgear", "Accept": "*/*"} | dict(get.headers)
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
        session.get(f"{scheme}://{host}:{get.port}{get.path}", headers=headers, allow_redirects=False) as answer,
    ):
        await answer.content.read(_BODY_LIMIT)  # lets the server finish; not repeated: it may hold anything
        if 200 <= answer.status < 400:
            return Result(True)
        return Result(False, f"HTTP probe failed with statuscode: {answer.status}")


async def _tcp(tcp: TcpSocket) -> Result:
    _, writer = await asyncio.open_connection(tcp.host, tcp.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Result(True)


async def _exec(argv: Sequence[str], pid: int) -> Result:
    environ, directory = _inside(pid)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environ,
        cwd=directory,
        start_new_session=True,
    )
    try:
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            await asyncio.shield(process.wait())
    return Result(code == 0, "" if code == 0 else f"the command ended with status {code}")


def _inside(pid: int) -> tuple[dict[bytes, bytes], str]:
    """Environment and working directory of a running process, which also an adopted one still has."""
    raw = Path(f"/proc/{pid}/environ").read_bytes()
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if b"=" in item)
    environ = {name: value for name, _, value in pairs}
    return environ, str(Path(f"/proc/{pid}/cwd").readlink())
