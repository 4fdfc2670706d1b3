"""The health listener: /live, /ready and /metrics on a port of its own.

It runs on the loop that it judges: a loop that hangs does not answer, which is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

#: Walks are at most 60 s apart; three missed ones are no accident any more.
_WALK_AGE_MAX: Final = 200.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is measured. Ages are seconds; `results` counts reconciles by (kind, result)."""

    ready: bool
    walk_age: float
    stale: int
    depth: int
    busy: int
    failed: int
    objects: int
    heard: Mapping[str, float] = field(default_factory=dict)
    results: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def problem(self) -> str | None:
        """Why a restart would help; None while all is well. The API server being away is no reason."""
        if self.stale:
            return f"{self.stale} changes were found by a walk and not reported by any watch"
        return None


class Health:
    """`port` 0: no listener."""

    def __init__(self, host: str, port: int, vitals: Callable[[], Vitals]) -> None:
        self._host = host
        self._port = port
        self._vitals = vitals
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Binds. Raises OSError when the address is taken."""
        if self._port == 0:
            return
        app = web.Application(client_max_size=1024)
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        """Closes."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        problem = self._vitals().problem()
        return web.json_response(
            {"status": "dead" if problem else "ok", "problem": problem}, status=503 if problem else 200
        )

    async def _ready(self, _: web.Request) -> web.Response:
        vitals = self._vitals()
        ready = vitals.ready and vitals.walk_age < _WALK_AGE_MAX
        return web.json_response({"status": "ready" if ready else "starting"}, status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=render(self._vitals()).encode(), content_type="text/plain", charset="utf-8")


def render(vitals: Vitals) -> str:
    """Prometheus' text format. Pure."""
    simple = (
        ("switchgear_operator_queue_depth", "gauge", "Keys that wait for a worker.", vitals.depth),
        ("switchgear_operator_queue_busy", "gauge", "Keys in work.", vitals.busy),
        ("switchgear_operator_reconcile_failures_total", "counter", "Reconciles with an unknown fault.", vitals.failed),
        ("switchgear_operator_objects", "gauge", "Objects known.", vitals.objects),
        ("switchgear_operator_walk_age_seconds", "gauge", "Time since the last walk.", round(vitals.walk_age, 1)),
        ("switchgear_operator_stale_changes", "gauge", "Changes that no watch reported.", vitals.stale),
    )
    lines = []
    for name, type_, text, value in simple:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {type_}", f"{name} {value}"]
    name = "switchgear_operator_watch_age_seconds"
    lines += [f"# HELP {name} Time since the last event of a kind.", f"# TYPE {name} gauge"]
    lines += [f'{name}{{kind="{kind}"}} {age:.1f}' for kind, age in sorted(vitals.heard.items())]
    name = "switchgear_operator_reconcile_total"
    lines += [f"# HELP {name} Reconciles by kind and result.", f"# TYPE {name} counter"]
    lines += [
        f'{name}{{kind="{kind}",result="{result}"}} {count}' for (kind, result), count in sorted(vitals.results.items())
    ]
    return "\n".join(lines) + "\n"
