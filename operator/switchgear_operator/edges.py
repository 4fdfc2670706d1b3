"""Asks the region's edges what they would answer for a service. Reads only; never raises, always within a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import orjson

from switchgear_model import labels
from switchgear_operator.kube.client import KubeClient
from switchgear_operator.kube.refs import Ref
from switchgear_operator.snapshot import EdgeAnswer

_TIMEOUT: Final = aiohttp.ClientTimeout(total=3, connect=1)
_FOUND_FOR: Final = 2.0
_BODY_MAX: Final = 65_536


class Edges:
    """`urls` given: exactly these, and one that does not answer is not ready. Else the edge's Ready pods."""

    def __init__(self, kube: KubeClient, namespace: str, urls: Sequence[str]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._urls = tuple(urls)
        self._found: tuple[float, tuple[str, ...]] = (float("-inf"), ())
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Ends the session."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, service_id: str, bearer: str) -> tuple[EdgeAnswer, ...]:
        """One answer of each ready edge; empty when there is none."""
        bases = self._urls or await self._pods()
        answers = await asyncio.gather(*(self._ask(base, service_id, bearer) for base in bases))
        if self._urls:
            return tuple(answer for answer in answers if answer is not None)
        unreachable = "an edge's internal listener does not answer"
        return tuple(a or EdgeAnswer(b, False, problem=unreachable) for a, b in zip(answers, bases, strict=True))

    async def _pods(self) -> tuple[str, ...]:
        when, found = self._found
        if time.monotonic() - when > _FOUND_FOR:
            pods = await self._kube.list(Ref("Pod", self._namespace), f"{labels.APP_NAME}={labels.APP_EDGE}")
            found = tuple(sorted(url for url in map(_internal_url, pods) if url is not None))
            self._found = (time.monotonic(), found)
        return found

    async def _ask(self, base: str, service_id: str, bearer: str) -> EdgeAnswer | None:
        """None: no answer at all."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        try:
            async with self._session.get(
                f"{base}/internal/services/{service_id}", headers={"authorization": f"Bearer {bearer}"}
            ) as response:
                body = await response.content.read(_BODY_MAX)
                return _answer(base, response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


def _internal_url(pod: dict[str, Any]) -> str | None:
    """The internal listener of an edge's pod, if the pod is ready."""
    status = pod.get("status") or {}
    ready = any(k.get("type") == "Ready" and k.get("status") == "True" for k in status.get("conditions") or [])
    address = status.get("podIP")
    if not ready or not address or pod["metadata"].get("deletionTimestamp") is not None:
        return None
    for container in pod["spec"].get("containers") or []:
        for port in container.get("ports") or []:
            if port.get("name") == labels.EDGE_INTERNAL_PORT_NAME:
                host = f"[{address}]" if ":" in address else address
                return f"http://{host}:{port['containerPort']}"
    return None


def _answer(edge: str, status: int, body: bytes) -> EdgeAnswer:
    if status == 404:
        return EdgeAnswer(edge, False, problem="no route yet")
    if status == 401:
        return EdgeAnswer(edge, False, problem="the edge has another region key than the operator")
    try:
        parsed = orjson.loads(body)
        if status != 200:
            raise ValueError(status)
        return EdgeAnswer(
            edge,
            True,
            pod_ready=parsed["podReady"] is True,
            uid=str(parsed.get("uid", "")),
            secret_hashes=frozenset(str(h) for h in parsed["secretHashes"]),
            problem="" if parsed["podReady"] is True else "no ready pod yet",
        )
    except (ValueError, KeyError, TypeError):
        return EdgeAnswer(edge, False, problem=f"unexpected answer with status {status}")
